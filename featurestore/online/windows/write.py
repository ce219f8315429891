"""Writing events: into the roots of their entities, and from there into pages, all blocks of a level at once.

A block holds the events that are newer than `below`, and a tile for each page below it. Events up to `below` go to those pages, and so do
all others once the block has more than its level's most. A page that is a leaf has no pages below it; one that got too many is a node
from then on. Of each page that changed the tile above it is made anew, from what the page holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.online.store import Transaction
from featurestore.online.windows.blocks import Blocks, make_blocks, packed, words_of
from featurestore.online.windows.events import StoredEvents
from featurestore.online.windows.layout import PageLayout, entity_name, page_name, page_names
from featurestore.rows import RowColumn
from featurestore.types import INT64_MAX, INT64_MIN
from featurestore.windows.columns import Int64Array
from featurestore.windows.packing import EVENT, LAG, NO_CREATED, SEQ, merge_events
from featurestore.windows.stored import NEWEST_EVENT, PAGE, tiles_of

INLINE_EVENTS = 128  # in a root without pages
RECENT_EVENTS = 64  # in one that has some
PAGE_EVENTS = 512  # in a page that can be cut into shorter ones

_Mask = NDArray[np.bool_]


def put_events(
    transaction: Transaction,
    prefix: bytes,
    layout: PageLayout,
    keys: Sequence[bytes],
    rows: pa.Table,
    *,
    event_key: Sequence[RowColumn],
    now: int,
) -> int:
    """Add events, and drop the pages of the touched entities that no window reaches any more.

    Args:
        transaction: The write in progress.
        prefix: The keyspace's prefix.
        layout: How its events are kept.
        keys: The entity key of each row.
        rows: Accepted rows in canonical form, with ``__seq``.
        event_key: The columns that tell equal events apart; none when the view declares none.
        now: Microseconds; events that have left every window by then are not stored.

    Returns:
        How many events were stored or replaced an older version.
    """
    oldest = max(now - layout.longest, INT64_MIN)
    events = StoredEvents.of(rows, layout, event_key)
    entities = sorted(set(keys))
    numbers = {key: number for number, key in enumerate(entities)}
    owner = np.fromiter(map(numbers.__getitem__, keys), np.int64, len(keys))
    order = _order(owner, events.columns)
    order = order[events.columns[EVENT, order] > oldest]
    if not len(order):
        return 0
    owner = owner[order]
    present = np.unique(owner)
    names = [prefix + entity_name(entities[number]) for number in present.tolist()]
    writing = _Writing(transaction, layout, oldest)
    added = _Added(events.take(order), np.searchsorted(present, owner), np.ones(len(order), np.bool_))
    return writing.put(0, names, added).changed


@dataclass(frozen=True, slots=True)
class _Added:
    """Events that come to some blocks.

    Attributes:
        events: Sorted by (block, event, created, seq).
        block: The number of the block of each.
        fresh: Whether it has not been in a block above before.
    """

    events: StoredEvents
    block: Int64Array
    fresh: _Mask

    def take(self, chosen: Int64Array | _Mask) -> _Added:
        return _Added(self.events.take(chosen), self.block[chosen], self.fresh[chosen])

    def starts(self, blocks: int) -> Int64Array:
        return np.searchsorted(self.block, np.arange(blocks + 1))


@dataclass(frozen=True, slots=True)
class _Put:
    """What became of some blocks: how many of the added events are new in them, and the blocks."""

    changed: int
    blocks: list[bytes]


@dataclass(frozen=True, slots=True)
class _Writing:
    """One write into the pages of a keyspace; events up to `oldest` have left every window."""

    transaction: Transaction
    layout: PageLayout
    oldest: int

    def put(self, level: int, names: Sequence[bytes], added: _Added) -> _Put:
        """Add events to some blocks of a level; each block gets one at least.

        Args:
            level: 0 for roots.
            names: The keys of the blocks.
            added: The events.
        """
        blocks = Blocks.of(self.transaction.multi_get("pages", b"", names))
        late = added.events.columns[EVENT] <= blocks.below[added.block]
        kept, changed = self._merge(blocks, added.take(~late) if late.any() else added)
        too_many = self._too_many(level, blocks, kept)
        down = _joined(added.take(late), kept.take(too_many[kept.block])) if late.any() or too_many.any() else None
        if too_many.any():
            kept = kept.take(~too_many[kept.block])
        starts = kept.starts(len(names))
        newest = np.full(len(names), INT64_MIN)
        np.maximum.at(newest, added.block, added.events.columns[EVENT])
        newest = np.maximum(newest, blocks.heads[:, NEWEST_EVENT])
        below, oldest_page = blocks.below.copy(), blocks.oldest_page.copy()
        below[too_many] = newest[too_many] if level == 0 else INT64_MAX
        tiles = [blocks.tile_bytes(number) for number in range(len(names))]
        if down is not None or level == 0:
            changed += self._put_below(level, names, down, blocks, tiles, oldest_page)
        made = make_blocks(kept.events, starts, tiles, below, oldest_page, newest)
        self.transaction.put_many("pages", zip(names, made, strict=True))
        return _Put(changed, made)

    def _merge(self, blocks: Blocks, added: _Added) -> tuple[_Added, int]:
        """Return the events of the blocks with those that were added, and how many of these are new."""
        old, old_starts = blocks.events(self.layout)
        new_starts = added.starts(len(blocks.stored))
        source, starts = merge_events(
            old.columns, old_starts, added.events.columns, new_starts, self.layout.keyed, self.oldest
        )
        is_new = source < 0
        changed = int(added.fresh[~source[is_new]].sum())
        places = np.where(is_new, len(old) + ~source, source)
        block = np.repeat(np.arange(len(blocks.stored)), np.diff(starts))
        return _Added(old.join(added.events).take(places), block, np.zeros(len(source), np.bool_)), changed

    def _too_many(self, level: int, blocks: Blocks, kept: _Added) -> _Mask:
        counts = np.bincount(kept.block, minlength=len(blocks.stored))
        if level == len(self.layout.spans):
            return np.zeros(len(counts), np.bool_)
        most = np.where(blocks.oldest_page == INT64_MAX, INLINE_EVENTS, RECENT_EVENTS) if level == 0 else PAGE_EVENTS
        return counts > most

    def _put_below(
        self,
        level: int,
        names: Sequence[bytes],
        down: _Added | None,
        blocks: Blocks,
        tiles: list[bytes],
        oldest_page: Int64Array,
    ) -> int:
        """Add events to the pages below some blocks, bring their tiles up to date, and return how many events are new there."""
        first = self.layout.oldest_page(self.oldest) if level == 0 else INT64_MIN
        touched, changed = np.flatnonzero(oldest_page < first), 0
        made, above = np.zeros((self.layout.tile_columns, 0), np.int64), np.zeros(0, np.int64)
        for number in touched.tolist():
            self._drop_below(names[number])
        if down is not None:
            made, above, changed = self._put_pages(level + 1, names, down)
            touched = np.union1d(touched, above)
        if len(touched):
            old, starts = blocks.tiles(self.layout, touched)
            owner = np.concatenate([np.repeat(touched, np.diff(starts)), above])
            table, owner = _newest_tiles(np.concatenate([old, made], axis=1), owner, first)
            edges = np.searchsorted(owner, np.append(touched, INT64_MAX))
            for number, table_bytes, begin, end in zip(
                touched.tolist(), packed(table, edges), edges[:-1].tolist(), edges[1:].tolist(), strict=True
            ):
                tiles[number] = table_bytes
                oldest_page[number] = table[PAGE, begin] if end > begin else INT64_MAX
        return changed

    def _put_pages(self, level: int, names: Sequence[bytes], down: _Added) -> tuple[Int64Array, Int64Array, int]:
        """Add events to pages; return the pages' tiles, the block above each, and how many of the events are new."""
        page = down.events.columns[EVENT] // self.layout.spans[level - 1]
        is_first = np.append(True, (down.block[1:] != down.block[:-1]) | (page[1:] != page[:-1]))
        above, page = down.block[is_first], page[is_first]
        entities = names if level == 1 else [name[: -len(page_name(0, 0))] for name in names]
        suffixes = page_names(np.full(len(page), level), page)
        below = list(map(bytes.__add__, map(entities.__getitem__, above.tolist()), suffixes))
        put = self.put(level, below, _Added(down.events, np.cumsum(is_first) - 1, down.fresh))
        groups = self.layout.group_rows(self.layout.groups)
        made = tiles_of(words_of(put.blocks), page, groups, self.layout.event_columns, self.layout.tile_columns)
        return made, above, put.changed

    def _drop_below(self, entity: bytes) -> None:
        """Drop the pages of an entity that no window reaches any more."""
        for level, span in enumerate(self.layout.spans, 1):
            first, until = page_name(level, -(1 << 63)), page_name(level, (self.oldest + 1) // span)
            for name, _ in list(self.transaction.scan("pages", entity + first, entity + until)):
                self.transaction.delete("pages", name)


def _order(block: Int64Array, columns: Int64Array) -> Int64Array:
    """Sort events by (block, event, created, seq); a null created sorts lowest."""
    created = np.where(columns[NO_CREATED] != 0, INT64_MIN, columns[EVENT] + columns[LAG])
    return np.lexsort((columns[SEQ], created, columns[EVENT], block))


def _joined(late: _Added, recent: _Added) -> _Added:
    """Return sorted events of the same blocks together; those of a block that are recent come after those that are late."""
    block = np.concatenate([late.block, recent.block])
    both = _Added(late.events.join(recent.events), block, np.concatenate([late.fresh, recent.fresh]))
    return both.take(np.argsort(block, kind="stable"))


def _newest_tiles(tiles: Int64Array, owner: Int64Array, first: int) -> tuple[Int64Array, Int64Array]:
    """Sort tiles by (owner, page), and keep the last one of each page from the first that windows reach."""
    order = np.lexsort((tiles[PAGE], owner))
    page, owner = tiles[PAGE, order], owner[order]
    is_last = np.append((owner[1:] != owner[:-1]) | (page[1:] != page[:-1]), np.ones(min(1, len(page)), np.bool_))
    kept = is_last & (page >= first)
    return tiles[:, order[kept]], owner[kept]
