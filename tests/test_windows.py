"""The exact fold of sliding windows against the oracle: every bit, whatever the order in which events came."""

import math
import struct
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from functools import lru_cache
from random import Random

import numpy as np
import oracle
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, example, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from featurestore.definitions import Aggregation
from featurestore.errors import InvalidArgumentError
from featurestore.expressions import parse_expression, to_json
from featurestore.registry.snapshot import AggregationRecord, FilterRecord
from featurestore.types import INT64_MAX, INT64_MIN, DType, to_arrow
from featurestore.windows import Events, WindowColumn, fold_windows

HOUR = timedelta(hours=1)
aggregate, known_from = oracle.aggregate, oracle.known_from
NUMERIC = ("count", "count_distinct", "sum", "mean", "min", "max", "first", "last", "stddev")
SCALAR = ("count", "count_distinct", "min", "max", "first", "last")
WINDOWS = (1, 3, 10, 2**62)
HARD = (
    0.1,
    -0.3,
    1e12,
    1e-9,
    -0.0,
    0.0,
    5e-324,
    -5e-324,
    1.7976931348623157e308,
    -1.7976931348623157e308,
    2.0**-1022,
    1e16,
    1.0,
    math.nan,
    math.inf,
)
doubles = st.none() | st.sampled_from(HARD) | st.floats(width=64)
finite = st.none() | st.sampled_from(HARD[:-2]) | st.floats(allow_nan=False, allow_infinity=False)
integers = st.none() | st.sampled_from((0, 1, -1, 2**56 + 1)) | st.integers(-(2**57), 2**57)
instants = st.integers(-3, 20)
VALUES = {
    "float64": (doubles, NUMERIC),
    "int64": (integers, NUMERIC),
    "string": (st.none() | st.sampled_from(("", "a", "b", "ba", "é", "\x00")), SCALAR),
    "binary": (st.none() | st.binary(max_size=2), SCALAR),
    "decimal(5,2)": (st.none() | st.integers(-999, 999).map(lambda n: Decimal(n).scaleb(-2)), SCALAR),
    "list<int64>": (st.none() | st.lists(st.none() | st.integers(0, 2), max_size=2), ("count", "first", "last")),
}
# Filters as SQL, and the same in Python: True, False or None for null; the last one leaves int64 for every second y.
FILTERS = {
    "s = 'paid'": lambda row: None if row["s"] is None else row["s"] == "paid",
    "s = 'paid' AND y > 0": lambda row: row["s"] == "paid" and (row["y"] or 0) > 0,
    "s IS NULL OR y < 1": lambda row: row["s"] is None or (row["y"] is not None and row["y"] < 1),
    "NOT s = 'paid'": lambda row: None if row["s"] is None else row["s"] != "paid",
    "y * 4611686018427387904 <> 0": lambda row: row["y"] in (-2, -1, 1),
}


@dataclass(frozen=True)
class Case:
    """Accepted events of three entities, who asks for what, and what they may know."""

    dtype: str
    functions: tuple
    rows: list
    event_key: tuple
    knowledge: str
    position: int | None
    backfilled_until: int | None
    edges: list

    @property
    def spine(self):
        return [((key,), t) for key in range(3) for t in self.edges] + [((7,), 5)]

    @property
    def asked(self):
        wheres = list(FILTERS)
        records = []
        for number, function in enumerate(self.functions):
            for other, window in enumerate(WINDOWS):
                for n in (None, 2) if function in ("first", "last") else (None,):
                    for where in (
                        (None, *wheres) if self.functions == ("count",) else (None, wheres[(number + other) % 5])
                    ):
                        records.append(aggregation(function, self.dtype, window, n=n, where=where))
        return records


@st.composite
def cases(draw, dtypes=tuple(VALUES), functions=None):
    """Logs that come late, are corrected, tied, with and without created times."""
    dtype = draw(st.sampled_from(dtypes))
    values, few = VALUES[dtype][0], st.integers(-2, 2)
    pool = draw(st.lists(values, min_size=1, max_size=4))
    rows = [
        {
            "key": draw(st.integers(0, 2)),
            "event": draw(instants),
            "created": draw(st.none() | instants),
            "seq": seq,
            "id": draw(st.integers(0, 2)),
            "x": draw(values | st.sampled_from(pool)),
            "s": draw(st.sampled_from((None, "paid", "open"))),
            "y": draw(st.none() | few),
        }
        for seq in draw(st.permutations(range(draw(st.integers(0, 14)))))
    ]
    knowledge = draw(st.sampled_from(("as_known", "latest", "as_served")))
    edges = {row["event"] + w + d for row in rows[:1] for w in (0, 1, 3, 10) for d in (-1, 0, 1)} | {5, 30}
    return Case(
        dtype=dtype,
        functions=functions or VALUES[dtype][1],
        rows=rows,
        event_key=draw(st.sampled_from(((), ("id",)))),
        knowledge=knowledge,
        position=draw(st.integers(0, 14)) if knowledge == "as_served" else None,
        backfilled_until=draw(st.none() | instants),
        edges=draw(st.permutations(sorted(edges))),
    )


@lru_cache
def aggregation(function, dtype="float64", window=2**62, *, n=None, where=None, column="x"):
    types = {"x": dtype, "s": "string", "y": "int64"}
    record = None
    if where is not None:
        tree = parse_expression(where, columns=types)
        record = FilterRecord(sql=where, tree=to_json(tree), columns=tuple((c, types[c]) for c in sorted(tree.columns)))
    return AggregationRecord(column=column, function=function, dtype=dtype, time_window=window, n=n, where=record)


def packed(case):
    """Sort a log by hand into Events."""

    def identity(row):
        if not case.event_key:
            return (row["event"], row["seq"])
        return (row["event"], *(row[name] for name in case.event_key))

    def created(row):
        return INT64_MIN if row["created"] is None else row["created"]

    by = sorted(case.rows, key=lambda r: (r["key"], identity(r), created(r), r["seq"]))
    if not case.event_key:
        by = sorted(case.rows, key=lambda r: (r["key"], r["event"], created(r), r["seq"]))
    names = {}

    def array(value):
        return np.array([value(row) for row in by], np.int64)

    def column(name, dtype):
        return WindowColumn.from_arrow(pa.chunked_array([pa.array([row[name] for row in by], to_arrow(DType(dtype)))]))

    return Events(
        starts=np.searchsorted(array(lambda r: r["key"]), np.arange(4)),
        event=array(lambda r: r["event"]),
        created=array(created),
        seq=array(lambda r: r["seq"]),
        known_from=array(lambda r: known_from(r, case.backfilled_until)),
        identity=array(lambda r: names.setdefault((r["key"], identity(r)), len(names))),
        columns={"x": column("x", case.dtype), "s": column("s", "string"), "y": column("y", "int64")},
    )


def folded(case, **limits):
    """Return each aggregate of a case as Python values; limits stand for those of its knowledge."""
    entity = np.array([key if key < 3 else -1 for (key,), _ in case.spine], np.int64)
    at = np.array([t for _, t in case.spine], np.int64)
    limits = {"known_at": at if case.knowledge == "as_known" else None, "position": case.position} | limits
    columns = fold_windows(packed(case), case.asked, entity=entity, at=at, **limits)
    return [unpacked(column, result_of(record)) for record, column in zip(case.asked, columns, strict=True)]


def result_of(record):
    dtype = DType(record.dtype)
    return Aggregation(record.column, record.function, HOUR, dtype=dtype, n=record.n).result


def unpacked(column, dtype):
    return [bits(value) for value in column.to_arrow(dtype).to_pylist()]


def bits(value):
    """A float by its bits, every NaN as one; a list by its elements."""
    if isinstance(value, list):
        return list(map(bits, value))
    if isinstance(value, float):
        return "nan" if value != value else struct.pack("<d", value)
    return value


def answers(case):
    """Return what the oracle says to each aggregate of a case."""
    knowledge = {
        "knowledge": case.knowledge,
        "position": case.position,
        "backfilled_until": case.backfilled_until,
    }
    return [
        list(
            map(
                bits,
                oracle.fold(
                    case.spine, case.rows, ("key",), case.event_key, "x", record.function, record.time_window,
                    n=record.n, where=FILTERS[record.where.sql] if record.where else lambda row: True, **knowledge,
                ),
            )
        )
        for record in case.asked
    ]  # fmt: skip


@given(cases())
@settings(max_examples=100, deadline=None)
def test_every_aggregate_agrees_with_the_oracle_to_the_bit(case):
    for record, expected, got in zip(case.asked, answers(case), folded(case), strict=True):
        assert expected == got, record


@given(cases(), st.data())
@settings(max_examples=40, deadline=None)
def test_a_read_gets_the_same_whether_it_shares_its_work_or_stands_alone(case, data):
    together = folded(case)
    at = np.array([t for _, t in case.spine], np.int64)
    seen = INT64_MAX if case.position is None else case.position
    beyond = [data.draw(st.sampled_from((seen, seen if seen < INT64_MAX else 99))) for _ in at]
    if case.knowledge != "as_known":  # a limit that no event exceeds, unlike that of the next read
        known_at = np.array([data.draw(st.sampled_from((INT64_MAX, 10**6, 10**6 + 1))) for _ in at], np.int64)
        assert folded(case, known_at=known_at, position=np.array(beyond, np.int64)) == together
    assert folded(case, position=np.array(beyond, np.int64)) == together


def closed_left(row, t, window):
    return t - window <= row["event"] <= t


def open_right(row, t, window):
    return t - window < row["event"] < t


def first_accepted(row):
    return (row["event"], -row["seq"])


def always_known(row, backfilled_until):
    return row["event"]


def with_nulls(values, function, n=None):
    known = [value for value in values if value is not None] if function in ("first", "last") else values
    return aggregate(known, function, n)


def upside_down(values, function, n=None):
    found = aggregate(values, function, n)
    return found[::-1] if isinstance(found, list) else found


def every_nan(values, function, n=None):
    if function == "count_distinct":
        return len({number if value != value else value for number, value in enumerate(values) if value is not None})
    return aggregate(values, function, n)


def plain_sum(values, function, n=None):
    kept = [value for value in values if value is not None]
    return sum(kept) if function == "sum" and kept else aggregate(values, function, n)


FAULTS = [
    ("is_inside", closed_left, "count"),
    ("is_inside", open_right, "count"),
    ("order", first_accepted, "last"),
    ("known_from", always_known, "count"),
    ("aggregate", with_nulls, "last"),
    ("aggregate", upside_down, "last"),
    ("aggregate", every_nan, "count_distinct"),
    ("aggregate", plain_sum, "sum"),
]


@pytest.mark.parametrize(("name", "fault", "function"), FAULTS, ids=[fault.__name__ for _, fault, _ in FAULTS])
def test_a_planted_fault_is_found(monkeypatch, name, fault, function):
    monkeypatch.setattr(oracle, name, fault)
    assert is_found(function)


@pytest.mark.parametrize("sql", FILTERS)
def test_a_filter_that_lets_a_null_or_a_failure_pass_is_found(monkeypatch, sql):
    right = FILTERS[sql]
    wrong = {"y * 4611686018427387904 <> 0": lambda row: (row["y"] or 0) != 0}
    monkeypatch.setitem(FILTERS, sql, wrong.get(sql, lambda row: right(row) or row["s"] is None or row["y"] is None))
    assert is_found("count")


def is_found(function):
    """Say whether random cases tell the oracle as it is now from the fold; looks until one does."""
    search = settings(
        max_examples=300, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    try:
        find(
            cases(("float64",), (function,)),
            lambda case: answers(case) != folded(case),
            settings=search,
            random=Random(1),
        )
    except NoSuchExample:
        return False
    return True


def one_entity(values, dtype=np.float64):
    n = len(values)
    line = np.arange(n, dtype=np.int64)
    column = WindowColumn(np.array(values, dtype), np.ones(n, np.bool_))
    return Events(np.array([0, n]), line, np.full(n, INT64_MIN), line, line, line, {"x": column})


def fold_one(events, function, dtype="float64", *, window=2**62, at=None):
    asked = [aggregation(function, dtype, window)]
    end = np.array([len(events.event) if at is None else at], np.int64)
    (column,) = fold_windows(events, asked, entity=np.zeros(1, np.int64), at=end)
    return column.values.tolist()[0] if column.valid[0] else None


@given(st.lists(finite.filter(lambda v: v is not None), min_size=1, max_size=60))
@settings(max_examples=300, deadline=None)
@example([1e308, 1e308, -1e308])
@example([1e16, 1.0, 1e-16, -1e16])
@example([5e-324] * 3)
@example([2.0**53, 1.0, 2.0**-1074])
@example([1.7976931348623157e308, 9.979201547673598e291])
def test_sums_are_exact_and_rounded_once(values):
    assert bits(oracle.exact_sum(values)) == bits(fold_one(one_entity(values), "sum"))


@given(st.permutations([0.1, -0.3, 1e12, 1e-9, 7.25, -1e12, 3e-300, 1e300, -1e300]))
@settings(max_examples=30, deadline=None)
def test_the_order_of_arrival_changes_no_bit(values):
    assert bits(fold_one(one_entity(sorted(values)), "sum")) == bits(fold_one(one_entity(values), "sum"))
    assert bits(fold_one(one_entity(sorted(values)), "mean")) == bits(fold_one(one_entity(values), "mean"))


def test_a_sum_of_integers_beyond_int64_is_an_error_that_says_where():
    with pytest.raises(InvalidArgumentError, match=r"does not fit int64 in 1 of 1 windows.*\$\.rows\[0\]"):
        fold_one(one_entity([2**62, 2**62], np.int64), "sum", "int64")


def test_an_intermediate_overflow_of_integers_is_none():
    assert fold_one(one_entity([2**62, 2**62, -(2**62)], np.int64), "sum", "int64") == 2**62
    assert fold_one(one_entity([INT64_MIN], np.int64), "sum", "int64") == INT64_MIN
    assert fold_one(one_entity([INT64_MAX], np.int64), "sum", "int64") == INT64_MAX


def test_the_mean_of_integers_does_not_overflow():
    assert fold_one(one_entity([INT64_MAX, INT64_MAX], np.int64), "mean", "int64") == float(2 * INT64_MAX) / 2


def test_one_value_has_no_stddev_and_equal_values_have_none_of_it():
    assert fold_one(one_entity([3.0]), "stddev") is None
    assert fold_one(one_entity([3.0, 3.0]), "stddev") == 0.0


def test_a_sum_beyond_the_doubles_is_infinite():
    assert fold_one(one_entity([1.7e308, 1.7e308]), "sum") == math.inf


@pytest.mark.parametrize(("late", "count"), [(-1, 1), (0, 0), (1, 0)])
def test_the_left_edge_is_open_to_the_microsecond(late, count):
    assert fold_one(one_entity([1.0]), "count", window=10, at=0 + 10 + late) == count


@pytest.mark.parametrize(("early", "count"), [(-1, 0), (0, 1)])
def test_the_right_edge_is_closed_to_the_microsecond(early, count):
    assert fold_one(one_entity([1.0]), "count", window=10, at=0 + early) == count


def test_a_window_that_reaches_back_beyond_time_holds_everything():
    events = one_entity([1.0])
    first = Events(
        events.starts,
        np.array([INT64_MIN]),
        events.created,
        events.seq,
        np.array([INT64_MIN]),
        events.identity,
        events.columns,
    )
    assert fold_one(first, "count", window=5, at=INT64_MIN + 4) == 1
    assert fold_one(first, "count", window=5, at=INT64_MIN + 5) == 0


def test_no_entities_at_all_are_empty_windows():
    nothing = np.zeros(0, np.int64)
    events = Events(np.zeros(1, np.int64), *[nothing] * 5, {"x": WindowColumn(np.zeros(0), np.zeros(0, np.bool_))})
    asked = [aggregation(function, window=5) for function in NUMERIC] + [aggregation("last", n=2)]
    columns = fold_windows(events, asked, entity=np.array([-1]), at=np.array([0]))
    found = [unpacked(column, result_of(record))[0] for record, column in zip(asked, columns, strict=True)]
    assert found == [0, 0, *[None] * 7, []]


def test_many_reads_are_shared_out_and_answered_in_order():
    events = one_entity([float(n) for n in range(50)])
    at = np.arange(40_000, dtype=np.int64) % 60
    (column,) = fold_windows(events, [aggregation("last", window=5)], entity=np.zeros(len(at), np.int64), at=at)
    assert column.to_arrow(DType("float64")).to_pylist() == [float(min(t, 49)) if t < 54 else None for t in at.tolist()]
