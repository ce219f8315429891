"""Entity keys as bytes: one way for rows, requests and single values, such that different keys never have equal bytes.

    one whole number   01, then 8 bytes, big-endian with the sign bit flipped: bytes sort as the numbers do
    one text           02, then its bytes
    several columns    03, then each part: 01 and 8 bytes, or 02, a 2-byte length and the bytes

Instants, days and booleans are whole numbers here, as in their lane.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from featurestore.errors import InvalidArgumentError, nearest_name
from featurestore.lanes import WireColumn, to_lane
from featurestore.types import DType, to_wire

MAX_KEY_BYTES = 480

NUMBER, TEXT, _PARTS = b"\x01", b"\x02", b"\x03"
_BIAS = 1 << 63
_pack_number = struct.Struct(">BQ").pack
_pack_length = struct.Struct(">BH").pack
_RANGES = {"bool": (0, 1), "date": (-(1 << 31), (1 << 31) - 1)} | {
    f"int{bits}": (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) for bits in (8, 16, 32)
}
_Lane = Sequence[int] | Sequence[bytes]


class KeyColumns(Protocol):
    """The key columns of a request: planning.KeySet is one."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, in the order of the entity's join keys."""

    @property
    def dtypes(self) -> tuple[DType, ...]:
        """Their types."""


def encode_key(values: Sequence[Any], dtypes: Sequence[DType]) -> bytes:
    r"""Return the bytes of one entity's key.

    Args:
        values: One Python value per join key, exactly of its type.
        dtypes: The types of the join keys.

    Raises:
        InvalidArgumentError: A value of another type, or a key of more than 480 bytes.

    >>> encode_key(["JFK"], [DType("string")]), encode_key([-1], [DType("int64")]).hex()
    (b'\x02JFK', '017fffffffffffffff')
    """
    lanes = [
        [to_wire(dtype, value, place=f"$.key[{i}]")]
        for i, (value, dtype) in enumerate(zip(values, dtypes, strict=True))
    ]
    return _encode(lanes, "$.key")[0]  # type: ignore[arg-type]  # a key type never travels as a double


def encode_columns(columns: Sequence[Any], dtypes: Sequence[DType]) -> list[bytes]:
    r"""Return the key bytes of every row of some Arrow columns without nulls.

    >>> import pyarrow as pa
    >>> encode_columns([pa.array(["JFK", "LGA"])], [DType("string")])
    [b'\x02JFK', b'\x02LGA']
    """
    lanes = [to_lane(column, dtype).values for column, dtype in zip(columns, dtypes, strict=True)]
    return _encode([lane if isinstance(lane, list) else lane.tolist() for lane in lanes], "$.keys")


def encode_request(columns: Iterable[WireColumn], key_set: KeyColumns) -> list[bytes]:
    """Return the key bytes of every entity a request names.

    Args:
        columns: The request's columns; others than the key columns are ignored.
        key_set: The key columns and their types.

    Raises:
        InvalidArgumentError: A key column is missing, has the wrong type or a null, or the columns differ in length;
            the place is like ``$.keys.origin[3]``.
    """
    by_name = {column.name: column for column in columns}
    lanes = [_request_lane(by_name, name, dtype) for name, dtype in zip(key_set.columns, key_set.dtypes, strict=True)]
    if len({len(lane) for lane in lanes}) > 1:
        sizes = ", ".join(f"{name} has {len(lane)}" for name, lane in zip(key_set.columns, lanes, strict=True))
        raise InvalidArgumentError(f"Key columns differ in length: {sizes}.", place="$.keys")
    return _encode(lanes, f"$.keys.{key_set.columns[0]}")


def key_parts(key: bytes) -> tuple[bytes, ...]:
    r"""Return the bytes of each column of an encoded key, as they are in the key of that column alone.

    >>> key_parts(encode_key(["JFK", 7], [DType("string"), DType("int64")])) == (
    ...     encode_key(["JFK"], [DType("string")]), encode_key([7], [DType("int64")])
    ... )
    True
    """
    if key[:1] != _PARTS:
        return (key,)
    parts, at = [], 1
    while at < len(key):
        if key[at : at + 1] == NUMBER:
            parts.append(key[at : (at := at + 9)])
        else:
            length = int.from_bytes(key[at + 1 : at + 3], "big")
            parts.append(TEXT + key[at + 3 : at + 3 + length])
            at += 3 + length
    return tuple(parts)


def _request_lane(by_name: dict[str, WireColumn], name: str, dtype: DType) -> _Lane:
    column = by_name.get(name)
    if column is None:
        near = nearest_name(name, by_name)
        hint = f" You sent '{near}'." if near else ""
        raise InvalidArgumentError(f"Key column '{name}' is missing.{hint}", place=f"$.keys.{name}")
    if column.nulls:
        raise InvalidArgumentError(f"Key '{name}' is null.", place=f"$.keys.{name}[{column.nulls[0]}]")
    wanted, other = (column.integers, column.strings) if dtype.lane == "integers" else (column.strings, column.integers)
    if other or column.doubles:
        sent = "doubles" if column.doubles else "strings" if dtype.lane == "integers" else "integers"
        raise InvalidArgumentError(f"Expected {dtype}, got {sent}.", place=f"$.keys.{name}[0]")
    if dtype.name in _RANGES and wanted:
        _check_range(wanted, name, dtype)  # type: ignore[arg-type]  # types with a range are integers
    return wanted


def _check_range(values: Sequence[int], name: str, dtype: DType) -> None:
    low, high = _RANGES[dtype.name]
    if min(values) < low or max(values) > high:
        at = next(i for i, value in enumerate(values) if not low <= value <= high)
        raise InvalidArgumentError(f"{values[at]} is not of type {dtype}.", place=f"$.keys.{name}[{at}]")


def _encode(lanes: Sequence[_Lane], place: str) -> list[bytes]:
    keys = _single(lanes[0]) if len(lanes) == 1 else _composite(lanes)
    if keys and len(longest := max(keys, key=len)) > MAX_KEY_BYTES:
        raise InvalidArgumentError(
            f"A key has {len(longest)} bytes; at most {MAX_KEY_BYTES} are allowed.",
            place=f"{place}[{keys.index(longest)}]",
        )
    return keys


def _single(lane: _Lane) -> list[bytes]:
    if lane and isinstance(lane[0], int):
        return pack_numbers(lane)  # type: ignore[arg-type]  # all of one type
    return list(map(TEXT.__add__, lane))  # type: ignore[arg-type]  # likewise


def pack_numbers(values: Iterable[int]) -> list[bytes]:
    """Return the key of each whole number.

    >>> pack_numbers([-1]) == [encode_key([-1], [DType("int64")])]
    True
    """
    return [_pack_number(1, value + _BIAS) for value in values]


def _composite(lanes: Sequence[_Lane]) -> list[bytes]:
    return list(map(_PARTS.__add__, map(b"".join, zip(*map(_part, lanes), strict=True))))


def _part(lane: _Lane) -> list[bytes]:
    if lane and isinstance(lane[0], int):
        return _single(lane)
    return [_pack_length(2, min(len(text), 0xFFFF)) + text for text in lane]  # type: ignore[arg-type, operator]
