"""The events of a windowed view online: pages of an entity's events by time, folded at the read by the code that training uses.

A page holds the events of one entity in one stretch of time, a quarter of the view's longest window, as columns sorted by (event,
identity). Of the versions of one event only the greatest (created, seq) is kept, so what a page gives depends on the set of accepted rows
alone. A page of more than MOST_EVENTS is split: it then lists where its leaves start, and the events lie in those. Filters are evaluated
once, when an event is written. Pages that no window can reach any more go when their entity is written to; `expired_pages` finds the
others.

    key    keyspace, 2-byte length and entity key, page number: 8 bytes, big-endian with the sign bit flipped
    leaf   the same, and its start: an event time in the same form
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, islice, pairwise
from typing import cast

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.lanes import LaneColumn, from_lane, to_lane
from featurestore.online.rows import micros
from featurestore.online.store import Snapshot, Transaction
from featurestore.registry.snapshot import AggregationRecord, FeatureRecord, FilterRecord
from featurestore.rows import CREATED, EVENT, SEQ
from featurestore.types import INT64_MIN, DType
from featurestore.windows import Events, WindowColumn, columns_read, filters_of, passing

MOST_EVENTS = 512

_Int64 = NDArray[np.int64]
_Mask = NDArray[np.bool_]
_pack_length = struct.Struct(">H").pack
_pack_number = struct.Struct(">Q").pack
_BIAS = 1 << 63


@dataclass(frozen=True, slots=True)
class PageLayout:
    """How the events of a windowed view's layout are kept.

    Attributes:
        columns: The aggregated columns with their types.
        filters: Name -> filter; of each event it is kept whether it passes.
        read: Every column that a row needs: the aggregated ones, and those that filters read.
        longest: The longest window, microseconds.
        width: The stretch of time of one page, microseconds.
        keyed: Whether the view declares an event key.
    """

    columns: tuple[tuple[str, DType], ...]
    filters: tuple[tuple[str, FilterRecord], ...]
    read: tuple[str, ...]
    longest: int
    width: int
    keyed: bool

    @classmethod
    def of(cls, features: Iterable[FeatureRecord], *, keyed: bool) -> PageLayout:
        """Return the layout for these aggregates."""
        aggregations = aggregations_of(features)
        columns = {a.column: DType(a.dtype) for a in aggregations}
        longest = max(a.time_window for a in aggregations)
        filters = tuple(filters_of(aggregations).items())
        return cls(tuple(columns.items()), filters, tuple(columns_read(aggregations)), longest, -(-longest // 4), keyed)

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
        name, start = prefix + _entity(key) + _pack(page), max(page * layout.width, INT64_MIN)
        changed += _put_page(transaction, name, layout, start, events.take(list(group)))
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
    numbers = [_pack(page) for page in range(layout.first_page(t, window), t // layout.width + 1)]
    names = [entity + number for entity in map(_entity, keys) for number in numbers]
    stored = list(map(_decode, snapshot.multi_get("pages", prefix, names)))
    pages = _with_leaves(snapshot, prefix, names, stored, since=t - window + 1, until=t)
    sizes = np.array([sum(len(leaf.event) // 8 for leaf in page) for page in pages], np.int64).reshape(len(keys), -1)
    found = _PageEvents.unpack([leaf for page in pages for leaf in page], layout)
    return Events(
        starts=np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes.sum(axis=1))]),
        event=found.event,
        created=found.created,
        seq=found.seq,
        known_from=found.event,
        identity=np.arange(len(found.event)),
        columns=found.columns,
        passed=found.passed,
    )


def expired_pages(
    snapshot: Snapshot, prefix: bytes, layout: PageLayout, *, after: bytes, now: int, most: int
) -> tuple[list[bytes], bytes | None]:
    """Return the keys of pages and leaves that no window reaches any more, of whatever entity.

    Args:
        snapshot: Where to look.
        prefix: The keyspace's prefix.
        layout: How its events are kept.
        after: Where the last look stopped; empty is the beginning.
        now: Microseconds.
        most: Look at no more keys than that.

    Returns:
        The keys, and where to go on, None at the end.
    """
    oldest = _pack(layout.first_page(now, layout.longest))
    end = (int.from_bytes(prefix, "big") + 1).to_bytes(len(prefix), "big")
    names = [name for name, _ in islice(snapshot.scan("pages", after + b"\0" if after else prefix, end), most)]
    expired = [name for name in names if _page_of(name, len(prefix)) < oldest]
    return expired, names[-1] if len(names) == most else None


class _Page(msgspec.Struct, array_like=True):
    """A stored page or leaf: little-endian arrays as bytes, and the event keys; or of a split page, where its leaves start."""

    event: bytes
    created: bytes
    seq: bytes
    identities: list[bytes]
    columns: dict[str, tuple[bytes, bytes]]
    choices: dict[str, list[bytes]] = {}
    passed: list[bytes] = []
    leaves: list[int] = []


_encode_page = msgspec.msgpack.Encoder().encode
_decode_page = msgspec.msgpack.Decoder(_Page).decode
_NOTHING = _Page(b"", b"", b"", [], {})


@dataclass(frozen=True, slots=True)
class _PageEvents:
    """Events as columns; `identities` is empty when the view declares no event key."""

    event: _Int64
    created: _Int64
    seq: _Int64
    identities: list[bytes]
    columns: dict[str, WindowColumn]
    passed: dict[str, _Mask]

    @classmethod
    def of(cls, rows: pa.Table, layout: PageLayout, identities: Sequence[bytes]) -> _PageEvents:
        columns = {name: WindowColumn.from_arrow(rows[name]) for name in layout.read}
        passed = {name: passing(where, columns, len(rows)) for name, where in layout.filters}
        kept = {name: columns[name] for name, _ in layout.columns}
        return cls(micros(rows[EVENT]), micros(rows[CREATED]), np.asarray(rows[SEQ]), list(identities), kept, passed)

    @classmethod
    def unpack(cls, pages: Sequence[_Page], layout: PageLayout) -> _PageEvents:
        """Return the events of some pages one after the other; their bytes are joined, which costs less than their arrays."""
        return cls(
            np.frombuffer(b"".join([page.event for page in pages]), "<i8"),
            np.frombuffer(b"".join([page.created for page in pages]), "<i8"),
            np.frombuffer(b"".join([page.seq for page in pages]), "<i8"),
            [identity for page in pages for identity in page.identities],
            {name: _unpacked(pages, name, dtype) for name, dtype in layout.columns},
            {
                name: np.frombuffer(b"".join([page.passed[number] for page in pages]), np.bool_)
                for number, (name, _) in enumerate(layout.filters)
            },
        )

    def join(self, other: _PageEvents, layout: PageLayout) -> _PageEvents:
        columns = {
            name: WindowColumn.concatenate([self.columns[name], other.columns[name]], dtype)
            for name, dtype in layout.columns
        }
        return _PageEvents(
            np.concatenate([self.event, other.event]),
            np.concatenate([self.created, other.created]),
            np.concatenate([self.seq, other.seq]),
            [*self.identities, *other.identities],
            columns,
            {name: np.concatenate([mask, other.passed[name]]) for name, mask in self.passed.items()},
        )

    def encode(self, layout: PageLayout) -> bytes:
        columns = {name: column.compact() for name, column in self.columns.items()}
        page = _Page(
            self.event.tobytes(),
            self.created.tobytes(),
            self.seq.tobytes(),
            self.identities,
            {name: (column.values.tobytes(), column.valid.tobytes()) for name, column in columns.items()},
            {name: _choices(columns[name], dtype) for name, dtype in layout.columns if dtype.lane == "strings"},
            [self.passed[name].tobytes() for name, _ in layout.filters],
        )
        return _encode_page(page)

    def take(self, rows: Sequence[int]) -> _PageEvents:
        picked = np.array(rows, np.int64)
        return _PageEvents(
            self.event[picked],
            self.created[picked],
            self.seq[picked],
            [self.identities[i] for i in rows] if self.identities else [],
            {name: column.take(picked) for name, column in self.columns.items()},
            {name: mask[picked] for name, mask in self.passed.items()},
        )

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

    def parts(self) -> list[_PageEvents]:
        """Cut sorted events into leaves, half full; events of one time stay together."""
        if len(self.event) <= MOST_EVENTS:
            return [self]
        cuts = np.arange(MOST_EVENTS // 2, len(self.event), MOST_EVENTS // 2)
        edges = {0, *np.searchsorted(self.event, self.event[cuts]).tolist(), len(self.event)}
        return [self.take(range(start, stop)) for start, stop in pairwise(sorted(edges))]


def _put_page(transaction: Transaction, name: bytes, layout: PageLayout, start: int, added: _PageEvents) -> int:
    """Add events to one page, or to the leaves of a split one; return how many are new in it or replaced an older version.

    Args:
        transaction: The write in progress.
        name: Key of the page.
        layout: How its events are kept.
        start: The first instant of the page: no event lies before its first leaf.
        added: The events.
    """
    page = _decode(transaction.get("pages", name))
    starts, changed = [], 0
    if not page.leaves:
        parts, changed = _merged(page, added, layout)
        if len(parts) == 1:
            transaction.put("pages", name, parts[0].encode(layout))
            return changed
        starts = _put_leaves(transaction, name, layout, start, parts)
    owner = np.searchsorted(np.array(page.leaves, np.int64), added.event, side="right") - 1
    for number, leaf in enumerate(page.leaves):
        own = np.flatnonzero(owner == number).tolist()
        if not own:
            starts.append(leaf)
            continue
        stored = _decode(transaction.get("pages", name + _pack(leaf)))
        parts, new = _merged(stored, added.take(own), layout)
        starts += _put_leaves(transaction, name, layout, leaf, parts)
        changed += new
    if starts != page.leaves:
        transaction.put("pages", name, _encode_page(_Page(b"", b"", b"", [], {}, leaves=starts)))
    return changed


def _merged(page: _Page, added: _PageEvents, layout: PageLayout) -> tuple[list[_PageEvents], int]:
    """Return the events of a page and others as one or more leaves, and how many are new or replaced an older version."""
    if not page.event:
        kept = added.winners()
        return kept.parts(), len(kept.seq)
    known = _PageEvents.unpack([page], layout)
    kept = known.join(added, layout).winners()
    return kept.parts(), len(np.setdiff1d(kept.seq, known.seq))


def _put_leaves(
    transaction: Transaction, name: bytes, layout: PageLayout, start: int, parts: Sequence[_PageEvents]
) -> list[int]:
    """Write leaves, the first of which begins at `start`; return where they begin."""
    starts = [start, *(int(part.event[0]) for part in parts[1:])]
    for leaf, part in zip(starts, parts, strict=True):
        transaction.put("pages", name + _pack(leaf), part.encode(layout))
    return starts


def _with_leaves(
    snapshot: Snapshot, prefix: bytes, names: Sequence[bytes], pages: Sequence[_Page], *, since: int, until: int
) -> list[list[_Page]]:
    """Return for each page what holds its events: itself, or those of its leaves that reach into a stretch of time."""
    wanted = [
        [name + _pack(leaf) for leaf in page.leaves[max(0, bisect_right(page.leaves, since) - 1) :] if leaf <= until]
        for name, page in zip(names, pages, strict=True)
    ]
    leaves = map(_decode, snapshot.multi_get("pages", prefix, list(chain.from_iterable(wanted))))
    return [
        [next(leaves) for _ in own] if own else [page] if page.event else []
        for own, page in zip(wanted, pages, strict=True)
    ]


def _decode(stored: bytes | None) -> _Page:
    return _NOTHING if stored is None else _decode_page(stored)


def _unpacked(pages: Sequence[_Page], name: str, dtype: DType) -> WindowColumn:
    raw = b"".join([page.columns[name][0] for page in pages])
    valid = np.frombuffer(b"".join([page.columns[name][1] for page in pages]), np.bool_)
    if dtype.lane != "strings":
        return WindowColumn(np.frombuffer(raw, "<f8" if dtype.lane == "doubles" else "<i8"), valid)
    texts = [page.choices[name] for page in pages]
    choices = from_lane(LaneColumn(list(chain.from_iterable(texts)), np.ones(sum(map(len, texts)), np.bool_)), dtype)
    before = np.repeat(np.cumsum([0, *map(len, texts)])[:-1], [len(page.event) // 8 for page in pages])
    column = WindowColumn(np.frombuffer(raw, "<i8") + before, valid, choices)
    return column if len(pages) == 1 else column.compact()


def _choices(column: WindowColumn, dtype: DType) -> list[bytes]:
    return cast(list[bytes], to_lane(column.choices, dtype).values)


def _drop_old(transaction: Transaction, entity: bytes, first: int) -> None:
    """Drop the pages before the first that a window reaches, with their leaves."""
    old = [name for name, _ in transaction.scan("pages", entity + _pack(INT64_MIN), entity + _pack(first))]
    for name in old:
        transaction.delete("pages", name)


def _entity(key: bytes) -> bytes:
    return _pack_length(len(key)) + key


def _page_of(name: bytes, prefix: int) -> bytes:
    """Return the packed page number in the key of a page or leaf."""
    start = prefix + 2 + int.from_bytes(name[prefix : prefix + 2], "big")
    return name[start : start + 8]


def _pack(number: int) -> bytes:
    return _pack_number(number + _BIAS)
