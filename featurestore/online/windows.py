"""The events of a windowed view online: pages of an entity's events by time, folded at the read by the code that training uses.

A page holds the events of one entity in one stretch of time, a quarter of the view's longest window, as columns sorted by (event,
identity). Of the versions of one event only the greatest (created, seq) is kept, so a page depends on the set of accepted rows alone.
Pages that no window can reach any more go when their entity is written to.

    key    keyspace, 2-byte length and entity key, page number: 8 bytes, big-endian with the sign bit flipped
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.online.rows import micros
from featurestore.online.store import Snapshot, Transaction
from featurestore.registry.snapshot import AggregationRecord, FeatureRecord
from featurestore.rows import CREATED, EVENT, SEQ
from featurestore.types import DType
from featurestore.windows import Events, WindowColumn

_Int64 = NDArray[np.int64]
_pack_length = struct.Struct(">H").pack
_pack_page = struct.Struct(">Q").pack
_BIAS = 1 << 63


@dataclass(frozen=True, slots=True)
class PageLayout:
    """How the events of a windowed view's layout are kept.

    Attributes:
        columns: The aggregated columns, each with whether its values are floats.
        longest: The longest window, microseconds.
        width: The stretch of time of one page, microseconds.
        keyed: Whether the view declares an event key.
    """

    columns: tuple[tuple[str, bool], ...]
    longest: int
    width: int
    keyed: bool

    @classmethod
    def of(cls, features: Iterable[FeatureRecord], *, keyed: bool) -> PageLayout:
        """Return the layout for these aggregates."""
        aggregations = aggregations_of(features)
        columns = {a.column: DType(a.dtype).lane == "doubles" for a in aggregations}
        longest = max(a.time_window for a in aggregations)
        return cls(tuple(columns.items()), longest, -(-longest // 4), keyed)

    def first_page(self, t: int, window: int) -> int:
        """Return the page of the first instant inside ``(t - window, t]``."""
        return (t - window + 1) // self.width


def aggregations_of(features: Iterable[FeatureRecord]) -> list[AggregationRecord]:
    """Return the aggregations of a windowed view's features."""
    return [feature.aggregation for feature in features if feature.aggregation is not None]


def put_events(
    transaction: Transaction,
    prefix: bytes,
    layout: PageLayout,
    keys: Sequence[bytes],
    rows: pa.Table,
    *,
    identities: Sequence[bytes],
    now: int,
) -> int:
    """Add events to their pages, and drop the pages of the touched entities that no window reaches any more.

    Args:
        transaction: The write in progress.
        prefix: The keyspace's prefix.
        layout: How its events are kept.
        keys: The entity key of each row.
        rows: Accepted rows in canonical form, with ``__seq``.
        identities: The event key of each row; empty when the view declares none.
        now: Microseconds; events that have left every window by then are not stored.

    Returns:
        How many events were stored or replaced an older version.
    """
    events = _PageEvents.of(rows, layout, identities)
    live = np.flatnonzero(events.event > now - layout.longest).tolist()
    pages = (events.event // layout.width).tolist()
    live.sort(key=lambda i: (keys[i], pages[i]))
    changed = 0
    for (key, page), group in groupby(live, key=lambda i: (keys[i], pages[i])):
        name = prefix + _entity(key) + _number(page)
        stored = transaction.get("pages", name)
        known = None if stored is None else _PageEvents.decode(stored, layout)
        added = events.take(list(group))
        kept = (added if known is None else known.join(added)).winners()
        changed += len(kept.seq) if known is None else len(np.setdiff1d(kept.seq, known.seq))
        transaction.put("pages", name, kept.encode())
    for key in {keys[i] for i in live}:
        _drop_old(transaction, prefix + _entity(key), layout.first_page(now, layout.longest))
    return changed


def gather_events(
    snapshot: Snapshot, prefix: bytes, layout: PageLayout, keys: Sequence[bytes], *, t: int, window: int
) -> Events:
    """Return the events of some entities that may lie in a window; the fold leaves out those that do not.

    Args:
        snapshot: What to read.
        prefix: The keyspace's prefix.
        layout: How its events are kept.
        keys: The entities; repeats are allowed.
        t: End of the window, microseconds.
        window: The longest window asked for, microseconds.
    """
    numbers = [_number(page) for page in range(layout.first_page(t, window), t // layout.width + 1)]
    names = [entity + number for entity in map(_entity, keys) for number in numbers]
    stored = snapshot.multi_get("pages", prefix, names)
    pages = [None if page is None else _PageEvents.decode(page, layout) for page in stored]
    sizes = np.array([0 if page is None else len(page.event) for page in pages], np.int64).reshape(len(keys), -1)
    found = _PageEvents.concatenate([page for page in pages if page is not None], layout)
    return Events(
        starts=np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes.sum(axis=1))]),
        event=found.event,
        created=found.created,
        seq=found.seq,
        known_from=found.event,
        identity=np.arange(len(found.event)),
        columns=found.columns,
    )


class _Page(msgspec.Struct, array_like=True):
    """A stored page: little-endian arrays as bytes, and the event keys."""

    event: bytes
    created: bytes
    seq: bytes
    identities: list[bytes]
    columns: dict[str, tuple[bytes, bytes]]


_encode_page = msgspec.msgpack.Encoder().encode
_decode_page = msgspec.msgpack.Decoder(_Page).decode


@dataclass(frozen=True, slots=True)
class _PageEvents:
    """Events as columns; `identities` is empty when the view declares no event key."""

    event: _Int64
    created: _Int64
    seq: _Int64
    identities: list[bytes]
    columns: dict[str, WindowColumn]

    @classmethod
    def of(cls, rows: pa.Table, layout: PageLayout, identities: Sequence[bytes]) -> _PageEvents:
        columns = {name: WindowColumn.from_arrow(rows[name]) for name, _ in layout.columns}
        return cls(micros(rows[EVENT]), micros(rows[CREATED]), np.asarray(rows[SEQ]), list(identities), columns)

    @classmethod
    def decode(cls, stored: bytes, layout: PageLayout) -> _PageEvents:
        page = _decode_page(stored)
        columns = {
            name: WindowColumn(np.frombuffer(values, "<f8" if floats else "<i8"), np.frombuffer(valid, np.bool_))
            for (name, floats), (values, valid) in ((column, page.columns[column[0]]) for column in layout.columns)
        }
        event, created, seq = (np.frombuffer(raw, "<i8") for raw in (page.event, page.created, page.seq))
        return cls(event, created, seq, page.identities, columns)

    @classmethod
    def concatenate(cls, parts: Sequence[_PageEvents], layout: PageLayout) -> _PageEvents:
        none = np.zeros(0, np.int64)
        columns = {
            name: WindowColumn(
                np.concatenate([np.zeros(0, "<f8" if floats else "<i8"), *(p.columns[name].values for p in parts)]),
                np.concatenate([np.zeros(0, np.bool_), *(p.columns[name].valid for p in parts)]),
            )
            for name, floats in layout.columns
        }
        return cls(
            np.concatenate([none, *(part.event for part in parts)]),
            np.concatenate([none, *(part.created for part in parts)]),
            np.concatenate([none, *(part.seq for part in parts)]),
            [identity for part in parts for identity in part.identities],
            columns,
        )

    def encode(self) -> bytes:
        columns = {name: (column.values.tobytes(), column.valid.tobytes()) for name, column in self.columns.items()}
        return _encode_page(
            _Page(self.event.tobytes(), self.created.tobytes(), self.seq.tobytes(), self.identities, columns)
        )

    def take(self, rows: list[int]) -> _PageEvents:
        columns = {name: WindowColumn(c.values[rows], c.valid[rows]) for name, c in self.columns.items()}
        identities = [self.identities[i] for i in rows] if self.identities else []
        return _PageEvents(self.event[rows], self.created[rows], self.seq[rows], identities, columns)

    def join(self, other: _PageEvents) -> _PageEvents:
        columns = tuple((name, column.values.dtype.kind == "f") for name, column in self.columns.items())
        return _PageEvents.concatenate([self, other], PageLayout(columns, 0, 0, keyed=bool(self.identities)))

    def winners(self) -> _PageEvents:
        """Sort, and keep the greatest (created, seq) of each event."""
        identity = self._ranks()
        order = np.lexsort((self.seq, self.created, identity, self.event))
        event, identity = self.event[order], identity[order]
        last = np.append((event[1:] != event[:-1]) | (identity[1:] != identity[:-1]), np.ones(1, np.bool_))
        return self.take(order[last].tolist())

    def _ranks(self) -> _Int64:
        """Return numbers that are equal for versions of one event; without an event key every accepted row is an event."""
        if not self.identities:
            return self.seq
        ranks = {identity: rank for rank, identity in enumerate(sorted(set(self.identities)))}
        return np.array([ranks[identity] for identity in self.identities], np.int64)


def _drop_old(transaction: Transaction, entity: bytes, first: int) -> None:
    old = [name for name, _ in transaction.scan("pages", entity + _pack_page(0), entity + _number(first))]
    for name in old:
        transaction.delete("pages", name)


def _entity(key: bytes) -> bytes:
    return _pack_length(len(key)) + key


def _number(page: int) -> bytes:
    return _pack_page(page + _BIAS)
