"""The answer of an online read as columns: views into the response where its rows have one stride, generated protobuf otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from featurestore.errors import CorruptionError, NotFoundError
from featurestore.types import DType, from_micros, from_wire
from featurestore.v1 import serving_pb2 as pb

STATUSES = ("PRESENT", "NOT_FOUND", "EXPIRED", "NULL")

_NULL = STATUSES.index("NULL")
_STATUS_NAMES = np.array(STATUSES)
_DOUBLES_TAG, _INTEGERS_TAG = 0x22, 0x2A
_SMALLEST_ROW = 18
_SPECIAL = {"timestamp": "M8[us]", "date": "M8[D]"}


class OnlineRows:
    """The rows of one online read: one per key, in the order of the request.

    Attributes:
        schema: The plan's schema.
        time: The instant t that ttl and windows used, microseconds since 1970 UTC.
        position: Sequence number of the last pushed row in the snapshot that was read.
        columns: Output name -> values; what stands at a null is not a value. Numbers, booleans and days in NumPy's types, instants as
            datetime64[us], texts, binaries and decimals as Python objects.
        valid: Output name -> bool[n], False where there is no value.
        status: Output name -> text[n]: PRESENT, NULL (the row says so), NOT_FOUND (no row) or EXPIRED (older than the ttl).
        event_time: Output name -> int64[n], event time of the row in microseconds since 1970 UTC; 0 where there is none.
    """

    def __init__(self, schema: pb.Schema, time: int, position: int, views: list[_ViewRows]) -> None:
        self.schema = schema
        self.time = time
        self.position = position
        self._views = views
        self._features = {feature.name: feature for feature in schema.features}
        self.columns = _Lazy(self._features, self._column)
        self.valid = _Lazy(self._features, self._valid)
        self.status = _Lazy(self._features, self._status)
        self.event_time = _Lazy(self._features, self._event_time)

    def __len__(self) -> int:
        return len(self._views[0].event_time) if self._views else 0

    def to_dict(self) -> dict[str, list[Any]]:
        """Return output name -> values as exact Python types, None where there is no value."""
        return {name: self._python(name) for name in self._features}

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one dictionary per key, in the order of the request."""
        columns = self.to_dict()
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def __repr__(self) -> str:
        return f"OnlineRows({len(self)} x {list(self._features)}, time={from_micros(self.time).isoformat()})"

    def _lane(self, name: str) -> Any:
        feature = self._features[name]
        return self._views[feature.view].lane(feature.lane, feature.index)

    def _column(self, name: str) -> NDArray[Any]:
        dtype = DType(self._features[name].dtype)
        values = self._lane(name)
        if dtype.lane == "strings":
            column = np.empty(len(values), object)
            column[:] = [from_wire(dtype, v) if ok else None for v, ok in zip(values, self.valid[name], strict=True)]
            return column
        special = _SPECIAL.get(dtype.name)
        typed: NDArray[Any] = values.astype(special or dtype.name, copy=False)
        return typed

    def _valid(self, name: str) -> NDArray[np.bool_]:
        feature = self._features[name]
        return ~self._views[feature.view].null(feature.bit)

    def _status(self, name: str) -> NDArray[np.str_]:
        state = self._views[self._features[name].view].state
        return _STATUS_NAMES[np.where((state == 0) & ~self.valid[name], _NULL, state)]

    def _event_time(self, name: str) -> NDArray[np.int64]:
        return self._views[self._features[name].view].event_time

    def _python(self, name: str) -> list[Any]:
        values = self._lane(name)
        plain = values if isinstance(values, list) else values.tolist()
        dtype = DType(self._features[name].dtype)
        valid = self.valid[name].tolist()
        return [from_wire(dtype, value) if ok else None for value, ok in zip(plain, valid, strict=True)]


def decode(schema: pb.Schema, response: bytes) -> OnlineRows:
    """Read the bytes of a ReadResponse.

    Args:
        schema: The schema of the plan that was read.
        response: The serialized ReadResponse.

    Raises:
        CorruptionError: The bytes are not such a response, or do not fit the schema.
    """
    spans, time, position = _split(response)
    if len(spans) != len(schema.views):
        raise CorruptionError(f"The response has {len(spans)} views, the schema {len(schema.views)}.")
    views = [
        _strided(response, first, last, view) or _parsed(response[first:last], view)
        for (first, last), view in zip(spans, schema.views, strict=True)
    ]
    if len({len(view.event_time) for view in views}) > 1:
        raise CorruptionError("The views of the response differ in their number of rows.")
    return OnlineRows(schema, time, position, views)


def read_varint(buffer: bytes, at: int) -> tuple[int, int]:
    """Return the variable-length number at a position, and the position after it.

    >>> read_varint(bytes([0x96, 0x01]), 0)
    (150, 2)
    """
    value = shift = 0
    while True:
        byte = buffer[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


class _Lazy(Mapping[str, Any]):
    """Columns that are made when they are first looked at."""

    def __init__(self, names: Mapping[str, Any], make: Callable[[str], Any]) -> None:
        self._names = names
        self._make = make
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            if name not in self._names:
                raise NotFoundError.of("output", name, self._names)
            self._made[name] = self._make(name)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True, slots=True)
class _ViewRows:
    """The rows of one view by lanes, however they were read."""

    event_time: NDArray[np.int64]
    state: NDArray[np.uint32]
    nulls: NDArray[np.uint64]
    doubles: NDArray[np.float64]
    integers: NDArray[np.int64]
    strings: list[list[bytes]]

    def lane(self, lane: str, index: int) -> Any:
        """Return the values of one feature: an array, or a list of bytes."""
        if lane == "strings":
            return [row[index] for row in self.strings]
        return (self.doubles if lane == "doubles" else self.integers)[:, index]

    def null(self, bit: int) -> NDArray[np.bool_]:
        """Return which rows are null in one feature."""
        if not len(self.event_time):
            return np.zeros(0, np.bool_)
        nulls: NDArray[np.bool_] = (self.nulls[:, bit // 64] & np.uint64(1 << (bit % 64))) != 0
        return nulls


def _split(response: bytes) -> tuple[list[tuple[int, int]], int, int]:
    """Return where each view's rows lie, the time and the position; unknown fields mean a newer server and are parsed over."""
    spans, time, position = [], 0, 0
    at, size = 0, len(response)
    try:
        while at < size:
            tag = response[at]
            if tag == 0x0A:
                length, first = read_varint(response, at + 1)
                at = first + length
                spans.append((first, at))
            elif tag in (0x11, 0x19):
                number = int.from_bytes(response[at + 1 : at + 9], "little", signed=tag == 0x11)
                time, position = (number, position) if tag == 0x11 else (time, number)
                at += 9
            else:
                raise CorruptionError(f"Unknown field tag {tag:#x} in the response.", place=f"byte {at}")
    except IndexError as error:
        raise CorruptionError("The response is cut off.", place=f"byte {size}") from error
    if at != size:
        raise CorruptionError("The response is cut off.", place=f"byte {size}")
    return spans, time, position


def _strided(response: bytes, first: int, last: int, view: pb.ViewSchema) -> _ViewRows | None:
    """View the rows where they lie, or return None when they are not of the one shape this is about."""
    if view.strings or last - first < _SMALLEST_ROW or response[first] != 0x0A:
        return None
    length, body = read_varint(response, first + 1)
    stride = body - first + length
    if stride < _SMALLEST_ROW or (last - first) % stride:
        return None
    shape = _shape(response[first : first + stride], body - first, view)
    if shape is None:
        return None
    offsets, constant = shape
    rows = (last - first) // stride
    raw = np.ndarray((rows, stride), np.uint8, response, first)
    if not (raw[:, constant] == raw[0, constant]).all():
        return None

    def lane(dtype: str, at: int, count: int) -> NDArray[Any]:
        return np.ndarray((rows, count), dtype, response, first + at, (stride, 8))

    return _ViewRows(
        event_time=np.ndarray((rows,), "<i8", response, first + offsets[0], (stride,)),
        state=np.ndarray((rows,), "<u4", response, first + offsets[1], (stride,)),
        nulls=lane("<u8", offsets[2], offsets[5]),
        doubles=lane("<f8", offsets[3], view.doubles),
        integers=lane("<i8", offsets[4], view.integers),
        strings=[],
    )


def _shape(row: bytes, body: int, view: pb.ViewSchema) -> tuple[tuple[int, ...], list[int]] | None:
    """Return the offsets of a row's values and its constant bytes (tags and lengths), or None for another order of fields."""
    if row[body] != 0x09 or row[body + 9] != 0x15 or row[body + 14] != 0x1A:
        return None
    size, nulls_at = read_varint(row, body + 15)
    constant = [*range(body + 1), body + 9, *range(body + 14, nulls_at)]
    words, at = size // 8, nulls_at + size
    lanes = []
    for tag, count in ((_DOUBLES_TAG, view.doubles), (_INTEGERS_TAG, view.integers)):
        start = at
        if count:
            if at >= len(row) or row[at] != tag:
                return None
            size, start = read_varint(row, at + 1)
            if size != 8 * count:
                return None
            constant += range(at, start)
            at = start + size
        lanes.append(start)
    return ((body + 1, body + 10, nulls_at, *lanes, words), constant) if at == len(row) else None


def _parsed(body: bytes, view: pb.ViewSchema) -> _ViewRows:
    """Read the rows of a view through generated protobuf."""
    try:
        rows = pb.ViewRows.FromString(body).rows
        return _ViewRows(
            event_time=np.array([row.event_time for row in rows], np.int64),
            state=np.array([row.state for row in rows], np.uint32),
            nulls=_matrix([row.nulls for row in rows], len(rows[0].nulls) if rows else 0, np.uint64),
            doubles=_matrix([row.doubles for row in rows], view.doubles, np.float64),
            integers=_matrix([row.integers for row in rows], view.integers, np.int64),
            strings=[_exactly(row.strings, view.strings) for row in rows],
        )
    except (DecodeError, ValueError) as error:
        raise CorruptionError(f"The rows of {view.ref} cannot be read: {error}.") from error


def _matrix(rows: Sequence[Sequence[float]], width: int, dtype: type[np.generic]) -> NDArray[Any]:
    return np.array([_exactly(row, width) for row in rows], dtype).reshape(len(rows), width)


def _exactly(values: Sequence[Any], count: int) -> list[Any]:
    if len(values) != count:
        raise ValueError(f"{len(values)} values where the schema has {count}")
    return list(values)
