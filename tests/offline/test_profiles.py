"""Profiles: every number against plain Python, in memory and in DuckDB; kept as lines that survive a kill; shown with how they moved."""

import json
import math
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from statistics import StatisticsError, fmean, stdev

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_project import FEATURES, NOON

from featurestore import FeatureStore, NoShift
from featurestore.cli import main
from featurestore.errors import CorruptionError, FailedPreconditionError, QuarantinedError
from featurestore.offline import profiles
from featurestore.offline.profiles import (
    PROBABILITIES,
    Profile,
    ProfileLog,
    is_due,
    keep_profile,
    profile_table,
    profile_values,
    shift_of,
)
from featurestore.offline.shift import ks, psi
from featurestore.offline.table import OfflineTable
from featurestore.refs import ViewRef
from featurestore.rows import CREATED, EVENT, SEQ, RowColumn, RowSchema
from featurestore.types import DType, to_arrow

FLOATS = st.sampled_from([-2.0, -0.0, 0.0, 0.5, 1.0, 7.25, math.nan]) | st.floats(-1e6, 1e6)
POOL = {
    "float64": FLOATS,
    "int32": st.integers(-50, 50),
    "decimal(6,2)": st.decimals(-50, 50, places=2),
    "timestamp": st.datetimes(datetime(1960, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)),
    "date": st.dates(date(1960, 1, 1), date(2040, 1, 1)),
}


def column(values, dtype, parts=1):
    array = pa.array(values, to_arrow(DType(dtype)))
    step = max(1, math.ceil(len(array) / parts))
    chunks = [array.slice(start, step) for start in range(0, len(array), step)] or [array]
    return [pa.chunked_array([chunk]) for chunk in chunks]


def number(value):
    if isinstance(value, datetime):
        return (value - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    if isinstance(value, date):
        return (value - date(1970, 1, 1)).days
    if isinstance(value, Decimal):  # as Arrow rounds it
        return pa.scalar(value, pa.decimal128(6, 2)).cast(pa.float64()).as_py()
    return float(value)


def check(found, values, dtype):
    """Compare a profile with plain Python over a list."""
    there = [value for value in values if value is not None]
    numbers = sorted(number(value) for value in there if not (isinstance(value, float) and math.isnan(value)))
    assert (found.rows, found.nulls, found.nans) == (len(values), values.count(None), len(there) - len(numbers))
    assert found.distinct == len(set(numbers))
    if not numbers:
        assert (found.mean, found.quantiles, found.counts) == (None, (), ())
        return
    shown = {"timestamp": str, "date": lambda v: v.isoformat(), "decimal(6,2)": lambda v: f"{v:.2f}"}.get(dtype, float)
    kept = sorted(value for value in there if not (isinstance(value, float) and math.isnan(value)))
    assert (found.minimum, found.maximum) == (shown(kept[0]), shown(kept[-1]))
    scale = max(1.0, *map(abs, numbers))
    assert found.mean == pytest.approx(fmean(numbers), abs=1e-9 * scale)
    try:
        assert found.stddev == pytest.approx(stdev(numbers), rel=1e-6, abs=1e-6 * scale)
    except StatisticsError:
        assert found.stddev is None
    if found.exact:
        np.testing.assert_allclose(found.quantiles, np.quantile(numbers, PROBABILITIES), rtol=1e-9, atol=1e-9 * scale)
    in_bin = Counter(sum(edge < value for edge in found.edges) for value in numbers)
    assert list(found.counts) == [in_bin[i] for i in range(len(found.edges) + 1)]


@pytest.mark.parametrize("dtype", POOL)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_profile_says_what_plain_python_says(dtype, data):
    values = data.draw(st.lists(st.none() | POOL[dtype], max_size=60))
    check(profile_values("x", DType(dtype), column(values, dtype, parts=3)), values, dtype)


@pytest.mark.parametrize("dtype", ["float64", "int32", "decimal(6,2)", "timestamp"])
def test_a_large_column_is_counted_on_disk_with_the_same_answer(dtype, monkeypatch):
    chance = np.random.default_rng(3)
    draws = chance.integers(-300, 300, 4000).tolist()
    make = {
        "float64": lambda n: math.nan if n == 7 else n / 8,
        "int32": int,
        "decimal(6,2)": lambda n: Decimal(n) / 100,
        "timestamp": lambda n: datetime(2020, 1, 1, tzinfo=UTC) + timedelta(hours=n),
    }[dtype]
    values = [None if n == 9 else make(n) for n in draws]
    small = profile_values("x", DType(dtype), column(values, dtype))
    monkeypatch.setattr(profiles, "_IN_MEMORY", 1000)
    large = profile_values("x", DType(dtype), column(values, dtype, parts=8))
    check(large, values, dtype)
    assert large.exact
    assert large.counts == small.counts
    assert large.quantiles == small.quantiles


def test_too_many_values_give_quantiles_within_a_bin(monkeypatch):
    """Bounds of a sample; counts stay exact, and the rank of a quantile is off by less than one bin holds."""
    monkeypatch.setattr(profiles, "_IN_MEMORY", 1000)
    values = np.random.default_rng(4).normal(size=20_000)
    found = profile_values("x", DType("float64"), column(values.tolist(), "float64", parts=5))
    assert not found.exact
    assert (found.distinct, sum(found.counts)) == (20_000, 20_000)
    worst = max(found.counts) / 20_000
    for probability, value in zip(PROBABILITIES, found.quantiles, strict=True):
        assert abs((values <= value).mean() - probability) <= worst
    check(found, values.tolist(), "float64")


@pytest.mark.parametrize("limit", [1_000_000, 10])
def test_text_has_its_most_frequent_values(limit, monkeypatch):
    monkeypatch.setattr(profiles, "_IN_MEMORY", limit)
    values = ["b"] * 5 + ["a"] * 5 + [None] + [f"x{i:02}" for i in range(40)]
    found = profile_values("x", DType("string"), column(values, "string", parts=3))
    assert [(value.value, value.rows) for value in found.top[:3]] == [("a", 5), ("b", 5), ("x00", 1)]
    assert (len(found.top), found.distinct, found.nulls, found.minimum, found.maximum) == (20, 42, 1, "a", "x39")


def test_what_has_no_order_has_rows_and_nulls(monkeypatch):
    for limit in (1_000_000, 1):
        monkeypatch.setattr(profiles, "_IN_MEMORY", limit)
        found = profile_values("x", DType("list<int64>"), column([[1], None, []], "list<int64>", parts=2))
        assert (found.rows, found.nulls, found.distinct) == (3, 1, None)


def test_extreme_values_have_a_profile():
    times = pa.chunked_array([pa.array([2**62, -(2**62)], pa.timestamp("us", "UTC"))])
    assert profile_values("x", DType("timestamp"), [times]).minimum == str(-(2**62))
    infinite = profile_values("x", DType("float64"), column([math.inf, 1.0], "float64"))
    assert (infinite.maximum, infinite.mean, infinite.stddev) == ("inf", None, None)
    wide = profile_values("x", DType("int64"), column([2**63 - 1, -(2**63)], "int64"))
    assert (wide.minimum, wide.maximum) == (-(2**63), 2**63 - 1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-20, 20), min_size=1, max_size=80), st.lists(st.integers(-20, 20), min_size=1, max_size=80))
def test_the_distance_from_a_profile_is_exact_where_values_are_few(before, after):
    """With fewer than a hundred different values every value is a bound of a bin or lies alone in one."""
    reference = profile_values("x", DType("int32"), column(before, "int32"))
    found = shift_of(reference, DType("int32"), column(after, "int32")[0])
    exact = ks(np.sort(before), np.sort(after)).statistic
    largest = max(reference.counts) / len(before)
    assert exact - largest - 1e-9 <= found.ks <= exact + 1e-9
    bins = [
        np.bincount(np.searchsorted(reference.edges, side), minlength=len(reference.counts)) for side in (before, after)
    ]
    assert found.psi <= psi(*bins) + 1e-9 + 0.5, "fewer bins do not find more, but for the half row of each"


# --- a table, and the log ---------------------------------------------------------------------------------------------------------------

REF = ViewRef("readings", 1)
SCHEMA = RowSchema(
    keys=(RowColumn("user", DType("int64"), "user"),),
    event_key=(),
    values=(RowColumn("value", DType("float64"), "value"), RowColumn("word", DType("string"), "word")),
    event_timestamp="at",
    created_timestamp=None,
)


def load(table, values, words, *, first=1):
    instants = pa.timestamp("us", "UTC")
    table.load(
        pa.table(
            {
                "user": list(range(len(values))),
                EVENT: pa.array(range(len(values)), instants),
                CREATED: pa.nulls(len(values), instants),
                "value": pa.array(values, pa.float64()),
                "word": pa.array(words, pa.string()),
                SEQ: pa.array(range(first, first + len(values)), pa.int64()),
            }
        )
    )


@pytest.fixture
def table(tmp_path):
    return OfflineTable(tmp_path / "offline", SCHEMA, buckets=4)


@pytest.mark.parametrize("at_once", [20_000_000, 0])
def test_a_table_is_profiled_whole_or_file_by_file(table, at_once, monkeypatch):
    monkeypatch.setattr(profiles, "_AT_ONCE", at_once)
    load(table, [1.0, 2.0, None], ["a", "a", None])
    load(table, [4.0], ["b"], first=4)
    found = profile_table(REF, table, now=5, before=None)
    assert (found.view, found.rows, found.taken_at, found.delta_version) == ("readings@v1", 4, 5, table.version)
    check(found.feature("value"), [1.0, 2.0, None, 4.0], "float64")
    assert found.feature("word").distinct == 2


def test_a_profile_says_how_it_moved(table, tmp_path):
    log = ProfileLog(tmp_path / "profiles", REF)
    load(table, [1.0] * 50 + [2.0] * 50, ["a"] * 100)
    first = keep_profile(log, table, now=1)
    assert first.feature("value").psi is None
    assert keep_profile(log, table, now=2) == first, "nothing was committed since"
    load(table, [2.0] * 300, ["b"] * 300, first=101)
    second = keep_profile(log, table, now=3)
    assert second.feature("value").psi == pytest.approx(psi([50, 50], [50, 350]))
    assert second.feature("word").psi == pytest.approx(psi([100, 0], [100, 300]))
    assert log.read() == [first, second]
    assert log.newest() == second
    assert log.newest(at=2) == first


def test_an_ingest_takes_a_profile_when_the_newest_is_old_or_small(table):
    load(table, [1.0] * 95, ["a"] * 95)
    found = Profile(view="readings@v1", delta_version=1, taken_at=0, rows=95, features=())
    day = 86_400_000_000
    assert is_due(None, table, now=0)
    assert not is_due(found, table, now=day - 1)
    assert is_due(found, table, now=day)
    load(table, [1.0] * 11, ["a"] * 11, first=96)
    assert is_due(found, table, now=1)


def test_a_line_without_an_end_is_cut_off_and_a_damaged_one_is_named(tmp_path):
    log = ProfileLog(tmp_path, REF)
    profile = Profile(view="readings@v1", delta_version=1, taken_at=0, rows=0, features=())
    log.append(profile)
    with log.path.open("ab") as file:
        file.write(b'{"view": "read')
    assert log.read() == [profile]
    log.append(profile)
    assert log.read() == [profile, profile]
    log.path.write_bytes(b"{}\n" + log.path.read_bytes())
    with pytest.raises(CorruptionError, match=r"v1\.jsonl:1"):
        log.read()


def test_a_version_without_rows_has_no_profile(table, tmp_path):
    with pytest.raises(FailedPreconditionError):
        keep_profile(ProfileLog(tmp_path, REF), table, now=0)


# --- the project -------------------------------------------------------------------------------------------------------------------------


def source(folder, temps):
    count = len(temps)
    instants = pa.array([NOON - timedelta(minutes=i) for i in range(count)], pa.timestamp("us", "UTC"))
    rows = {"origin": ["JFK", "LGA"] * (count // 2), "observed_at": instants, "reported_at": instants}
    rows |= {"temp": pa.array(temps, pa.float64()), "visib": pa.array([1] * count, pa.int32())}
    pq.write_table(pa.table(rows), folder / "data" / "weather.parquet")


def test_a_profile_is_taken_by_ingest_and_shown(project, capsys, monkeypatch):
    monkeypatch.chdir(project)

    def run(*arguments):
        with pytest.raises(SystemExit) as done:
            main(list(arguments))
        captured = capsys.readouterr()
        return done.value.code, captured.out, captured.err

    run("apply")
    assert run("show", "weather", "--profile")[0] == 4
    run("ingest")
    code, out, err = run("show", "weather", "--profile")
    assert (code, "temp" in out, "weather@v1: 3 rows" in err) == (0, True, True)
    source(project, [80.0, 90.0, None, None])
    run("ingest")
    document = json.loads(run("show", "weather@v1", "--profile", "--format", "json")[1])
    (temp,) = [feature for feature in document["profile"]["features"] if feature["name"] == "temp"]
    (moved,) = [move for move in document["moved"] if move["name"] == "temp"]
    assert (document["schema_version"], temp["rows"], temp["nulls"]) == (1, 7, 3)
    assert moved["null_share"] == pytest.approx(3 / 7 - 1 / 3)
    assert moved["psi"] == temp["psi"] > 0
    assert document["before"]["delta_version"] < document["profile"]["delta_version"]
    assert run("profile", "weather")[0] == 0
    assert run("profile", "payments")[0] == 1


def test_a_batch_is_compared_with_a_saved_dataset(project):
    """The reference is what was trained on, whatever was stored since."""
    chance = np.random.default_rng(2)
    source(project, chance.normal(50, 5, 2000).tolist())
    with FeatureStore(project) as store:
        store.apply()
        store.ingest("weather")
        rows = store.table(ViewRef("weather")).read(["origin", EVENT])
        spine = {"origin": rows["origin"], "event_timestamp": rows[EVENT]}
        store.save("train", store.get_historical_features(spine, ["weather:temp"]))
    expecting = 'unit="degF", expect=[NoShift(max_psi=0.2, dataset="train")])'
    text = FEATURES.replace('unit="degF")', expecting).replace("import (", "import (NoShift,")
    (project / "features.py").write_text(text)
    with FeatureStore(project) as store:
        store.apply()
        source(project, chance.normal(50, 5, 1500).tolist())
        assert store.ingest("weather").accepted == 1500
        source(project, chance.normal(58, 5, 1500).tolist())
        with pytest.raises(QuarantinedError, match="against 2000 rows"):
            store.ingest("weather")
        assert str(NoShift(max_psi=0.2, dataset="train")) in str(store.quarantined()[0].report.breaches[0])
