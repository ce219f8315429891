"""A training set: one row for each spine row, in its order, in its types, with a report and errors that say how to repair."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from featurestore.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, ResourceExhaustedError
from featurestore.expressions import parse_expression, to_json
from featurestore.offline.table import OfflineTable
from featurestore.offline.training_set import read_training_set
from featurestore.offline.training_stream import SpineBatches, TrainingStream
from featurestore.planning import plan_read
from featurestore.refs import ViewRef
from featurestore.registry.snapshot import (
    AggregationRecord,
    AliasRecord,
    Document,
    EntityRecord,
    ExpressionRecord,
    FeatureRecord,
    RegistrySnapshot,
    ServiceRecord,
    SourceRecord,
    ViewRecord,
    ViewVersions,
)
from featurestore.rows import RowSchema

INSTANT = pa.timestamp("us", tz="UTC")
BIG = 2**60 + 1


def source(kind="parquet"):
    return SourceRecord(
        kind=kind, name="s", path="x", query=None, tables={}, event_timestamp="at", created_timestamp="made"
    )


def feature(name, dtype, **more):
    return FeatureRecord(name=name, dtype=dtype, fingerprint=f"meaning of {name}", **({"column": name} | more))


def aggregation(function, dtype, window=10):
    record = AggregationRecord(column="temp", function=function, dtype="float64", time_window=window)
    return feature(f"{function}_temp", dtype, column=None, aggregation=record)


def expression(sql, dtype, columns):
    tree = to_json(parse_expression(sql, columns=columns))
    return feature("warmer", dtype, column=None, expression=ExpressionRecord(sql=sql, tree=tree))


KEY = (("origin", "string"),)
ROUTE = (("origin", "string"), ("dest", "string"))
VIEWS = {
    "weather": ViewRecord(
        kind="batch", entity="airport", join_keys=KEY, source=source(), ttl=10,
        features=(feature("temp", "float64"), feature("count", "int64")),
    ),
    "plane": ViewRecord(
        kind="batch", entity="plane", join_keys=(("plane", "int64"),), source=source("push"),
        features=(feature("seats", "int16"),),
    ),
    "recent": ViewRecord(
        kind="window", entity="airport", join_keys=KEY, source=source(),
        features=(aggregation("count", "int64"), aggregation("mean", "float64")),
    ),
    "heat": ViewRecord(
        kind="on_demand", request=(("offset", "float64"),), inputs=("weather@v1:temp",),
        features=(expression("temp + offset", "float64", {"temp": "float64", "offset": "float64"}),),
    ),
}  # fmt: skip
SNAPSHOT = RegistrySnapshot(
    Document(
        project="demo",
        entities={
            "airport": EntityRecord(join_keys=KEY),
            "plane": EntityRecord(join_keys=(("plane", "int64"),)),
        },
        views={name: ViewVersions(current=1, versions={1: view}) for name, view in VIEWS.items()},
        services={
            "both_ends": ServiceRecord(
                features=("weather@v1:temp", "dest_weather=weather@v1:temp"),
                aliases={"dest_weather": AliasRecord(view="weather@v1", join_keys={"origin": "dest"})},
            )
        },
    )
)
WEATHER = [("JFK", 100, None, 1.5, BIG, 1), ("JFK", 105, 120, None, 7, 2), ("LGA", 50, None, 3.0, 8, 3)]


@pytest.fixture
def tables(tmp_path):
    def table(ref):
        view = SNAPSHOT.view(ref)
        return OfflineTable(tmp_path / ref.view, RowSchema.of(view), buckets=2)

    fill(table(ViewRef("weather", 1)), WEATHER)
    fill(table(ViewRef("recent", 1)), [(*row[:4], row[5]) for row in WEATHER])
    return table


def fill(table, rows):
    schema = table.schema.arrow()
    columns = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), schema, strict=True)]
    table.load(pa.table(columns, schema=schema))


def spine(**columns):
    times = columns.pop("times")
    return pa.table({**columns, "event_timestamp": pa.array(times, pa.timestamp("us"))})


def read(tables, features, table, **how):
    return read_training_set(
        plan_read(SNAPSHOT, features, full_feature_names=how.pop("full", False)), table, tables=tables, **how
    )


def test_rows_keep_their_order_duplicates_and_other_columns(tables):
    asked = spine(label=[1, 2, 3, 4], origin=["LGA", "JFK", "JFK", "LGA"], times=[60, 101, 101, 60])
    got = read(tables, ["weather:temp"], asked)
    assert got.table.select(asked.column_names).equals(asked)
    assert got.table["temp"].to_pylist() == [3.0, 1.5, 1.5, 3.0]


def test_an_int64_with_misses_stays_one_in_every_form(tables):
    got = read(tables, ["weather:count"], spine(origin=["JFK", "XXX"], times=[101, 101]))
    assert got.table.schema.field("count").type == pa.int64()
    assert got.to_arrow()["count"].to_pylist() == [BIG, None]
    assert got.to_polars()["count"].to_list() == [BIG, None]
    assert str(got.to_pandas()["count"].dtype) == "int64[pyarrow]"
    assert int(got.to_pandas()["count"][0]) == BIG
    numbers = got.to_numpy()["count"]
    assert (numbers.dtype, numbers.tolist()) == (np.int64, [BIG, None])
    assert got.to_numpy()["event_timestamp"].dtype == np.dtype("datetime64[us]")


def test_the_report_counts_every_cause(tables):
    asked = spine(origin=["JFK", "JFK", "JFK", "XXX", None, "LGA", "LGA"], times=[101, 112, 120, 101, 101, None, 61])
    got = read(tables, ["weather:count"], asked)
    (view,) = got.report.views
    assert (view.matched, view.missing, view.expired, view.not_yet_known) == (1, 3, 2, 1)
    assert "weather@v1: 1 matched, 3 missing, 2 expired, 1 not yet known" in repr(got)
    assert got.report.warnings == ()


def test_a_null_value_is_a_value(tables):
    got = read(tables, ["weather:temp", "weather:count"], spine(origin=["JFK"], times=[106]), knowledge="latest")
    assert got.table.select(["temp", "count"]).to_pylist() == [{"temp": None, "count": 7}]


def test_as_served_counts_up_to_the_position_of_each_view(tables):
    asked = spine(origin=["JFK"], times=[106])
    for position, count in ((1, BIG), ({"weather@v1": 2}, 7), (0, None)):
        got = read(tables, ["weather:count"], asked, knowledge="as_served", position=position)
        assert got.table["count"].to_pylist() == [count]
    with pytest.raises(InvalidArgumentError, match=r"position of weather@v1 is missing.*\$.position.weather@v1"):
        read(tables, ["weather:count"], asked, knowledge="as_served", position={})


@pytest.mark.parametrize(
    ("features", "times", "words"),
    [
        ("weather:temp", [9, 9, 101], "their keys have nothing up to their times"),
        ("weather:temp", [130, 131, 101], "everything is older than the ttl"),
        ("recent:count_temp", [9, 9, 105], "their keys have nothing up to their times"),
    ],
)
def test_a_view_that_loses_most_rows_to_one_cause_warns(tables, features, times, words):
    got = read(tables, [features], spine(origin=["JFK"] * 3, times=times))
    assert [f"2 of 3 rows: {words}" in warning for warning in got.report.warnings] == [True]


def test_history_that_was_loaded_late_warns_of_backfilled_until(tables):
    fill(tables(ViewRef("plane", 1)), [(1, 5, 1000, 100, 1)])
    got = read(tables, ["plane:seats"], spine(plane=[1, 1], times=[7, 8]))
    assert "backfilled_until" in got.report.warnings[0]
    assert got.report.views[0].not_yet_known == 2


def test_rows_in_the_future_are_warned_about(tables):
    got = read(tables, ["weather:temp"], spine(origin=["JFK", "JFK"], times=[101, 102]), now=101)
    assert "1 rows of the spine lie in the future" in got.report.warnings[0]


def test_windows_are_folded_and_an_unknown_entity_is_an_empty_one(tables):
    asked = spine(origin=["JFK", "JFK", "JFK", "XXX", None], times=[105, 109, 110, 105, 105])
    got = read(tables, ["recent:count_temp", "recent:mean_temp"], asked)
    assert got.table["count_temp"].to_pylist() == [1, 1, 0, 0, 0]
    assert got.table["mean_temp"].to_pylist() == [1.5, 1.5, None, None, None]
    (view,) = got.report.views
    assert (view.matched, view.missing, view.not_yet_known) == (2, 2, 1)


def test_one_view_serves_two_roles(tables):
    asked = spine(origin=["JFK"], dest=["LGA"], times=[59])
    got = read(tables, "both_ends", asked.set_column(2, "event_timestamp", pa.array([55], INSTANT)), full=True)
    assert got.table["dest_weather__temp"].to_pylist() == [3.0]
    assert got.table["weather__temp"].to_pylist() == [None]


def test_on_demand_features_are_computed_from_joined_and_request_columns(tables):
    got = read(tables, ["heat:warmer"], spine(origin=["JFK", "XXX"], offset=[1.0, 2.0], times=[101, 101]))
    assert got.table["warmer"].to_pylist() == [2.5, None]
    assert got.table.column_names == ["origin", "offset", "event_timestamp", "warmer"]


def test_an_empty_spine_gives_an_empty_set_with_all_columns(tables):
    for features in (["weather:temp", "weather:count"], ["recent:mean_temp"], ["heat:warmer"]):
        asked = spine(origin=pa.array([], pa.string()), offset=pa.array([], pa.float64()), times=[])
        assert read(tables, features, asked).table.num_rows == 0


def test_times_of_other_units_and_zones_are_the_same_instants(tables):
    times = [
        pa.array([datetime(1970, 1, 1, tzinfo=UTC)], pa.timestamp(unit, tz="America/New_York"))
        for unit in ("s", "ms", "ns")
    ]
    for column in times:
        asked = pa.table({"origin": ["JFK"], "event_timestamp": column})
        assert read(tables, ["weather:temp"], asked).table["event_timestamp"].type == column.type


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (spine(orign=["JFK"], times=[1]), r"No join key 'origin'.*Did you mean 'orign'\?.*\$.spine.origin"),
        (spine(origin=[5], times=[1]), r"join key 'origin' is int64, declared string.*\$.spine.origin"),
        (pa.table({"origin": ["JFK"]}), r"No time column 'event_timestamp'.*timestamp="),
        (pa.table({"origin": ["JFK"], "event_timestamp": ["2013-01-01"]}), r"is string, not a timestamp.*to_datetime"),
        (spine(origin=["JFK"], temp=[1.0], times=[1]), r"has a column 'temp'.*full_feature_names=True"),
        (
            pa.table({"origin": ["JFK"], "event_timestamp": pa.array([1], pa.timestamp("ns"))}),
            "does not fit microseconds",
        ),
    ],
)
def test_a_wrong_spine_is_an_error_that_says_where_and_how_to_repair(tables, table, words):
    with pytest.raises(InvalidArgumentError, match=words):
        read(tables, ["weather:temp"], table)


def test_a_float_never_stands_for_an_integer_key(tables):
    fill(tables(ViewRef("plane", 1)), [(1001, 5, None, 100, 1)])
    with pytest.raises(InvalidArgumentError, match=r"join key 'plane' is double, declared int64.*\$.spine.plane"):
        read(tables, ["plane:seats"], spine(plane=[1001.7], times=[7]))
    narrow = pa.array([1001, None], pa.int16())
    assert read(tables, ["plane:seats"], spine(plane=narrow, times=[7, 7])).table["seats"].to_pylist() == [100, None]


def test_a_missing_request_column_is_an_error(tables):
    with pytest.raises(InvalidArgumentError, match=r"No request column 'offset'.*\$.spine.offset"):
        read(tables, ["heat:warmer"], spine(origin=["JFK"], times=[1]))


def test_a_version_that_was_never_filled_names_the_command(tables):
    with pytest.raises(FailedPreconditionError, match=r"plane@v1 was never filled.*featurestore write plane"):
        read(tables, ["plane:seats"], spine(plane=[1], times=[7]))


# --- parts, batches, arrays ----------------------------------------------------------------------------------------------------


def test_parts_by_time_have_their_own_rows_and_their_own_report(tables):
    asked = spine(origin=["JFK", "LGA", "JFK", "XXX", "JFK"], times=[101, 55, 109, 102, 130])
    whole = read(tables, ["weather:count"], asked)
    parts = whole.split({"train": 102, "valid": 110, "test": None})
    assert {name: part.table["count"].to_pylist() for name, part in parts.items()} == {
        "train": [BIG, 8],
        "valid": [BIG, None],
        "test": [None],
    }
    assert [(r.matched, r.missing, r.expired) for part in parts.values() for r in part.report.views] == [
        (2, 0, 0), (1, 1, 0), (0, 0, 1),
    ]  # fmt: skip
    assert (
        sum((part.report for part in parts.values()), start=read(tables, ["weather:count"], asked[:0]).report)
        == whole.report
    )
    assert "everything is older than the ttl" in parts["test"].report.warnings[0]
    before = whole.split(before=datetime.fromtimestamp(102 / 1e6, UTC))
    assert [len(part) for part in before.values()] == [2, 3]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"a": 102, "b": 102}, "do not rise"),
        ({"a": None, "b": 102}, "do not rise"),
        ({}, "no parts"),
        ({"a": 102}, "1 rows are in no part"),
    ],
)
def test_parts_that_leave_rows_out_or_do_not_rise_are_refused(tables, parts, words):
    got = read(tables, ["weather:count"], spine(origin=["JFK", "JFK"], times=[101, 102]))
    with pytest.raises(InvalidArgumentError, match=words):
        got.split(parts)


def test_a_row_without_a_time_is_in_no_part(tables):
    got = read(tables, ["weather:count"], spine(origin=["JFK", "JFK"], times=[101, None]))
    with pytest.raises(InvalidArgumentError, match="1 rows are in no part"):
        got.split(before=200)


def test_batches_hold_all_rows_in_order(tables):
    got = read(tables, ["weather:count"], spine(origin=["JFK"] * 10, times=list(range(96, 106))))
    batches = list(got.batches(4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert pa.Table.from_batches(batches).equals(got.table)


def test_numpy_looks_at_the_same_memory_where_nothing_is_null(tables):
    got = read(tables, ["weather:count"], spine(origin=["JFK", "LGA"], times=[101, 60]))
    column = got.table["count"].chunk(0)
    numbers = got.to_numpy()["count"]
    assert numbers.__array_interface__["data"][0] == column.buffers()[1].address
    assert not np.ma.is_masked(numbers)


def test_vectors_are_rows_of_one_array(tables):
    vectors = pa.array([[1, 2], None, [5, 6]], pa.list_(pa.float32(), 2))
    asked = spine(origin=["JFK"] * 3, times=[101] * 3).append_column("v", vectors)
    got = read(tables, ["weather:count"], asked).to_numpy()["v"]
    assert (got.shape, got.dtype, got.tolist()) == ((3, 2), np.float32, [[1, 2], [None, None], [5, 6]])


# --- a spine larger than memory ----------------------------------------------------------------------------------------------------


CHUNK = 16 * 1024  # the least that is worked on at a time


def many(count):
    """A spine of several chunks, with unknown keys and nulls, and a column that passes through."""
    random = np.random.default_rng(3)
    origins = pa.array(["JFK", "LGA", "XXX", None]).take(pa.array(random.integers(0, 4, count)))
    times = pa.array(random.integers(40, 140, count), pa.timestamp("us"), mask=random.random(count) < 0.01)
    return pa.table(
        {"row": np.arange(count), "origin": origins, "offset": random.random(count), "event_timestamp": times}
    )


def stream(tables, features, asked, **how):
    how.setdefault("memory_limit", 0)
    return TrainingStream(plan_read(SNAPSHOT, features), SpineBatches.of(asked), tables=tables, **how)


@pytest.mark.parametrize("count", [0, 1, CHUNK, 3 * CHUNK + 7])
@pytest.mark.parametrize("features", [["weather:temp", "weather:count", "heat:warmer"], ["recent:mean_temp"]])
def test_a_stream_gives_the_same_rows_and_report_as_one_read(tables, features, count):
    asked = many(count)
    whole = read(tables, features, asked, now=100)
    streamed = stream(tables, features, asked, now=100)
    batches = list(streamed)
    assert pa.Table.from_batches(batches, streamed.schema).equals(whole.table)
    assert all(len(batch) <= 64 * 1024 for batch in batches)
    assert streamed.report == whole.report
    assert [s.version for s in streamed.sources] == [s.version for s in whole.sources]


def test_a_stream_reads_what_was_there_when_it_began(tables):
    asked = many(3 * CHUNK)
    expected = read(tables, ["weather:count"], asked).table
    streamed = iter(stream(tables, ["weather:count"], asked))
    first = next(streamed)
    fill(tables(ViewRef("weather", 1)), [("JFK", 101, None, 9.0, -1, 9)])
    assert pa.Table.from_batches([first, *streamed]).equals(expected)


def test_a_spine_may_come_as_files_a_reader_a_frame_or_a_table(tables, tmp_path):
    import polars as pl
    import pyarrow.parquet as pq

    asked = many(2 * CHUNK)
    expected = read(tables, ["weather:count"], asked).table
    (tmp_path / "spine").mkdir()
    pq.write_table(asked[:CHUNK], tmp_path / "spine" / "a.parquet")
    pq.write_table(asked[CHUNK:], tmp_path / "spine" / "b.parquet")
    reader = asked.to_reader(max_chunksize=1000)
    for form in (tmp_path / "spine", str(tmp_path / "spine"), reader, asked):
        got = stream(tables, ["weather:count"], form).to_arrow().read_all()
        assert got.equals(expected)
    frame = pl.from_arrow(asked)
    assert stream(tables, ["weather:count"], frame).to_arrow().read_all()["count"].equals(expected["count"])
    with pytest.raises(InvalidArgumentError, match="int gives no Arrow batches"):
        SpineBatches.of(7)
    with pytest.raises(NotFoundError):
        SpineBatches.of(tmp_path / "nothing.parquet")


def test_a_parquet_file_is_there_whole_or_not_at_all(tables, tmp_path):
    import pyarrow.parquet as pq

    asked, path = many(2 * CHUNK + 5), tmp_path / "out" / "train.parquet"
    streamed = stream(tables, ["weather:count", "heat:warmer"], asked)
    report = streamed.to_parquet(path)
    assert pq.read_table(path).equals(read(tables, ["weather:count", "heat:warmer"], asked).table)
    assert report.rows == len(asked)

    def broken():
        yield from asked.to_batches(max_chunksize=CHUNK)
        raise OSError("the line went dead")

    kept = path.read_bytes()
    with pytest.raises(OSError, match="the line went dead"):
        stream(tables, ["weather:count"], pa.RecordBatchReader.from_batches(asked.schema, broken())).to_parquet(path)
    assert path.read_bytes() == kept
    assert [file.name for file in path.parent.iterdir()] == ["train.parquet"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_named_and_nothing_is_left(tables, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "with_name", lambda self, name: Path("/dev/full"))  # where the draft is written
    monkeypatch.setattr(Path, "unlink", lambda self, **_: None)
    with pytest.raises(ResourceExhaustedError, match=r"train.parquet cannot be written.*No space left.*Make room"):
        stream(tables, ["weather:count"], many(2 * CHUNK)).to_parquet(tmp_path / "train.parquet")
    assert not (tmp_path / "train.parquet").exists()


def test_progress_and_the_rows_read_are_said(tables):
    said, ended = [], []
    asked = many(2 * CHUNK + 1)
    streamed = stream(tables, ["weather:count"], asked, progress=said.append, ended=ended.append)
    with pytest.raises(FailedPreconditionError, match="not read to its end"):
        _ = streamed.report
    assert streamed.read().rows == len(asked)
    assert [(p.rows, p.total) for p in said] == [(CHUNK, len(asked)), (2 * CHUNK, len(asked)), (len(asked), len(asked))]
    assert (said[-1].remaining, said[0].rate > 0) == (0, True)
    assert ended == [len(asked)]
    with pytest.raises(FailedPreconditionError, match="read before"):
        list(streamed)


def test_a_stream_that_is_left_early_counts_what_was_read(tables):
    ended = []
    batches = iter(stream(tables, ["weather:count"], many(3 * CHUNK), ended=ended.append))
    next(batches)
    batches.close()
    assert ended == [CHUNK]


def test_a_wrong_spine_is_refused_before_anything_is_read(tables):
    with pytest.raises(InvalidArgumentError, match="No join key 'origin'"):
        stream(tables, ["weather:count"], spine(orign=["JFK"], times=[1]))


def test_more_memory_means_larger_chunks(tables):
    said = []
    asked = many(3 * CHUNK)
    stream(tables, ["weather:count"], asked, memory_limit=1 << 30, progress=said.append).read()
    assert [p.rows for p in said] == [len(asked)]
