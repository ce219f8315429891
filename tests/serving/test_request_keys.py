"""Keys that are taken from the bytes of a plain request are those that generated protobuf gives; every other form is left to it."""

from types import SimpleNamespace

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.errors import InvalidArgumentError
from featurestore.keys import encode_request
from featurestore.serving.request_keys import PlainKeys, named_plan
from featurestore.types import DType
from featurestore.v1 import serving_pb2 as pb

PLAN = b"0123456789abcdef"
KINDS = {"int64": "integers", "string": "strings", "binary": "strings"}


def plan_of(dtype, name="user_id", request=()):
    key_set = SimpleNamespace(columns=(name,), dtypes=(DType(dtype),))
    return SimpleNamespace(fingerprint=PLAN, key_sets=(key_set,), request=request)


def by_protobuf(plan, body):
    return encode_request(pb.ReadRequest.FromString(body).columns, plan.key_sets[0])


def request(dtype, values, name="user_id"):
    return pb.ReadRequest(plan=PLAN, columns=[pb.Column(name=name, **{KINDS[dtype]: values})]).SerializeToString()


INT64 = st.integers(-(2**63), 2**63 - 1)
VALUES = {
    "int64": st.lists(INT64, min_size=1, max_size=60),
    "string": st.lists(st.text(max_size=200).map(str.encode), min_size=1, max_size=20),
    "binary": st.lists(st.binary(max_size=479), min_size=1, max_size=20),
}


@pytest.mark.parametrize("dtype", KINDS)
@given(st.data())
def test_a_plain_request_gives_the_same_keys(dtype, data):
    plan, values = plan_of(dtype), data.draw(VALUES[dtype])
    body = request(dtype, values)
    assert named_plan(body) == PLAN
    keys = PlainKeys.of(plan).read(body)
    if all(len(value) < 479 for value in values if isinstance(value, bytes)):
        assert keys is not None
    assert keys is None or keys == by_protobuf(plan, body)


@pytest.mark.parametrize("dtype", KINDS)
@settings(max_examples=100)
@given(st.data())
def test_a_changed_request_gives_the_same_keys_or_none(dtype, data):
    """Bytes changed, taken out and put in anywhere, of a request whose form is known: what is read at all is read as protobuf reads it."""
    plan, body = plan_of(dtype), bytearray(request(dtype, data.draw(VALUES[dtype])))
    plain = PlainKeys.of(plan)
    plain.read(bytes(body))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(body) - 1)))
        body[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    body = bytes(body)
    if named_plan(body) != PLAN:
        return
    keys = plain.read(body)
    if keys is not None:
        try:
            assert keys == by_protobuf(plan, body)
        except (DecodeError, InvalidArgumentError) as error:
            pytest.fail(f"protobuf refuses {body!r}: {error}")


@settings(max_examples=50)
@given(st.lists(VALUES["int64"], min_size=2, max_size=12))
def test_the_form_of_an_earlier_request_gives_the_same_keys(requests):
    plan = plan_of("int64")
    plain = PlainKeys.of(plan)
    for values in (*requests, *requests):
        body = request("int64", values)
        assert plain.read(body) == by_protobuf(plan, body)
    assert set(plain.known) == {len(request("int64", values)) for values in requests}


def test_forms_of_large_requests_are_not_kept():
    plan, body = plan_of("int64"), request("int64", range(300))
    plain = PlainKeys.of(plan)
    assert plain.read(body) == plain.read(body) == by_protobuf(plan, body)
    assert not plain.known


def padded(number, size):
    """A length in so many bytes: each but the last says that more follow."""
    return bytes([number >> 7 * at & 0x7F | 0x80 * (at < size - 1) for at in range(size)])


def test_a_length_may_be_written_in_many_ways_and_one_is_remembered():
    """Who writes it in ever more bytes makes no form of each, and gets no keys where protobuf refuses."""
    plan = plan_of("int64")
    plain = PlainKeys.of(plan)
    for outer in range(1, 12):
        for inner in range(1, 12):
            column = b"\x0a\x07user_id\x12" + padded(8, inner) + bytes(8)
            body = b"\x0a\x10" + PLAN + b"\x12" + padded(len(column), outer) + column
            assert (plain.read(body) is None) == ((outer, inner) != (1, 1))
    assert set(plain.known) == {len(request("int64", [0]))}


@pytest.mark.parametrize("size", [*range(1, 12), 1 << 20])
def test_a_text_whose_lengths_are_written_in_many_bytes(size):
    plan = plan_of("string")
    column = b"\x0a\x07user_id\x22"
    for inner in (padded(1, size) + b"a", b"\x01a"):
        length = padded(len(column + inner), size)
        body = b"\x0a\x10" + PLAN + b"\x12" + length + column + inner
        keys = PlainKeys.of(plan).read(body)
        assert keys is None or keys == by_protobuf(plan, body)
    assert PlainKeys.of(plan).read(b"\x0a\x10" + PLAN + b"\x12" + b"\xff" * size) is None


def test_other_forms_are_left_to_protobuf():
    plain = PlainKeys.of(plan_of("int64"))
    nulls = pb.ReadRequest(plan=PLAN, columns=[pb.Column(name="user_id", integers=[1], nulls=[0])])
    two = pb.ReadRequest(
        plan=PLAN, columns=[pb.Column(name="user_id", integers=[1]), pb.Column(name="x", integers=[1])]
    )
    for other in (
        nulls,
        two,
        pb.ReadRequest(plan=PLAN),
        pb.ReadRequest(plan=PLAN, columns=[pb.Column(name="user_id")]),
    ):
        assert plain.read(other.SerializeToString()) is None
    assert plain.read(request("int64", [1], name="user")) is None
    assert plain.read(request("string", [b"1"])) is None
    assert PlainKeys.of(plan_of("string")).read(request("string", [b"x" * 480])) is None
    assert PlainKeys.of(plan_of("int32")) is None
    assert PlainKeys.of(plan_of("int64", request=(("bump", DType("float64")),))) is None
    assert named_plan(b"") == named_plan(b"\x0a") == named_plan(b"\x12\x02ab") == b""
