"""Decoding on the client: strided views and generated protobuf agree, and bytes that are not an answer are refused."""

import struct

import numpy as np
import pytest

from featurestore.decoding import decode, read_varint
from featurestore.errors import CorruptionError, NotFoundError
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


def test_varints_of_any_length_are_read():
    assert read_varint(b"\x80\x80\x01", 0) == (1 << 14, 3)
