"""A stored row: the bytes of one `Row` as they are sent, with the tag and length that make it a part of `ViewRows`.

    0a LLL          tag and length of the row; the length is always a 3-byte varint, so that what follows has a constant offset
    09 event_time   8 bytes at offset 5
    15 state        4 bytes
    1a nulls        one bit per feature of the stored layout, in 8-byte words; set means null
    22 doubles      8 bytes each
    2a integers     8 bytes each
    32 vector ...   one field each, always of its full length
    32 strings ...  one field each, last, since only they vary in length: texts, lists, structs

Every value is written, zeros and nulls too, so the rows of a layout without texts, lists and structs are of one length. Generated
protobuf of any language parses them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurestore.decoding import read_varint
from featurestore.errors import InvalidArgumentError
from featurestore.lanes import LaneColumn
from featurestore.types import DType, Lane, numpy_type, to_wire

EVENT_TIME = slice(5, 13)  # where every row has its event time: microseconds, little-endian
_EVENT_TIME_OF = itemgetter(EVENT_TIME)

_LENGTH_BYTES = 4
_MAX_ROW = (1 << 21) - 1
_STATE = slice(14, 18)
_ROW_TAG, _EVENT_TAG, _STATE_TAG, _STRING_TAG = b"\x0a", b"\x09", b"\x15", b"\x32"
_LANE_TAGS = {"nulls": b"\x1a", "doubles": b"\x22", "integers": b"\x2a"}
_LANE_TYPES = {"nulls": "<u8", "doubles": "<f8", "integers": "<i8"}
_PACK = {"doubles": struct.Struct("<d").pack, "integers": struct.Struct("<q").pack}


@dataclass(frozen=True, slots=True)
class Slot:
    """Where the values of one feature lie: its position in a lane, and its bit in the null bitmap.

    Vectors come first in the lane of strings; `wide` is how many bytes one has, 0 for other types.
    """

    name: str
    dtype: DType
    lane: Lane
    index: int
    bit: int
    wide: int = 0


@dataclass(frozen=True)
class RowLayout:
    """Where the features of a row lie.

    Attributes:
        slots: One per feature.
        words: 8-byte words of the null bitmap.

    >>> layout = RowLayout.of([("temp", DType("float64")), ("city", DType("string"))])
    >>> from featurestore.v1 import serving_pb2 as pb
    >>> pb.ViewRows.FromString(layout.encode_row(7, [1.5, None])).rows[0].doubles
    [1.5]
    """

    slots: tuple[Slot, ...]
    words: int

    @classmethod
    def of(cls, columns: Iterable[tuple[str, DType]]) -> RowLayout:
        """Return the layout of these features in their order."""
        slots = _slots([(name, dtype, bit) for bit, (name, dtype) in enumerate(columns)])
        return cls(slots, len(slots) // 64 + 1)

    def select(self, names: Iterable[str]) -> RowLayout:
        """Return the layout of rows cut down to some features; they keep their order and their null bits."""
        wanted = set(names)
        kept = [(slot.name, slot.dtype, slot.bit) for slot in self.slots if slot.name in wanted]
        return RowLayout(_slots(kept), self.words)

    def slot(self, name: str) -> Slot:
        """Return the slot of a feature that is part of this layout."""
        return self._by_name[name]

    def count(self, lane: Lane) -> int:
        """Return how many values a lane has."""
        return sum(slot.lane == lane for slot in self.slots)

    @cached_property
    def fixed(self) -> int:
        """Bytes before what varies in length."""
        return len(self._skeleton)

    def offset(self, lane: str) -> int:
        """Return where the values of ``nulls``, ``doubles`` or ``integers`` begin; the lane must not be empty."""
        return self._offsets[lane]

    def encode(
        self, event_time: NDArray[np.int64], columns: Sequence[LaneColumn], *, state: int | NDArray[np.uint32] = 0
    ) -> list[bytes]:
        """Return the stored bytes of many rows.

        Args:
            event_time: int64[n], microseconds since 1970 UTC.
            columns: The values of each slot, in order, n each.
            state: FOUND, NOT_FOUND or EXPIRED, of all or of each.

        Raises:
            InvalidArgumentError: A row of more than 2 MiB.
        """
        raw = bytearray(self._skeleton) * len(event_time)
        rows = np.frombuffer(raw, self._record)
        rows["event_time"] = event_time
        rows["state"] = state
        for slot, column in zip(self.slots, columns, strict=True):
            _fill(rows, slot, column)
        texts = [column for slot, column in zip(self.slots, columns, strict=True) if _varies(slot)]
        if not texts:
            return _cut(bytes(raw), self.fixed)
        tails = list(map(b"".join, zip(*map(_tagged, texts), strict=True)))
        lengths = np.fromiter(map(len, tails), np.int64, len(tails)) + self.fixed - _LENGTH_BYTES
        if len(lengths) and lengths.max() > _MAX_ROW:
            raise InvalidArgumentError(f"A row has {lengths.max()} bytes; at most {_MAX_ROW} are allowed.")
        rows["length"] = _padded(lengths)
        return list(map(bytes.__add__, _cut(bytes(raw), self.fixed), tails))

    def encode_row(self, event_time: int, values: Sequence[Any], *, state: int = 0) -> bytes:
        """Return the stored bytes of one row of Python values, None for null."""
        nulls = sum(1 << slot.bit for slot, value in zip(self.slots, values, strict=True) if value is None)
        lanes: dict[str, bytes] = {"nulls": nulls.to_bytes(8 * self.words, "little"), "doubles": b"", "integers": b""}
        strings = [b""] * self.count("strings")
        for slot, value in zip(self.slots, values, strict=True):
            if slot.lane == "strings":
                text = bytes(slot.wide) if value is None else to_wire(slot.dtype, value)
                strings[slot.index] = _STRING_TAG + varint(len(text)) + text  # type: ignore[arg-type, operator]  # bytes in this lane
            else:
                lanes[slot.lane] += _PACK[slot.lane](0 if value is None else to_wire(slot.dtype, value))
        body = _EVENT_TAG + struct.pack("<q", event_time) + _STATE_TAG + struct.pack("<I", state)
        body += b"".join(_LANE_TAGS[name] + varint(len(lane)) + lane for name, lane in lanes.items() if lane)
        body += b"".join(strings)
        return _header(len(body)) + body

    def decode(self, rows: Sequence[bytes], names: Iterable[str]) -> list[LaneColumn]:
        """Return the values of some features of many rows."""
        fixed = np.frombuffer(b"".join([row[: self.fixed] for row in rows]), self._record)
        slots = [self.slot(name) for name in names]
        texts = list(map(self._texts, rows)) if any(map(_varies, slots)) else []
        return [self._column(fixed, slot, texts) for slot in slots]

    def projection(self, target: RowLayout) -> Callable[[bytes], bytes]:
        """Return a function that cuts a stored row down to a layout from `select`."""
        kept = [self.slot(slot.name) for slot in target.slots]
        constant = _header(target.fixed - _LENGTH_BYTES) + b"".join(
            _LANE_TAGS[lane] + varint(8 * target.count(lane)) for lane in ("doubles", "integers") if target.count(lane)
        )
        pick = itemgetter(*self._pieces(kept, target, len(constant)))
        texts = [slot.index - len(self._vectors) for slot in kept if _varies(slot)]
        if not texts:
            return lambda row: b"".join(pick(constant + row))

        def with_texts(row: bytes) -> bytes:
            strings = self._texts(row)
            fixed = b"".join(pick(constant + row))[_LENGTH_BYTES:]
            tail = b"".join([_STRING_TAG + varint(len(strings[i])) + strings[i] for i in texts])
            return _header(len(fixed) + len(tail)) + fixed + tail

        return with_texts

    def _pieces(self, kept: Sequence[Slot], target: RowLayout, shift: int) -> list[slice]:
        """Return the slices of constant + row that make the fixed part: whole runs of neighbouring values at once."""
        nulls_end = self.offset("nulls") + 8 * self.words
        pieces = [slice(0, _LENGTH_BYTES), slice(shift + _LENGTH_BYTES, shift + nulls_end)]
        at = _LENGTH_BYTES
        lanes: tuple[Lane, Lane] = ("doubles", "integers")
        for lane in lanes:
            if not target.count(lane):
                continue
            header = 1 + len(varint(8 * target.count(lane)))
            pieces.append(slice(at, at + header))
            at += header
            first = shift + self.offset(lane)
            pieces += _runs([first + 8 * slot.index for slot in kept if slot.lane == lane])
        for slot in kept:
            if slot.wide:
                end = shift + self.offset(_field(slot)) + slot.wide
                pieces.append(slice(end - len(_vector_head(slot)) - slot.wide, end))
        return pieces

    def _texts(self, row: bytes) -> list[bytes]:
        at, size = self.fixed, len(row)
        strings = []
        while at < size:
            length, first = read_varint(row, at + 1)
            at = first + length
            strings.append(row[first:at])
        return strings

    def _column(self, fixed: NDArray[Any], slot: Slot, texts: list[list[bytes]]) -> LaneColumn:
        word, bit = divmod(slot.bit, 64)
        valid = (fixed["nulls"][:, word] & np.uint64(1 << bit)) == 0
        if slot.wide:
            return LaneColumn(fixed[_field(slot)], valid)
        if slot.lane == "strings":
            return LaneColumn([row[slot.index - len(self._vectors)] for row in texts], valid)
        return LaneColumn(fixed[slot.lane][:, slot.index], valid)

    @cached_property
    def _by_name(self) -> dict[str, Slot]:
        return {slot.name: slot for slot in self.slots}

    @cached_property
    def _vectors(self) -> list[Slot]:
        return [slot for slot in self.slots if slot.wide]

    @cached_property
    def _counts(self) -> dict[str, int]:
        return {"nulls": self.words, "doubles": self.count("doubles"), "integers": self.count("integers")}

    @cached_property
    def _offsets(self) -> dict[str, int]:
        fields = [
            (name, _LANE_TAGS[name] + varint(8 * count), 8 * count) for name, count in self._counts.items() if count
        ]
        fields += [(_field(slot), _vector_head(slot), slot.wide) for slot in self._vectors]
        ends = accumulate((len(head) + size for _, head, size in fields), initial=_STATE.stop)
        return {name: start + len(head) for (name, head, _), start in zip(fields, ends, strict=False)}

    @cached_property
    def _skeleton(self) -> bytes:
        """A row of zeros, without strings."""
        lanes = b"".join(
            _LANE_TAGS[name] + varint(8 * count) + bytes(8 * count) for name, count in self._counts.items() if count
        )
        vectors = b"".join(_vector_head(slot) + bytes(slot.wide) for slot in self._vectors)
        body = _EVENT_TAG + bytes(8) + _STATE_TAG + bytes(4) + lanes + vectors
        return _header(len(body)) + body

    @cached_property
    def _record(self) -> np.dtype[Any]:
        lanes = [name for name, count in self._counts.items() if count]
        return np.dtype(
            {
                "names": ["length", "event_time", "state", *lanes, *map(_field, self._vectors)],
                "formats": [
                    *("3u1", "<i8", "<u4"),
                    *((_LANE_TYPES[name], (self._counts[name],)) for name in lanes),
                    *(("u1", (slot.wide,)) for slot in self._vectors),
                ],
                "offsets": [1, EVENT_TIME.start, _STATE.start, *self._offsets.values()],
                "itemsize": self.fixed,
            }
        )


def _slots(columns: Sequence[tuple[str, DType, int]]) -> tuple[Slot, ...]:
    """Number the features of each lane; vectors before what else is in the lane of strings."""
    counts = {"strings": sum(dtype.family == "vector" for _, dtype, _ in columns)}
    slots = []
    for name, dtype, bit in columns:
        vector = dtype.family == "vector"
        wide = dtype.length * numpy_type(dtype.element).itemsize if vector else 0
        lane = "vectors" if vector else dtype.lane
        slots.append(Slot(name, dtype, dtype.lane, counts.get(lane, 0), bit, wide))
        counts[lane] = counts.get(lane, 0) + 1
    return tuple(slots)


def _varies(slot: Slot) -> bool:
    return slot.lane == "strings" and not slot.wide


def _field(slot: Slot) -> str:
    return f"vector {slot.index}"


def _vector_head(slot: Slot) -> bytes:
    return _STRING_TAG + varint(slot.wide)


def event_times(rows: Iterable[bytes]) -> NDArray[np.int64]:
    """Return the event times of stored rows: int64[n], microseconds since 1970 UTC."""
    return np.frombuffer(b"".join(map(_EVENT_TIME_OF, rows)), "<i8")


def states(rows: Iterable[bytes]) -> NDArray[np.uint32]:
    """Return the states of stored rows, uint32[n]: FOUND, NOT_FOUND or EXPIRED."""
    return np.frombuffer(b"".join(map(itemgetter(_STATE), rows)), "<u4")


def event_time(row: bytes) -> int:
    """Return the event time of one stored row, microseconds since 1970 UTC."""
    return int.from_bytes(row[EVENT_TIME], "little", signed=True)


def unpack_event_times(rows: Sequence[bytes]) -> tuple[int, ...]:
    """Return the event times of rows as plain numbers; for the few rows of a read this is sooner done than an array."""
    return _times(len(rows)).unpack(b"".join(map(_EVENT_TIME_OF, rows)))


@lru_cache(maxsize=1024)
def _times(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}q")


@lru_cache(maxsize=4096)
def varint(number: int) -> bytes:
    """Return a number in protobuf's variable length.

    >>> varint(150).hex()
    '9601'
    """
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _header(length: int) -> bytes:
    if length > _MAX_ROW:
        raise InvalidArgumentError(f"A row has {length} bytes; at most {_MAX_ROW} are allowed.")
    return _ROW_TAG + bytes((length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14))


def _padded(lengths: NDArray[np.int64]) -> NDArray[np.uint8]:
    digits = [lengths & 0x7F | 0x80, lengths >> 7 & 0x7F | 0x80, lengths >> 14]
    return np.stack(digits, axis=1).astype(np.uint8)


def _fill(rows: NDArray[Any], slot: Slot, column: LaneColumn) -> None:
    word, bit = divmod(slot.bit, 64)
    rows["nulls"][:, word] |= (~column.valid).astype(np.uint64) << np.uint64(bit)
    if slot.wide:
        rows[_field(slot)] = np.where(column.valid[:, np.newaxis], column.values, 0)
    elif not isinstance(column.values, list):
        rows[slot.lane][:, slot.index] = np.where(column.valid, column.values, 0)


def _tagged(column: LaneColumn) -> list[bytes]:
    assert isinstance(column.values, list)
    texts = [text if ok else b"" for text, ok in zip(column.values, column.valid.tolist(), strict=True)]
    return [_STRING_TAG + varint(len(text)) + text for text in texts]


def _cut(raw: bytes, size: int) -> list[bytes]:
    return [raw[at : at + size] for at in range(0, len(raw), size)]


def _runs(starts: Sequence[int]) -> list[slice]:
    """Merge 8-byte values that lie next to each other."""
    runs: list[slice] = []
    for start in starts:
        if runs and runs[-1].stop == start:
            runs[-1] = slice(runs[-1].start, start + 8)
        else:
            runs.append(slice(start, start + 8))
    return runs
