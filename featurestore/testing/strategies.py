"""Hypothesis strategies for what the store holds: types, values, keys, rows, spines, and whole joins to be checked.

Small ranges on purpose: most cases have ties, corrections, repeated spine rows and ages right at the ttl. Extremes are drawn as well:
int64 beyond doubles, times before 1970 and at both ends of int64, text with NUL, keys such as ("1", "12") and ("11", "2"), lists in
structs in lists with nulls at every level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from featurestore.offline.point_in_time import KNOWLEDGE, PointInTimeRule
from featurestore.rows import CREATED, EVENT, SEQ, RowColumn, RowSchema
from featurestore.types import INT64_MAX, INT64_MIN, DType, List, Struct, Vector, decimal_parameters, to_arrow

NAMES = ("bool", "int8", "int16", "int32", "int64", "float32", "float64", "string", "binary", "timestamp", "date")
EDGES = (INT64_MIN, INT64_MIN + 1, -1, 0, 1_385_078_400_000_000, INT64_MAX - 1, INT64_MAX)
TTLS = (None, None, 0, 1, 3, INT64_MAX)


@dataclass(frozen=True, slots=True)
class JoinCase:
    """Rows of one view and a spine to join them onto.

    Attributes:
        schema: The view's columns.
        rows: Accepted rows, as `schema.arrow()` says.
        spine: (key, time) pairs; a key is a tuple of Python values, times are int microseconds; both may hold None.
        rule: Which rows count.
    """

    schema: RowSchema
    rows: pa.Table
    spine: tuple[tuple[tuple[Any, ...], int | None], ...]
    rule: PointInTimeRule


def dtypes(*, key: bool = False) -> st.SearchStrategy[DType]:
    """Return types of features, or only those that a join key may have.

    >>> dtypes(key=True).filter(lambda dtype: not dtype.is_key).is_empty
    False
    """
    if key:
        return _named().filter(lambda dtype: dtype.is_key)
    decimals = st.builds(lambda p, s: DType(f"decimal({p},{min(p, s)})"), st.integers(1, 18), st.integers(0, 18))
    scalars = _named() | decimals
    return scalars | scalars | nested_dtypes(scalars)


def nested_dtypes(scalars: st.SearchStrategy[DType]) -> st.SearchStrategy[DType]:
    """Return types of lists, structs and vectors, and of those in each other.

    >>> nested_dtypes(dtypes(key=True)).filter(lambda dtype: not dtype.is_nested).is_empty
    False
    """
    numbers = _named().filter(lambda dtype: dtype.is_integer or dtype.lane == "doubles")
    vectors = st.builds(Vector, numbers, st.integers(1, 3))
    return st.recursive(scalars | vectors, _of, max_leaves=4).filter(lambda dtype: dtype.is_nested)


def _of(inner: st.SearchStrategy[DType]) -> st.SearchStrategy[DType]:
    fields = st.dictionaries(st.sampled_from(("a", "b", "Field_3")), inner, min_size=1, max_size=3)
    return st.builds(List, inner) | st.builds(Struct, fields)


def values(dtype: DType) -> st.SearchStrategy[Any]:
    """Return values of a type as `pyarrow.array` takes them: instants and days as integers. None is not among them."""
    if dtype.is_integer:
        bits = int(dtype.name[3:])
        low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
        return st.sampled_from((0, 1, low, high, min(high, 2**60 + 1))) | st.integers(low, high)
    if dtype.family == "decimal":
        precision, scale = decimal_parameters(dtype)
        return st.integers(1 - 10**precision, 10**precision - 1).map(lambda n: Decimal(n).scaleb(-scale))
    match dtype.family:
        case "list":
            return st.lists(st.none() | values(dtype.element), max_size=3)
        case "vector":
            return st.lists(values(dtype.element), min_size=dtype.length, max_size=dtype.length)
        case "struct":
            return st.fixed_dictionaries({name: st.none() | values(field) for name, field in dtype.fields})
    return _VALUES[dtype.name]


def instants() -> st.SearchStrategy[int]:
    """Return int microseconds since 1970 UTC, mostly close together, some at the ends of int64."""
    return st.one_of([st.integers(0, 8)] * 6 + [st.integers(-5, 25), st.sampled_from(EDGES)])


@st.composite
def schemas(draw: st.DrawFn, *, event_key: bool = False) -> RowSchema:
    """Return the columns of a view: one to three join keys, one to three values; with an event key only when asked."""
    keys = draw(st.lists(dtypes(key=True), min_size=1, max_size=3))
    columns = draw(st.lists(dtypes(), min_size=1, max_size=3))
    return RowSchema(
        keys=_columns("key", keys),
        event_key=_columns("id", draw(st.lists(dtypes(key=True), max_size=2))) if event_key else (),
        values=_columns("value", columns),
        event_timestamp="event_timestamp",
        created_timestamp="created_timestamp",
    )


@st.composite
def keys(draw: st.DrawFn, schema: RowSchema) -> list[tuple[Any, ...]]:
    """Return a few keys of a view, the same ones drawn again and again, so that rows meet."""
    if all(column.dtype.name == "string" for column in schema.keys):
        parts = st.sampled_from(("1", "11", "2", "12", "", "1\x002"))
        one = st.tuples(*[parts for _ in schema.keys])
    else:
        one = st.tuples(*[values(column.dtype) for column in schema.keys])
    return draw(st.lists(one, min_size=1, max_size=2))


@st.composite
def rows(draw: st.DrawFn, schema: RowSchema, entities: Sequence[tuple[Any, ...]], *, most: int = 14) -> pa.Table:
    """Return accepted rows of these entities, in any order: ties, corrections, null created times and values."""
    count = draw(st.just(most) | st.integers(0, most))
    drawn = [draw(st.sampled_from(entities)) for _ in range(count)]
    columns: dict[str, list[Any]] = {c.name: [key[i] for key in drawn] for i, c in enumerate(schema.keys)}
    for column in schema.event_key:
        pool = draw(st.lists(values(column.dtype), min_size=1, max_size=2))
        columns[column.name] = draw(st.lists(st.sampled_from(pool), min_size=count, max_size=count))
    columns[EVENT] = draw(st.lists(instants(), min_size=count, max_size=count))
    made = instants().filter(lambda time: time > INT64_MIN)  # that one instant stands for a null created time
    columns[CREATED] = draw(st.lists(st.none() | made, min_size=count, max_size=count))
    for column in schema.values:
        columns[column.name] = draw(st.lists(st.none() | values(column.dtype), min_size=count, max_size=count))
    columns[SEQ] = list(draw(st.permutations(range(1, count + 1))))
    wanted = schema.arrow()
    return pa.table([pa.array(columns[field.name], field.type) for field in wanted], schema=wanted)


@st.composite
def spines(
    draw: st.DrawFn, schema: RowSchema, entities: Sequence[tuple[Any, ...]]
) -> tuple[tuple[tuple[Any, ...], int | None], ...]:
    """Return (key, time) pairs: known and unknown entities, repeated pairs, null keys and null times, or nothing at all."""
    unknown = st.tuples(*[st.none() | values(column.dtype) for column in schema.keys])
    timed = st.tuples(st.sampled_from(entities), instants())
    pairs = draw(st.lists(timed, max_size=12))
    pairs += draw(st.lists(st.tuples(st.sampled_from(entities) | unknown, st.none() | instants()), max_size=3))
    return tuple(draw(st.permutations(pairs + pairs[:2])))


@st.composite
def rules(draw: st.DrawFn) -> PointInTimeRule:
    """Return a point-in-time rule of any knowledge."""
    knowledge = draw(st.sampled_from(KNOWLEDGE))
    return PointInTimeRule(
        ttl=draw(st.sampled_from(TTLS)),
        knowledge=knowledge,
        position=draw(st.integers(0, 14)) if knowledge == "as_served" else None,
        backfilled_until=draw(st.none() | instants()),
    )


@st.composite
def join_cases(draw: st.DrawFn, *, event_key: bool = False) -> JoinCase:
    """Return rows and a spine to join them onto, under some rule."""
    schema = draw(schemas(event_key=event_key))
    entities = draw(keys(schema))
    return JoinCase(schema, draw(rows(schema, entities)), draw(spines(schema, entities)), draw(rules()))


def _named() -> st.SearchStrategy[DType]:
    return st.sampled_from([DType(name) for name in NAMES])


def _columns(prefix: str, types: Sequence[DType]) -> tuple[RowColumn, ...]:
    return tuple(RowColumn(f"{prefix}_{i}", dtype, f"{prefix}_{i}") for i, dtype in enumerate(types))


_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "float32": st.floats(width=32),
    "float64": st.sampled_from((-0.0, 0.1)) | st.floats(),
    "string": st.sampled_from(("", "1", "11", "2", "12")) | st.text(max_size=5),
    "binary": st.binary(max_size=5),
    "timestamp": st.sampled_from(EDGES) | st.integers(INT64_MIN, INT64_MAX),
    "date": st.integers(-(2**31), 2**31 - 1),
}


def arrow_column(dtype: DType, column: Sequence[Any]) -> pa.Array:
    """Return drawn values, with None for null, as an Arrow array of the type."""
    return pa.array(list(column), to_arrow(dtype))
