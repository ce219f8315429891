"""A training set: one row for each spine row, in its order, in its types, with a report and errors that say how to repair."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from featurestore.errors import (
    ConflictError,
    CorruptionError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
)
from featurestore.expressions import parse_expression, to_json
from featurestore.offline.datasets import load_dataset, save_dataset, table_digest
from featurestore.offline.table import OfflineTable
from featurestore.offline.training_set import read_training_set
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


def test_a_dataset_is_saved_once_and_proves_its_values(tables, tmp_path):
    got = read(tables, ["weather:count"], spine(origin=["JFK", "XXX"], times=[101, 101]))
    saved = save_dataset("delays", got, tmp_path / "datasets", now=7, consumer="delay_model@1")
    loaded = load_dataset("delays", tmp_path / "datasets")
    assert loaded == saved == save_dataset("delays", got, tmp_path / "datasets", now=7, consumer="delay_model@1")
    assert loaded.to_arrow().equals(got.table)
    loaded.verify()
    manifest = loaded.manifest
    assert [(f.name, f.ref, f.fingerprint) for f in manifest.features] == [
        ("count", "weather@v1:count", "meaning of count")
    ]
    assert (manifest.sources[0].view, manifest.sources[0].version) == ("weather@v1", 1)
    assert manifest.sources[0].files == tuple(
        str(f.path.relative_to(tmp_path / "weather")) for f in tables(ViewRef("weather", 1)).files()
    )
    assert (loaded.record().rows, loaded.record().digest) == (2, table_digest(got.table))
    other = read(tables, ["weather:count"], spine(origin=["LGA"], times=[51]))
    with pytest.raises(ConflictError, match="new name"):
        save_dataset("delays", other, tmp_path / "datasets", now=8)
    with pytest.raises(NotFoundError, match="Did you mean 'delays'"):
        load_dataset("delay", tmp_path / "datasets")


def test_a_dataset_with_other_values_does_not_verify(tables, tmp_path):
    import pyarrow.parquet as pq

    got = read(tables, ["weather:count"], spine(origin=["JFK"], times=[101]))
    saved = save_dataset("delays", got, tmp_path, now=7)
    pq.write_table(got.table.set_column(2, "count", pa.array([BIG - 1])), saved.directory / "data.parquet")
    with pytest.raises(CorruptionError, match="digest"):
        saved.verify()


def test_a_digest_is_of_values_in_their_order():
    one = pa.table({"a": [1.0, float("nan"), None], "b": ["x", None, "yz"]})
    same = pa.concat_tables([one.slice(0, 1), one.slice(1)])
    assert table_digest(one) == table_digest(same)
    assert table_digest(one) != table_digest(one.take([1, 0, 2]))
    assert table_digest(pa.table({"b": ["xy", "z"]})) != table_digest(pa.table({"b": ["x", "yz"]}))
    assert table_digest(pa.table({"b": pa.array([0], pa.int32())})) != table_digest(
        pa.table({"b": pa.array([0], pa.int64())})
    )
    assert table_digest(pa.table({"b": [[1], None]})) != table_digest(pa.table({"b": [[1], []]}))
