"""Canonical rows: lossless or refused, null times and keys counted, missing columns named with the nearest."""

import math
import string
from decimal import Decimal
from fractions import Fraction

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.errors import InvalidArgumentError
from featurestore.registry.snapshot import AggregationRecord, FeatureRecord, SourceRecord, ViewRecord
from featurestore.rows import CREATED, EVENT, SEQ, RowSchema, may_become
from featurestore.types import DType, to_arrow

MICROS_PER = {"s": Fraction(10**6), "ms": Fraction(10**3), "us": Fraction(1), "ns": Fraction(1, 10**3)}


def schema_of(*features, created=None, event_key=(), kind="batch"):
    source = SourceRecord(
        kind="push", name="w", path=None, query=None, tables={}, event_timestamp="at", created_timestamp=created
    )
    keys = (("origin", "string"), ("gate", "int32"))
    return RowSchema.of(
        ViewRecord(kind=kind, features=features, entity="place", join_keys=keys, source=source, event_key=event_key)
    )


def feature(name, dtype, column=None):
    return FeatureRecord(name=name, dtype=dtype, fingerprint="f", column=column)


def table(rows=1, **columns):
    whole = {
        "origin": pa.array(["JFK"] * rows),
        "gate": pa.array([1] * rows, pa.int32()),
        "at": pa.array(range(rows), pa.timestamp("us", tz="UTC")),
    }
    return pa.table(whole | columns)


def canonical_value(array, dtype):
    """Return the value column of canonical rows, or None when it is refused."""
    try:
        return schema_of(feature("value", dtype)).canonical(table(len(array), value=array)).rows["value"]
    except InvalidArgumentError:
        return None


def bits(value):
    return (type(value), math.copysign(1, value), value if value == value else "nan") if type(value) is float else value


SOURCES = [
    (pa.int8(), st.integers(-128, 127)),
    (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.uint64(), st.integers(0, 2**64 - 1)),
    (pa.float32(), st.floats(width=32)),
    (pa.float64(), st.floats()),
    (pa.bool_(), st.booleans()),
    (pa.large_string(), st.text(string.printable)),
    (pa.dictionary(pa.int8(), pa.string()), st.text(string.printable)),
    (pa.large_binary(), st.binary()),
    (pa.decimal128(10, 3), st.integers(-(10**9), 10**9).map(lambda n: Decimal(n).scaleb(-3))),
    (pa.date32(), st.dates()),
    (pa.null(), st.none()),
]
DECLARED = [
    *("bool", "int8", "int16", "int32", "int64", "float32", "float64", "string", "binary"),
    *("timestamp", "date", "decimal(10,3)", "decimal(10,2)", "decimal(22,3)"),
]
columns = st.sampled_from(SOURCES).flatmap(
    lambda kind: st.lists(st.none() | kind[1], min_size=1, max_size=4).map(lambda found: pa.array(found, kind[0]))
)


@settings(max_examples=100, deadline=None)
@given(columns, st.sampled_from(DECLARED))
def test_canonical_never_changes_a_value(column, declared):
    found = canonical_value(column, declared)
    if found is None:
        return
    assert found.type == to_arrow(DType.of(declared))
    before, after = column.to_pylist(), found.to_pylist()
    if pa.types.is_floating(column.type):
        assert [bits(value) for value in after] == [bits(value) for value in before]
    else:
        assert after == before


@pytest.mark.parametrize("name", DECLARED)
def test_a_column_of_the_declared_type_is_taken_as_it_is(name):
    column = pa.nulls(3, to_arrow(DType.of(name)))
    assert canonical_value(column, name).to_pylist() == [None] * 3


@given(st.sampled_from(["s", "ms", "us", "ns"]), st.integers(-(10**9), 10**9), st.sampled_from([None, "Asia/Tokyo"]))
def test_an_instant_keeps_its_microsecond_or_is_refused(unit, count, zone):
    micros = count * MICROS_PER[unit]
    found = canonical_value(pa.array([count], pa.timestamp(unit, tz=zone)), "timestamp")
    if micros.denominator == 1:
        assert found.cast(pa.int64()).to_pylist() == [micros]
    else:
        assert found is None


@pytest.mark.parametrize(
    ("column", "declared"),
    [
        (pa.array([1.5]), "int64"),
        (pa.array([1.0]), "int64"),
        (pa.array([0.1]), "float32"),
        (pa.array([2**53 + 1]), "float64"),
        (pa.array([2**24 + 1]), "float32"),
        (pa.array([128]), "int8"),
        (pa.array([2**63], pa.uint64()), "int64"),
        (pa.array(["5"]), "int64"),
        (pa.array([5]), "string"),
        (pa.array([1]), "bool"),
        (pa.array([True]), "int64"),
        (pa.array([1]), "timestamp"),
        (pa.array(["2013-11-01"]), "timestamp"),
        (pa.array([0], pa.date32()), "timestamp"),
        (pa.array([0], pa.timestamp("us")), "date"),
        (pa.array([b"JFK"]), "string"),
        (pa.array([[1]]), "int64"),
        (pa.array([1], pa.time64("us")), "timestamp"),
        (pa.array([[1.5]]), "list<int64>"),
        (pa.array([[0.1]]), "list<float32>"),
        (pa.array([[300]]), "list<int8>"),
        (pa.array([[2**53 + 1]]), "list<float64>"),
        (pa.array([["5"]]), "list<int64>"),
        (pa.array([1]), "list<int64>"),
        (pa.array([[[1]]]), "list<int64>"),
        (pa.array([{"a": 1}]), "struct<b:int64>"),
        (pa.array([{"a": 1}]), "struct<a:int64,b:int64>"),
        (pa.array([{"a": 1, "b": 2}]), "struct<a:int64>"),
        (pa.array([{"a": "1"}]), "struct<a:int64>"),
        (pa.array([[1.0]], pa.list_(pa.float32())), "vector<float32,2>"),
        (pa.array([[1.0, 2.0]]), "vector<float32,2>"),
        (pa.array([[1.0, 2.0, 3.0]], pa.list_(pa.float32(), 3)), "vector<float32,2>"),
        (pa.array([[1.0, None]], pa.list_(pa.float32(), 2)), "vector<float32,2>"),
        (pa.array([[1.0, None]], pa.list_(pa.float32())), "vector<float32,2>"),
        (pa.array([[[1, None]]], pa.list_(pa.list_(pa.int8(), 2))), "list<vector<int8,2>>"),
        (pa.array([{"a": [1, None]}], pa.struct([("a", pa.list_(pa.int8(), 2))])), "struct<a:vector<int8,2>>"),
    ],
)
def test_a_value_that_does_not_fit_exactly_is_refused_with_its_place(column, declared):
    with pytest.raises(InvalidArgumentError) as refused:
        schema_of(feature("value", declared)).canonical(table(value=column))
    assert refused.value.place == "$.columns.value"
    assert "value" in refused.value.message


@pytest.mark.parametrize(
    ("column", "declared"),
    [
        (pa.array([[1, None], None, []], pa.large_list(pa.int32())), "list<int64>"),
        (pa.array([[1, 2], None], pa.list_(pa.int64(), 2)), "list<int64>"),
        (pa.array([["a", None]], pa.large_list(pa.large_string())), "list<string>"),
        (pa.array([[1.5, 2.5], None], pa.large_list(pa.float32())), "vector<float32,2>"),
        (pa.array([[1.5, 2.5], None], pa.list_(pa.float32(), 2)), "vector<float64,2>"),
        (
            pa.array([{"a": 1, "b": None}, None], pa.struct([("a", pa.int8()), ("b", pa.null())])),
            "struct<a:int64,b:string>",
        ),
        (
            pa.array([[{"a": [1]}, None]], pa.list_(pa.struct([("a", pa.list_(pa.int16()))]))),
            "list<struct<a:list<int32>>>",
        ),
        (pa.nulls(2), "vector<float32,2>"),
        (pa.array([[None]], pa.list_(pa.null())), "list<struct<a:int64>>"),
    ],
)
def test_a_nested_column_of_another_layout_keeps_its_values(column, declared):
    found = canonical_value(column, declared)
    assert found.type == to_arrow(DType.of(declared))
    assert found.to_pylist() == column.to_pylist()


def test_a_day_in_milliseconds_stays_that_day_or_is_refused():
    day = 86_400_000
    assert canonical_value(pa.array([day], pa.date64()), "date").cast(pa.int32()).to_pylist() == [1]


def test_a_missing_column_is_named_with_the_nearest():
    with pytest.raises(InvalidArgumentError, match=r"Column 'temp' is missing\. There is 'tmep'"):
        schema_of(feature("temp", "float64")).canonical(table(tmep=pa.array([1.0])))


def test_the_order_is_keys_event_key_times_values_and_other_columns_are_ignored():
    schema = schema_of(feature("temp", "float64", column="t"), event_key=(("event_id", "string"),), created="known")
    rows = table(
        other=pa.array([5]),
        t=pa.array([1.5]),
        event_id=pa.array(["e"]),
        known=pa.array([7], pa.timestamp("us", tz="UTC")),
    )
    canonical = schema.canonical(rows).rows
    assert canonical.column_names == ["origin", "gate", "event_id", EVENT, CREATED, "temp"]
    assert canonical["temp"].to_pylist() == [1.5]
    assert canonical[CREATED].cast(pa.int64()).to_pylist() == [7]
    assert schema.arrow().names == [*canonical.column_names, SEQ]
    assert schema.arrow().field(SEQ).type == pa.int64()


def test_without_a_created_column_created_is_null():
    canonical = schema_of(feature("temp", "float64")).canonical(table(temp=pa.array([1.5])))
    assert canonical.rows[CREATED].to_pylist() == [None]


def test_a_declared_created_column_must_be_there():
    with pytest.raises(InvalidArgumentError, match="Column 'known' is missing"):
        schema_of(feature("temp", "float64"), created="known").canonical(table(temp=pa.array([1.5])))


def test_null_event_times_and_null_keys_are_refused_and_counted():
    schema = schema_of(feature("temp", "float64"), event_key=(("event_id", "string"),))
    rows = pa.table(
        {
            "origin": ["JFK", None, "JFK", "JFK", None],
            "gate": pa.array([1, 1, None, 1, 1], pa.int32()),
            "event_id": ["a", "b", "c", None, "e"],
            "at": pa.array([1, 2, 3, 4, None], pa.timestamp("us")),
            "temp": [None, 1.0, 1.0, 1.0, 1.0],
        }
    )
    found = schema.canonical(rows)
    assert (found.null_events, found.null_keys) == (1, 3)
    assert found.rows["temp"].to_pylist() == [None]


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=8))
def test_every_row_is_kept_or_counted_once(nulls):
    rows = pa.table(
        {
            "origin": pa.array([None if null else "JFK" for null, _, _ in nulls], pa.string()),
            "gate": pa.array([None if null else 1 for _, null, _ in nulls], pa.int32()),
            "at": pa.array([None if null else 1 for _, _, null in nulls], pa.timestamp("us")),
        }
    )
    found = schema_of().canonical(rows)
    assert len(found.rows) + found.null_events + found.null_keys == len(nulls)
    assert found.null_events == sum(event for _, _, event in nulls)
    assert pc.all(pc.is_valid(found.rows["origin"])).as_py() in (True, None)


def test_an_empty_table_has_canonical_columns():
    found = schema_of(feature("temp", "float64")).canonical(table(0, temp=pa.array([], pa.float64())))
    assert found.rows.column_names == ["origin", "gate", EVENT, CREATED, "temp"]
    assert (len(found.rows), found.null_events, found.null_keys) == (0, 0, 0)


def test_a_windowed_view_keeps_each_aggregated_column_once():
    def windowed(name, function, column):
        aggregation = AggregationRecord(column=column, function=function, dtype="float64", time_window=1)
        return FeatureRecord(name=name, dtype="float64", fingerprint="f", aggregation=aggregation)

    features = (windowed("a", "sum", "delay"), windowed("b", "mean", "delay"), windowed("c", "max", "distance"))
    assert [column.name for column in schema_of(*features, kind="window").values] == ["delay", "distance"]


def test_an_on_demand_view_has_no_rows():
    with pytest.raises(InvalidArgumentError, match="no rows of its own"):
        RowSchema.of(ViewRecord(kind="on_demand", features=()))


@pytest.mark.parametrize(
    ("have", "declared", "may"),
    [
        (pa.int64(), "float64", True),
        (pa.int64(), "decimal(12,2)", True),
        (pa.uint8(), "int16", True),
        (pa.float32(), "float64", True),
        (pa.float64(), "float32", False),
        (pa.null(), "string", True),
        (pa.list_(pa.int64()), "int64", False),
        (pa.struct([("a", pa.int64())]), "string", False),
    ],
)
def test_a_column_may_become_only_what_can_hold_its_values(have, declared, may):
    assert may_become(have, DType.of(declared)) is may
