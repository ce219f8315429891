"""A digest is of values, in their order and down to the scalars of nested types; a comparison says where two columns differ."""

import math
from datetime import date, timedelta
from decimal import Decimal
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.errors import InvalidArgumentError
from featurestore.offline.datasets import table_digest
from featurestore.offline.datasets.digest import BLOCK_ROWS, TableDigest, differs, digests, shown

NAN = float("nan")
STRUCT = pa.struct([("a", pa.int64()), ("b", pa.list_(pa.string()))])
SCALARS = {
    "whole": pa.array([1, None, 3], pa.int32()),
    "real": pa.array([1.5, None, NAN]),
    "half": pa.array([-0.0, None, 2.5], pa.float32()),
    "text": pa.array(["a", None, "bcé"]),
    "raw": pa.array([b"a", None, b""]),
    "day": pa.array([date(2020, 1, 1), None, date(1, 1, 1)]),
    "at": pa.array([1, None, 3], pa.timestamp("us", "UTC")),
    "price": pa.array([Decimal("1.20"), None, Decimal("-3.40")], pa.decimal128(5, 2)),
    "flag": pa.array([True, None, False]),
}
FOREIGN = {
    "u64": pa.array([2**64 - 1, None], pa.uint64()),
    "time": pa.array([1, None], pa.time32("s")),
    "duration": pa.array([timedelta(seconds=1), None], pa.duration("s")),
    "f16": pa.array(np.array([1.5, 2.0], np.float16)),
    "nothing": pa.nulls(2),
    "map": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())),
    "nested": pa.array([[{"a": 1, "b": ["x", None]}], None], pa.list_(STRUCT)),
    "vector": pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)),
    "seconds": pa.array([1, None], pa.timestamp("s")),
    "wide": pa.array([Decimal(1), None], pa.decimal256(50, 2)),
}


LONG = pa.table({"number": pa.array(range(300_000)), "text": pa.array(["a", None, "bc"] * 100_000)})


def column(values, kind=None):
    return pa.chunked_array([pa.array(values, kind)])


def test_the_digest_of_scalars_is_what_it_was_in_schema_1():
    """A constant of the first release: a dataset saved by it still verifies."""
    assert table_digest(pa.table(SCALARS)) == "0a668f773206e7730367eacfe50d6977"


def test_a_digest_is_of_values_in_their_order():
    one = pa.table({"a": [1.0, NAN, None], "b": ["x", None, "yz"]})
    same = pa.concat_tables([one.slice(0, 1), one.slice(1)])
    assert table_digest(one) == table_digest(same)
    assert table_digest(one) != table_digest(one.take([1, 0, 2]))
    assert table_digest(one) != table_digest(one.select(["b", "a"]))
    assert table_digest(pa.table({"b": ["xy", "z"]})) != table_digest(pa.table({"b": ["x", "yz"]}))
    assert table_digest(pa.table({"b": pa.array([0], pa.int32())})) != table_digest(pa.table({"b": pa.array([0])}))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.array([-0.0, 1.0]), pa.array([0.0, 1.0])),
        (pa.array(["a", "b", "a"]), pa.array(["a", "b", "a"]).dictionary_encode()),
        (pa.array(["a", None]), pa.array(["a", None], pa.large_string())),
        (pa.array(["a", None]), pa.array(["a", None], pa.string_view())),
        (pa.array([1, None], pa.timestamp("s", "UTC")), pa.array([10**6, None], pa.timestamp("us", "Asia/Tokyo"))),
        (pa.array([[1, 2], None]), pa.array([[1, 2], None], pa.large_list(pa.int64()))),
        (pa.array([[1, 2], None]), pa.array([[1, 2], None], pa.list_view(pa.int64()))),
        (pa.array([[1], [9], [2]]).take(pa.array([0, 2])), pa.array([[1], [2]])),
        (pa.array([[9], [1, 2], None]).slice(1), pa.array([[1, 2], None])),
        (
            pa.StructArray.from_arrays([pa.array([7, 8])], ["a"], mask=pa.array([True, False])),
            pa.array([None, {"a": 8}]),
        ),
    ],
)  # fmt: skip
def test_layout_does_not_count(one, other):
    assert table_digest(pa.table({"c": one})) == table_digest(pa.table({"c": other}))
    assert not differs(pa.chunked_array([one]), pa.chunked_array([other])).any()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([[1], None], [[1], []]),
        ([[1, 2], [3]], [[1], [2, 3]]),
        ([[None], []], [[], [None]]),
        ([["a"], ["b"]], [["ab"], [""]]),
        ([{"a": None}, None], [None, {"a": None}]),
        ([[[1], []], []], [[[1]], [[]]]),
    ],
)
def test_nested_values_that_look_alike_are_told_apart(one, other):
    assert table_digest(pa.table({"c": one})) != table_digest(pa.table({"c": other}))
    assert differs(column(one), column(other)).any()


def test_the_types_of_empty_columns_count():
    empty = [pa.table({"c": pa.array([], kind)}) for kind in (pa.list_(pa.int64()), pa.list_(pa.int32()), STRUCT)]
    assert len({table_digest(table) for table in empty}) == 3


@given(cuts=st.lists(st.integers(0, 300_000), max_size=5))
@settings(max_examples=20, deadline=None)
def test_how_a_table_is_cut_changes_no_digest(cuts):
    edges = sorted({0, 300_000, *cuts})
    digest = TableDigest()
    for start, stop in pairwise(edges):
        digest.update(LONG.slice(start, stop - start))
    assert digest.finish() == digests(LONG)


def test_rows_that_change_places_between_two_blocks_are_seen():
    order = np.arange(len(LONG))
    order[[0, BLOCK_ROWS]] = order[[BLOCK_ROWS, 0]]
    assert table_digest(LONG.take(pa.array(order))) != table_digest(LONG)


def test_what_a_parquet_file_gives_back_has_the_same_digests(tmp_path):
    for table in (pa.table(SCALARS), pa.table(FOREIGN)):
        pq.write_table(table, tmp_path / "t.parquet")
        assert digests(pq.read_table(tmp_path / "t.parquet")) == digests(table)


def test_what_has_no_canonical_form_is_refused():
    with pytest.raises(InvalidArgumentError, match="no counterpart"):
        table_digest(pa.table({"c": pa.array([(1, 2, 3)], pa.month_day_nano_interval())}))
    with pytest.raises(InvalidArgumentError, match="finer than a microsecond"):
        table_digest(pa.table({"c": pa.array([1001], pa.timestamp("ns"))}))


def test_an_instant_beyond_python_is_shown_as_it_is():
    assert shown(pa.scalar(2**62, pa.timestamp("us"))) == "4611686018427387904 timestamp[us]"
    assert shown(pa.scalar([1, None])) == [1, None]


LEAVES = {
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float64(): st.sampled_from([0.0, -0.0, 1.5, NAN, math.inf]),
    pa.float32(): st.sampled_from([0.0, -0.0, 1.5, NAN]),
    pa.string(): st.sampled_from(["", "a", "ab", "b", "\0"]),
    pa.binary(): st.sampled_from([b"", b"a", b"\0"]),
    pa.bool_(): st.booleans(),
    pa.timestamp("us", "UTC"): st.integers(-(2**63), 2**63 - 1),
    pa.date32(): st.integers(-1000, 1000),
    pa.decimal128(5, 2): st.sampled_from([Decimal("1.20"), Decimal("-1.20"), Decimal(0)]),
}


def nested(kinds):
    """One level on: lists, vectors and structs of (type, values)."""
    return st.one_of(
        kinds.map(lambda k: (pa.list_(k[0]), st.lists(k[1] | st.none(), max_size=3))),
        kinds.map(lambda k: (pa.list_(k[0], 2), st.lists(k[1], min_size=2, max_size=2))),
        st.tuples(kinds, kinds).map(
            lambda pair: (
                pa.struct([("a", pair[0][0]), ("b", pair[1][0])]),
                st.fixed_dictionaries({"a": pair[0][1] | st.none(), "b": pair[1][1] | st.none()}),
            )
        ),
    )


KINDS = st.recursive(st.sampled_from(list(LEAVES.items())), nested, max_leaves=4)


@st.composite
def two_columns(draw):
    """Two columns of one type and length; the second is the first with some rows drawn anew."""
    kind, values = draw(KINDS)
    one = draw(st.lists(values | st.none(), max_size=6))
    other = [draw(values | st.none()) if draw(st.booleans()) else value for value in one]
    return kind, one, other


def plain(value):
    """The value with every NaN and zero as one, in a form whose equality is that of values."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else value + 0.0
    if isinstance(value, list):
        return [plain(one) for one in value]
    return {name: plain(one) for name, one in value.items()} if isinstance(value, dict) else value


@settings(max_examples=100)
@given(two_columns())
def test_columns_differ_exactly_where_their_values_do(drawn):
    kind, one, other = drawn
    wanted = [plain(a) != plain(b) for a, b in zip(one, other, strict=True)]
    assert differs(column(one, kind), column(other, kind)).tolist() == wanted
    alike = table_digest(pa.table({"c": pa.array(one, kind)})) == table_digest(pa.table({"c": pa.array(other, kind)}))
    assert alike == (not any(wanted))
