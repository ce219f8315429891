"""The exact fold of sliding windows against the oracle: every bit, whatever the order in which events came."""

import math
import struct

import numpy as np
import oracle
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from featurestore.errors import InvalidArgumentError
from featurestore.registry.snapshot import AggregationRecord
from featurestore.types import INT64_MAX, INT64_MIN
from featurestore.windows import Events, WindowColumn, fold_windows

FUNCTIONS = ("count", "sum", "mean", "min", "max", "first", "last", "stddev")
WINDOWS = (1, 3, 10, 2**62)
HARD = (
    0.1,
    -0.3,
    1e12,
    1e-9,
    -0.0,
    0.0,
    5e-324,
    -5e-324,
    1.7976931348623157e308,
    -1.7976931348623157e308,
    2.0**-1022,
    1e16,
    1.0,
)
doubles = st.none() | st.sampled_from(HARD) | st.floats(width=64)
finite = st.none() | st.sampled_from(HARD) | st.floats(allow_nan=False, allow_infinity=False)
integers = st.none() | st.sampled_from((0, 1, -1, 2**60 + 1)) | st.integers(-(2**61), 2**61)
instants = st.integers(-3, 20)


@st.composite
def logs(draw, values):
    """Accepted events of three entities: late, corrected, tied, with and without created times."""
    versioned = draw(st.booleans())
    rows = [
        {
            "key": draw(st.integers(0, 2)),
            "event": draw(instants),
            "created": draw(st.none() | instants),
            "seq": seq,
            "id": draw(st.integers(0, 2)),
            "x": draw(values),
        }
        for seq in draw(st.permutations(range(draw(st.integers(0, 14)))))
    ]
    return rows, (("id",) if versioned else ())


def packed(rows, event_key, backfilled_until, dtype):
    """Sort a log by hand into Events."""

    def identity(row):
        return (row["event"], *(row[name] for name in event_key)) if event_key else (row["event"], row["seq"])

    created = {id(row): INT64_MIN if row["created"] is None else row["created"] for row in rows}
    by = sorted(rows, key=lambda r: (r["key"], identity(r), created[id(r)], r["seq"]))
    if not event_key:
        by = sorted(rows, key=lambda r: (r["key"], r["event"], created[id(r)], r["seq"]))
    names = {}
    array = lambda f: np.array([f(row) for row in by], np.int64)  # noqa: E731
    return Events(
        starts=np.searchsorted(array(lambda r: r["key"]), np.arange(4)),
        event=array(lambda r: r["event"]),
        created=array(lambda r: created[id(r)]),
        seq=array(lambda r: r["seq"]),
        known_from=array(lambda r: oracle.known_from(r, backfilled_until)),
        identity=array(lambda r: names.setdefault((r["key"], identity(r)), len(names))),
        columns={
            "x": WindowColumn(
                np.array([row["x"] or 0 for row in by], dtype), np.array([row["x"] is not None for row in by], np.bool_)
            )
        },
    )


def bits(value):
    """A float by its bits, every NaN as one."""
    if isinstance(value, float):
        return "nan" if value != value else struct.pack("<d", value)
    return value


def unpacked(column):
    return [value if ok else None for value, ok in zip(column.values.tolist(), column.valid.tolist(), strict=True)]


def check(rows, event_key, dtype, knowledge, position, backfilled_until, edges):
    spine = [((key,), t) for key in range(3) for t in edges] + [((7,), 5)]
    events = packed(rows, event_key, backfilled_until, dtype)
    entity = np.array([key if key < 3 else -1 for (key,), _ in spine], np.int64)
    at = np.array([t for _, t in spine], np.int64)
    name = "float64" if dtype == np.float64 else "int64"
    asked = [AggregationRecord(column="x", function=f, dtype=name, time_window=w) for f in FUNCTIONS for w in WINDOWS]
    folded = fold_windows(
        events, asked, entity=entity, at=at, known_at=at if knowledge == "as_known" else None, position=position
    )
    for aggregation, column in zip(asked, folded, strict=True):
        expected = oracle.fold(
            spine, rows, ("key",), event_key, "x", aggregation.function, aggregation.time_window,
            knowledge=knowledge, position=position, backfilled_until=backfilled_until,
        )  # fmt: skip
        assert list(map(bits, expected)) == list(map(bits, unpacked(column))), aggregation


@given(
    log=logs(doubles),
    knowledge=st.sampled_from(("as_known", "latest", "as_served")),
    until=st.none() | instants,
    data=st.data(),
)
@settings(max_examples=100, deadline=None)
def test_doubles_agree_with_the_oracle_to_the_bit(log, knowledge, until, data):
    rows, event_key = log
    position = data.draw(st.integers(0, 14)) if knowledge == "as_served" else None
    at_edges = {row["event"] + w + d for row in rows[:2] for w in (0, 1, 3, 10) for d in (-1, 0, 1)} | {5, 30}
    check(rows, event_key, np.float64, knowledge, position, until, sorted(at_edges))


@given(log=logs(integers), knowledge=st.sampled_from(("as_known", "latest")))
@settings(max_examples=50, deadline=None)
def test_integers_agree_with_the_oracle(log, knowledge):
    rows, event_key = log
    rows = [row | {"x": None if row["x"] is None else row["x"] >> 4} for row in rows]
    check(rows, event_key, np.int64, knowledge, None, None, [-4, 0, 3, 9, 21])


def one_entity(values, dtype=np.float64):
    n = len(values)
    line = np.arange(n, dtype=np.int64)
    column = WindowColumn(np.array(values, dtype), np.ones(n, np.bool_))
    return Events(np.array([0, n]), line, np.full(n, INT64_MIN), line, line, line, {"x": column})


def fold_one(events, function, dtype="float64", *, window=2**62, at=None):
    asked = [AggregationRecord(column="x", function=function, dtype=dtype, time_window=window)]
    end = np.array([len(events.event) if at is None else at], np.int64)
    (column,) = fold_windows(events, asked, entity=np.zeros(1, np.int64), at=end)
    return unpacked(column)[0]


@given(st.lists(finite.filter(lambda v: v is not None), min_size=1, max_size=60))
@settings(max_examples=300, deadline=None)
@example([1e308, 1e308, -1e308])
@example([1e16, 1.0, 1e-16, -1e16])
@example([5e-324] * 3)
@example([2.0**53, 1.0, 2.0**-1074])
@example([1.7976931348623157e308, 9.979201547673598e291])
def test_sums_are_exact_and_rounded_once(values):
    assert bits(oracle.exact_sum(values)) == bits(fold_one(one_entity(values), "sum"))


@given(st.permutations([0.1, -0.3, 1e12, 1e-9, 7.25, -1e12, 3e-300, 1e300, -1e300]))
@settings(max_examples=30, deadline=None)
def test_the_order_of_arrival_changes_no_bit(values):
    assert bits(fold_one(one_entity(sorted(values)), "sum")) == bits(fold_one(one_entity(values), "sum"))
    assert bits(fold_one(one_entity(sorted(values)), "mean")) == bits(fold_one(one_entity(values), "mean"))


def test_a_sum_of_integers_beyond_int64_is_an_error_that_says_where():
    with pytest.raises(InvalidArgumentError, match=r"does not fit int64 in 1 of 1 windows.*\$\.rows\[0\]"):
        fold_one(one_entity([2**62, 2**62], np.int64), "sum", "int64")


def test_an_intermediate_overflow_of_integers_is_none():
    assert fold_one(one_entity([2**62, 2**62, -(2**62)], np.int64), "sum", "int64") == 2**62
    assert fold_one(one_entity([INT64_MIN], np.int64), "sum", "int64") == INT64_MIN
    assert fold_one(one_entity([INT64_MAX], np.int64), "sum", "int64") == INT64_MAX


def test_the_mean_of_integers_does_not_overflow():
    assert fold_one(one_entity([INT64_MAX, INT64_MAX], np.int64), "mean", "int64") == float(2 * INT64_MAX) / 2


def test_one_value_has_no_stddev_and_equal_values_have_none_of_it():
    assert fold_one(one_entity([3.0]), "stddev") is None
    assert fold_one(one_entity([3.0, 3.0]), "stddev") == 0.0


def test_a_sum_beyond_the_doubles_is_infinite():
    assert fold_one(one_entity([1.7e308, 1.7e308]), "sum") == math.inf


@pytest.mark.parametrize(("late", "count"), [(-1, 1), (0, 0), (1, 0)])
def test_the_left_edge_is_open_to_the_microsecond(late, count):
    assert fold_one(one_entity([1.0]), "count", window=10, at=0 + 10 + late) == count


@pytest.mark.parametrize(("early", "count"), [(-1, 0), (0, 1)])
def test_the_right_edge_is_closed_to_the_microsecond(early, count):
    assert fold_one(one_entity([1.0]), "count", window=10, at=0 + early) == count


def test_a_window_that_reaches_back_beyond_time_holds_everything():
    events = one_entity([1.0])
    first = Events(
        events.starts,
        np.array([INT64_MIN]),
        events.created,
        events.seq,
        np.array([INT64_MIN]),
        events.identity,
        events.columns,
    )
    assert fold_one(first, "count", window=5, at=INT64_MIN + 4) == 1
    assert fold_one(first, "count", window=5, at=INT64_MIN + 5) == 0


def test_no_entities_at_all_are_empty_windows():
    nothing = np.zeros(0, np.int64)
    events = Events(np.zeros(1, np.int64), *[nothing] * 5, {"x": WindowColumn(np.zeros(0), np.zeros(0, np.bool_))})
    asked = [AggregationRecord(column="x", function=f, dtype="float64", time_window=5) for f in FUNCTIONS]
    folded = fold_windows(events, asked, entity=np.array([-1]), at=np.array([0]))
    assert [unpacked(column)[0] for column in folded] == [0, *[None] * 7]
    assert {f: c.values.dtype.name for f, c in zip(FUNCTIONS, folded, strict=True)}["last"] == "float64"


def test_many_reads_are_shared_out_and_answered_in_order():
    events = one_entity([float(n) for n in range(50)])
    at = np.arange(40_000, dtype=np.int64) % 60
    asked = [AggregationRecord(column="x", function="last", dtype="float64", time_window=5)]
    (column,) = fold_windows(events, asked, entity=np.zeros(len(at), np.int64), at=at)
    assert unpacked(column) == [float(min(t, 49)) if t < 54 else None for t in at.tolist()]
