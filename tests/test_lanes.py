"""Lanes: a column of any type, sliced and chunked or not, is the bytes of its values, made in bulk and one by one."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.errors import InvalidArgumentError
from featurestore.lanes import from_lane, to_lane, wire_lane
from featurestore.testing.strategies import dtypes, nested_dtypes, values
from featurestore.types import DType, from_wire, to_arrow, to_wire
from featurestore.v1 import serving_pb2 as pb

columns = (dtypes() | nested_dtypes(dtypes())).flatmap(
    lambda dtype: st.tuples(st.just(dtype), st.lists(st.none() | values(dtype), max_size=5))
)


def plain(lane):
    """The values of a lane, None for null, as what is equal when every bit is."""
    found = lane.values if isinstance(lane.values, list) else [value.tobytes() for value in lane.values]
    return [value if ok else None for value, ok in zip(found, lane.valid, strict=True)]


@settings(max_examples=100, deadline=None)
@given(columns, st.data())
def test_a_column_is_the_same_however_it_is_cut(case, data):
    dtype, found = case
    array = pa.array(found, to_arrow(dtype))
    whole = plain(to_lane(array, dtype))
    at = data.draw(st.integers(0, len(found)))
    assert plain(to_lane(array.slice(at), dtype)) == whole[at:]
    assert plain(to_lane(pa.chunked_array([array[:at], array[at:]]), dtype)) == whole


@settings(max_examples=100, deadline=None)
@given(columns)
def test_a_column_survives_its_lane(case):
    dtype, found = case
    array = pa.array(found, to_arrow(dtype))
    lane = to_lane(array, dtype)
    back = from_lane(lane, dtype)
    back.validate(full=True)
    assert back.type == array.type
    assert plain(to_lane(back, dtype)) == plain(lane)


@settings(max_examples=100, deadline=None)
@given(columns)
def test_bulk_and_single_nested_values_have_the_same_bytes(case):
    """What a client packs one by one is what a bulk load stores; so equal values have equal bytes."""
    dtype, found = case
    if not dtype.is_nested:
        return
    bulk = plain(to_lane(pa.array(found, to_arrow(dtype)), dtype))
    for value, raw in zip(found, bulk, strict=True):
        if value is None:
            assert raw is None
        else:
            assert to_wire(dtype, from_wire(dtype, raw)) == raw


def test_what_lies_under_a_null_does_not_show():
    """Arrow may keep garbage where a null is: a list with elements, a struct with values, a vector of anything."""
    mask = pa.array([True, False])
    lists = pa.ListArray.from_arrays(pa.array([0, 2, 3], pa.int32()), pa.array([8, 9, 7]), mask=mask)
    structs = pa.StructArray.from_arrays([pa.array([8, 7])], ["a"], mask=mask)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array([8, 9, 7, 6]), 2, mask=mask)
    for array, name in [(lists, "list<int64>"), (structs, "struct<a:int64>"), (vectors, "vector<int64,2>")]:
        clean = pa.array(array.to_pylist(), array.type)
        for wrapped, outer in [(lambda a: a, name), (lambda a: pa.ListArray.from_arrays([0, 2], a), f"list<{name}>")]:
            dtype = DType.of(outer)
            assert plain(to_lane(wrapped(array), dtype)) == plain(to_lane(wrapped(clean), dtype))


def test_a_vector_with_a_null_element_is_refused():
    with pytest.raises(InvalidArgumentError, match="null element"):
        to_lane(pa.array([[1.0, None]], pa.list_(pa.float32(), 2)), DType("vector<float32,2>"))


def test_vectors_are_a_matrix_without_a_loop():
    array = pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int16(), 2))
    assert to_lane(array, DType("vector<int16,2>")).values.tolist() == [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0]]


@pytest.mark.parametrize("sent", [b"", b"\0" * 7, b"\0" * 9])
def test_a_vector_of_another_length_is_refused_with_its_place(sent):
    column = pb.Column(name="v", strings=[b"\0" * 8, sent])
    with pytest.raises(InvalidArgumentError, match=f"got {len(sent)} of 8 bytes") as refused:
        wire_lane(column, DType("vector<float32,2>"), place="$.columns.v")
    assert refused.value.place == "$.columns.v[1]"


def test_bytes_that_are_no_list_are_refused_with_their_place():
    lane = wire_lane(pb.Column(name="v", strings=[b"\xff" * 4]), DType("list<int64>"), place="$.columns.v")
    with pytest.raises(InvalidArgumentError, match="The bytes are no list<int64>") as refused:
        from_lane(lane, DType("list<int64>"), place="$.columns.v")
    assert refused.value.place == "$.columns.v"


def test_a_number_too_large_for_float32_is_refused():
    lane = to_lane(pa.array([1e300, float("inf")]), DType("float64"))
    with pytest.raises(InvalidArgumentError, match="infinite"):
        from_lane(lane, DType("float32"))
    assert from_lane(lane.take([1]), DType("float32")).to_pylist() == [float("inf")]
