"""An expression over NumPy columns, nulls apart in a mask of each column.

Functions that give NULL for any NULL compute over the rows without one only, so that nothing in a null row can raise an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import InvalidArgumentError, NotFoundError
from featurestore.expressions import text, times
from featurestore.expressions.order import COMPARISONS, equal, less
from featurestore.expressions.scalar import overflow, scale
from featurestore.expressions.tree import (
    FLOATS,
    INTEGERS,
    TIME_FIELDS,
    Call,
    Case,
    Cast,
    ColumnRef,
    Expression,
    Literal,
)

_Array = NDArray[Any]
_DTYPES = {name: np.dtype(name) for name in ("bool", *INTEGERS, *FLOATS)} | {
    "timestamp": np.dtype("int64"),
    "date": np.dtype("int32"),
}
_OBJECT = np.dtype(object)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of values.

    Attributes:
        values: One value a row: NumPy bool, int or float of exactly the type's width; int64 microseconds since 1970 UTC for a
            timestamp, int32 days since 1970 for a date; objects (str, bytes, Decimal) for string, binary and decimal.
        valid: One bool a row; False is NULL, and the value there means nothing.
    """

    values: NDArray[Any]
    valid: NDArray[np.bool_]


def evaluate(expression: Expression, columns: Mapping[str, Column], rows: int) -> Column:
    """Compute an expression for many rows at once.

    Args:
        expression: A tree.
        columns: A column for each name that it reads, all of `rows` rows.
        rows: The number of rows, which an expression without columns cannot know.

    Raises:
        InvalidArgumentError: A column is missing, too short or of another type, or a row leaves the range of its type.

    >>> from featurestore.expressions import parse_expression
    >>> a = Column(np.array([1, 2]), np.array([True, False]))
    >>> evaluate(parse_expression("a + 1", columns={"a": "int64"}), {"a": a}, 2).values.tolist()
    [2, 0]
    """
    with np.errstate(all="ignore"):
        return _column(expression, columns, rows)


def _column(expression: Expression, columns: Mapping[str, Column], rows: int) -> Column:  # noqa: PLR0911 - one return for each kind of node
    match expression:
        case ColumnRef(name, dtype):
            return _incoming(name, dtype, columns, rows)
        case Literal(value, dtype):
            return _constant(value, dtype, rows)
        case Cast(operand, dtype):
            return _strict(expression, [_column(operand, columns, rows)], _CASTS.get(dtype, _same), rows)
        case Case():
            return _case(expression, columns, rows)
        case Call("coalesce", _, _):
            return _coalesce(expression, columns, rows)
        case Call(function, arguments, _):
            computed = [_column(argument, columns, rows) for argument in arguments]
            if function in _WITH_NULLS:
                return _WITH_NULLS[function](computed)
            return _strict(expression, computed, _STRICT[function], rows)
    raise TypeError(f"{expression!r} is no expression")


def _dtype(name: str) -> np.dtype[Any]:
    return _DTYPES.get(name, _OBJECT)


def _empty(dtype: str, rows: int) -> Column:
    """Return a column of nulls."""
    values = (
        np.zeros(rows, _dtype(dtype)) if dtype in _DTYPES else np.full(rows, "" if dtype == "string" else None, _OBJECT)
    )
    return Column(values, np.zeros(rows, np.bool_))


def _constant(value: Any, dtype: str, rows: int) -> Column:
    if value is None:
        return _empty(dtype, rows)
    return Column(np.full(rows, value, _dtype(dtype)), np.ones(rows, np.bool_))


def _incoming(name: str, dtype: str, columns: Mapping[str, Column], rows: int) -> Column:
    if name not in columns:
        raise InvalidArgumentError(NotFoundError.of("column", name, columns).message, place=f"$.{name}")
    column = columns[name]
    if column.values.dtype != _dtype(dtype) or column.valid.dtype != np.bool_:
        raise InvalidArgumentError(
            f"Expected {dtype} as NumPy {_dtype(dtype)}, got {column.values.dtype}.", place=f"$.{name}"
        )
    if column.values.shape != (rows,) or column.valid.shape != (rows,):
        raise InvalidArgumentError(f"Expected {rows} rows, got {len(column.values)}.", place=f"$.{name}")
    return column


def _strict(expression: Call | Cast, arguments: list[Column], kernel: Callable[..., _Array], rows: int) -> Column:
    valid = np.logical_and.reduce([argument.valid for argument in arguments])
    everywhere = bool(valid.all())
    dense = [argument.values if everywhere else argument.values[valid] for argument in arguments]
    computed = kernel(expression, *dense)
    if everywhere:
        return Column(computed, valid)
    result = _empty(expression.dtype, rows)
    result.values[valid] = computed
    return Column(result.values, valid)


def _case(expression: Case, columns: Mapping[str, Column], rows: int) -> Column:
    result = _empty(expression.dtype, rows)
    open_rows = np.ones(rows, np.bool_)
    for condition, value in expression.branches:
        _fill(result, _true_rows(condition, columns, open_rows), open_rows, value, columns)
    _fill(result, open_rows.copy(), open_rows, expression.otherwise, columns)
    return result


def _coalesce(expression: Call, columns: Mapping[str, Column], rows: int) -> Column:
    result = _empty(expression.dtype, rows)
    open_rows = np.ones(rows, np.bool_)
    for argument in expression.arguments:
        _fill(result, open_rows.copy(), open_rows, argument, columns)
        open_rows = ~result.valid
    return result


def _true_rows(condition: Expression, columns: Mapping[str, Column], among: NDArray[np.bool_]) -> NDArray[np.bool_]:
    tested = _only(condition, columns, among)
    hits = np.zeros(len(among), np.bool_)
    hits[among] = tested.values & tested.valid
    return hits


def _fill(
    result: Column,
    taken: NDArray[np.bool_],
    open_rows: NDArray[np.bool_],
    expression: Expression,
    columns: Mapping[str, Column],
) -> None:
    """Compute the expression for the taken rows, put it there, and close them."""
    if taken.any():
        part = _only(expression, columns, taken)
        result.values[taken] = part.values
        result.valid[taken] = part.valid
    open_rows &= ~taken


def _only(expression: Expression, columns: Mapping[str, Column], rows: NDArray[np.bool_]) -> Column:
    """Compute an expression for some rows: an error in a branch that a row does not take is no error."""
    count = int(rows.sum())
    if count == len(rows):
        return _column(expression, columns, count)
    checked = {name: columns[name] for name in expression.columns if name in columns}
    chosen = {name: Column(column.values[rows], column.valid[rows]) for name, column in checked.items()}
    return _column(expression, chosen, count)


def _and(arguments: list[Column]) -> Column:
    left, right = arguments
    false = (left.valid & ~left.values) | (right.valid & ~right.values)
    return Column(left.valid & left.values & right.valid & right.values, (left.valid & right.valid) | false)


def _or(arguments: list[Column]) -> Column:
    left, right = arguments
    true = (left.valid & left.values) | (right.valid & right.values)
    return Column(true, (left.valid & right.valid) | true)


def _is_null(arguments: list[Column]) -> Column:
    return Column(~arguments[0].valid, np.ones(len(arguments[0].valid), np.bool_))


def _in(arguments: list[Column]) -> Column:
    subject, *candidates = arguments
    found = np.zeros(len(subject.valid), np.bool_)
    known = subject.valid.copy()
    for item in candidates:
        both = subject.valid & item.valid
        found[both] |= equal(subject.values[both], item.values[both]).astype(np.bool_)
        known &= item.valid
    return Column(found, known | found)


def _extreme(precedes: Callable[[_Array, _Array], _Array]) -> Callable[[list[Column]], Column]:
    def choose(arguments: list[Column]) -> Column:
        values, valid = arguments[0].values.copy(), arguments[0].valid.copy()
        for other in arguments[1:]:
            better = other.valid & ~valid
            both = other.valid & valid
            better[both] = precedes(other.values[both], values[both])
            values[better] = other.values[better]
            valid |= other.valid
        return Column(values, valid)

    return choose


_WITH_NULLS: dict[str, Callable[[list[Column]], Column]] = {
    "is_null": _is_null,
    "and": _and,
    "or": _or,
    "in": _in,
    "least": _extreme(less),
    "greatest": _extreme(lambda value, best: less(best, value)),
}


def _narrow(expression: Expression, wide: _Array) -> _Array:
    """Bring int64 results into a narrower type of whole numbers."""
    limits = np.iinfo(expression.dtype)
    if wide.size and (wide.min() < limits.min or wide.max() > limits.max):
        overflow(expression)
    return wide.astype(expression.dtype)


def _arithmetic(
    compute: Callable[[_Array, _Array], _Array], wraps: Callable[[_Array, _Array, _Array], _Array]
) -> Callable[..., _Array]:
    """Compute in int64, where narrower types cannot wrap around, and say for int64 itself where it wrapped."""

    def kernel(expression: Expression, left: _Array, right: _Array) -> _Array:
        if expression.dtype in FLOATS:
            return compute(left, right)
        wide_left, wide_right = left.astype(np.int64), right.astype(np.int64)
        result = compute(wide_left, wide_right)
        if expression.dtype == "int64":
            return overflow(expression) if wraps(wide_left, wide_right, result).any() else result
        return _narrow(expression, result)

    return kernel


def _sum_wraps(left: _Array, right: _Array, result: _Array) -> _Array:
    return np.less((left ^ result) & (right ^ result), 0)


def _difference_wraps(left: _Array, right: _Array, result: _Array) -> _Array:
    return np.less((left ^ right) & (left ^ result), 0)


def _product_wraps(left: _Array, right: _Array, result: _Array) -> _Array:
    # A wrapped product is off by a multiple of 2**64, so dividing it back misses; -1 * MIN is the one division that itself wraps.
    divisor = np.where(left == 0, 1, left)
    smallest = np.iinfo(np.int64).min
    wrapped: _Array = ((left != 0) & (result // divisor != right)) | ((left == -1) & (right == smallest))
    return wrapped


def _check_divisor(expression: Expression, left: _Array, right: _Array) -> None:
    if (right == 0).any():
        raise InvalidArgumentError(f"Division by zero in `{expression}`.")
    if ((right == -1) & (left == np.iinfo(left.dtype).min)).any():
        overflow(expression)


def _whole_quotient(expression: Expression, left: _Array, right: _Array) -> _Array:
    _check_divisor(expression, left, right)
    quotient: _Array = (left - np.fmod(left, right)) // right
    return quotient


def _modulo(expression: Expression, left: _Array, right: _Array) -> _Array:
    if expression.dtype in INTEGERS:
        _check_divisor(expression, left, right)
    return np.fmod(left, right)


def _negate(expression: Expression, values: _Array) -> _Array:
    _check_smallest(expression, values)
    return np.negative(values)


def _abs(expression: Expression, values: _Array) -> _Array:
    _check_smallest(expression, values)
    return np.abs(values)


def _check_smallest(expression: Expression, values: _Array) -> None:
    if expression.dtype in INTEGERS and (values == np.iinfo(values.dtype).min).any():
        overflow(expression)


def _half_away(values: _Array) -> _Array:
    whole = np.trunc(values)
    with np.errstate(invalid="ignore"):
        up = (np.abs(values - whole) >= 0.5).astype(values.dtype)
    return np.asarray(np.copysign(np.abs(whole) + up, values))


def _round(expression: Expression, values: _Array) -> _Array:
    return values if expression.dtype in INTEGERS else _half_away(values)


def _round_to(_: Expression, values: _Array, digits: _Array) -> _Array:
    if not values.size:
        return values
    power = scale(int(digits[0]))
    wide = values.astype(np.float64)
    if digits[0] < 0:
        rounded = _half_away(wide / power) * power
        result = np.where(np.isfinite(rounded), rounded, 0.0)
    else:
        rounded = _half_away(wide * power) / power
        result = np.where(np.isfinite(rounded), rounded, wide)
    return result.astype(values.dtype)


def _objects(function: Callable[[Any], Any]) -> Callable[..., _Array]:
    def kernel(_: Expression, values: _Array) -> _Array:
        result = np.empty(len(values), _OBJECT)
        result[:] = [function(value) for value in values]
        return result

    return kernel


def _field(name: str) -> Callable[..., _Array]:
    def kernel(expression: Call, values: _Array) -> _Array:
        if expression.arguments[0].dtype == "date":
            days, rest = values.astype(np.int64), np.zeros(len(values), np.int64)
        else:
            days, rest = np.divmod(values, times.DAY)
        return np.asarray(times.field(name, days, rest), np.int64)

    return kernel


def _epoch(expression: Call, values: _Array) -> _Array:
    days = expression.arguments[0].dtype == "date"
    return np.asarray(times.epoch(values.astype(np.int64) * times.DAY if days else values))


def _plain(function: Callable[..., Any]) -> Callable[..., _Array]:
    return lambda _, *arrays: np.asarray(function(*arrays))


def _comparison(function: Callable[[Any, Any], Any]) -> Callable[..., _Array]:
    return lambda _, left, right: np.asarray(function(left, right), np.bool_)


_STRICT: dict[str, Callable[..., _Array]] = {
    **{name: _comparison(function) for name, function in COMPARISONS.items()},
    "+": _arithmetic(np.add, _sum_wraps),
    "-": _arithmetic(np.subtract, _difference_wraps),
    "*": _arithmetic(np.multiply, _product_wraps),
    "/": _plain(np.divide),
    "//": _whole_quotient,
    "%": _modulo,
    "not": _plain(np.logical_not),
    "negate": _negate,
    "abs": _abs,
    "floor": _plain(np.floor),
    "ceil": _plain(np.ceil),
    "round": _round,
    "round_to": _round_to,
    "sqrt": _plain(np.sqrt),
    "||": _plain(np.add),
    "lower": _objects(text.lower),
    "upper": _objects(text.upper),
    "length": lambda _, values: np.fromiter(map(len, values), np.int64, len(values)),
    "epoch": _epoch,
    "epoch_us": lambda _, values: values,
    **{f"extract_{name}": _field(name) for name in TIME_FIELDS},
}


def _same(_: Expression, values: _Array) -> _Array:
    return values


def _to_bool(_: Expression, values: _Array) -> _Array:
    return np.not_equal(values, 0)


def _to_string(expression: Cast, values: _Array) -> _Array:
    if expression.operand.dtype == "string":
        return values
    return _objects(lambda value: str(value).lower())(expression, values)


def _to_integer(expression: Cast, values: _Array) -> _Array:
    if values.dtype.kind != "f":
        return _narrow(expression, values.astype(np.int64))
    whole = np.rint(values).astype(np.float64)
    limits = np.iinfo(expression.dtype)
    if not ((whole >= float(limits.min)) & (whole < float(limits.max + 1))).all():
        overflow(expression)
    return whole.astype(expression.dtype)


def _to_float(expression: Cast, values: _Array) -> _Array:
    result = values.astype(expression.dtype)
    if values.dtype.kind == "f" and (np.isinf(result) & ~np.isinf(values)).any():
        overflow(expression)
    return result


def _to_timestamp(expression: Cast, values: _Array) -> _Array:
    if expression.operand.dtype == "timestamp":
        return values
    days = values.astype(np.int64)
    if (np.abs(days) > np.iinfo(np.int64).max // times.DAY).any():
        overflow(expression)
    return days * times.DAY


def _to_date(expression: Cast, values: _Array) -> _Array:
    return values if expression.operand.dtype == "date" else (values // times.DAY).astype(np.int32)


_CASTS: dict[str, Callable[..., _Array]] = {
    "bool": _to_bool,
    "string": _to_string,
    **dict.fromkeys(INTEGERS, _to_integer),
    **dict.fromkeys(FLOATS, _to_float),
    "timestamp": _to_timestamp,
    "date": _to_date,
}
