"""The compiled loops of the fold, in one module: Numba's cache watches the file of the function that is called, and no other.

The reads of an entity are taken in order of time. Its events arrive, leave and are replaced one by one, and every aggregate is kept up
with them, so that a read costs what changed since the read before, not what its window holds. That is exact because nothing is rounded
before it is asked for: what was added to a sum can be taken out of it again to the last bit.

First it is planned which event arrives or is replaced at which read, and where each window begins; then each aggregate goes through
that plan in a loop of its own, over as many entities at once as the processor's cache holds. Small arrays in long loops are what makes
it fast: a call with many arrays costs more than an event.

* Sums are fixed-point numbers over the whole range of doubles, in 32-bit digits with room for carries, after Kulisch and Miranker,
  "Computer Arithmetic in Theory and Practice" (1981).
* Minima and maxima are segment trees over the entity's events, which hold those that count now; one tree serves every window.
* Distinct values are counted in a hash table with open addressing, one count for each window.

The events of a plan are numbered one segment after the other, each from the first event that its reads can reach: that number is a place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt
from numba import njit

from featurestore.compiling import compiled
from featurestore.types import INT64_MAX, INT64_MIN

Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

# Digit 0 has the weight 2^-1088: below the last bit of the smallest double, and aligned so that integers start at a digit.
DIGIT_BITS, FRACTION_DIGITS, DIGITS = 32, 34, 68
_DIGIT_MASK = (1 << DIGIT_BITS) - 1
_FRACTION_BITS = DIGIT_BITS * FRACTION_DIGITS
_LOWEST, _HIGHEST, _NANS, _POSITIVE, _NEGATIVE = range(5)  # what is known of a sum

# An entity that has more is folded alone.
PLACES_AT_ONCE = 1 << 15
NEVER = INT64_MAX

NAN_IMAGE = 0x7FF8000000000000
_INFINITY_IMAGE = 0x7FF0000000000000
_MAGNITUDE = 0x7FFFFFFFFFFFFFFF

Function = TypeVar("Function", bound=Callable[..., Any])


def _inlined(function: Function) -> Function:
    """Compile what a loop calls for each event into the loop: an array handed over costs more than such a call does."""
    return cast(Function, njit(cache=True, nogil=True, inline="always")(function))


class Index(NamedTuple):
    """The part of Events that says which of them count."""

    starts: Int64Array
    event: Int64Array
    created: Int64Array
    seq: Int64Array
    known_from: Int64Array
    identity: Int64Array


class Reads(NamedTuple):
    """The reads: whose window ends when, and what they may see."""

    entity: Int64Array
    at: Int64Array
    known_at: Int64Array
    position: Int64Array


class Values(NamedTuple):
    """The values of one column, and for each filter the events that pass it.

    Attributes:
        image: int64; a double by its bits, without -0.0 and with one NaN only.
        floats: Whether the images are those of doubles.
        valid: False at a null.
        passes: bool[filters, events].
    """

    image: Int64Array
    floats: bool
    valid: BoolArray
    passes: BoolArray


class Panes(NamedTuple):
    """What is asked of a column: each pane is a window and a filter, and says what has to be computed for them.

    Attributes:
        window: Microseconds.
        filter: Row of Values.passes.
        total: Sum and mean.
        spread: Standard deviation.
        extremes: Minimum and maximum.
        distinct: Number of distinct values.
        oldest: How many of the first events are wanted.
        newest: How many of the last events.
    """

    window: Int64Array
    filter: Int64Array
    total: BoolArray
    spread: BoolArray
    extremes: BoolArray
    distinct: BoolArray
    oldest: Int64Array
    newest: Int64Array


class Answers(NamedTuple):
    """What was computed: (panes, reads), or (panes, reads, n) for the events at an end; empty where no pane asked.

    Attributes:
        counted: Values that are not null.
        total: Sum of doubles, or of integers rounded once.
        whole: Sum of integers.
        overflow: Whether that does not fit int64.
        spread: Standard deviation.
        smallest: Image of the minimum.
        greatest: Image of the maximum.
        distinct: Number of distinct values.
        oldest: Rows of the first events, -1 behind the last of them.
        newest: Rows of the last events, the newest first.
    """

    counted: Int64Array
    total: Float64Array
    whole: Int64Array
    overflow: BoolArray
    spread: Float64Array
    smallest: Int64Array
    greatest: Int64Array
    distinct: Int64Array
    oldest: Int64Array
    newest: Int64Array


class _Plan(NamedTuple):
    """The reads that are folded together: segment after segment, each the reads of one entity in order of time.

    Attributes:
        first_read: For each segment, the number of its first read; one more for the end.
        first_place: Likewise of its first place.
        origin: For each segment, what is added to a place to give the row of its event.
        changes: The places in the order in which their events arrive; ~place for one that a newer version replaces.
        upto: For each read, the number of changes up to it; read -1 is the last element, 0.
        arrived: For each place, the read from which its event is visible and the winner among its versions, or NEVER.
        replaced: The read from which it is not any more, or NEVER.
        left: For each pane and read, the first place inside the window.
        right: For each read, the place after the last one that has arrived.
        waiting: Places in the order in which their events become visible.
        visible_from: When each of them does.
    """

    first_read: Int64Array
    first_place: Int64Array
    origin: Int64Array
    changes: Int64Array
    upto: Int64Array
    arrived: Int64Array
    replaced: Int64Array
    left: Int64Array
    right: Int64Array
    waiting: Int64Array
    visible_from: Int64Array


class _Scratch(NamedTuple):
    """Room for the loops.

    Attributes:
        moves: Places that enter a window at a read, ~place for those that leave it.
        digits: A sum.
        span: Of that sum the first digit that is not 0 and the last one with room for a carry, and how many NaN, infinities and
            minus infinities it has.
        rounding: The same, being rounded.
        smallest: A tree of minima over the places of a segment.
        greatest: A tree of maxima.
        slot: For each place, the first place of its segment with the same value.
        held: For each slot, how many events of a window have that value.
        table: A hash table: place or -1.
    """

    moves: Int64Array
    digits: Int64Array
    span: Int64Array
    rounding: Int64Array
    smallest: Int64Array
    greatest: Int64Array
    slot: Int64Array
    held: Int64Array
    table: Int64Array


# --- what is called -------------------------------------------------------------------------------------------------------------------


@compiled
def sort_reads(entity_starts: Int64Array, reads: Reads) -> Int64Array:
    """Return the reads of known entities by entity and time."""
    entities = len(entity_starts) - 1
    starts = np.zeros(entities + 1, np.int64)
    for read in range(len(reads.at)):
        if reads.entity[read] >= 0:
            starts[reads.entity[read] + 1] += 1
    for entity in range(entities):
        starts[entity + 1] += starts[entity]
    order, filled = np.empty(starts[entities], np.int64), starts.copy()
    for read in range(len(reads.at)):
        entity = reads.entity[read]
        if entity >= 0:
            order[filled[entity]] = read
            filled[entity] += 1
    times = reads.at[order]
    for entity in range(entities):
        _sort_by_time(order, times, starts[entity], starts[entity + 1])
    return order


@compiled
def fold_column(
    index: Index, reads: Reads, order: Int64Array, start: int, stop: int, values: Values, panes: Panes, out: Answers
) -> None:
    """Answer the reads `order[start:stop]` for one column."""
    places = max(PLACES_AT_ONCE, _most_events(index, reads, order, start, stop))
    plan = _new_plan(stop - start, places, len(panes.window))
    scratch = _new_scratch(places, panes)
    while start < stop:
        segments = _cut_segments(index, reads, order, start, stop, places, panes, plan)
        some = order[start : start + plan.first_read[segments]]
        _plan_changes(index, reads, some, segments, panes, plan)
        _fold_plan(index, values, panes, plan, segments, some, out, scratch)
        start += len(some)


@compiled
def find_events(index: Index, reads: Reads, window: int, found: BoolArray) -> None:
    """Say for each read whether its window holds a visible event."""
    for read in range(len(reads.at)):
        entity = reads.entity[read]
        if entity < 0:
            continue
        stop = _first_after(index.event, index.starts[entity], index.starts[entity + 1], reads.at[read])
        start = _left_edge(index.event, index.starts[entity], stop, reads.at[read], window)
        for event in range(stop - 1, start - 1, -1):
            if index.known_from[event] <= reads.known_at[read] and index.seq[event] <= reads.position[read]:
                found[read] = True
                break


# --- the plan -------------------------------------------------------------------------------------------------------------------------


@compiled
def _most_events(index: Index, reads: Reads, order: Int64Array, start: int, stop: int) -> int:
    """Return the number of events of the entity that has most of those read."""
    most = 0
    for k in range(start, stop):
        entity = reads.entity[order[k]]
        most = max(most, index.starts[entity + 1] - index.starts[entity])
    return most


@compiled
def _new_plan(reads: int, places: int, panes: int) -> _Plan:
    return _Plan(
        np.zeros(reads + 1, np.int64),
        np.zeros(reads + 1, np.int64),
        np.empty(reads, np.int64),
        np.empty(2 * places, np.int64),
        np.zeros(reads + 1, np.int64),
        np.empty(places, np.int64),
        np.empty(places, np.int64),
        np.empty((panes, reads), np.int64),
        np.empty(reads, np.int64),
        np.empty(places, np.int64),
        np.empty(places, np.int64),
    )


@compiled
def _new_scratch(places: int, panes: Panes) -> _Scratch:
    leaves = 2 * places if panes.extremes.any() else 0
    slots = places if panes.distinct.any() else 0
    return _Scratch(
        np.empty(3 * places, np.int64),
        np.zeros(DIGITS, np.int64),
        np.array([DIGITS, -1, 0, 0, 0]),
        np.zeros(DIGITS, np.int64),
        np.empty(leaves, np.int64),
        np.empty(leaves, np.int64),
        np.empty(slots, np.int64),
        np.empty(slots, np.int64),
        np.empty(_table_size(slots), np.int64),
    )


@compiled
def _cut_segments(
    index: Index,
    reads: Reads,
    order: Int64Array,
    start: int,
    stop: int,
    places: int,
    panes: Panes,
    plan: _Plan,
) -> int:
    """Cut off as many segments as fit; return how many."""
    segments, begun, widest = 0, start, panes.window.max()
    while start < stop:
        end = _segment_end(reads, order, start, stop)
        entity = reads.entity[order[start]]
        last = _first_after(index.event, index.starts[entity], index.starts[entity + 1], reads.at[order[end - 1]])
        first = _left_edge(index.event, index.starts[entity], last, reads.at[order[start]], widest)
        place = plan.first_place[segments]
        if segments and place + last - first > places:
            break
        plan.origin[segments] = first - place
        segments += 1
        plan.first_place[segments] = place + last - first
        plan.first_read[segments] = end - begun
        start = end
    return segments


@compiled
def _segment_end(reads: Reads, order: Int64Array, start: int, stop: int) -> int:
    """Return the end of the reads of one entity between which events only arrive; a read that knows less than that stands alone."""
    first = order[start]
    all_known = reads.known_at[first] == INT64_MAX
    end = start + 1
    if not all_known and reads.known_at[first] != reads.at[first]:
        return end
    while end < stop:
        read = order[end]
        if reads.entity[read] != reads.entity[first] or reads.position[read] != reads.position[first]:
            break
        if reads.known_at[read] != (INT64_MAX if all_known else reads.at[read]):
            break
        end += 1
    return end


@compiled
def _plan_changes(index: Index, reads: Reads, some: Int64Array, segments: int, panes: Panes, plan: _Plan) -> None:
    """Plan which events arrive and are replaced at each read, and where its windows begin."""
    changes = 0
    for segment in range(segments):
        begin, end = plan.first_place[segment], plan.first_place[segment + 1]
        origin = plan.origin[segment]
        plan.arrived[begin:end] = NEVER
        plan.replaced[begin:end] = NEVER
        first, stop = plan.first_read[segment], plan.first_read[segment + 1]
        waiting = _line_up(index, reads, some, segment, plan)
        taken, right = 0, begin
        for number in range(first, stop):
            at = reads.at[some[number]]
            while taken < waiting and plan.visible_from[taken] <= at:
                place = plan.waiting[taken]
                changes = _plan_arrival(index.identity, origin, begin, end, place, number, changes, plan)
                right = max(right, place + 1)
                taken += 1
            plan.upto[number], plan.right[number] = changes, right
        for pane in range(len(panes.window)):
            left = begin
            for number in range(first, stop):
                at = reads.at[some[number]]
                left = _left_edge(index.event, origin + left, origin + end, at, panes.window[pane]) - origin
                plan.left[pane, number] = left
    plan.upto[-1] = 0


@compiled
def _line_up(index: Index, reads: Reads, some: Int64Array, segment: int, plan: _Plan) -> int:
    """Write the places in the order in which their events become visible to the segment's reads; return how many."""
    first = some[plan.first_read[segment]]
    alone = plan.first_read[segment + 1] - plan.first_read[segment] == 1
    as_known = not alone and reads.known_at[first] != INT64_MAX
    count, in_order = 0, True
    for place in range(plan.first_place[segment], plan.first_place[segment + 1]):
        event = place + plan.origin[segment]
        if index.seq[event] > reads.position[first] or (alone and index.known_from[event] > reads.known_at[first]):
            continue
        visible_from = index.event[event]
        if as_known:
            visible_from = max(visible_from, index.known_from[event])
        if count and plan.visible_from[count - 1] > visible_from:
            in_order = False
        plan.waiting[count], plan.visible_from[count] = place, visible_from
        count += 1
    if not in_order:
        _sort_by_time(plan.waiting, plan.visible_from, 0, count)
    return count


@compiled
def _plan_arrival(
    identity: Int64Array, origin: int, begin: int, end: int, place: int, read: int, changes: int, plan: _Plan
) -> int:
    """Plan that an event arrives, in place of an older version of it, unless a newer one is there; return the number of changes."""
    own = identity[origin + place]
    other = place + 1
    while other < end and identity[origin + other] == own:
        if plan.arrived[other] != NEVER:
            return changes
        other += 1
    other = place - 1
    while other >= begin and identity[origin + other] == own:
        if plan.arrived[other] != NEVER and plan.replaced[other] == NEVER:
            plan.replaced[other] = read
            plan.changes[changes] = ~other
            changes += 1
        other -= 1
    plan.arrived[place] = read
    plan.changes[changes] = place
    return changes + 1


@compiled
def _sort_by_time(items: Int64Array, times: Int64Array, start: int, stop: int) -> None:
    """Sort a stretch of items by their times: what comes nearly in order by insertion, until that has moved too much."""
    moved = 0
    for k in range(start + 1, stop):
        item, time = items[k], times[k]
        gap = k
        while gap > start and times[gap - 1] > time:
            items[gap], times[gap] = items[gap - 1], times[gap - 1]
            gap -= 1
        items[gap], times[gap] = item, time
        moved += k - gap
        if moved > 16 * (stop - start):
            order = np.argsort(times[start:stop], kind="mergesort")
            items[start:stop] = items[start:stop][order]
            times[start:stop] = times[start:stop][order]
            return


@compiled
def _first_after(times: Int64Array, start: int, stop: int, time: int) -> int:
    """Return the first index in [start, stop) with a time after the given one, or stop."""
    while start < stop:
        middle = (start + stop) >> 1
        if times[middle] <= time:
            start = middle + 1
        else:
            stop = middle
    return start


@compiled
def _left_edge(times: Int64Array, start: int, stop: int, at: int, window: int) -> int:
    """Return the first index in [start, stop) inside the window that ends at `at`, or stop."""
    if at < INT64_MIN + window:  # the window reaches back beyond time itself
        return start
    return _first_after(times, start, stop, at - window)


# --- the aggregates, each in a loop over the plan -----------------------------------------------------------------------------------------


@compiled
def _fold_plan(
    index: Index,
    values: Values,
    panes: Panes,
    plan: _Plan,
    segments: int,
    some: Int64Array,
    out: Answers,
    scratch: _Scratch,
) -> None:
    if panes.distinct.any():
        _number_values(values.image, plan, segments, scratch)
    if panes.extremes.any():
        for row in range(len(values.passes)):
            _fold_extremes(values, row, panes, plan, segments, some, out, scratch)
    for pane in range(len(panes.window)):
        _fold_counts(values, panes, pane, plan, segments, some, out, scratch)
        if panes.spread[pane]:
            _fold_spread(values, panes, pane, plan, segments, some, out, scratch)
        passes = values.passes[panes.filter[pane]]
        if panes.newest[pane]:
            _fold_ends(index, passes, True, panes.newest[pane], pane, plan, segments, some, out.newest, scratch)
        if panes.oldest[pane]:
            _fold_ends(index, passes, False, panes.oldest[pane], pane, plan, segments, some, out.oldest, scratch)


@compiled
def _fold_counts(  # noqa: C901 - one loop, as a call for each event and pane would cost more than the event
    values: Values,
    panes: Panes,
    pane: int,
    plan: _Plan,
    segments: int,
    some: Int64Array,
    out: Answers,
    scratch: _Scratch,
) -> None:
    """Count, sum, and count distinct values."""
    image, floats, valid, passes = values.image, values.floats, values.valid, values.passes[panes.filter[pane]]
    total, distinct, extremes = panes.total[pane], panes.distinct[pane], panes.extremes[pane]
    digits, span, moves, held = scratch.digits, scratch.span, scratch.moves, scratch.held
    lefts, rights, changes, upto = plan.left[pane], plan.right, plan.changes, plan.upto
    for segment in range(segments):
        origin = plan.origin[segment]
        left = right = plan.first_place[segment]
        if distinct:
            held[left : plan.first_place[segment + 1]] = 0
        _clear(digits, span)
        counted = different = 0
        for number in range(plan.first_read[segment], plan.first_read[segment + 1]):
            if lefts[number] >= right and not distinct:  # nothing of the last read's window stays
                _clear(digits, span)
                counted, left = 0, right
            count = _leave(plan.arrived, plan.replaced, number, left, min(lefts[number], right), moves)
            count = _enter(changes, upto[number - 1], upto[number], lefts[number], count, moves)
            left, right = lefts[number], rights[number]
            for k in range(count):
                place, sign = (moves[k], 1) if moves[k] >= 0 else (~moves[k], -1)
                if not (valid[origin + place] and passes[origin + place]):
                    continue
                counted += sign
                if total or (extremes and floats):
                    _add(digits, span, image[origin + place], sign, floats)
                if distinct:
                    different += _hold(held, scratch.slot[place], sign)
            read = some[number]
            out.counted[pane, read] = counted
            if distinct:
                out.distinct[pane, read] = different
            if extremes and span[_NANS]:
                out.smallest[pane, read] = out.greatest[pane, read] = NAN_IMAGE
            if total and counted:
                out.total[pane, read] = _sum(digits, span, scratch.rounding)
                if not floats:
                    out.whole[pane, read], out.overflow[pane, read] = _whole(digits)
    _clear(digits, span)


@_inlined
def _leave(arrived: Int64Array, replaced: Int64Array, number: int, start: int, stop: int, moves: Int64Array) -> int:
    """Write the places from `start` to `stop` that counted at the read before as leaving; return how many."""
    count = 0
    for place in range(start, stop):
        if arrived[place] < number <= replaced[place]:
            moves[count] = ~place
            count += 1
    return count


@_inlined
def _enter(changes: Int64Array, start: int, stop: int, left: int, count: int, moves: Int64Array) -> int:
    """Write the changes inside a window behind the first `count` moves; return how many there are then."""
    for k in range(start, stop):
        place = changes[k]
        if (place if place >= 0 else ~place) >= left:
            moves[count] = place
            count += 1
    return count


@_inlined
def _hold(held: Int64Array, slot: int, sign: int) -> int:
    """Add an event to those that have a value, or take one away; return by how many the number of values rises."""
    before = held[slot]
    held[slot] = before + sign
    return sign if before == 0 or before + sign == 0 else 0


@compiled
def _fold_spread(
    values: Values,
    panes: Panes,
    pane: int,
    plan: _Plan,
    segments: int,
    some: Int64Array,
    out: Answers,
    scratch: _Scratch,
) -> None:
    """Standard deviations; as each window has a mean of its own, each read goes through all of its window."""
    image, floats, valid, passes = values.image, values.floats, values.valid, values.passes[panes.filter[pane]]
    digits, span, arrived, replaced = scratch.digits, scratch.span, plan.arrived, plan.replaced
    for segment in range(segments):
        origin = plan.origin[segment]
        for number in range(plan.first_read[segment], plan.first_read[segment + 1]):
            counted = out.counted[pane, some[number]]
            if counted < 2:
                continue
            mean = out.total[pane, some[number]] / counted + 0.0
            _clear(digits, span)
            for place in range(plan.left[pane, number], plan.right[number]):
                event = origin + place
                if arrived[place] <= number < replaced[place] and valid[event] and passes[event]:
                    distance = (_double(image[event]) if floats else float(image[event])) - mean
                    _add(digits, span, _image(distance * distance), 1, True)
            out.spread[pane, some[number]] = math.sqrt(_sum(digits, span, scratch.rounding) / (counted - 1))
    _clear(digits, span)


# --- first and last events ------------------------------------------------------------------------------------------------------------


@compiled
def _fold_ends(
    index: Index,
    passes: BoolArray,
    newest: bool,
    most: int,
    pane: int,
    plan: _Plan,
    segments: int,
    some: Int64Array,
    found: Int64Array,
    scratch: _Scratch,
) -> None:
    """Find the events at one end by (event time, created, seq); the order of places is that of event times alone."""
    times, tie = index.event, scratch.moves
    for segment in range(segments):
        origin = plan.origin[segment]
        for number in range(plan.first_read[segment], plan.first_read[segment + 1]):
            left, right, taken = plan.left[pane, number], plan.right[number], 0
            while taken < most and left < right:
                place = right - 1 if newest else left
                time, size = times[origin + place], 0
                while left <= place < right and times[origin + place] == time:
                    if plan.arrived[place] <= number < plan.replaced[place] and passes[origin + place]:
                        tie[size] = origin + place
                        size += 1
                    place += -1 if newest else 1
                if newest:
                    right = place + 1
                else:
                    left = place
                for k in range(min(size, most - taken)):
                    _pull_next(index, tie, k, size, newest)
                    found[pane, some[number], taken] = tie[k]
                    taken += 1


@compiled
def _pull_next(index: Index, tie: Int64Array, start: int, stop: int, newest: bool) -> None:
    """Bring the row to the front that was accepted last of those from `start` on, or first."""
    for k in range(start + 1, stop):
        if _was_accepted_before(index, tie[k], tie[start]) != newest:
            tie[start], tie[k] = tie[k], tie[start]


@compiled
def _was_accepted_before(index: Index, left: int, right: int) -> bool:
    if index.created[left] != index.created[right]:
        return bool(index.created[left] < index.created[right])
    return bool(index.seq[left] < index.seq[right])


# --- minima and maxima: segment trees of n leaves at n .. 2n - 1, the parent of k at k // 2 -------------------------


@compiled
def _fold_extremes(
    values: Values,
    row: int,
    panes: Panes,
    plan: _Plan,
    segments: int,
    some: Int64Array,
    out: Answers,
    scratch: _Scratch,
) -> None:
    """Minima and maxima of every pane with one filter; `_fold_counts` says where a NaN takes their place."""
    image, floats, valid, passes = values.image, values.floats, values.valid, values.passes[row]
    smallest, greatest = scratch.smallest, scratch.greatest
    for segment in range(segments):
        begin, origin = plan.first_place[segment], plan.origin[segment]
        places = plan.first_place[segment + 1] - begin
        smallest[: 2 * places], greatest[: 2 * places] = INT64_MAX, INT64_MIN
        for number in range(plan.first_read[segment], plan.first_read[segment + 1]):
            for k in range(plan.upto[number - 1], plan.upto[number]):
                place = plan.changes[k]
                event = origin + (place if place >= 0 else ~place)
                if not (valid[event] and passes[event]) or (floats and image[event] == NAN_IMAGE):
                    continue
                if place >= 0:
                    _put_in_trees(smallest, greatest, places + place - begin, _ordered(image[event], floats))
                else:
                    _take_from_trees(smallest, greatest, places + ~place - begin)
            for pane in range(len(panes.window)):
                if panes.extremes[pane] and panes.filter[pane] == row:
                    left, right = plan.left[pane, number] - begin, plan.right[number] - begin
                    least, most = _extremes(smallest, greatest, places + left, places + right)
                    if least <= most:  # not where there is no value at all
                        out.smallest[pane, some[number]] = _ordered(least, floats)
                        out.greatest[pane, some[number]] = _ordered(most, floats)


@_inlined
def _ordered(image: Any, floats: bool) -> Any:
    """Return an image that sorts as its value does; applied twice it gives the image back."""
    return image ^ _MAGNITUDE if floats and image < 0 else image


@_inlined
def _put_in_trees(smallest: Int64Array, greatest: Int64Array, leaf: int, ordered: int) -> None:
    node = leaf
    while node and smallest[node] > ordered:
        smallest[node] = ordered
        node >>= 1
    node = leaf
    while node and greatest[node] < ordered:
        greatest[node] = ordered
        node >>= 1


@compiled
def _take_from_trees(smallest: Int64Array, greatest: Int64Array, leaf: int) -> None:
    smallest[leaf], greatest[leaf] = INT64_MAX, INT64_MIN
    node = leaf >> 1
    while node:
        smallest[node] = min(smallest[2 * node], smallest[2 * node + 1])
        greatest[node] = max(greatest[2 * node], greatest[2 * node + 1])
        node >>= 1


@_inlined
def _extremes(smallest: Int64Array, greatest: Int64Array, left: int, right: int) -> tuple[np.int64, np.int64]:
    least, most = np.int64(INT64_MAX), np.int64(INT64_MIN)
    while left < right:
        if left & 1:
            least, most = min(least, smallest[left]), max(most, greatest[left])
            left += 1
        if right & 1:
            right -= 1
            least, most = min(least, smallest[right]), max(most, greatest[right])
        left, right = left >> 1, right >> 1
    return least, most


# --- distinct values -----------------------------------------------------------------------------------------------------------------


@compiled
def _number_values(image: Int64Array, plan: _Plan, segments: int, scratch: _Scratch) -> None:
    """Give equal values of a segment one slot: the first place that has the value."""
    table, slot = scratch.table, scratch.slot
    for segment in range(segments):
        begin, end, origin = plan.first_place[segment], plan.first_place[segment + 1], plan.origin[segment]
        size = _table_size(end - begin)
        table[:size] = -1
        for place in range(begin, end):
            value = image[origin + place]
            probe = _hash(value) & (size - 1)
            while table[probe] >= 0 and image[origin + table[probe]] != value:
                probe = (probe + 1) & (size - 1)
            if table[probe] < 0:
                table[probe] = place
            slot[place] = table[probe]


@compiled
def _table_size(places: int) -> int:
    size = 1
    while size < 2 * places:
        size <<= 1
    return size


@compiled
def _hash(image: int) -> np.int64:
    """Spread the bits: the finalizer of MurmurHash3 (Austin Appleby, public domain)."""
    bits = np.uint64(image)
    bits ^= bits >> np.uint64(33)
    bits *= np.uint64(0xFF51AFD7ED558CCD)
    bits ^= bits >> np.uint64(33)
    bits *= np.uint64(0xC4CEB9FE1A85EC53)
    bits ^= bits >> np.uint64(33)
    return np.int64(bits >> np.uint64(1))


# --- exact sums ----------------------------------------------------------------------------------------------------------------------


@compiled
def _double(image: int) -> float:
    return float(np.int64(image).view(np.float64))


@compiled
def _image(value: float) -> int:
    return int(np.float64(value).view(np.int64))


@compiled
def _clear(digits: Int64Array, span: Int64Array) -> None:
    for digit in range(span[_LOWEST], span[_HIGHEST] + 1):
        digits[digit] = 0
    span[_LOWEST], span[_HIGHEST] = DIGITS, -1
    span[_NANS] = span[_POSITIVE] = span[_NEGATIVE] = 0


@_inlined
def _add(digits: Int64Array, span: Int64Array, image: int, sign: int, floats: bool) -> None:
    """Add a value exactly, or take it away (sign -1)."""
    if not floats:
        digits[FRACTION_DIGITS] += sign * (image & _DIGIT_MASK)
        digits[FRACTION_DIGITS + 1] += sign * (image >> DIGIT_BITS)
        span[_LOWEST], span[_HIGHEST] = FRACTION_DIGITS, FRACTION_DIGITS + 3
    elif image & _INFINITY_IMAGE != _INFINITY_IMAGE:
        digit = _add_double(digits, image, sign)
        span[_LOWEST], span[_HIGHEST] = min(span[_LOWEST], digit), max(span[_HIGHEST], digit + 3)
    elif image & _MAGNITUDE != _INFINITY_IMAGE:
        span[_NANS] += sign
    else:
        span[_POSITIVE if image > 0 else _NEGATIVE] += sign


@_inlined
def _add_double(digits: Int64Array, image: int, sign: int) -> int:
    """Add a finite double; return the first of the three digits that its 53 bits touch.

    2^29 additions fit before a carry is due, and it has to have room in the digit after the third.
    """
    exponent, significand = (image >> 52) & 0x7FF, image & 0xFFFFFFFFFFFFF
    if exponent != 0:
        exponent, significand = exponent - 1, significand | (1 << 52)
    shift = exponent - 1074 + _FRACTION_BITS
    digit, offset = shift >> 5, shift & 31
    low = (significand & _DIGIT_MASK) << offset
    high = (significand >> DIGIT_BITS) << offset
    if (image < 0) != (sign < 0):
        digits[digit] -= low & _DIGIT_MASK
        digits[digit + 1] -= (low >> DIGIT_BITS) + (high & _DIGIT_MASK)
        digits[digit + 2] -= high >> DIGIT_BITS
    else:
        digits[digit] += low & _DIGIT_MASK
        digits[digit + 1] += (low >> DIGIT_BITS) + (high & _DIGIT_MASK)
        digits[digit + 2] += high >> DIGIT_BITS
    return digit


@_inlined
def _sum(digits: Int64Array, span: Int64Array, rounding: Int64Array) -> float:
    """Return a sum rounded once; it stays as it is."""
    if span[_NANS] or (span[_POSITIVE] and span[_NEGATIVE]):
        return math.nan
    if span[_POSITIVE] or span[_NEGATIVE]:
        return math.inf if span[_POSITIVE] else -math.inf
    return _round(digits, span[_LOWEST], span[_HIGHEST], rounding)


@compiled
def _whole(digits: Int64Array) -> tuple[int, bool]:
    """Return the exact sum of integers, or 0 and that it does not fit."""
    low = digits[FRACTION_DIGITS]
    high = digits[FRACTION_DIGITS + 1] + (low >> DIGIT_BITS)
    if not -(1 << 31) <= high < (1 << 31):
        return 0, True
    return (high << DIGIT_BITS) | (low & _DIGIT_MASK), False


@compiled
def _round(digits: Int64Array, lowest: int, highest: int, rounding: Int64Array) -> float:
    """Return the number in the digits from `lowest` to `highest`, rounded once, half to even; it stays as it is."""
    for digit in range(lowest, highest + 1):
        rounding[digit] = digits[digit]
    _carry(rounding, lowest, highest)
    negative = highest >= lowest and rounding[highest] < 0
    if negative:
        for digit in range(lowest, highest + 1):
            rounding[digit] = -rounding[digit]
        _carry(rounding, lowest, highest)
    top = highest
    while top >= lowest and rounding[top] == 0:
        top -= 1
    if top < lowest:
        return 0.0
    magnitude = _round_magnitude(rounding, lowest, top)
    return -magnitude if negative else magnitude


@compiled
def _carry(digits: Int64Array, lowest: int, highest: int) -> None:
    """Bring every digit but the last into [0, 2^32); the last keeps the sign."""
    carry = np.int64(0)
    for digit in range(lowest, highest):
        carry += digits[digit]
        digits[digit] = carry & _DIGIT_MASK
        carry >>= DIGIT_BITS
    if highest >= lowest:
        digits[highest] += carry


@compiled
def _round_magnitude(digits: Int64Array, lowest: int, top: int) -> float:
    """Round a positive number whose greatest digit is `top`: 64 bits from its first one, the rest as a sticky bit."""
    lead, second, third = digits[top], np.int64(0), np.int64(0)
    if top - 1 >= lowest:
        second = digits[top - 1]
    if top - 2 >= lowest:
        third = digits[top - 2]
    zeros = DIGIT_BITS
    while lead >> (DIGIT_BITS - zeros) != 0:
        zeros -= 1
    wide = (np.uint64(lead) << np.uint64(DIGIT_BITS)) | np.uint64(second)
    if zeros:
        wide = (wide << np.uint64(zeros)) | np.uint64(third >> (DIGIT_BITS - zeros))
    sticky = (third & ((1 << (DIGIT_BITS - zeros)) - 1)) != 0
    for digit in range(lowest, top - 2):
        sticky = sticky or digits[digit] != 0
    kept, rest = np.int64(wide >> np.uint64(11)), np.int64(wide & np.uint64(0x7FF))
    if rest > 0x400 or (rest == 0x400 and (sticky or kept & 1)):
        kept += 1
    return math.ldexp(float(kept), DIGIT_BITS * (top - 1) - zeros - _FRACTION_BITS + 11)


# --- what the loops over stored events share ------------------------------------------------------------------------------------

LOWEST, HIGHEST, NANS, POSITIVE, NEGATIVE = _LOWEST, _HIGHEST, _NANS, _POSITIVE, _NEGATIVE
INFINITY_IMAGE, MAGNITUDE = _INFINITY_IMAGE, _MAGNITUDE
inlined, image_of, ordered_image = _inlined, _image, _ordered
add_value, clear_sum, rounded_sum, whole_sum = _add, _clear, _sum, _whole
