"""Stored rows: made in bulk, one by one, and as protobuf, they are the same; cut down, they are what a smaller row would be."""

import math
import struct
from datetime import UTC
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.decoding import decode
from featurestore.errors import InvalidArgumentError
from featurestore.lanes import from_lane, to_lane
from featurestore.online.codec import EVENT_TIME, RowLayout, event_times, varint
from featurestore.types import DType, from_wire, to_arrow
from featurestore.v1 import serving_pb2 as pb

VALUES = {
    "bool": st.booleans(),
    "int8": st.integers(-(2**7), 2**7 - 1),
    "int16": st.integers(-(2**15), 2**15 - 1),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1) | st.sampled_from([2**53 + 1, -(2**63)]),
    "float32": st.floats(width=32),
    "float64": st.floats() | st.sampled_from([-0.0, 5e-324, math.nan, -math.inf]),
    "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.just("é" * 200),
    "binary": st.binary(max_size=30),
    "timestamp": st.datetimes(timezones=st.just(UTC)),
    "date": st.dates(),
    "decimal(12,2)": st.decimals(-(10**9), 10**9, places=2),
    "decimal(20,8)": st.decimals(-(10**9), 10**9, places=8),
    "list<string>": st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=3), max_size=3),
    "list<struct<a:float64,b:list<int8>>>": st.lists(
        st.none()
        | st.fixed_dictionaries(
            {"a": st.none() | st.floats(), "b": st.none() | st.lists(st.none() | st.integers(-128, 127), max_size=3)}
        ),
        max_size=3,
    ),
    "vector<float32,3>": st.lists(st.floats(width=32), min_size=3, max_size=3),
    "vector<int64,40>": st.lists(st.integers(-(2**63), 2**63 - 1), min_size=40, max_size=40),
}
FIXED = tuple(name for name in VALUES if DType(name).lane != "strings" or DType(name).family == "vector")


@st.composite
def tables(draw, dtypes=tuple(VALUES)):
    names = draw(st.lists(st.sampled_from(dtypes), min_size=1, max_size=6) | st.just(["float64"] * 70))
    columns = [(f"f{i}", DType(name)) for i, name in enumerate(names)]
    rows = draw(st.lists(st.tuples(*(st.none() | VALUES[name] for name in names)), min_size=1, max_size=5))
    times = draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=len(rows), max_size=len(rows)))
    return columns, rows, times


def bits(value):
    """NaN and -0.0 count by their bits; any NaN is the same one inside nested values, whose 4-byte forms Python may change."""
    if isinstance(value, list):
        return [b"nan" if item != item else bits(item) for item in value]
    if isinstance(value, dict):
        return {name: b"nan" if item != item else bits(item) for name, item in value.items()}
    return struct.pack("<d", value) if isinstance(value, float) else value


def encode(columns, rows, times):
    layout = RowLayout.of(columns)
    lanes = [
        to_lane(pa.array([row[i] for row in rows], to_arrow(dtype)), dtype) for i, (_, dtype) in enumerate(columns)
    ]
    return layout, layout.encode(np.array(times, np.int64), lanes)


def python_values(layout, rows):
    columns = layout.decode(rows, [slot.name for slot in layout.slots])
    plain = [
        c.values
        if isinstance(c.values, list)
        else [v.tobytes() for v in c.values]
        if c.values.ndim > 1
        else c.values.tolist()
        for c in columns
    ]
    return [
        tuple(
            bits(from_wire(slot.dtype, values[i])) if column.valid[i] else None
            for slot, values, column in zip(layout.slots, plain, columns, strict=True)
        )
        for i in range(len(rows))
    ]


@given(tables())
def test_bulk_and_single_rows_are_the_same_bytes(case):
    columns, rows, times = case
    layout, stored = encode(columns, rows, times)
    assert stored == [layout.encode_row(time, row) for time, row in zip(times, rows, strict=True)]


@given(tables())
def test_values_come_back_to_the_bit(case):
    columns, rows, times = case
    layout, stored = encode(columns, rows, times)
    assert python_values(layout, stored) == [tuple(map(bits, row)) for row in rows]
    assert event_times(stored).tolist() == times
    assert [int.from_bytes(row[EVENT_TIME], "little", signed=True) for row in stored] == times


@given(tables())
def test_generated_protobuf_reads_the_same_values(case):
    columns, rows, times = case
    layout, stored = encode(columns, rows, times)
    parsed = pb.ViewRows.FromString(b"".join(stored)).rows
    assert [row.event_time for row in parsed] == times
    for row, expected in zip(parsed, rows, strict=True):
        lanes = {"doubles": row.doubles, "integers": row.integers, "strings": row.strings}
        for slot, value in zip(layout.slots, expected, strict=True):
            null = row.nulls[slot.bit // 64] >> (slot.bit % 64) & 1
            assert bool(null) == (value is None)
            if value is not None:
                assert bits(from_wire(slot.dtype, lanes[slot.lane][slot.index])) == bits(value)


@given(tables(), st.data())
def test_a_row_cut_down_is_the_row_of_fewer_features(case, data):
    columns, rows, times = case
    layout, stored = encode(columns, rows, times)
    names = data.draw(st.lists(st.sampled_from([name for name, _ in columns]), min_size=1, unique=True))
    target = layout.select(names)
    project = layout.projection(target)
    cut = list(map(project, stored))
    kept = [i for i, (name, _) in enumerate(columns) if name in names]
    assert python_values(target, cut) == [tuple(bits(row[i]) for i in kept) for row in rows]
    assert event_times(cut).tolist() == times
    lengths = {len(row) for row in cut}
    assert any(name not in FIXED for name in (slot.dtype.name for slot in target.slots)) or lengths == {target.fixed}


@given(tables())
def test_arrow_columns_survive_their_lane(case):
    columns, rows, _ = case
    for i, (_, dtype) in enumerate(columns):
        column = pa.array([row[i] for row in rows], to_arrow(dtype))
        back = from_lane(to_lane(column, dtype), dtype)
        assert back.type == column.type
        assert list(map(bits, back.to_pylist())) == list(map(bits, column.to_pylist()))


@settings(max_examples=60)
@given(tables())
def test_a_client_decodes_what_was_stored(case):
    columns, rows, times = case
    layout, stored = encode(columns, rows, times)
    body = b"".join(stored)
    response = b"\x0a" + varint(len(body)) + body + struct.pack("<BqBQ", 0x11, 5, 0x19, 9)
    features = [
        pb.FeatureSchema(name=s.name, dtype=s.dtype.name, view=0, lane=s.lane, index=s.index, bit=s.bit)
        for s in layout.slots
    ]
    counts = {lane: layout.count(lane) for lane in ("doubles", "integers", "strings")}
    decoded = decode(pb.Schema(views=[pb.ViewSchema(**counts)], features=features), response)
    assert (decoded.time, decoded.position, len(decoded)) == (5, 9, len(rows))
    values = decoded.to_rows()
    assert [tuple(map(bits, row.values())) for row in values] == [tuple(map(bits, row)) for row in rows]
    for name, _ in columns:
        assert decoded.valid[name].tolist() == [row[name] is not None for row in values]
        assert decoded.event_time[name].tolist() == times
    assert pb.ReadResponse.FromString(response).time == 5


@given(tables(FIXED))
def test_rows_of_numbers_and_vectors_are_of_one_length_nulls_included(case):
    columns, rows, times = case
    layout, stored = encode(columns, rows, times)
    stored.append(layout.encode_row(0, [None] * len(columns), state=pb.NOT_FOUND))
    assert {len(row) for row in stored} == {layout.fixed}


def test_templates_are_rows_of_nulls_with_a_state():
    layout = RowLayout.of([("a", DType("float64")), ("b", DType("int64"))])
    row = pb.ViewRows.FromString(layout.encode_row(0, [None, None], state=pb.NOT_FOUND)).rows[0]
    assert (row.state, row.nulls, list(row.doubles), list(row.integers)) == (pb.NOT_FOUND, [3], [0.0], [0])
    assert len(layout.encode_row(0, [None, None], state=pb.EXPIRED)) == len(layout.encode_row(7, [1.5, 2]))


def test_a_row_beyond_the_length_field_is_refused():
    layout = RowLayout.of([("text", DType("string"))])
    column = to_lane(pa.array(["x" * (1 << 21)]), DType("string"))
    with pytest.raises(InvalidArgumentError, match="at most 2097151"):
        layout.encode(np.zeros(1, np.int64), [column])
    with pytest.raises(InvalidArgumentError, match="at most 2097151"):
        layout.encode_row(0, ["x" * (1 << 21)])


@pytest.mark.parametrize(
    ("dtype", "lane", "message"),
    [
        ("int8", pa.array([128]), "int8"),
        ("bool", pa.array([2]), "bool"),
        ("string", pa.array([b"\xff"]), "string"),
        ("decimal(12,2)", pa.array([b"x"]), "decimal"),
    ],
)
def test_a_lane_that_does_not_fit_its_type_is_refused(dtype, lane, message):
    kind = DType("int64") if dtype in ("int8", "bool") else DType("binary")
    with pytest.raises(InvalidArgumentError, match=message):
        from_lane(to_lane(lane, kind), DType(dtype), place="$.columns.x")


def test_a_decimal_keeps_its_scale():
    lane = to_lane(pa.array([Decimal("1.50")], pa.decimal128(12, 2)), DType("decimal(12,2)"))
    assert lane.values == [b"1.50"]
