"""The only table of types: ours, Arrow, DuckDB, Polars, and the lane each travels in on the wire.

A stored online row keeps its values in three lanes, so that a client can view them without parsing: ``doubles`` (8-byte floats),
``integers`` (8-byte signed: integers, booleans, instants, days) and ``strings`` (variable bytes: text, binary, decimals).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal
from typing import Any, Literal

from featurestore.errors import DefinitionError, InvalidArgumentError, nearest_name

Lane = Literal["doubles", "integers", "strings"]

MICROSECOND = timedelta(microseconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EPOCH_DAY = date(1970, 1, 1)
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


@dataclass(frozen=True, slots=True)
class DType:
    """The type of a feature or of a join key; the same name is used in code, JSON, wire and errors.

    Args:
        name: One of ``bool int8 int16 int32 int64 float32 float64 string binary timestamp date`` or ``decimal(p,s)``.
            A timestamp is an instant in UTC with microseconds.

    >>> DType.of("float64").lane
    'doubles'
    >>> DType.of("flaot64")
    Traceback (most recent call last):
    featurestore.errors.DefinitionError: No type 'flaot64'. Did you mean 'float64'?
    """

    name: str

    @classmethod
    def of(cls, dtype: str | DType) -> DType:
        """Return the type of that name; raises DefinitionError with the nearest name for an unknown one."""
        name = dtype.name if isinstance(dtype, DType) else dtype
        if match := _DECIMAL.fullmatch(name):
            precision, scale = int(match[1]), int(match[2])
            if not 1 <= precision <= _MAX_PRECISION or scale > precision:
                raise DefinitionError(
                    f"{name} needs 1 to {_MAX_PRECISION} digits, and no more of them after the point."
                )
            return cls(f"decimal({precision},{scale})")
        if name in _SCALARS and name != "decimal":
            return cls(name)
        names = [*(known for known in _SCALARS if known != "decimal"), "decimal(p,s)"]
        near = nearest_name(name, names)
        hint = f"Did you mean '{near}'?" if near else f"There is: {', '.join(names)}."
        raise DefinitionError(f"No type '{name}'. {hint}")

    @property
    def lane(self) -> Lane:
        """The lane of an online row in which values of this type travel."""
        return _SCALARS[self.family].lane

    @property
    def is_integer(self) -> bool:
        """Whether values are whole numbers of a fixed width."""
        return self.name in _INTEGER_BITS

    @property
    def is_key(self) -> bool:
        """Whether a join key may have this type: floats may not, 1001.7 is not 1001."""
        return _SCALARS[self.family].is_key

    @property
    def family(self) -> str:
        """The name without parameters: ``decimal`` for every decimal type."""
        return "decimal" if self.name.startswith("decimal") else self.name

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class _Scalar:
    lane: Lane
    duckdb: str
    polars: str
    is_key: bool


_SCALARS: dict[str, _Scalar] = {
    "bool": _Scalar("integers", "BOOLEAN", "Boolean", True),
    "int8": _Scalar("integers", "TINYINT", "Int8", True),
    "int16": _Scalar("integers", "SMALLINT", "Int16", True),
    "int32": _Scalar("integers", "INTEGER", "Int32", True),
    "int64": _Scalar("integers", "BIGINT", "Int64", True),
    "float32": _Scalar("doubles", "FLOAT", "Float32", False),
    "float64": _Scalar("doubles", "DOUBLE", "Float64", False),
    "string": _Scalar("strings", "VARCHAR", "String", True),
    "binary": _Scalar("strings", "BLOB", "Binary", True),
    "timestamp": _Scalar("integers", "TIMESTAMP WITH TIME ZONE", "Datetime", True),
    "date": _Scalar("integers", "DATE", "Date", True),
    "decimal": _Scalar("strings", "DECIMAL", "Decimal", False),
}
_DECIMAL = re.compile(r"decimal\((\d{1,2}),(\d{1,2})\)")
_MAX_PRECISION = 38
_EXACT = Context(prec=_MAX_PRECISION, traps=[])
_INTEGER_BITS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64}

Bool, Int8, Int16, Int32, Int64 = (DType(name) for name in ("bool", "int8", "int16", "int32", "int64"))
Float32, Float64, String, Binary = (DType(name) for name in ("float32", "float64", "string", "binary"))
Timestamp, Date = DType("timestamp"), DType("date")


def decimal_parameters(dtype: DType) -> tuple[int, int]:
    """Return (precision, scale) of a decimal type.

    >>> decimal_parameters(DType.of("decimal(12,2)"))
    (12, 2)
    """
    match = _DECIMAL.fullmatch(dtype.name)
    if match is None:
        raise InvalidArgumentError(f"{dtype} is not a decimal type.")
    return int(match[1]), int(match[2])


def to_arrow(dtype: DType) -> Any:
    """Return the Arrow type (pyarrow is imported here, so that light callers stay light)."""
    import pyarrow as pa

    if dtype.name.startswith("decimal"):
        return pa.decimal128(*decimal_parameters(dtype))
    special = {"timestamp": lambda: pa.timestamp("us", tz="UTC"), "date": pa.date32, "bool": pa.bool_}
    make: Callable[[], Any] = special.get(dtype.name) or getattr(pa, dtype.name)
    return make()


def from_arrow(arrow_type: Any) -> DType:
    """Return our type for an Arrow type; naive times count as UTC, coarser or finer units as microseconds.

    Raises:
        InvalidArgumentError: The Arrow type has no counterpart here.
    """
    import pyarrow as pa

    if pa.types.is_timestamp(arrow_type):
        return Timestamp
    if pa.types.is_decimal(arrow_type):
        return DType.of(f"decimal({arrow_type.precision},{arrow_type.scale})")
    if pa.types.is_dictionary(arrow_type):
        return from_arrow(arrow_type.value_type)
    names = {"large_string": "string", "string_view": "string", "large_binary": "binary", "date32[day]": "date"}
    names |= {"float": "float32", "double": "float64", "date64[ms]": "date", "binary_view": "binary"}
    name = names.get(str(arrow_type), str(arrow_type))
    if name not in _SCALARS:
        raise InvalidArgumentError(f"Arrow type {arrow_type} has no counterpart in this store.")
    return DType(name)


def to_duckdb(dtype: DType) -> str:
    """Return the DuckDB type as SQL.

    >>> to_duckdb(Timestamp), to_duckdb(DType.of("decimal(12,2)"))
    ('TIMESTAMP WITH TIME ZONE', 'DECIMAL(12,2)')
    """
    return dtype.name.upper() if dtype.name.startswith("decimal") else _SCALARS[dtype.name].duckdb


def to_polars(dtype: DType) -> Any:
    """Return the Polars type (polars is imported here)."""
    import polars as pl

    if dtype.name == "timestamp":
        return pl.Datetime("us", "UTC")
    if dtype.name.startswith("decimal"):
        return pl.Decimal(*decimal_parameters(dtype))
    return getattr(pl, _SCALARS[dtype.name].polars)


def to_wire(dtype: DType, value: Any, *, place: str | None = None) -> float | int | bytes:
    """Check one Python value and return the form in which its lane carries it; never a silent cast.

    Args:
        dtype: The declared type.
        value: A Python value of that type; a naive datetime counts as UTC. None is not a value: nulls travel as bits.
        place: Where the value stands, for the error.

    Raises:
        InvalidArgumentError: The value is not of the type, or does not fit it.

    >>> to_wire(Int64, 1001.7, place="$.keys.user[0]")
    Traceback (most recent call last):
    featurestore.errors.InvalidArgumentError: Expected int64, got float 1001.7. - at `$.keys.user[0]`.
    """
    converted = _PACK[dtype.family](dtype, _plain(value))
    if converted is None:
        raise InvalidArgumentError(f"Expected {dtype}, got {type(value).__name__} {value!r:.80}.", place=place)
    return converted


def from_wire(dtype: DType, value: float | bytes) -> Any:
    """Return the Python value that a lane carries for this type.

    >>> from_wire(Bool, 1), from_wire(String, b"JFK")
    (True, 'JFK')
    """
    return _UNPACK[dtype.family](value)


def to_micros(value: datetime | int | str) -> int:
    """Return an instant as microseconds since 1970 UTC; a naive time counts as UTC, an int is taken as it is.

    >>> to_micros("2013-11-01T00:00:00Z")
    1383264000000000
    """
    if isinstance(value, int):
        return value
    instant = datetime.fromisoformat(value) if isinstance(value, str) else value
    aware = instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant
    return (aware - EPOCH) // MICROSECOND


def from_micros(micros: int) -> datetime:
    """Return the UTC instant of that many microseconds since 1970.

    >>> from_micros(1383264000000000).isoformat()
    '2013-11-01T00:00:00+00:00'
    """
    return EPOCH + timedelta(microseconds=micros)


def _plain(value: Any) -> Any:
    """Unwrap a NumPy scalar without importing NumPy."""
    if type(value).__module__ != "numpy" or not hasattr(value, "item"):
        return value
    plain = value.item()
    if (
        value.dtype.kind == "M" and type(plain) is int
    ):  # finer than a microsecond, or out of range: a bare count of its own unit
        micros = value.astype("datetime64[us]")
        return micros.item() if micros == value else value
    return plain


def _pack_integer(dtype: DType, value: Any) -> int | None:
    bits = _INTEGER_BITS[dtype.name]
    fits = type(value) is int and -(1 << (bits - 1)) <= value < (1 << (bits - 1))
    return value if fits else None


def _pack_float(_: DType, value: Any) -> float | None:
    if type(value) is float:
        return value
    return float(value) if type(value) is int and abs(value) <= 2**53 else None


def _pack_timestamp(_: DType, value: Any) -> int | None:
    if isinstance(value, datetime):
        return to_micros(value)
    return value if type(value) is int and INT64_MIN <= value <= INT64_MAX else None


def _pack_date(_: DType, value: Any) -> int | None:
    if isinstance(value, date) and not isinstance(value, datetime):
        return (value - EPOCH_DAY).days
    return None


def _pack_decimal(dtype: DType, value: Any) -> bytes | None:
    precision, scale = decimal_parameters(dtype)
    number = Decimal(value) if type(value) is int else value
    if not isinstance(number, Decimal) or not number.is_finite():
        return None
    rounded = number.quantize(Decimal(1).scaleb(-scale), context=_EXACT)
    exact = rounded == number and rounded.copy_abs() < 10 ** (precision - scale)
    return str(rounded).encode() if exact else None


def _pack_string(_: DType, value: Any) -> bytes | None:
    try:
        return value.encode() if isinstance(value, str) else None
    except UnicodeEncodeError:  # half of a surrogate pair is not text
        return None


_PACK: dict[str, Callable[[DType, Any], float | int | bytes | None]] = {
    "bool": lambda _, value: int(value) if type(value) is bool else None,
    **dict.fromkeys(_INTEGER_BITS, _pack_integer),
    "float32": _pack_float,
    "float64": _pack_float,
    "string": _pack_string,
    "binary": lambda _, value: bytes(value) if isinstance(value, bytes | bytearray | memoryview) else None,
    "timestamp": _pack_timestamp,
    "date": _pack_date,
    "decimal": _pack_decimal,
}
_UNPACK: dict[str, Callable[[Any], Any]] = {
    "bool": bool,
    **dict.fromkeys(_INTEGER_BITS, int),
    "float32": float,
    "float64": float,
    "string": lambda value: value.decode(),
    "binary": bytes,
    "timestamp": from_micros,
    "date": lambda value: EPOCH_DAY + timedelta(days=value),
    "decimal": lambda value: Decimal(value.decode()),
}
