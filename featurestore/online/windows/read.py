"""Reading windows: the roots of all entities at once, then the pages that an edge of a window cuts, then one fold over all of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from featurestore.compiling import frozen
from featurestore.errors import CorruptionError
from featurestore.online.store import Snapshot
from featurestore.online.windows.blocks import WORDS, no_block, text_parts, words_of
from featurestore.online.windows.events import Raw, StoredEvents, as_texts, fold_events
from featurestore.online.windows.layout import PageLayout, entity_name, page_names
from featurestore.windows import Events
from featurestore.windows.columns import Int64Array
from featurestore.windows.stored import (
    AT,
    KIND,
    LEVEL,
    OWNER,
    PAGES,
    UInt64Array,
    open_pages,
    open_roots,
    unpack_pieces,
)

_NO_PAGES = np.zeros(0, WORDS)
_NO_PAGES.flags.writeable = False


@dataclass(frozen=True, slots=True)
class Gathered:
    """What a read needs of the events of some entities.

    Attributes:
        pieces: int64[pieces, 6]; parts of blocks, those of an entity from the newest to the oldest; see
            featurestore.windows.stored.open_roots.
        roots: The blocks of level 0.
        pages: Those of others.
    """

    pieces: Int64Array
    roots: UInt64Array
    pages: UInt64Array


def gather(
    snapshot: Snapshot,
    prefix: bytes,
    layout: PageLayout,
    keys: Sequence[bytes],
    *,
    t: int,
    windows: Int64Array,
    every: bool = False,
) -> Gathered:
    """Get the roots of some entities, and the pages that windows need.

    Args:
        snapshot: What to read.
        prefix: The keyspace's prefix.
        layout: How its events are kept.
        keys: The entities; repeats are allowed.
        t: The end of the windows, microseconds.
        windows: Their lengths, the shortest first; microseconds.
        every: Whether each event is needed, and not only those at the edges.

    Raises:
        CorruptionError: A page is missing, or something is no page.
    """
    entities = list(map(entity_name, keys))
    pages, columns = _NO_PAGES, layout.tile_columns
    try:
        roots = words_of(snapshot.multi_get("pages", prefix, entities))
        pieces, wanted = open_roots(roots, len(keys), t, windows, every, columns)
        while wanted:
            more = words_of(_pages(snapshot, prefix, entities, pieces))
            first, pages = len(pages), np.concatenate([pages, more]) if len(pages) else more
            pieces, wanted = open_pages(pieces, frozen(pages), first, t, windows, every, columns)
    except ValueError as error:
        raise no_block() from error
    return Gathered(pieces, roots, frozen(pages) if len(pages) else pages)


def _pages(snapshot: Snapshot, prefix: bytes, entities: Sequence[bytes], pieces: Int64Array) -> list[bytes]:
    """Return the pages that pieces stand for."""
    asked = pieces[pieces[:, KIND] == PAGES]
    suffixes = page_names(asked[:, LEVEL], asked[:, AT])
    names = map(bytes.__add__, map(entities.__getitem__, asked[:, OWNER].tolist()), suffixes)
    found = snapshot.multi_get("pages", prefix, names)
    if None in found:
        raise CorruptionError("A page of a windowed view is missing.", place="pages")
    return cast(list[bytes], found)


def events_of(gathered: Gathered, layout: PageLayout, entities: int) -> Events:
    """Return all events of what was gathered with `every`, as the fold takes them."""
    columns, starts = unpack_pieces(gathered.pieces, gathered.roots, gathered.pages, entities, layout.event_columns)
    texts = tuple(
        as_texts(blobs, columns[layout.column(number)])
        for number, blobs in zip(layout.texts, _texts(gathered, len(layout.texts)), strict=True)
    )
    return fold_events(StoredEvents(columns, texts), starts, layout)


def _texts(gathered: Gathered, columns: int) -> list[list[Raw]]:
    """Return for each column of texts its bytes in all pieces, those of an entity from the oldest to the newest."""
    raw = [words.data.cast("B") for words in (gathered.roots, gathered.pages)]
    found: list[list[Raw]] = [[] for _ in range(columns)]
    pieces = gathered.pieces[::-1]
    for piece in pieces[np.argsort(pieces[:, OWNER], kind="stable")].tolist() if columns else ():
        for blobs, part in zip(found, text_parts(raw[piece[LEVEL] > 0], piece[AT], columns), strict=True):
            blobs.append(part)
    return found
