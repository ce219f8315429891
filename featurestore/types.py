"""The only table of types: ours, Arrow, DuckDB, Polars, and the lane each travels in on the wire.

A stored online row keeps its values in three lanes, so that a client can view them without parsing: ``doubles`` (8-byte floats),
``integers`` (8-byte signed: integers, booleans, instants, days) and ``strings`` (variable bytes: text, binary, decimals, and nested
values).

A nested value is the bytes of its columns, as docs/adr/0009-nested-values.md sets down; numbers are little-endian and not aligned:

    column of n values    01 and a bitmap (bit i % 8 of byte i / 8 set: value i is there) when one is null, else 00; then its values
    numbers               n times 1, 2, 4 or 8 bytes, as wide as the type; bool 1, date 4 (days), timestamp 8 (microseconds)
    texts                 n 4-byte lengths, then the bytes of all: UTF-8, binary, decimals as text
    vectors               n times the elements
    lists                 n 4-byte lengths, then the column of all elements
    structs               the column of each field

At a null stand zeros, or no elements. A list, struct or vector of a row is a column's values with n = 1; whether it is null, the row says.
So equal values have equal bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal
from functools import partial
from itertools import accumulate, chain, pairwise
from math import isfinite
from typing import Any, Literal

from featurestore.errors import DefinitionError, InvalidArgumentError, nearest_name
from featurestore.type_names import MAX_PRECISION, NESTED, read_type_name

Lane = Literal["doubles", "integers", "strings"]

MICROSECOND = timedelta(microseconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EPOCH_DAY = date(1970, 1, 1)
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


@dataclass(frozen=True, slots=True)
class DType:
    """The type of a feature or of a join key; the same name is used in code, JSON, wire and errors.

    Args:
        name: One of ``bool int8 int16 int32 int64 float32 float64 string binary timestamp date`` or ``decimal(p,s)``,
            or nested: ``list<T>`` and ``struct<a:T,b:U>`` of any types, ``vector<T,n>`` of n integers or floats, none of them null.
            A timestamp is an instant in UTC with microseconds.

    >>> DType.of("float64").lane
    'doubles'
    >>> DType.of("struct< a: list<int64>, b: vector<float32, 128> >").name
    'struct<a:list<int64>,b:vector<float32,128>>'
    >>> DType.of("list<flaot64>")
    Traceback (most recent call last):
    featurestore.errors.DefinitionError: No type 'flaot64'. Did you mean 'float64'? - at `list<flaot64>`.
    """

    name: str

    @classmethod
    def of(cls, dtype: str | DType) -> DType:
        """Return the type of that name in its one spelling; raises DefinitionError with the nearest name for an unknown one."""
        return cls(read_type_name(dtype.name if isinstance(dtype, DType) else dtype).name)

    @property
    def lane(self) -> Lane:
        """The lane of an online row in which values of this type travel."""
        return _FAMILIES[self.family].lane

    @property
    def is_integer(self) -> bool:
        """Whether values are whole numbers of a fixed width."""
        return self.name in _INTEGER_BITS

    @property
    def is_key(self) -> bool:
        """Whether a join key may have this type: floats may not, 1001.7 is not 1001, and neither may nested types."""
        return _FAMILIES[self.family].is_key

    @property
    def is_nested(self) -> bool:
        """Whether values are made of values: a list, a struct or a vector."""
        return self.family in NESTED

    @property
    def family(self) -> str:
        """The name without parameters: ``decimal`` for every decimal type, ``list`` for every list."""
        return read_type_name(self.name).family

    @property
    def element(self) -> DType:
        """The type of the elements of a list or vector; raises InvalidArgumentError for another type.

        >>> DType.of("list<list<int8>>").element.name
        'list<int8>'
        """
        if self.family not in ("list", "vector"):
            raise InvalidArgumentError(f"{self} has no elements.")
        return DType(read_type_name(self.name).parts[0][1])

    @property
    def fields(self) -> tuple[tuple[str, DType], ...]:
        """The (name, type) of each field of a struct, in order; raises InvalidArgumentError for another type."""
        if self.family != "struct":
            raise InvalidArgumentError(f"{self} has no fields.")
        return tuple((name, DType(dtype)) for name, dtype in read_type_name(self.name).parts)

    @property
    def length(self) -> int:
        """How many elements every vector of this type has; raises InvalidArgumentError for another type."""
        if self.family != "vector":
            raise InvalidArgumentError(f"{self} has no fixed length.")
        return read_type_name(self.name).length

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class _Family:
    lane: Lane
    duckdb: str
    polars: str
    is_key: bool


_FAMILIES: dict[str, _Family] = {
    "bool": _Family("integers", "BOOLEAN", "Boolean", True),
    "int8": _Family("integers", "TINYINT", "Int8", True),
    "int16": _Family("integers", "SMALLINT", "Int16", True),
    "int32": _Family("integers", "INTEGER", "Int32", True),
    "int64": _Family("integers", "BIGINT", "Int64", True),
    "float32": _Family("doubles", "FLOAT", "Float32", False),
    "float64": _Family("doubles", "DOUBLE", "Float64", False),
    "string": _Family("strings", "VARCHAR", "String", True),
    "binary": _Family("strings", "BLOB", "Binary", True),
    "timestamp": _Family("integers", "TIMESTAMP WITH TIME ZONE", "Datetime", True),
    "date": _Family("integers", "DATE", "Date", True),
    "decimal": _Family("strings", "DECIMAL", "Decimal", False),
    "list": _Family("strings", "[]", "List", False),
    "struct": _Family("strings", "STRUCT", "Struct", False),
    "vector": _Family("strings", "[n]", "Array", False),
}
_EXACT = Context(prec=MAX_PRECISION, traps=[])
_INTEGER_BITS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64}

_CODES = {"bool": "B", "int8": "b", "int16": "h", "int32": "i", "int64": "q", "float32": "f", "float64": "d"}
_CODES |= {"date": "i", "timestamp": "q"}
_CALENDAR = {"date", "timestamp"}
_FIRST_DAY, _LAST_DAY = (date.min - EPOCH_DAY).days, (date.max - EPOCH_DAY).days
_FIRST_MICRO = (datetime.min.replace(tzinfo=UTC) - EPOCH) // MICROSECOND
_LAST_MICRO = (datetime.max.replace(tzinfo=UTC) - EPOCH) // MICROSECOND
_MAX_FLOAT32 = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]

Bool, Int8, Int16, Int32, Int64 = (DType(name) for name in ("bool", "int8", "int16", "int32", "int64"))
Float32, Float64, String, Binary = (DType(name) for name in ("float32", "float64", "string", "binary"))
Timestamp, Date = DType("timestamp"), DType("date")


def List(element: str | DType) -> DType:  # noqa: N802  # reads as the names of the other types do
    """Return the type of lists of any length; elements may be null.

    >>> List(Int64).name
    'list<int64>'
    """
    return DType.of(f"list<{DType.of(element)}>")


def Struct(fields: Mapping[str, str | DType]) -> DType:  # noqa: N802  # likewise
    """Return the type of records of these fields, in this order; each may be null.

    >>> Struct({"a": Int64, "b": List(String)}).name
    'struct<a:int64,b:list<string>>'
    """
    return DType.of(f"struct<{','.join(f'{name}:{DType.of(dtype)}' for name, dtype in fields.items())}>")


def Vector(element: str | DType, length: int) -> DType:  # noqa: N802  # likewise
    """Return the type of vectors, e.g. embeddings: always that many integers or floats, none of them null.

    >>> Vector(Float32, 128).name
    'vector<float32,128>'
    """
    return DType.of(f"vector<{DType.of(element)},{length}>")


def decimal_parameters(dtype: DType) -> tuple[int, int]:
    """Return (precision, scale) of a decimal type.

    >>> decimal_parameters(DType.of("decimal(12,2)"))
    (12, 2)
    """
    if dtype.family != "decimal":
        raise InvalidArgumentError(f"{dtype} is not a decimal type.")
    precision, scale = read_type_name(dtype.name).digits
    return precision, scale


def to_arrow(dtype: DType) -> Any:
    """Return the Arrow type (pyarrow is imported here, so that light callers stay light)."""
    import pyarrow as pa

    nested: dict[str, Callable[[], Any]] = {
        "decimal": lambda: pa.decimal128(*decimal_parameters(dtype)),
        "timestamp": lambda: pa.timestamp("us", tz="UTC"),
        "date": pa.date32,
        "bool": pa.bool_,
        "list": lambda: pa.list_(to_arrow(dtype.element)),
        "struct": lambda: pa.struct([(name, to_arrow(field)) for name, field in dtype.fields]),
        "vector": lambda: pa.list_(to_arrow(dtype.element), dtype.length),
    }
    make: Callable[[], Any] = nested.get(dtype.family) or getattr(pa, dtype.name)
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
    try:
        nested = _from_nested_arrow(arrow_type)
        return nested or DType.of(names.get(str(arrow_type), str(arrow_type)))
    except (DefinitionError, InvalidArgumentError) as error:
        raise InvalidArgumentError(f"Arrow type {arrow_type} has no counterpart in this store.") from error


def _from_nested_arrow(arrow_type: Any) -> DType | None:
    import pyarrow as pa

    if pa.types.is_fixed_size_list(arrow_type):
        return Vector(from_arrow(arrow_type.value_type), arrow_type.list_size)
    if is_arrow_list(arrow_type):
        return List(from_arrow(arrow_type.value_type))
    if pa.types.is_struct(arrow_type):
        return Struct({field.name: from_arrow(field.type) for field in arrow_type.fields})
    return None


def is_arrow_list(arrow_type: Any) -> bool:
    """Say whether an Arrow type is a list of any length; a list view is not: Arrow itself converts some of them wrongly."""
    import pyarrow as pa

    return bool(pa.types.is_list(arrow_type) or pa.types.is_large_list(arrow_type))


def to_duckdb(dtype: DType) -> str:
    """Return the DuckDB type as SQL.

    >>> to_duckdb(Timestamp), to_duckdb(DType.of("decimal(12,2)")), to_duckdb(Vector(Float32, 3))
    ('TIMESTAMP WITH TIME ZONE', 'DECIMAL(12,2)', 'FLOAT[3]')
    """
    match dtype.family:
        case "decimal":
            return dtype.name.upper()
        case "list":
            return f"{to_duckdb(dtype.element)}[]"
        case "vector":
            return f"{to_duckdb(dtype.element)}[{dtype.length}]"
        case "struct":
            fields = ", ".join(f'"{name}" {to_duckdb(field)}' for name, field in dtype.fields)
            return f"STRUCT({fields})"
    return _FAMILIES[dtype.name].duckdb


def to_polars(dtype: DType) -> Any:
    """Return the Polars type (polars is imported here)."""
    import polars as pl

    match dtype.family:
        case "timestamp":
            return pl.Datetime("us", "UTC")
        case "decimal":
            return pl.Decimal(*decimal_parameters(dtype))
        case "list":
            return pl.List(to_polars(dtype.element))
        case "vector":
            return pl.Array(to_polars(dtype.element), dtype.length)
        case "struct":
            return pl.Struct({name: to_polars(field) for name, field in dtype.fields})
    return getattr(pl, _FAMILIES[dtype.name].polars)


def numpy_type(dtype: DType) -> Any:
    """Return the NumPy type in which a number, boolean, instant or day stands in the bytes of a nested value, little-endian.

    >>> numpy_type(Float32).str, numpy_type(Date).str
    ('<f4', '<i4')
    """
    import numpy as np

    return np.dtype("<" + _CODES[dtype.name])


def to_wire(dtype: DType, value: Any, *, place: str | None = None) -> float | int | bytes:
    """Check one Python value and return the form in which its lane carries it; never a silent cast.

    Args:
        dtype: The declared type.
        value: A Python value of that type; a naive datetime counts as UTC. A list or vector is a list, a tuple or a NumPy array, a struct
            a mapping of all its fields. None is not a value, except inside lists and structs: nulls travel as bits.
        place: Where the value stands, for the error.

    Raises:
        InvalidArgumentError: The value is not of the type, or does not fit it.

    >>> to_wire(Int64, 1001.7, place="$.keys.user[0]")
    Traceback (most recent call last):
    featurestore.errors.InvalidArgumentError: Expected int64, got float 1001.7. - at `$.keys.user[0]`.
    >>> to_wire(Vector(Int16, 2), [1, 258]).hex()
    '01000201'
    """
    pack = _PACK.get(dtype.family)
    if pack is None:
        return _values(dtype, [_checked(dtype, value, place)])
    converted = pack(dtype, _plain(value))
    if converted is None:
        raise _unlike(dtype, value, place)
    return converted


def from_wire(dtype: DType, value: float | bytes, *, calendar: bool = True) -> Any:
    """Return the Python value that a lane carries for this type: dictionaries for structs, lists for lists and vectors.

    Args:
        dtype: The declared type.
        value: What the lane has.
        calendar: Whether instants and days become datetimes and dates; as integers, `pyarrow.array` takes them too.
            Outside of the years 1 to 9999 they are integers in any case: microseconds, or days since 1970.

    Raises:
        InvalidArgumentError: Bytes that are no value of this type.

    >>> from_wire(Bool, 1), from_wire(String, b"JFK"), from_wire(Vector(Int16, 2), bytes.fromhex("01000201"))
    (True, 'JFK', [1, 258])
    """
    if not dtype.is_nested:
        return value if not calendar and dtype.family in _CALENDAR else _UNPACK[dtype.family](value)
    try:
        (found,), end = _read_values(dtype, value, 0, 1, calendar=calendar)  # type: ignore[arg-type]  # bytes in this lane
    except (struct.error, IndexError, ValueError, ArithmeticError) as error:
        raise InvalidArgumentError(f"The bytes are no {dtype}: {error}.") from error
    if end != len(value):  # type: ignore[arg-type]  # likewise
        raise InvalidArgumentError(f"The bytes are no {dtype}: it ends at byte {end}.")
    return found


def wire_reader(dtype: DType) -> Callable[[Any], Any]:
    """Return what `from_wire` does with a value of this type, for many values.

    >>> list(map(wire_reader(String), [b"JFK", b"LGA"]))
    ['JFK', 'LGA']
    """
    return partial(from_wire, dtype) if dtype.is_nested else _UNPACK[dtype.family]


def to_micros(value: datetime | int | str) -> int:
    """Return an instant as microseconds since 1970 UTC; a naive time counts as UTC, an int is taken as it is.

    Raises:
        InvalidArgumentError: An int of more than 64 bits.
        ValueError: A text that is no instant.

    >>> to_micros("2013-11-01T00:00:00Z")
    1383264000000000
    """
    if isinstance(value, int):
        if not INT64_MIN <= value <= INT64_MAX:
            raise InvalidArgumentError(f"{value} is not an instant: it has more than 64 bits.")
        return value
    instant = datetime.fromisoformat(value) if isinstance(value, str) else value
    aware = instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant
    return (aware - EPOCH) // MICROSECOND


def from_micros(micros: int) -> datetime:
    """Return the UTC instant of that many microseconds since 1970.

    Raises:
        InvalidArgumentError: It lies outside of the years 1 to 9999, where there is no datetime; `instant` has all.

    >>> from_micros(1383264000000000).isoformat()
    '2013-11-01T00:00:00+00:00'
    """
    try:
        return EPOCH + timedelta(microseconds=micros)
    except OverflowError as error:
        raise InvalidArgumentError(
            f"{micros} microseconds from 1970 lie outside of the years 1 to 9999.", repair="Read it as an integer."
        ) from error


def instant(micros: int) -> datetime | int:
    """Return the UTC instant of that many microseconds since 1970, or just them where there is no datetime.

    >>> instant(0).isoformat(), instant(INT64_MAX)
    ('1970-01-01T00:00:00+00:00', 9223372036854775807)
    """
    return EPOCH + timedelta(microseconds=micros) if _FIRST_MICRO <= micros <= _LAST_MICRO else micros


def _plain(value: Any) -> Any:
    """Unwrap a NumPy scalar without importing NumPy."""
    if type(value).__module__ != "numpy" or getattr(value, "shape", None) != ():
        return value
    plain = value.item()
    if (
        value.dtype.kind == "M" and type(plain) is int
    ):  # finer than a microsecond, or out of range: a bare count of its own unit
        micros = value.astype("datetime64[us]")
        return micros.item() if micros == value else value
    return plain


def _unlike(dtype: DType, value: Any, place: str | None) -> InvalidArgumentError:
    return InvalidArgumentError(f"Expected {dtype}, got {type(value).__name__} {value!r:.80}.", place=place)


def _pack_integer(dtype: DType, value: Any) -> int | None:
    bits = _INTEGER_BITS[dtype.name]
    fits = type(value) is int and -(1 << (bits - 1)) <= value < (1 << (bits - 1))
    return value if fits else None


def _pack_float(_: DType, value: Any) -> float | None:
    if type(value) is float:
        return value
    return float(value) if type(value) is int and abs(value) <= 2**53 else None


def _pack_float32(dtype: DType, value: Any) -> float | None:
    """A Python float is the nearest float32; one that would become infinite is refused."""
    number = _pack_float(dtype, value)
    return number if number is None or abs(number) <= _MAX_FLOAT32 or not isfinite(number) else None


def _pack_timestamp(_: DType, value: Any) -> int | None:
    if isinstance(value, datetime):
        return to_micros(value)
    return value if type(value) is int and INT64_MIN <= value <= INT64_MAX else None


def _pack_date(_: DType, value: Any) -> int | None:
    if isinstance(value, date) and not isinstance(value, datetime):
        return (value - EPOCH_DAY).days
    outside = type(value) is int and -(2**31) <= value < 2**31 and not _FIRST_DAY <= value <= _LAST_DAY
    return value if outside else None


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
    "float32": _pack_float32,
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
    "string": bytes.decode,
    "binary": bytes,
    "timestamp": instant,
    "date": lambda value: EPOCH_DAY + timedelta(days=value) if _FIRST_DAY <= value <= _LAST_DAY else value,
    "decimal": lambda value: Decimal(value.decode()),
}


def _checked(dtype: DType, value: Any, place: str | None) -> Any:
    """Return a value with every part in its wire form: scalars as in their lane, vectors as bytes, structs as lists of parts."""
    match dtype.family:
        case "list":
            return _checked_items(dtype.element, _items(dtype, value, place), place, nullable=True)
        case "vector":
            return _checked_vector(dtype, value, place)
        case "struct":
            return _checked_fields(dtype, value, place)
    return to_wire(dtype, value, place=place)


def _checked_items(dtype: DType, items: Sequence[Any], place: str | None, *, nullable: bool) -> Sequence[Any]:
    if dtype.name == "float64" and set(map(type, items)) == {float}:
        return items
    return [
        None if item is None and nullable else _checked(dtype, item, None if place is None else f"{place}[{i}]")
        for i, item in enumerate(items)
    ]


def _checked_vector(dtype: DType, value: Any, place: str | None) -> bytes:
    element = dtype.element
    if (
        getattr(value, "shape", None) == (dtype.length,) and str(value.dtype) == element.name
    ):  # a NumPy array of the very type
        raw: bytes = value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes()
        return raw
    items = _items(dtype, value, place)
    if len(items) != dtype.length:
        raise InvalidArgumentError(f"Expected {dtype}, got {len(items)} elements.", place=place)
    return _values(element, _checked_items(element, items, place, nullable=False))


def _checked_fields(dtype: DType, value: Any, place: str | None) -> list[Any]:
    if not isinstance(value, Mapping):
        raise _unlike(dtype, value, place)
    fields = dict(dtype.fields)
    for name in [*value, *fields]:
        if name not in fields or name not in value:
            what, there = ("unknown", fields) if name not in fields else ("missing", value)
            near = nearest_name(str(name), map(str, there))
            hint = f" There is '{near}'." if near else " Give null as None." if what == "missing" else ""
            raise InvalidArgumentError(f"Field '{name}' of {dtype} is {what}.{hint}", place=place)
    return [
        None if value[name] is None else _checked(field, value[name], None if place is None else f"{place}.{name}")
        for name, field in fields.items()
    ]


def _items(dtype: DType, value: Any, place: str | None) -> Sequence[Any]:
    """Return the elements of a list, a tuple or a NumPy array; the latter's numbers at once."""
    if isinstance(value, list | tuple):
        return value
    if type(value).__module__ != "numpy" or not getattr(value, "shape", ()):
        raise _unlike(dtype, value, place)
    items: list[Any] = value.tolist() if value.dtype.kind in "biuf" else list(value)
    return items


def _column(dtype: DType, values: Sequence[Any]) -> bytes:
    """Return the bytes of a column of checked values, None for null."""
    if None not in values:
        return b"\x00" + _values(dtype, values)
    there = sum(1 << i for i, value in enumerate(values) if value is not None)
    return b"\x01" + there.to_bytes((len(values) + 7) // 8, "little") + _values(dtype, values)


def _values(dtype: DType, values: Sequence[Any]) -> bytes:
    family = dtype.family
    if family in _CODES:
        return struct.pack(f"<{len(values)}{_CODES[family]}", *(0 if value is None else value for value in values))
    if family == "struct":
        parts = [[None] * len(dtype.fields) if value is None else value for value in values]
        columns = zip(dtype.fields, zip(*parts, strict=True) if parts else [()] * len(dtype.fields), strict=True)
        return b"".join(_column(field, column) for (_, field), column in columns)
    if family == "vector":
        null = bytes(dtype.length * struct.calcsize(_CODES[dtype.element.name]))
        return b"".join(null if value is None else value for value in values)
    items = [b"" if value is None else value for value in values]
    lengths = struct.pack(f"<{len(items)}I", *map(len, items))
    return lengths + (_column(dtype.element, [*chain(*items)]) if family == "list" else b"".join(items))


def _read_column(dtype: DType, raw: bytes, at: int, count: int, *, calendar: bool) -> tuple[list[Any], int]:
    """Return the values of a column and the position after it."""
    flag, first = raw[at], at + 1
    if flag > 1:
        raise ValueError(f"{flag} says nothing about nulls")
    at = first + (count + 7) // 8 if flag else first
    there = int.from_bytes(raw[first:at], "little")
    values, at = _read_values(dtype, raw, at, count, calendar=calendar)
    convert = _conversion(dtype, calendar=calendar)
    if flag:
        return [convert(value) if there >> i & 1 else None for i, value in enumerate(values)], at
    return list(map(convert, values)), at


def _conversion(dtype: DType, *, calendar: bool) -> Callable[[Any], Any]:
    if dtype.family in _CALENDAR and not calendar:
        return int
    if dtype.family == "bool":
        return (False, True).__getitem__  # another number is an IndexError
    return _as_it_is if dtype.is_nested else _UNPACK[dtype.family]


def _as_it_is(value: Any) -> Any:
    return value


def _read_values(dtype: DType, raw: bytes, at: int, count: int, *, calendar: bool) -> tuple[list[Any], int]:
    """Return values as they stand there, nested ones converted."""
    match dtype.family:
        case "struct":
            columns = []
            for _, field in dtype.fields:
                column, at = _read_column(field, raw, at, count, calendar=calendar)
                columns.append(column)
            names = [name for name, _ in dtype.fields]
            return [dict(zip(names, parts, strict=True)) for parts in zip(*columns, strict=True)], at
        case "vector":
            flat, at = _read_numbers(dtype.element, raw, at, count * dtype.length)
            return [flat[i : i + dtype.length] for i in range(0, len(flat), dtype.length)], at
        case "list":
            ends, at = _read_ends(raw, at, count)
            flat, at = _read_column(dtype.element, raw, at, ends[-1], calendar=calendar)
            return [flat[first:end] for first, end in pairwise(ends)], at
        case "string" | "binary" | "decimal":
            ends, start = _read_ends(raw, at, count)
            at = start + ends[-1]
            if at > len(raw):
                raise IndexError("it is cut off")
            return [raw[start + first : start + end] for first, end in pairwise(ends)], at
    return _read_numbers(dtype, raw, at, count)


def _read_numbers(dtype: DType, raw: bytes, at: int, count: int) -> tuple[list[Any], int]:
    form = f"<{count}{_CODES[dtype.name]}"
    return list(struct.unpack_from(form, raw, at)), at + struct.calcsize(form)


def _read_ends(raw: bytes, at: int, count: int) -> tuple[list[int], int]:
    """Return where each of the texts or lists ends, after a 0."""
    form = f"<{count}I"
    return list(accumulate(struct.unpack_from(form, raw, at), initial=0)), at + struct.calcsize(form)
