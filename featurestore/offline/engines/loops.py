"""The loops of the bucket kernel, compiled: rows by bucket, entities in sorted rows, the greatest visible row, values by position.

All times are int64 microseconds. Rows of one entity stand together, in order of (event, created, seq), so that the greater row is the
one with the greater number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.compiling import compiled
from featurestore.types import INT64_MIN

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
BitArray = npt.NDArray[np.uint8]


@compiled
def order_by_bucket(bucket: Int64Array, rows: Int64Array, starts: Int64Array) -> Int64Array:
    """Return the rows in order of their buckets, a counting sort; `starts` (buckets + 1, zeros) gets where each bucket begins."""
    for position in range(len(bucket)):
        starts[bucket[position] + 1] += 1
    for number in range(1, len(starts)):
        starts[number] += starts[number - 1]
    free, order = starts[:-1].copy(), np.empty(len(rows), np.int64)
    for position in range(len(bucket)):
        order[free[bucket[position]]] = rows[position]
        free[bucket[position]] += 1
    return order


@compiled
def mark_starts(column: Int64Array, starts: BoolArray) -> None:
    """Mark the rows whose value differs from the row before."""
    for row in range(1, len(column)):
        starts[row] |= column[row] != column[row - 1]


@compiled
def is_rising(table: Int64Array) -> bool:
    """Say whether the columns of int64[keys, entities] are in order, the first key first."""
    for entity in range(1, table.shape[1]):  # noqa: SIM110 - compiled, where a generator would not be
        if _compare(table, entity - 1, table, entity) > 0:
            return False
    return True


@compiled
def find_entities(table: Int64Array, wanted: Int64Array, known: BoolArray) -> Int64Array:
    """Return for each column of `wanted` (int64[keys, reads]) its place in the sorted `table` (int64[keys, entities]), or -1."""
    found = np.full(wanted.shape[1], -1, np.int64)
    for read in range(wanted.shape[1]):
        low, high = 0, table.shape[1]
        while known[read] and low < high:
            middle = (low + high) >> 1
            if _compare(table, middle, wanted, read) < 0:
                low = middle + 1
            else:
                high = middle
        if known[read] and low < table.shape[1] and _compare(table, low, wanted, read) == 0:
            found[read] = low
    return found


@compiled
def _compare(left: Int64Array, i: int, right: Int64Array, j: int) -> int:
    for key in range(left.shape[0]):
        if left[key, i] != right[key, j]:
            return -1 if left[key, i] < right[key, j] else 1
    return 0


@compiled
def drop_after(
    starts: Int64Array, event: Int64Array, seq: Int64Array, position: int, since: Int64Array, row: Int64Array
) -> Int64Array:
    """Keep the rows with a seq up to `position`, moved to the front of their entity; return where each entity stops."""
    stops = np.empty(len(starts) - 1, np.int64)
    for entity in range(len(starts) - 1):
        free = starts[entity]
        for candidate in range(starts[entity], starts[entity + 1]):
            if seq[candidate] <= position:
                since[free], row[free] = event[candidate], candidate
                free += 1
        stops[entity] = free
    return stops


@compiled
def order_by_known(starts: Int64Array, asked: BoolArray, known: Int64Array, row: Int64Array) -> BoolArray:
    """Put the times from which rows are known in rising order, for each entity that is asked for.

    Returns:
        The entities where that moved any, since one of their rows was late; there `row` gets the greatest row known by each time.
    """
    moved = np.zeros(len(asked), np.bool_)
    for entity in range(len(asked)):
        start, stop = starts[entity], starts[entity + 1]
        for candidate in range(start + 1 if asked[entity] else stop, stop):
            if known[candidate] < known[candidate - 1]:
                moved[entity] = True
                break
        if moved[entity]:
            _merge_late(known[start:stop], row[start:stop], start)
    return moved


@compiled
def _merge_late(known: Int64Array, row: Int64Array, start: int) -> None:
    """Sort the times by moving the late ones, mostly few, behind what was known before them; `row` gets the greatest so far."""
    times, is_late = known.copy(), np.zeros(len(known), np.bool_)
    least = times[-1]
    for place in range(len(times) - 2, -1, -1):
        is_late[place] = times[place] > least
        least = min(least, times[place])
    late = np.flatnonzero(is_late)
    late = late[np.argsort(times[late], kind="mergesort")]
    prompt, next_late, greatest = 0, 0, start
    for place in range(len(times)):
        while prompt < len(times) and is_late[prompt]:
            prompt += 1
        chosen = prompt
        if prompt == len(times) or (next_late < len(late) and times[late[next_late]] < times[prompt]):
            chosen = late[next_late]
            next_late += 1
        else:
            prompt += 1
        greatest = max(greatest, start + chosen)
        known[place], row[place] = times[chosen], greatest


@compiled
def find_rows(
    entity: Int64Array,
    at: Int64Array,
    starts: Int64Array,
    stops: Int64Array,
    since: Int64Array,
    moved: BoolArray,
    row: Int64Array,
) -> Int64Array:
    """Return for each read the greatest row of its entity that counts at its time, or -1.

    Rows start to count at `since`, which rises within an entity. Of the entities that are `moved`, `row` says the greatest row that
    counts by then; of others it is the row in the same place. An empty `moved` is none.
    """
    found = np.full(len(entity), -1, np.int64)
    for read in range(len(entity)):
        if entity[read] < 0:
            continue
        start = starts[entity[read]]
        place = _last_until(since, start, stops[entity[read]], at[read])
        if place >= start:
            found[read] = row[place] if len(moved) and moved[entity[read]] else place
    return found


@compiled
def _last_until(times: Int64Array, start: int, stop: int, time: int) -> int:
    """Return the last index in [start, stop) with a time up to the given one, or start - 1."""
    while start < stop:
        middle = (start + stop) >> 1
        if times[middle] <= time:
            start = middle + 1
        else:
            stop = middle
    return start - 1


@compiled
def select_rows(
    entity: Int64Array, starts: Int64Array, event: Int64Array, first: Int64Array, last: Int64Array
) -> Int64Array:
    """Return int64[2, n]: (owner, row) of the rows with an event time from `first` to `last`, each owner's own, both included.

    `entity` holds the place of each owner among the sorted rows, or -1.
    """
    begins, ends = np.zeros(len(entity), np.int64), np.zeros(len(entity), np.int64)
    total = 0
    for owner in range(len(entity)):
        if entity[owner] < 0:
            continue
        start, stop = starts[entity[owner]], starts[entity[owner] + 1]
        if first[owner] > INT64_MIN:
            begins[owner] = _last_until(event, start, stop, first[owner] - 1) + 1
        else:
            begins[owner] = start
        ends[owner] = max(begins[owner], _last_until(event, start, stop, last[owner]) + 1)
        total += ends[owner] - begins[owner]
    selected = np.empty((2, total), np.int64)
    free = 0
    for owner in range(len(entity)):
        for row in range(begins[owner], ends[owner]):
            selected[0, free], selected[1, free] = owner, row
            free += 1
    return selected


@compiled
def scatter(values: Any, rows: Int64Array, targets: Int64Array, out: Any) -> None:
    """Write the values of these rows to their places."""
    for position in range(len(rows)):
        out[targets[position]] = values[rows[position]]


@compiled
def scatter_codes(
    codes: npt.NDArray[np.int32],
    meant: npt.NDArray[np.int32],
    rows: Int64Array,
    targets: Int64Array,
    out: npt.NDArray[np.int32],
) -> None:
    """Write what the codes of these rows mean to their places; at a null, any code."""
    for position in range(len(rows)):
        code = codes[rows[position]]
        if 0 <= code < len(meant):
            out[targets[position]] = meant[code]


@compiled
def scatter_wide(values: Any, rows: Int64Array, targets: Int64Array, out: Any) -> None:
    """Write the values of these rows, of several words each, to their places."""
    for position in range(len(rows)):
        for word in range(values.shape[1]):
            out[targets[position], word] = values[rows[position], word]


@compiled
def scatter_nulls(bits: BitArray, offset: int, rows: Int64Array, targets: Int64Array, nulls: BoolArray) -> None:
    """Mark the places whose row is null, by the validity bits of an Arrow array."""
    for position in range(len(rows)):
        bit = rows[position] + offset
        if not (bits[bit >> 3] >> (bit & 7)) & 1:
            nulls[targets[position]] = True
