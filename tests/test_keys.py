"""Entity keys as bytes: injective, order-keeping, equal by value, by row and by request."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.errors import InvalidArgumentError
from featurestore.keys import encode_columns, encode_key, encode_request
from featurestore.planning import KeySet
from featurestore.types import DType, to_arrow, to_wire
from featurestore.v1 import serving_pb2 as pb

VALUES = {
    "bool": st.booleans(),
    "int8": st.integers(-(2**7), 2**7 - 1),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.sampled_from(["a", "a\0", "\0a", "ab"]),
    "binary": st.binary(max_size=20),
    "timestamp": st.datetimes(timezones=st.just(__import__("datetime").UTC)),
    "date": st.dates(),
}
names = st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=3)


@st.composite
def key_rows(draw):
    dtypes = draw(names)
    keys = draw(st.lists(st.tuples(*(VALUES[name] for name in dtypes)), min_size=1, max_size=8))
    return [DType(name) for name in dtypes], keys


@given(key_rows())
def test_rows_requests_and_single_values_give_the_same_bytes(case):
    dtypes, keys = case
    single = [encode_key(key, dtypes) for key in keys]
    columns = [
        pa.array(values, to_arrow(dtype)) for values, dtype in zip(zip(*keys, strict=True), dtypes, strict=False)
    ]
    assert encode_columns(columns, dtypes) == single
    key_set = KeySet("e", tuple(f"k{i}" for i in range(len(dtypes))), tuple(dtypes))
    request = [
        pb.Column(name=f"k{i}", **{dtype.lane: [to_wire(dtype, key[i]) for key in keys]})
        for i, dtype in enumerate(dtypes)
    ]
    assert encode_request(request, key_set) == single


@given(key_rows())
def test_different_keys_have_different_bytes(case):
    dtypes, keys = case
    assert len({encode_key(key, dtypes) for key in keys}) == len(set(keys))


@given(st.lists(st.tuples(st.text("ab\0", max_size=4), st.text("ab\0", max_size=4)), min_size=2))
def test_composite_keys_that_look_alike_do_not_collide(keys):
    dtypes = [DType("string"), DType("string")]
    assert len({encode_key(key, dtypes) for key in keys}) == len(set(keys))


@given(st.lists(VALUES["int64"], min_size=2))
def test_numbers_sort_as_their_bytes(numbers):
    encoded = {number: encode_key([number], [DType("int64")]) for number in numbers}
    assert sorted(encoded, key=encoded.__getitem__) == sorted(encoded)


ORIGIN = KeySet("origin", ("origin",), (DType("string"),))
ROUTE = KeySet("route", ("origin", "dest"), (DType("string"), DType("int32")))


@pytest.mark.parametrize(
    ("columns", "key_set", "message"),
    [
        ([pb.Column(name="orgin", strings=[b"a"])], ORIGIN, r"missing. You sent 'orgin'\. - at `\$.keys.origin`"),
        ([pb.Column(name="origin", strings=[b"a", b""], nulls=[1])], ORIGIN, r"null. - at `\$.keys.origin\[1\]`"),
        (
            [pb.Column(name="origin", integers=[1])],
            ORIGIN,
            r"Expected string, got integers. - at `\$.keys.origin\[0\]`",
        ),
        ([pb.Column(name="origin", strings=[b"a"], doubles=[1.0])], ORIGIN, "got doubles"),
        ([pb.Column(name="origin", strings=[b"a", b"x" * 480])], ORIGIN, r"481 bytes.*\$.keys.origin\[1\]"),
        (
            [pb.Column(name="origin", strings=[b"a"]), pb.Column(name="dest", integers=[1, 2])],
            ROUTE,
            "origin has 1, dest has 2",
        ),
        (
            [pb.Column(name="origin", strings=[b"a", b"b"]), pb.Column(name="dest", integers=[1, 2**31])],
            ROUTE,
            r"2147483648 is not of type int32. - at `\$.keys.dest\[1\]`",
        ),
    ],
)
def test_a_bad_request_says_where(columns, key_set, message):
    with pytest.raises(InvalidArgumentError, match=message):
        encode_request(columns, key_set)


def test_a_float_is_never_taken_for_a_number():
    with pytest.raises(InvalidArgumentError, match=r"Expected int64, got float 1001.7"):
        encode_key([1001.7], [DType("int64")])


def test_an_empty_request_has_no_keys():
    assert encode_request([pb.Column(name="origin")], ORIGIN) == []
