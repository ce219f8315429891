"""Compiled loops of writing stored events: versions of one event are merged, and tables are packed into words."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.compiling import compiled
from featurestore.types import INT64_MIN

Int64Array = npt.NDArray[np.int64]
UInt64Array = npt.NDArray[np.uint64]
# The columns of stored events that every view has, in their order; keys only where an event key is declared.
EVENT, LAG, NO_CREATED, SEQ, KEY_HIGH, KEY_LOW = range(6)


@compiled
def pack_tables(columns: Int64Array, starts: Int64Array) -> tuple[UInt64Array, Int64Array]:
    """Return tables as words, one after the other, and where each begins.

    Args:
        columns: int64[columns, rows].
        starts: Where the rows of each table begin, and where the last one ends.
    """
    tables, blocks = len(starts) - 1, (len(columns) + 63) >> 6
    low, width = np.zeros((tables, len(columns)), np.int64), np.zeros((tables, len(columns)), np.int64)
    offsets = np.zeros(tables + 1, np.int64)
    for table in range(tables):
        rows, size = starts[table + 1] - starts[table], 2
        if rows:
            size += blocks
            for column in range(len(columns)):
                low[table, column], width[table, column] = _range(columns[column], starts[table], starts[table + 1])
                if low[table, column] or width[table, column]:
                    size += 2 + ((rows * width[table, column] + 63) >> 6)
        offsets[table + 1] = offsets[table] + size
    words = np.zeros(offsets[tables], np.uint64)
    for table in range(tables):
        at, rows = offsets[table], starts[table + 1] - starts[table]
        words[at], words[at + 1] = rows, offsets[table + 1] - at
        if rows:
            _pack(columns, starts[table], rows, low[table], width[table], words, at, blocks)
    return words, offsets


@compiled
def _range(column: Int64Array, start: int, stop: int) -> tuple[int, int]:
    """Return the smallest value, and how many bits the greatest has above it."""
    low = high = column[start]
    for row in range(start + 1, stop):
        low, high = min(low, column[row]), max(high, column[row])
    above, width = np.uint64(high) - np.uint64(low), 0
    while above:
        above >>= np.uint64(1)
        width += 1
    return low, width


@compiled
def _pack(
    columns: Int64Array,
    start: int,
    rows: int,
    low: Int64Array,
    width: Int64Array,
    words: UInt64Array,
    at: int,
    blocks: int,
) -> None:
    entry = at + 2 + blocks
    data = entry
    for column in range(len(columns)):
        if low[column] or width[column]:
            data += 2
    for column in range(len(columns)):
        if not (low[column] or width[column]):
            continue
        words[at + 2 + (column >> 6)] |= np.uint64(1) << np.uint64(column & 63)
        words[entry], words[entry + 1] = np.uint64(low[column]), np.uint64((data - at) << 8 | width[column])
        entry += 2
        bit = data << 6
        if width[column]:
            for row in range(start, start + rows):
                above = np.uint64(columns[column, row]) - np.uint64(low[column])
                word, shift = bit >> 6, bit & 63
                words[word] |= above << np.uint64(shift)
                if shift + width[column] > 64:
                    words[word + 1] |= above >> np.uint64(64 - shift)
                bit += width[column]
        data += (rows * width[column] + 63) >> 6


@compiled
def merge_events(
    old: Int64Array, old_starts: Int64Array, new: Int64Array, new_starts: Int64Array, keyed: bool, oldest: int
) -> tuple[Int64Array, Int64Array]:
    """Merge sorted events with others; of the versions of one event the greatest (created, seq) stays.

    Args:
        old: int64[columns, rows]: EVENT, LAG, NO_CREATED, SEQ and, if keyed, KEY_HIGH and KEY_LOW, then others.
        old_starts: Where the rows of each block begin, which are sorted by (event, created, seq), and where the last one ends.
        new: Others, likewise.
        new_starts: Likewise.
        keyed: Whether equal event keys at one instant are versions of one event.
        oldest: Events up to this instant are left out; microseconds.

    Returns:
        The rows that stay: their places in `old`, or ~place in `new`; and where those of each block begin.
    """
    blocks = len(old_starts) - 1
    source, starts = np.empty(old.shape[1] + new.shape[1], np.int64), np.zeros(blocks + 1, np.int64)
    count = 0
    for block in range(blocks):
        i, j, begin = old_starts[block], new_starts[block], count
        while i < old_starts[block + 1] or j < new_starts[block + 1]:
            if j == new_starts[block + 1] or (i < old_starts[block + 1] and not _is_before(new, j, old, i)):
                place, event, seq = i, old[EVENT, i], old[SEQ, i]
                i += 1
            else:
                place, event, seq = ~j, new[EVENT, j], new[SEQ, j]
                j += 1
            if event > oldest and not (count > begin and _seq(old, new, source[count - 1]) == seq):
                source[count] = place
                count += 1
        if keyed:
            count = _drop_versions(old, new, source, begin, count)
        starts[block + 1] = count
    return source[:count], starts


@compiled
def _is_before(left: Int64Array, i: int, right: Int64Array, j: int) -> Any:
    """Compare by (event, created, seq); a null created sorts lowest."""
    if left[EVENT, i] != right[EVENT, j]:
        return left[EVENT, i] < right[EVENT, j]
    a = INT64_MIN if left[NO_CREATED, i] else left[EVENT, i] + left[LAG, i]
    b = INT64_MIN if right[NO_CREATED, j] else right[EVENT, j] + right[LAG, j]
    if a != b:
        return a < b
    return left[SEQ, i] < right[SEQ, j]


@compiled
def _seq(old: Int64Array, new: Int64Array, place: int) -> Any:
    return old[SEQ, place] if place >= 0 else new[SEQ, ~place]


@compiled
def _key(old: Int64Array, new: Int64Array, place: int) -> tuple[int, int]:
    if place >= 0:
        return old[KEY_HIGH, place], old[KEY_LOW, place]
    return new[KEY_HIGH, ~place], new[KEY_LOW, ~place]


@compiled
def _event(old: Int64Array, new: Int64Array, place: int) -> Any:
    return old[EVENT, place] if place >= 0 else new[EVENT, ~place]


@compiled
def _drop_versions(old: Int64Array, new: Int64Array, source: Int64Array, begin: int, end: int) -> int:
    """Leave out what a later row of the same instant has the key of; return where the rows end then."""
    kept, start = begin, begin
    while start < end:
        stop = start + 1
        while stop < end and _event(old, new, source[stop]) == _event(old, new, source[start]):
            stop += 1
        if stop - start > 1:
            _mark_versions(old, new, source, start, stop)
        for row in range(start, stop):
            if source[row] != INT64_MIN:
                source[kept] = source[row]
                kept += 1
        start = stop
    return kept


@compiled
def _mark_versions(old: Int64Array, new: Int64Array, source: Int64Array, start: int, stop: int) -> None:
    """Mark the rows of one instant that have the key of a later one, by a table of keys seen."""
    size = 4
    while size < 2 * (stop - start):
        size <<= 1
    table = np.full(size, -1, np.int64)
    for row in range(stop - 1, start - 1, -1):
        high, low = _key(old, new, source[row])
        slot = (high * 31 + low ^ (low >> 17)) & (size - 1)
        while table[slot] >= 0:
            if _key(old, new, source[table[slot]]) == (high, low):
                source[row] = INT64_MIN
                break
            slot = (slot + 1) & (size - 1)
        else:
            table[slot] = row
