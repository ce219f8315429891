"""An expression over single Python values: for a request of a few rows, where NumPy would cost more than the work."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, NoReturn

import numpy as np

from featurestore.errors import InvalidArgumentError, NotFoundError
from featurestore.expressions import text, times
from featurestore.expressions.order import COMPARISONS, equal, less
from featurestore.expressions.tree import (
    FLOATS,
    INTEGERS,
    NUMBERS,
    TIME_FIELDS,
    Call,
    Case,
    Cast,
    ColumnRef,
    Expression,
    Literal,
    in_range,
)
from featurestore.types import EPOCH_DAY, DType, from_micros, to_wire


def evaluate_scalar(expression: Expression, values: Mapping[str, Any]) -> Any:
    """Compute an expression for one row.

    Args:
        expression: A tree.
        values: A Python value for each column that it reads; None is NULL. An instant is a datetime (naive counts as UTC) or an
            int in microseconds since 1970 UTC.

    Returns:
        A Python value of the expression's type, or None for NULL; an instant as a UTC datetime.

    Raises:
        InvalidArgumentError: A value is missing or of another type, or the computation leaves the range of its type.

    >>> from featurestore.expressions import parse_expression
    >>> evaluate_scalar(parse_expression("a // b", columns={"a": "int64", "b": "int64"}), {"a": 7, "b": None}) is None
    True
    """
    row: dict[str, Any] = {}
    _collect(expression, values, row)
    result = _value(expression, row)
    if result is None or expression.dtype not in ("timestamp", "date"):
        return result
    try:
        return from_micros(result) if expression.dtype == "timestamp" else EPOCH_DAY + timedelta(days=result)
    except OverflowError:
        raise InvalidArgumentError(f"`{expression}` lies outside of the years 1 to 9999.") from None


def _collect(expression: Expression, values: Mapping[str, Any], row: dict[str, Any]) -> None:
    """Check the value of each column that the expression names, once."""
    match expression:
        case ColumnRef(name, dtype):
            if name not in values:
                raise InvalidArgumentError(
                    NotFoundError.of("value for column", name, values).message, place=f"$.{name}"
                )
            if name not in row:
                row[name] = None if values[name] is None else _incoming(dtype, values[name], f"$.{name}")
        case Cast(operand, _):
            _collect(operand, values, row)
        case Call(_, arguments, _):
            for argument in arguments:
                _collect(argument, values, row)
        case Case(branches, otherwise, _):
            for condition, result in branches:
                _collect(condition, values, row)
                _collect(result, values, row)
            _collect(otherwise, values, row)


def _incoming(dtype: str, value: Any, place: str) -> Any:
    packed = to_wire(DType.of(dtype), value, place=place)
    if dtype == "bool":
        return bool(packed)
    if dtype == "float32":
        return to_float32(float(packed))
    return value if isinstance(packed, bytes) else packed


def _value(expression: Expression, row: Mapping[str, Any]) -> Any:
    match expression:
        case ColumnRef(name, _):
            return row[name]
        case Literal(value, _):
            return value
        case Cast(operand, dtype):
            value = _value(operand, row)
            return None if value is None else _cast(value, operand.dtype, dtype, expression)
        case Case(branches, otherwise, _):
            chosen = next((result for condition, result in branches if _value(condition, row)), otherwise)
            return _value(chosen, row)
        case Call("coalesce", arguments, _):
            return next(
                (value for value in (_value(argument, row) for argument in arguments) if value is not None), None
            )
        case Call(function, arguments, _):
            return _call(function, [_value(argument, row) for argument in arguments], expression)
    raise TypeError(f"{expression!r} is no expression")


def _call(function: str, values: list[Any], expression: Call) -> Any:
    if function in _WITH_NULLS:
        return _WITH_NULLS[function](values)
    if None in values:
        return None
    if expression.arguments[0].dtype == "date" and function in _OF_INSTANTS:
        values = [values[0] * times.DAY]
    try:
        if function == "%" and expression.dtype in INTEGERS:
            _fit(_whole_quotient(*values), expression)  # as in DuckDB: no remainder where the quotient overflows
        return _fit(_STRICT[function](*values), expression)
    except ZeroDivisionError:
        raise InvalidArgumentError(f"Division by zero in `{expression}`.") from None


def _fit(value: Any, expression: Expression) -> Any:
    if expression.dtype in INTEGERS and not in_range(value, expression.dtype):
        overflow(expression)
    return to_float32(value) if expression.dtype == "float32" else value


def overflow(expression: Expression) -> NoReturn:
    """Refuse a result that its type cannot hold."""
    raise InvalidArgumentError(
        f"`{expression}` is out of range of {expression.dtype}.", repair="Cast its operands to a wider type."
    )


def to_float32(value: float) -> float:
    """Return the nearest float32; too great a number becomes infinite."""
    try:
        return float(struct.unpack("f", struct.pack("f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def _and(values: list[Any]) -> bool | None:
    return False if False in values else None if None in values else True


def _or(values: list[Any]) -> bool | None:
    return True if True in values else None if None in values else False


def _in(values: list[Any]) -> bool | None:
    subject, *candidates = values
    return _or([None if subject is None or item is None else equal(subject, item) for item in candidates])


def _extreme(precedes: Callable[[Any, Any], bool]) -> Callable[[list[Any]], Any]:
    def choose(values: list[Any]) -> Any:
        best = None
        for value in values:
            if value is not None and (best is None or precedes(value, best)):
                best = value
        return best

    return choose


_WITH_NULLS: dict[str, Callable[[list[Any]], Any]] = {
    "is_null": lambda values: values[0] is None,
    "and": _and,
    "or": _or,
    "in": _in,
    "least": _extreme(less),
    "greatest": _extreme(lambda value, best: less(best, value)),
}


def _divide(left: float, right: float) -> float:
    if right:
        return left / right
    return left * math.copysign(math.inf, right) if left else math.nan


def _modulo(left: Any, right: Any) -> Any:
    if isinstance(left, float):
        return math.nan if not right or math.isinf(left) else math.fmod(left, right)
    return left - right * _whole_quotient(left, right)


def _whole_quotient(left: int, right: int) -> int:
    quotient = abs(left) // abs(right)
    return quotient if (left < 0) == (right < 0) else -quotient


def _whole(rounding: Callable[[float], int]) -> Callable[[float], float]:
    # The sign of a zero stays, and what is infinite or NaN has no whole part.
    return lambda value: math.copysign(rounding(value), value) if math.isfinite(value) else value


def _round(value: Any) -> Any:
    """Round half away from zero."""
    if isinstance(value, int) or not math.isfinite(value):
        return value
    whole = math.trunc(value)
    return math.copysign(abs(whole) + (abs(value - whole) >= 0.5), value)


def round_to(value: float, digits: int) -> float:
    """Round to a number of decimal digits; negative ones count to the left of the point."""
    power = scale(digits)
    if digits < 0:
        rounded = _round(_divide(value, power)) * power
        return rounded if math.isfinite(rounded) else 0.0
    rounded = _divide(_round(value * power), power)
    return rounded if math.isfinite(rounded) else value


def scale(digits: int) -> float:
    """Return the power of ten for a number of digits, infinite where it is too great."""
    return 10.0 ** abs(digits) if abs(digits) <= 308 else math.inf


def _sqrt(value: float) -> float:
    return math.sqrt(value) if value >= 0 else math.nan


def _field(name: str) -> Callable[[int], int]:
    return lambda instant: int(times.field(name, *divmod(instant, times.DAY)))


_STRICT: dict[str, Callable[..., Any]] = {
    **COMPARISONS,
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "/": _divide,
    "//": _whole_quotient,
    "%": _modulo,
    "not": lambda value: not value,
    "negate": lambda value: -value,
    "abs": abs,
    "floor": _whole(math.floor),
    "ceil": _whole(math.ceil),
    "round": _round,
    "round_to": round_to,
    "sqrt": _sqrt,
    "||": lambda left, right: left + right,
    "lower": text.lower,
    "upper": text.upper,
    "length": len,
    "epoch": times.epoch,
    "epoch_us": lambda instant: instant,
    **{f"extract_{name}": _field(name) for name in TIME_FIELDS},
}


_OF_INSTANTS = {"epoch", *(f"extract_{name}" for name in TIME_FIELDS)}


def _cast(value: Any, source: str, target: str, expression: Cast) -> Any:
    if target == source:
        return value
    if target == "bool":
        return value != 0
    if target == "string":
        return str(value).lower()
    if target in INTEGERS:
        return _to_integer(value, target, expression)
    if target in FLOATS:
        return _to_float(value, source, target, expression)
    converted: int = value * times.DAY if target == "timestamp" else value // times.DAY
    return converted if in_range(converted, target) else overflow(expression)


def _to_integer(value: Any, target: str, expression: Cast) -> int:
    if isinstance(value, float) and not math.isfinite(value):
        overflow(expression)
    whole: int = round(value)  # half to even, as DuckDB casts
    return whole if in_range(whole, target) else overflow(expression)


def _to_float(value: Any, source: str, target: str, expression: Cast) -> float:
    if target == "float64":
        return float(value)
    if source in NUMBERS and source not in FLOATS:
        return float(np.int64(value).astype(np.float32))  # one rounding; by way of float64 there would be two
    narrow = to_float32(float(value))
    return overflow(expression) if math.isinf(narrow) and math.isfinite(value) else narrow
