"""Every engine follows the point-in-time rule: a new one is one more line in ENGINES."""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import oracle
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, assume, given, seed, settings

from featurestore.errors import CorruptionError, NotFoundError
from featurestore.offline.engines import ENGINES, engine_of
from featurestore.offline.point_in_time import EXPIRED, MATCHED, MISSING, NOT_YET_KNOWN, PointInTimeRule, Spine
from featurestore.offline.table import OfflineTable
from featurestore.rows import CREATED, EVENT, SEQ, RowColumn, RowSchema
from featurestore.testing.engines import EngineConformance, check_join
from featurestore.testing.strategies import join_cases
from featurestore.types import INT64_MAX, INT64_MIN, DType, to_arrow

TYPES = (
    "bool", "int8", "int16", "int32", "int64", "float32", "float64", "string", "binary", "timestamp", "date",
    "decimal(20,3)", "list<int64>", "struct<a:string,b:list<float64>>", "vector<float32,3>",
)  # fmt: skip


@pytest.fixture(params=ENGINES, scope="module")
def engine(request):
    return engine_of(request.param)


class TestEngines(EngineConformance):
    oracle = oracle


def test_an_unknown_engine_is_an_error_that_says_the_nearest():
    with pytest.raises(NotFoundError, match=r"No engine 'duckbd'. Did you mean 'duckdb'\?"):
        engine_of("duckbd")


# --- the kernel beside DuckDB, on more rows than the oracle can look at ------------------------------------------------------------------


def schema(keys, values):
    columns = [tuple(RowColumn(f"{kind}{i}", DType.of(t), "x") for i, t in enumerate(types)) for kind, types in
               (("k", keys), ("v", values))]  # fmt: skip
    return RowSchema(keys=columns[0], event_key=(), values=columns[1], event_timestamp="at", created_timestamp="made")


def column(dtype, random, count):
    """Values of a type, a tenth of them null."""
    numbers = random.integers(-100, 100, count).tolist()
    made = {
        "bool": lambda n: bool(n % 2),
        "float32": lambda n: n / 4,
        "float64": lambda n: n / 3,
        "string": lambda n: f"word {n % 7}" if n < 50 else f"long {n} " * 9,
        "binary": lambda n: b"\0" * (n % 5),
        "decimal(20,3)": lambda n: Decimal(n) / 8,
        "list<int64>": lambda n: [n] * (n % 3),
        "struct<a:string,b:list<float64>>": lambda n: {"a": str(n), "b": None if n % 2 else [n / 2]},
        "vector<float32,3>": lambda n: [n, n / 2, 0],
    }.get(dtype.name, int)
    return pa.array([None if n % 10 == 0 else made(n) for n in numbers], to_arrow(dtype))


def keys_of(types, numbers):
    """The key columns of entities with these numbers."""
    parts = [numbers, numbers % 7]
    made = {"string": lambda n: f"{n:x}", "binary": lambda n: bytes([n % 251, n // 251])}
    return [
        pa.array([made.get(name, int)(n) for n in part.tolist()], to_arrow(DType.of(name)))
        for name, part in zip(types, parts, strict=False)
    ]


def log(of, random, count, entities):
    """Accepted rows: one entity has half of them, times are often equal, and one row in five is known late."""
    entity = np.where(random.random(count) < 0.5, 0, random.integers(0, entities, count))
    event = random.integers(0, 300, count)
    late = np.where(random.random(count) < 0.2, random.integers(0, 300, count), random.integers(0, 3, count))
    instant = pa.timestamp("us", "UTC")
    arrays = [
        *keys_of([key.dtype.name for key in of.keys], entity),
        pa.array(event, instant),
        pa.array(event + late, instant, mask=random.random(count) < 0.1),
        *(column(value.dtype, random, count) for value in of.values),
        pa.array(random.permutation(count) + 1),
    ]
    return pa.table(arrays, schema=of.arrow())


@pytest.mark.parametrize("keys", [("int64",), ("int16", "string"), ("string",), ("binary", "date"), ("timestamp",)])
def test_the_kernel_and_duckdb_agree_on_every_type(keys, tmp_path):
    """Several files in a bucket, a recent run, a skewed entity, late rows: the same values and the same status under each rule."""
    random = np.random.default_rng(7)
    of = schema(keys, TYPES)
    rows = log(of, random, 3000, 90)
    table = OfflineTable(tmp_path, of, buckets=8)
    table.load(rows.slice(0, 1500))
    table.load(rows.slice(1500, 1000))
    table.append(rows.slice(2500), fold=1)
    asked = Spine(
        pa.table(keys_of(keys, random.integers(0, 100, 700)), names=[key.name for key in of.keys]),
        random.integers(-5, 700, 700),
        random.random(700) < 0.95,
    )
    names = [value.name for value in of.values] + [SEQ]
    for rule in (
        PointInTimeRule(),
        PointInTimeRule(ttl=40, backfilled_until=100),
        PointInTimeRule(ttl=0, knowledge="latest"),
        PointInTimeRule(ttl=100, knowledge="as_served", position=1500),
    ):
        fast, slow = (engine_of(name).join(table, asked, rule, names) for name in ("kernel", "duckdb"))
        assert fast.status.tolist() == slow.status.tolist()
        assert len(set(fast.status.tolist())) >= 2
        assert fast.table.schema == slow.table.schema
        for name in names:
            assert fast.table[name].to_pylist() == slow.table[name].to_pylist(), name


# --- edges -------------------------------------------------------------------------------------------------------------------------------


ONE = schema(["int64"], ["int64", "string"])


def rows(*lines):
    """Rows as (key, event, created, whole, text, seq)."""
    return pa.table(
        [pa.array(c, f.type) for c, f in zip(zip(*lines, strict=True), ONE.arrow(), strict=True)], schema=ONE.arrow()
    )


def spine(*pairs):
    keys = pa.table({"k0": pa.array([key for key, _ in pairs], pa.int64())})
    times = [time for _, time in pairs]
    return Spine(keys, np.array([t or 0 for t in times], np.int64), np.array([t is not None for t in times], np.bool_))


@pytest.fixture
def table(tmp_path):
    return OfflineTable(tmp_path, ONE, buckets=2)


def test_an_empty_spine_gets_no_rows_in_the_right_types(engine, table):
    table.load(rows((1, 5, None, 7, "a", 1)))
    joined = engine.join(table, spine(), PointInTimeRule(), ["v0", "v1"])
    assert (len(joined.status), joined.table.num_rows) == (0, 0)
    assert joined.table.schema.types == [pa.int64(), pa.string()]


def test_zero_matches_are_all_null(engine, table):
    table.load(rows((1, 5, None, 7, "a", 1)))
    joined = engine.join(table, spine((2, 9), (None, 9), (1, None), (1, 4)), PointInTimeRule(), ["v0", "v1"])
    assert joined.table.to_pydict() == {"v0": [None] * 4, "v1": [None] * 4}
    assert joined.status.tolist() == [MISSING] * 4


def test_a_column_of_nulls_stays_one(engine, table):
    table.load(rows((1, 5, None, None, None, 1), (1, 6, None, None, None, 2)))
    joined = engine.join(table, spine((1, 9)), PointInTimeRule(), ["v0", "v1"])
    assert joined.table.to_pylist() == [{"v0": None, "v1": None}]
    assert joined.status.tolist() == [MATCHED]


@pytest.mark.parametrize("lines", [[], [(1, 5, None, 7, "a", 1)]])
def test_a_table_of_no_or_one_row(engine, table, lines):
    if lines:
        table.append(rows(*lines), fold=1)
    else:
        table.append(ONE.arrow().empty_table(), fold=1)
    joined = engine.join(table, spine((1, 5), (1, 4)), PointInTimeRule(), ["v0"])
    assert joined.table["v0"].to_pylist() == [7 if lines else None, None]


def test_times_at_both_ends_of_int64_and_before_1970(engine, table):
    table.load(rows((1, INT64_MIN, None, 1, "a", 1), (1, -7, -7, 2, "b", 2), (1, INT64_MAX, INT64_MAX, 3, "c", 3)))
    asked = spine((1, INT64_MIN), (1, -8), (1, -7), (1, INT64_MAX - 1), (1, INT64_MAX))
    for ttl, expected in ((None, [1, 1, 2, 2, 3]), (0, [1, None, 2, None, 3]), (INT64_MAX, [1, 1, 2, None, 3])):
        joined = engine.join(table, asked, PointInTimeRule(ttl=ttl), ["v0"])
        assert joined.table["v0"].to_pylist() == expected


def test_a_column_that_an_old_file_lacks_is_null_there(engine, tmp_path):
    old = replace(ONE, values=ONE.values[:1])
    OfflineTable(tmp_path, old, buckets=1).load(rows((1, 5, None, 7, "a", 1)).select(old.arrow().names))
    table = OfflineTable(tmp_path, ONE)
    table.load(rows((1, 8, None, 8, "b", 2)))
    joined = engine.join(table, spine((1, 7), (1, 9)), PointInTimeRule(), ["v1", "v0"])
    assert joined.table.to_pydict() == {"v1": [None, "b"], "v0": [7, 8]}


def test_a_correction_that_became_known_late_is_not_seen_before(engine, table):
    """Known at 10 and at 30, in two files: the rule looks at both, and the report says which rows were there but not known."""
    table.load(rows((1, 5, 10, 7, "first", 1)))
    table.load(rows((1, 5, 30, 8, "corrected", 2), (1, 6, 40, 9, "late", 3)))
    joined = engine.join(table, spine((1, 9), (1, 29), (1, 30), (1, 40)), PointInTimeRule(ttl=25), ["v1"])
    assert joined.table["v1"].to_pylist() == [None, "first", "corrected", None]
    assert joined.status.tolist() == [NOT_YET_KNOWN, MATCHED, MATCHED, EXPIRED]


@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_a_file_that_is_missing_or_damaged_is_named_and_never_served(engine, table, harm):
    table.load(rows(*[(n, 5, None, n, f"text {n}", n + 1) for n in range(1000)]))
    file = table.files()[0]
    if harm == "missing":
        file.path.unlink()
    else:
        content = bytearray(file.path.read_bytes())
        content[100] ^= 1
        file.path.write_bytes(bytes(content))
    with pytest.raises(CorruptionError, match=file.path.name):
        engine.join(table, spine(*[(n, 9) for n in range(1000)]), PointInTimeRule(), ["v0", "v1"])


# --- the suite catches engines that are wrong ------------------------------------------------------------------------------------------


class Faulty:
    """The kernel with one fault: it bends the rule, the spine's times, or what is in the table."""

    name = "faulty"

    def __init__(self, *, rule=lambda rule: rule, at=lambda at: at, rows=None):
        self._rule, self._at, self._rows = rule, at, rows

    def changes(self, case):
        """Whether the fault bends anything in a case."""
        return self._rows is not None or self._rule(case.rule) != case.rule or self._at(np.array([7])) != [7]

    def join(self, table, spine, rule, columns):
        asked = replace(spine, at=self._at(spine.at), orders={})
        with TemporaryDirectory() as folder:
            if self._rows is not None:
                changed = OfflineTable(Path(folder), table.schema, buckets=1)
                changed.load(self._rows(table.read()))
                table = changed
            return engine_of("kernel").join(table, asked, self._rule(rule), columns)


def without(name):
    def changed(rows):
        place = rows.column_names.index(name)
        return rows.set_column(place, rows.field(place), pa.nulls(len(rows), rows.field(place).type))

    return changed


FAULTS = {
    "the ttl excludes its end": Faulty(
        rule=lambda rule: replace(rule, ttl=max(0, rule.ttl - 1) if rule.ttl else rule.ttl)
    ),
    "no ttl": Faulty(rule=lambda rule: replace(rule, ttl=None)),
    "the event time of the spine is excluded": Faulty(at=lambda at: np.where(at > INT64_MIN, at - 1, at)),
    "what became known later is used": Faulty(rule=lambda rule: replace(rule, knowledge="latest", position=None)),
    "backfilled_until is not looked at": Faulty(rule=lambda rule: replace(rule, backfilled_until=None)),
    "the position is off by one": Faulty(rule=lambda rule: replace(rule, position=rule.position and rule.position - 1)),
    "created does not break ties": Faulty(rows=without(CREATED)),
    "rows get lost": Faulty(rows=lambda rows: rows.slice(1)),
    "keys match by their first column": Faulty(
        rows=lambda rows: rows if rows.column_names[1] == EVENT else without_second_key(rows)
    ),
}


def without_second_key(rows):
    first = rows.column(1).combine_chunks()
    return rows.set_column(1, rows.field(1), first.take(pa.array(np.zeros(len(rows), np.int64)))) if len(rows) else rows


@pytest.mark.parametrize("fault", FAULTS)
def test_the_suite_catches(fault):
    @seed(1)
    @settings(
        max_examples=300, deadline=None, database=None, phases=[Phase.generate], report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=join_cases())
    def check(case):
        assume(FAULTS[fault].changes(case))
        check_join(FAULTS[fault], oracle, case)

    with pytest.raises(AssertionError):
        check()
