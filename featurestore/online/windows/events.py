"""Events as they are stored: columns of int64, and beside them the bytes of texts; from Arrow rows, and to what the fold takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pyarrow as pa

from featurestore.lanes import LaneColumn, from_lane, to_lane
from featurestore.online.rows import micros
from featurestore.online.windows.layout import PageLayout
from featurestore.rows import CREATED, EVENT, SEQ, RowColumn
from featurestore.types import INT64_MIN, DType, numpy_type
from featurestore.windows import Events, WindowColumn, packing, passing
from featurestore.windows.columns import BoolArray, Int64Array

Raw = bytes | memoryview


@dataclass(frozen=True, slots=True)
class StoredEvents:
    """Some events.

    Attributes:
        columns: int64[columns, events]; see featurestore.windows.packing and PageLayout.column.
        texts: The values of each column of bytes.
    """

    columns: Int64Array
    texts: tuple[pa.LargeBinaryArray, ...] = ()

    @classmethod
    def of(cls, rows: pa.Table, layout: PageLayout, event_key: Sequence[RowColumn]) -> StoredEvents:
        """Return accepted rows as events.

        Args:
            rows: Rows in canonical form, with ``__seq``.
            layout: How events are kept.
            event_key: The columns that tell equal events apart; none when the view declares none.
        """
        read = {name: WindowColumn.from_arrow(rows[name]) for name in layout.read}
        event, created = micros(rows[EVENT]), micros(rows[CREATED])
        is_null = created == INT64_MIN
        columns = [event, np.where(is_null, 0, created - event), is_null, np.asarray(rows[SEQ])]
        columns += _keys(rows, event_key) if layout.keyed else []
        texts = []
        for name, dtype in layout.columns:
            lane = to_lane(rows[name], dtype)
            if dtype.lane == "strings":
                texts.append(_as_binary(lane))
            columns += [_lengths(texts[-1]) if dtype.lane == "strings" else _images(lane), ~lane.valid]
        columns += [passing(where, read, len(rows)) for _, where in layout.filters]
        return cls(np.array(columns, np.int64).reshape(len(columns), len(rows)), tuple(texts))

    def __len__(self) -> int:
        return len(self.columns[packing.EVENT])

    def take(self, rows: Int64Array | BoolArray) -> StoredEvents:
        """Return the events at these places, or where the mask is true."""
        places = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        return StoredEvents(self.columns[:, places], tuple(text.take(pa.array(places)) for text in self.texts))

    def join(self, other: StoredEvents) -> StoredEvents:
        """Return these events and others after them."""
        texts = tuple(pa.concat_arrays(pair) for pair in zip(self.texts, other.texts, strict=True))
        return StoredEvents(np.concatenate([self.columns, other.columns], axis=1), texts)

    def text_bytes(self, starts: Int64Array) -> list[bytes]:
        """Return for each block of events what follows its tables: of each column of bytes how many there are, and they, in words."""
        parts = [[] for _ in starts[1:]] if self.texts else []  # type: list[list[bytes]]
        for text in self.texts:
            offsets, raw = _offsets(text), text.buffers()[2]
            for part, (begin, end) in zip(parts, _pairs(offsets[starts]), strict=True):
                value = raw[begin:end].to_pybytes() if raw is not None else b""
                part += [len(value).to_bytes(8, "little"), value, bytes(-len(value) % 8)]
        return list(map(b"".join, parts)) if parts else [b""] * (len(starts) - 1)


def fold_events(events: StoredEvents, starts: Int64Array, layout: PageLayout) -> Events:
    """Return events as the fold takes them; every version but the last of each is gone already."""
    columns, event = events.columns, events.columns[packing.EVENT]
    texts = iter(events.texts)
    found = {}
    for number, (name, dtype) in enumerate(layout.columns):
        image, valid = columns[layout.column(number)], columns[layout.column(number) + 1] == 0
        found[name] = (
            _text_column(next(texts), valid, dtype) if dtype.lane == "strings" else _number_column(image, valid, dtype)
        )
    first = layout.column(len(layout.columns))
    passed = {name: columns[first + n] != 0 for n, (name, _) in enumerate(layout.filters)}
    created = np.where(columns[packing.NO_CREATED] != 0, INT64_MIN, event + columns[packing.LAG])
    seq = columns[packing.SEQ]
    return Events(starts, event, created, seq, event, np.arange(len(event)), found, passed)


def as_texts(blobs: Sequence[Raw], lengths: Int64Array) -> pa.LargeBinaryArray:
    """Return the values whose bytes are in `blobs`, one after the other."""
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(blobs))]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(lengths), buffers)


def _keys(rows: pa.Table, event_key: Sequence[RowColumn]) -> list[Int64Array]:
    """Return event keys as two columns: the one whole number that it is, or a digest."""
    lanes: list[Any] = [to_lane(rows[column.name], column.dtype).values for column in event_key]
    if len(lanes) == 1 and isinstance(lanes[0], np.ndarray):
        return [np.zeros(len(rows), np.int64), lanes[0]]
    identities = map(b"".join, zip(*map(_key_parts, lanes), strict=True))
    digests = b"".join([blake2b(identity, digest_size=16).digest() for identity in identities])
    pairs = np.frombuffer(digests, "<i8").reshape(len(rows), 2)
    return [pairs[:, 0], pairs[:, 1]]


def _key_parts(lane: Any) -> list[bytes]:
    """Return the bytes of a key column's values, each text behind its length: no two keys are the same bytes then."""
    if isinstance(lane, list):
        return [len(text).to_bytes(8, "little") + text for text in lane]
    raw = lane.astype("<i8").tobytes()
    return [raw[at : at + 8] for at in range(0, len(raw), 8)]


def _images(lane: LaneColumn) -> Int64Array:
    """Return the values of a column of numbers as int64: doubles by their bits, -0.0 as 0.0."""
    values: Any = lane.values
    return cast(Int64Array, values if values.dtype == np.int64 else (values + 0.0).view(np.int64))


def _as_binary(lane: LaneColumn) -> pa.LargeBinaryArray:
    values = lane.values if isinstance(lane.values, list) else [row.tobytes() for row in lane.values]
    return pa.array(values, pa.large_binary())


def _offsets(text: pa.LargeBinaryArray) -> Int64Array:
    return np.frombuffer(text.buffers()[1], np.int64)[text.offset : text.offset + len(text) + 1]


def _lengths(text: pa.LargeBinaryArray) -> Int64Array:
    return np.diff(_offsets(text))


def _pairs(edges: Int64Array) -> list[tuple[int, int]]:
    return list(pairwise(edges.tolist()))


def _number_column(image: Int64Array, valid: BoolArray, dtype: DType) -> WindowColumn:
    return WindowColumn(image.view(np.float64) if dtype.lane == "doubles" else image, valid)


def _text_column(text: pa.LargeBinaryArray, valid: BoolArray, dtype: DType) -> WindowColumn:
    values: Any = text.to_pylist()
    if dtype.family == "vector":
        wide = dtype.length * numpy_type(dtype.element).itemsize
        values = np.frombuffer(b"".join(values), np.uint8).reshape(len(values), wide)
    return WindowColumn.from_arrow(pa.chunked_array([from_lane(LaneColumn(values, valid), dtype)]))
