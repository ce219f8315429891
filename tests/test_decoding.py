"""Decoding on the client: strided views and generated protobuf agree, and bytes that are not an answer are refused."""

import struct
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.decoding import Decoder, decode, read_varint
from featurestore.errors import CorruptionError, NotFoundError
from featurestore.online.codec import RowLayout, varint
from featurestore.types import DType
from featurestore.v1 import serving_pb2 as pb

SCHEMA = pb.Schema(
    views=[pb.ViewSchema(doubles=1, integers=2)],
    features=[
        pb.FeatureSchema(name="a", dtype="float64", view=0, lane="doubles", index=0, bit=0),
        pb.FeatureSchema(name="when", dtype="timestamp", view=0, lane="integers", index=0, bit=1),
        pb.FeatureSchema(name="small", dtype="int8", view=0, lane="integers", index=1, bit=2),
    ],
)


def row(*, a=1.5, when=7, small=3, nulls=0, event_time=11, state=0):
    return pb.Row(event_time=event_time, state=state, nulls=[nulls], doubles=[a], integers=[when, small])


def wire(*rows):
    """The bytes that any protobuf server would send: zeros are left out, lengths are short."""
    return pb.ReadResponse(views=[pb.ViewRows(rows=rows)], time=5, position=9).SerializeToString()


def test_rows_of_one_stride_are_views_into_the_response():
    response = wire(row(state=1), row(a=-0.0, nulls=4, state=2))
    decoded = decode(SCHEMA, response)
    assert decoded.columns["a"].base is not None
    assert decoded.columns["a"].tolist() == [1.5, 0.0]
    assert decoded.status["small"].tolist() == ["NOT_FOUND", "EXPIRED"]


def test_rows_of_other_shapes_are_parsed():
    decoded = decode(SCHEMA, wire(row(), row(nulls=6), row(state=1, event_time=0, nulls=7)))
    assert decoded.to_dict() == {
        "a": [1.5, 1.5, None],
        "when": [decoded.to_rows()[0]["when"], None, None],
        "small": [3, None, None],
    }
    assert decoded.to_rows()[0]["when"].isoformat() == "1970-01-01T00:00:00.000007+00:00"
    assert decoded.columns["when"].dtype == np.dtype("M8[us]")
    assert decoded.columns["small"].dtype == np.int8
    assert decoded.status["a"].tolist() == ["PRESENT", "PRESENT", "NOT_FOUND"]


def text_schema(*types):
    """A view of one float and some columns in the lane of strings."""
    features = [pb.FeatureSchema(name="a", dtype="float64", view=0, lane="doubles", index=0, bit=0)]
    features += [
        pb.FeatureSchema(name=f"t{i}", dtype=dtype, view=0, lane="strings", index=i, bit=i + 1)
        for i, dtype in enumerate(types)
    ]
    return pb.Schema(views=[pb.ViewSchema(doubles=1, strings=len(types))], features=features)


def stored(types, *rows):
    """The bytes that the server sends; each row is (event time, values of the text columns)."""
    layout = RowLayout.of([("a", DType("float64")), *((f"t{i}", DType(name)) for i, name in enumerate(types))])
    body = b"".join(layout.encode_row(event, [float(event), *values]) for event, values in rows)
    return b"\x0a" + varint(len(body)) + body + struct.pack("<BqBQ", 0x11, 5, 0x19, 9)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=4) | st.sampled_from(
    ["x" * 127, "x" * 128, "é" * 10_000]
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.none() | texts, min_size=2, max_size=2), min_size=1, max_size=6), st.integers(0, 2**40))
def test_texts_are_the_same_walked_and_parsed(rows, start):
    types = ["string", "string"]
    schema, response = text_schema(*types), stored(types, *enumerate(rows, start))
    decoded = decode(schema, response)
    assert [list(row.values())[1:] for row in decoded.to_rows()] == rows
    parsed = pb.ReadResponse.FromString(response).views[0].rows
    assert decoded.event_time["a"].tolist() == [row.event_time for row in parsed]
    assert decoded.columns["a"].tolist() == [row.doubles[0] for row in parsed]
    again = decode(schema, wire(*parsed))
    assert again.to_dict() == decoded.to_dict()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.none() | texts, min_size=1, max_size=3), min_size=1, max_size=8))
def test_a_decoder_that_is_kept_answers_like_a_new_one(answers):
    decoder = Decoder(text_schema("string"))
    for answer in answers:
        response = stored(["string"], *((i, [text]) for i, text in enumerate(answer)))
        assert decoder.decode(response).to_dict()["t0"] == answer


@settings(max_examples=100, deadline=None)
@given(st.lists(st.none() | texts, min_size=1, max_size=4), st.data())
def test_a_damaged_answer_is_refused_or_another_one(rows, data):
    """No error but the one that says so, whatever byte is wrong."""
    response = bytearray(stored(["string"], *((i, [text]) for i, text in enumerate(rows))))
    response[data.draw(st.integers(0, len(response) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(CorruptionError):
        assert decode(text_schema("string"), bytes(response)).to_dict().keys() == {"a", "t0"}


@pytest.mark.parametrize("empty", [False, True])
def test_vectors_are_one_matrix_even_where_rows_are_missing(empty):
    types = ["vector<float32,3>"]
    rows = [[1.5, -0.0, 3.0], None] if empty else [[1.5, -0.0, 3.0], [4.0, 5.0, 6.0]]
    decoded = decode(text_schema(*types), stored(types, *((i, [vector]) for i, vector in enumerate(rows))))
    matrix = decoded.columns["t0"]
    assert (matrix.dtype, matrix.shape) == (np.float32, (2, 3))
    assert matrix.tolist() == [row or [0.0] * 3 for row in rows]
    assert np.signbit(matrix[0, 1])
    assert not matrix.flags.owndata
    assert not matrix.flags.writeable
    assert decoded.valid["t0"].tolist() == [True, not empty]
    assert decoded.to_dict()["t0"] == rows


def test_vectors_beside_texts_are_one_matrix_too():
    types = ["string", "vector<int16,2>"]
    schema = text_schema(*types)
    schema.features[1].index, schema.features[2].index = 1, 0  # vectors come first
    decoded = decode(schema, stored(types, (0, ["x", [1, 2]]), (1, ["longer", [3, 4]])))
    assert decoded.columns["t1"].tolist() == [[1, 2], [3, 4]]
    assert decoded.columns["t0"].tolist() == ["x", "longer"]


def test_lists_of_numbers_are_arrays_and_other_nested_values_python():
    types = ["list<int16>", "list<string>", "struct<a:int64>"]
    rows = [[[1, 2], ["a", None], {"a": 1}], [[3, None], [], None], [[], None, {"a": None}]]
    columns = decode(text_schema(*types), stored(types, *enumerate(rows))).columns
    first, second, third = columns["t0"]
    assert (first.dtype, first.tolist(), second, third.tolist()) == (np.int16, [1, 2], [3, None], [])
    assert columns["t1"].tolist() == [["a", None], [], None]
    assert columns["t2"].tolist() == [{"a": 1}, None, {"a": None}]


def test_a_nested_value_that_cannot_be_read_is_corruption():
    response = wire(pb.Row(nulls=[0], doubles=[1.0], strings=[b"\xff"]))
    with pytest.raises(CorruptionError, match="'t0' cannot be read"):
        decode(text_schema("list<int64>"), response).to_dict()


def test_instants_beyond_the_calendar_are_integers():
    decoded = decode(SCHEMA, wire(row(when=2**62)))
    assert decoded.to_dict()["when"] == [2**62]
    assert "time=" in repr(decode(SCHEMA, pb.ReadResponse(views=[pb.ViewRows()], time=2**62).SerializeToString()))


def test_an_unknown_output_is_named():
    with pytest.raises(NotFoundError, match="Did you mean 'small'"):
        decode(SCHEMA, wire(row())).columns["smal"]


@pytest.mark.parametrize(
    "response",
    [
        b"",
        wire(row())[:-1],
        wire(row())[:20],
        wire(row()) + wire(row()),
        b"\x0a\xff",
        b"\x0a\x02\x0a\x7f" + struct.pack("<BqBQ", 0x11, 0, 0x19, 0),
        b"\xff" * 40,
        wire(pb.Row(nulls=[0], doubles=[1.0, 2.0], integers=[1, 2])),
        wire(pb.Row(nulls=[0], doubles=[1.0])),
        wire(row(), pb.Row(nulls=[0, 0], doubles=[1.0], integers=[1, 2])),
    ],
)
def test_bytes_that_are_no_answer_are_refused(response):
    with pytest.raises(CorruptionError):
        decode(SCHEMA, response)


def test_varints_have_up_to_ten_bytes():
    assert read_varint(b"\x80\x80\x01", 0) == (1 << 14, 3)
    assert read_varint(b"\xff" * 9 + b"\x01", 0) == ((1 << 64) - 1, 10)
    for wrong in (b"", b"\xff" * 9, b"\x80" * 10 + b"\x01", b"\xff" * (1 << 22)):
        with pytest.raises(IndexError):
            read_varint(wrong, 0)
