"""Blocks: what the key of a root or of a page holds, as words and in parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, repeat

import numpy as np

from featurestore.errors import CorruptionError
from featurestore.online.windows.events import Raw, StoredEvents, as_texts
from featurestore.online.windows.layout import PageLayout
from featurestore.types import INT64_MAX, INT64_MIN
from featurestore.windows.columns import Int64Array
from featurestore.windows.packing import pack_tables
from featurestore.windows.stored import (
    BELOW,
    BLOCK_FORM,
    HEAD,
    OLDEST_PAGE,
    UInt64Array,
    block_starts,
    unpack_tables,
)

_NO_TABLE = [0, 2]  # no rows, two words

WORDS = np.dtype("<u8")


def _head(size: int, below: int = INT64_MIN, oldest_page: int = INT64_MAX, newest: int = INT64_MIN) -> list[int]:
    return [size, BLOCK_FORM, below, oldest_page, newest]


NOTHING = np.array([*_head(HEAD + 4), *_NO_TABLE, *_NO_TABLE], np.int64).tobytes()


def words_of(blocks: Sequence[bytes | None]) -> UInt64Array:
    """Return blocks one after the other, an empty one where there is none."""
    joined = b"".join([block or NOTHING for block in blocks] if None in blocks else blocks)  # type: ignore[arg-type]  # no None is left
    return np.frombuffer(joined, WORDS)


def no_block() -> CorruptionError:
    """Return the error of bytes that are no block."""
    return CorruptionError("A root or page of a windowed view is no block of events.", place="pages")


@dataclass(frozen=True, slots=True)
class Blocks:
    """Stored blocks in parts.

    Attributes:
        stored: As they are stored; None where there is none.
        words: One after the other.
        heads: int64[blocks, HEAD].
    """

    stored: Sequence[bytes | None]
    words: UInt64Array
    heads: Int64Array

    @classmethod
    def of(cls, stored: Sequence[bytes | None]) -> Blocks:
        """Look at the heads of some blocks; raises CorruptionError where one is no block."""
        try:
            words = words_of(stored)
            starts = block_starts(words, len(stored))
        except ValueError as error:
            raise no_block() from error
        return cls(stored, words, words.view(np.int64)[starts[:, np.newaxis] + np.arange(HEAD)])

    @property
    def below(self) -> Int64Array:
        """Up to when each block's events lie in the pages below it."""
        return self.heads[:, BELOW]

    @property
    def oldest_page(self) -> Int64Array:
        """The first page below each block, INT64_MAX where there is none."""
        return self.heads[:, OLDEST_PAGE]

    def events(self, layout: PageLayout) -> tuple[StoredEvents, Int64Array]:
        """Return the events in the blocks, and where those of each begin."""
        columns, starts = unpack_tables(self.words, len(self.stored), True, layout.event_columns)
        if not layout.texts:
            return StoredEvents(columns), starts
        tables = [(block or NOTHING, HEAD + _word(block or NOTHING, HEAD + 1)) for block in self.stored]
        blobs = [text_parts(block, at, len(layout.texts)) for block, at in tables]
        texts = [
            as_texts([parts[n] for parts in blobs], columns[layout.column(number)])
            for n, number in enumerate(layout.texts)
        ]
        return StoredEvents(columns, tuple(texts)), starts

    def tiles(self, layout: PageLayout, chosen: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Return the tiles of some of the blocks, and where those of each begin."""
        some = words_of([self.stored[n] for n in chosen.tolist()])
        return unpack_tables(some, len(chosen), False, layout.tile_columns)

    def tile_bytes(self, number: int) -> bytes:
        """Return the table of the tiles of a block."""
        block = self.stored[number] or NOTHING
        return block[8 * HEAD : 8 * (HEAD + _word(block, HEAD + 1))]


def text_parts(raw: Raw, events: int, columns: int) -> list[Raw]:
    """Return the bytes of each column of texts.

    Args:
        raw: Blocks.
        events: The word at which a table of events begins.
        columns: How many columns of texts there are.
    """
    parts: list[Raw] = []
    at = 8 * (events + _word(raw, events + 1))
    for _ in range(columns if _word(raw, events) else 0):
        size = int.from_bytes(raw[at : at + 8], "little")
        parts.append(raw[at + 8 : at + 8 + size])
        at += 8 + size + -size % 8
    return parts or list(repeat(b"", columns))


def make_blocks(
    events: StoredEvents,
    starts: Int64Array,
    tiles: Sequence[bytes],
    below: Int64Array,
    oldest_page: Int64Array,
    newest: Int64Array,
) -> list[bytes]:
    """Return blocks of events and tiles.

    Args:
        events: The events of all blocks.
        starts: Where those of each begin, and where the last ones end.
        tiles: The packed table of the tiles of each.
        below: Up to when its events lie in pages below it.
        oldest_page: The first of these.
        newest: The greatest event time of all of them.
    """
    tables = packed(events.columns, starts)
    texts = events.text_bytes(starts)
    sizes = [HEAD + (len(a) + len(b) + len(c)) // 8 for a, b, c in zip(tiles, tables, texts, strict=True)]
    heads = (
        np.stack([sizes, np.full(len(sizes), BLOCK_FORM), below, oldest_page, newest], axis=1).astype("<i8").tobytes()
    )
    cut = [heads[at : at + 8 * HEAD] for at in range(0, len(heads), 8 * HEAD)]
    return list(map(b"".join, zip(cut, tiles, tables, texts, strict=True)))


def packed(columns: Int64Array, starts: Int64Array) -> list[bytes]:
    """Return tables, each as the bytes of its words."""
    words, offsets = pack_tables(np.ascontiguousarray(columns), starts)
    raw, edges = words.tobytes(), (8 * offsets).tolist()
    return [raw[begin:end] for begin, end in pairwise(edges)]


def _word(block: Raw, number: int) -> int:
    return int.from_bytes(block[8 * number : 8 * number + 8], "little")
