"""The exact fold of sliding windows: one code for training and serving, so that both give the same bits.

The window of length w at the time t holds the events in ``(t - w, t]``. Which events are visible is the caller's: by the time from
which they are known, by their order of acceptance, or both. Versions of one event (equal identity) count once, by the greatest visible
(created, seq). Every result depends on the set of visible events alone:

* sums of doubles are exact and rounded once, like `math.fsum`; sums of integers are exact, and an error where they leave int64
* mean = rounded exact sum / count; stddev (sample) = sqrt(exact sum of the rounded squares (v - mean)^2 / (count - 1))
* first and last go by (event time, created, seq), and a null is a value there; everywhere else nulls are left out
* -0.0 is 0.0; a NaN makes sum, mean, min, max and stddev NaN; a sum beyond the range of doubles is infinite

The accumulator is a fixed-point number over the whole range of doubles, in 32-bit digits with room for carries, after Kulisch and
Miranker, "Computer Arithmetic in Theory and Practice" (1981).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt
from numba import njit

from featurestore.errors import InvalidArgumentError
from featurestore.lanes import LaneColumn, from_lane, to_lane
from featurestore.registry.snapshot import AggregationRecord
from featurestore.types import INT64_MAX, INT64_MIN, DType, from_arrow

if TYPE_CHECKING:
    import pyarrow as pa

Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

# Digit 0 has the weight 2^-1088: below the last bit of the smallest double, and aligned so that integers start at a digit.
DIGIT_BITS, FRACTION_DIGITS, DIGITS = 32, 34, 68
_DIGIT_MASK = (1 << DIGIT_BITS) - 1
_FRACTION_BITS = DIGIT_BITS * FRACTION_DIGITS

# Many reads are shared out to threads: the kernels hold no interpreter lock, and no result depends on the shares.
READS_A_TASK, THREADS = 16_384, 2

Array = TypeVar("Array", bound=npt.NDArray[Any])
Function = TypeVar("Function", bound=Callable[..., Any])


def _kernel(function: Function) -> Function:
    return cast(Function, njit(cache=True, nogil=True)(function))


@dataclass(frozen=True, slots=True)
class WindowColumn:
    """One column of values with its nulls.

    Attributes:
        values: float64 or int64 (integers, booleans, microseconds, days); what stands at a null is not looked at.
        valid: False where the value is null.
    """

    values: Float64Array | Int64Array
    valid: BoolArray

    @classmethod
    def from_arrow(cls, column: pa.ChunkedArray) -> WindowColumn:
        """Return an Arrow column as arrays; text, binary and decimals can only be counted, so their values stay zero.

        >>> import pyarrow as pa
        >>> WindowColumn.from_arrow(pa.chunked_array([pa.array([1, None])])).valid.tolist()
        [True, False]
        """
        dtype = from_arrow(column.type)
        if dtype.lane == "strings":
            return cls(np.zeros(len(column), np.int64), np.asarray(column.is_valid()))
        lane = to_lane(column, dtype)
        return cls(cast(Float64Array, lane.values), lane.valid)

    def to_arrow(self, dtype: DType) -> pa.Array:
        """Return the column as an Arrow array of that type."""
        return from_lane(LaneColumn(self.values, self.valid), dtype)


@dataclass(frozen=True, slots=True)
class Events:
    """Events by entity, sorted by (event, identity, created, seq) within each.

    Attributes:
        starts: int64[entities + 1]; the events of entity e are ``starts[e]`` up to ``starts[e + 1]``.
        event: int64[n] event times, microseconds since 1970 UTC.
        created: int64[n] created times in microseconds, INT64_MIN where there is none (and so not a time).
        seq: int64[n] order of acceptance.
        known_from: int64[n] time from which the event is known, microseconds.
        identity: int64[n] equal for the versions of one event, distinct otherwise; all distinct without an event key.
        columns: Column name -> values.
    """

    starts: Int64Array
    event: Int64Array
    created: Int64Array
    seq: Int64Array
    known_from: Int64Array
    identity: Int64Array
    columns: Mapping[str, WindowColumn]


class _Index(NamedTuple):
    """The part of Events that says which of them count."""

    starts: Int64Array
    event: Int64Array
    created: Int64Array
    seq: Int64Array
    known_from: Int64Array
    identity: Int64Array


class _Reads(NamedTuple):
    """The reads: whose window ends when, and what they may see."""

    entity: Int64Array
    at: Int64Array
    known_at: Int64Array
    position: Int64Array


class _Wants(NamedTuple):
    """What has to be computed for one column and window."""

    total: bool
    spread: bool
    extremes: bool
    ends: bool


class _Folded(NamedTuple):
    """What was computed for one column and window, one element a read; what was not asked for stays as it was made."""

    counted: Int64Array
    total: Any
    overflow: BoolArray
    mean: Float64Array
    spread: Float64Array
    smallest: Any
    greatest: Any
    first: Int64Array
    last: Int64Array


def fold_windows(
    events: Events,
    aggregations: Sequence[AggregationRecord],
    *,
    entity: Int64Array,
    at: Int64Array,
    known_at: Int64Array | None = None,
    position: Int64Array | int | None = None,
) -> list[WindowColumn]:
    """Aggregate the visible events of each read's window.

    Args:
        events: The events; must be sorted as Events says.
        aggregations: What to compute; their columns must be in `events`.
        entity: int64[reads] index of the entity, -1 for one without events.
        at: int64[reads] end of the window, included; microseconds since 1970 UTC.
        known_at: int64[reads]; events known later are not visible. None lifts that.
        position: Events with a greater seq are not visible; one for all reads, or int64[reads]. None lifts that.

    Returns:
        One column for each aggregation, of the type that its definition promises. An empty window counts 0 and is null elsewhere.

    Raises:
        InvalidArgumentError: A sum of integers does not fit int64.
    """
    index = _index(events)
    reads = _Reads(_frozen(entity), _frozen(at), _each(known_at, len(at)), _each(position, len(at)))
    folded = {
        (column, window): _fold_column(index, reads, window, events.columns[column], wants)
        for (column, window), wants in _wanted(aggregations).items()
    }
    return [_result(a, folded[a.column, a.time_window], events.columns[a.column]) for a in aggregations]


def has_events(
    events: Events,
    window: int,
    *,
    entity: Int64Array,
    at: Int64Array,
    known_at: Int64Array | None = None,
    position: Int64Array | int | None = None,
) -> BoolArray:
    """Say for each read whether its window of that many microseconds holds a visible event; arguments as in `fold_windows`."""
    found = np.zeros(len(at), np.bool_)
    reads = _Reads(_frozen(entity), _frozen(at), _each(known_at, len(at)), _each(position, len(at)))
    _find_events(_index(events), reads, window, found)
    return found


def _index(events: Events) -> _Index:
    arrays = (events.starts, events.event, events.created, events.seq, events.known_from, events.identity)
    return _Index(*map(_frozen, arrays))


def _each(limit: Int64Array | int | None, reads: int) -> Int64Array:
    if isinstance(limit, np.ndarray):
        return _frozen(limit)
    return _frozen(np.full(reads, INT64_MAX if limit is None else limit, np.int64))


def _frozen(array: Array) -> Array:
    """Return a contiguous view that cannot be written: one form of array, so that each kernel is compiled once."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return cast(Array, view)


def _wanted(aggregations: Sequence[AggregationRecord]) -> dict[tuple[str, int], _Wants]:
    functions: dict[tuple[str, int], set[str]] = {}
    for aggregation in aggregations:
        functions.setdefault((aggregation.column, aggregation.time_window), set()).add(aggregation.function)
    return {
        group: _Wants(
            total=bool(asked & {"sum", "mean", "stddev"}),
            spread="stddev" in asked,
            extremes=bool(asked & {"min", "max"}),
            ends=bool(asked & {"first", "last"}),
        )
        for group, asked in functions.items()
    }


def _fold_column(index: _Index, reads: _Reads, window: int, column: WindowColumn, wants: _Wants) -> _Folded:
    """Run the kernel of the column's type over all reads."""
    values: Any = column.values if column.values.dtype == np.int64 else column.values + 0.0  # -0.0 + 0.0 is 0.0
    count = len(reads.at)
    folded = _Folded(
        counted=np.zeros(count, np.int64),
        total=np.zeros(count, values.dtype),
        overflow=np.zeros(count, np.bool_),
        mean=np.zeros(count),
        spread=np.zeros(count),
        smallest=np.zeros(count, values.dtype),
        greatest=np.zeros(count, values.dtype),
        first=np.full(count, -1, np.int64),
        last=np.full(count, -1, np.int64),
    )
    fold: Callable[..., None] = _fold_integers if values.dtype == np.int64 else _fold_doubles
    values, valid = _frozen(values), _frozen(column.valid)

    def fold_part(part: slice) -> None:
        some = _Reads(*(array[part] for array in reads))
        fold(index, some, window, values, valid, wants, _Folded._make(array[part] for array in folded))

    parts = [slice(start, start + READS_A_TASK) for start in range(0, count, READS_A_TASK)]
    if len(parts) <= 1:
        fold_part(slice(count))
    else:
        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(fold_part, parts))
    return folded


def _result(aggregation: AggregationRecord, folded: _Folded, column: WindowColumn) -> WindowColumn:
    """Pick one aggregate out of what was computed for its column and window."""
    if aggregation.function in ("first", "last"):
        return _taken(column, folded.first if aggregation.function == "first" else folded.last)
    if aggregation.function == "count":
        return WindowColumn(folded.counted, np.ones(len(folded.counted), np.bool_))
    if aggregation.function == "sum":
        _check_overflow(aggregation, folded)
    values: dict[str, Any] = {
        "sum": folded.total,
        "mean": folded.mean,
        "min": folded.smallest,
        "max": folded.greatest,
        "stddev": folded.spread,
    }
    return WindowColumn(values[aggregation.function], folded.counted > (aggregation.function == "stddev"))


def _check_overflow(aggregation: AggregationRecord, folded: _Folded) -> None:
    beyond = np.flatnonzero(folded.overflow)
    if beyond.size:
        raise InvalidArgumentError(
            f"The sum of column '{aggregation.column}' does not fit int64 in {beyond.size} of {len(folded.counted)} windows.",
            place=f"$.rows[{beyond[0]}]",
            repair="Declare the column float64, or aggregate a shorter window.",
        )


def _taken(column: WindowColumn, rows: Int64Array) -> WindowColumn:
    """Take the values at these rows; -1 and a null are null."""
    if not len(column.values):
        nothing: Any = np.zeros(len(rows), column.values.dtype)
        return WindowColumn(nothing, np.zeros(len(rows), np.bool_))
    values: Any = column.values[rows]
    return WindowColumn(values if values.dtype == np.int64 else values + 0.0, (rows >= 0) & column.valid[rows])


def compile_kernels() -> None:
    """Compile the kernels, or load them from the cache, so that no read has to wait for it.

    >>> compile_kernels()
    """
    one = np.zeros(1, np.int64)
    columns = {
        "doubles": WindowColumn(np.ones(1), np.ones(1, np.bool_)),
        "integers": WindowColumn(one, np.ones(1, np.bool_)),
    }
    events = Events(np.array([0, 1]), one, one, one, one, one, columns)
    functions = (("doubles", "float64", "stddev"), ("integers", "int64", "sum"))
    wanted = [AggregationRecord(column=c, dtype=d, function=f, time_window=1) for c, d, f in functions]
    fold_windows(events, wanted, entity=one, at=one)


# --- kernels: plain loops, compiled by Numba ----------------------------------------------------------------------------------------


@_kernel
def _fold_doubles(
    index: _Index, reads: _Reads, window: int, values: Float64Array, valid: BoolArray, wants: _Wants, out: _Folded
) -> None:
    chosen, digits = np.empty(_longest(index.starts), np.int64), np.zeros(DIGITS, np.int64)
    for read in range(len(reads.at)):
        visible = _choose(index, reads, read, window, chosen)
        if wants.ends:
            _ends(index, chosen, visible, out, read)
        count = _drop_nulls(valid, chosen, visible)
        out.counted[read] = count
        if count == 0:
            continue
        if wants.extremes:
            _extremes(values, chosen, count, out, read)
        if wants.total:
            out.total[read] = _sum_doubles(values, chosen, count, digits)
            out.mean[read] = out.total[read] / count + 0.0
        if wants.spread and count > 1:
            out.spread[read] = _spread(values, chosen, count, out.mean[read], digits)


@_kernel
def _fold_integers(
    index: _Index, reads: _Reads, window: int, values: Int64Array, valid: BoolArray, wants: _Wants, out: _Folded
) -> None:
    chosen, digits = np.empty(_longest(index.starts), np.int64), np.zeros(DIGITS, np.int64)
    for read in range(len(reads.at)):
        visible = _choose(index, reads, read, window, chosen)
        if wants.ends:
            _ends(index, chosen, visible, out, read)
        count = _drop_nulls(valid, chosen, visible)
        out.counted[read] = count
        if count == 0:
            continue
        if wants.extremes:
            _extremes(values, chosen, count, out, read)
        if wants.total:
            high, low = _sum_integers(values, chosen, count)
            out.overflow[read] = not -(1 << 31) <= high < (1 << 31)
            out.total[read] = 0 if out.overflow[read] else (high << DIGIT_BITS) | low
            digits[FRACTION_DIGITS], digits[FRACTION_DIGITS + 1] = low, high
            out.mean[read] = _round(digits) / count + 0.0
        if wants.spread and count > 1:
            out.spread[read] = _spread(values, chosen, count, out.mean[read], digits)


@_kernel
def _find_events(index: _Index, reads: _Reads, window: int, found: BoolArray) -> None:
    for read in range(len(reads.at)):
        start, stop = _bounds(index, reads, read, window)
        for event in range(stop - 1, start - 1, -1):
            if index.known_from[event] <= reads.known_at[read] and index.seq[event] <= reads.position[read]:
                found[read] = True
                break


@_kernel
def _longest(starts: Int64Array) -> int:
    """Return the number of events of the entity that has most."""
    longest = 0
    for entity in range(len(starts) - 1):
        longest = max(longest, starts[entity + 1] - starts[entity])
    return longest


@_kernel
def _choose(index: _Index, reads: _Reads, read: int, window: int, chosen: Int64Array) -> int:
    """Write the visible events of a window, newest first, one version each; return how many."""
    known_at, position = reads.known_at[read], reads.position[read]
    start, stop = _bounds(index, reads, read, window)
    count = 0
    for event in range(stop - 1, start - 1, -1):
        if index.known_from[event] > known_at or index.seq[event] > position:
            continue
        if count and index.identity[event] == index.identity[chosen[count - 1]]:
            continue  # an older version of the event just chosen
        chosen[count] = event
        count += 1
    return count


@_kernel
def _bounds(index: _Index, reads: _Reads, read: int, window: int) -> tuple[int, int]:
    """Return where the events of a window start and stop, visible or not."""
    entity, at = reads.entity[read], reads.at[read]
    if entity < 0:
        return 0, 0
    start = index.starts[entity]
    stop = _first_after(index.event, start, index.starts[entity + 1], at)
    if at >= INT64_MIN + window:  # otherwise the window reaches back beyond time itself
        start = _first_after(index.event, start, stop, at - window)
    return start, stop


@_kernel
def _first_after(times: Int64Array, start: int, stop: int, time: int) -> int:
    """Return the first index in [start, stop) with a time after the given one, or stop."""
    while start < stop:
        middle = (start + stop) >> 1
        if times[middle] <= time:
            start = middle + 1
        else:
            stop = middle
    return start


@_kernel
def _ends(index: _Index, chosen: Int64Array, count: int, out: _Folded, read: int) -> None:
    """Find the first and the last event by (event time, created, seq); `chosen` is in order of event time alone."""
    if count == 0:
        return
    last = chosen[0]
    for k in range(1, count):
        if index.event[chosen[k]] != index.event[last]:
            break
        if _accepted_before(index, last, chosen[k]):
            last = chosen[k]
    first = chosen[count - 1]
    for k in range(count - 2, -1, -1):
        if index.event[chosen[k]] != index.event[first]:
            break
        if _accepted_before(index, chosen[k], first):
            first = chosen[k]
    out.first[read], out.last[read] = first, last


@_kernel
def _accepted_before(index: _Index, left: int, right: int) -> bool:
    if index.created[left] != index.created[right]:
        return bool(index.created[left] < index.created[right])
    return bool(index.seq[left] < index.seq[right])


@_kernel
def _drop_nulls(valid: BoolArray, chosen: Int64Array, count: int) -> int:
    """Keep the chosen events whose value is not null; return how many."""
    kept = 0
    for k in range(count):
        if valid[chosen[k]]:
            chosen[kept] = chosen[k]
            kept += 1
    return kept


@_kernel
def _extremes(values: Any, chosen: Int64Array, count: int, out: _Folded, read: int) -> None:
    smallest = greatest = values[chosen[0]]
    for k in range(1, count):
        value = values[chosen[k]]
        if value < smallest or np.isnan(value):
            smallest = value
        if value > greatest or np.isnan(value):
            greatest = value
    out.smallest[read], out.greatest[read] = smallest, greatest


@_kernel
def _sum_doubles(values: Float64Array, chosen: Int64Array, count: int, digits: Int64Array) -> float:
    special, finite = 0.0, True
    for k in range(count):
        value = values[chosen[k]]
        if math.isfinite(value):
            _add(digits, value)
        else:
            special += value
            finite = False
    rounded = _round(digits)
    return rounded if finite else special


@_kernel
def _sum_integers(values: Int64Array, chosen: Int64Array, count: int) -> tuple[np.int64, np.int64]:
    """Return the exact sum as (high, low): high * 2^32 + low."""
    high, low = np.int64(0), np.int64(0)
    for k in range(count):
        value = values[chosen[k]]
        high += value >> DIGIT_BITS
        low += value & _DIGIT_MASK
    return high + (low >> DIGIT_BITS), low & _DIGIT_MASK


@_kernel
def _spread(values: Any, chosen: Int64Array, count: int, mean: float, digits: Int64Array) -> float:
    special, finite = 0.0, True
    for k in range(count):
        distance = values[chosen[k]] - mean
        square = distance * distance
        if math.isfinite(square):
            _add(digits, square)
        else:
            special += square
            finite = False
    rounded = _round(digits)
    return math.sqrt((rounded if finite else special) / (count - 1))


@_kernel
def _add(digits: Int64Array, value: float) -> None:
    """Add a finite double exactly: its 53 bits touch three digits; 2^29 additions fit before a carry is due."""
    bits = np.float64(value).view(np.int64)
    exponent, significand = (bits >> 52) & 0x7FF, bits & 0xFFFFFFFFFFFFF
    if exponent != 0:
        exponent, significand = exponent - 1, significand | (1 << 52)
    shift = exponent - 1074 + _FRACTION_BITS
    digit, offset = shift >> 5, shift & 31
    low = (significand & _DIGIT_MASK) << offset
    high = (significand >> DIGIT_BITS) << offset
    if bits < 0:
        digits[digit] -= low & _DIGIT_MASK
        digits[digit + 1] -= (low >> DIGIT_BITS) + (high & _DIGIT_MASK)
        digits[digit + 2] -= high >> DIGIT_BITS
    else:
        digits[digit] += low & _DIGIT_MASK
        digits[digit + 1] += (low >> DIGIT_BITS) + (high & _DIGIT_MASK)
        digits[digit + 2] += high >> DIGIT_BITS


@_kernel
def _round(digits: Int64Array) -> float:
    """Return the sum rounded once, half to even, and set the digits back to zero."""
    _carry(digits)
    negative = digits[DIGITS - 1] < 0
    if negative:
        for k in range(DIGITS):
            digits[k] = -digits[k]
        _carry(digits)
    top = DIGITS - 1
    while top >= 0 and digits[top] == 0:
        top -= 1
    magnitude = _round_magnitude(digits, top) if top >= 0 else 0.0
    digits[:] = 0
    return -magnitude if negative else magnitude


@_kernel
def _carry(digits: Int64Array) -> None:
    """Bring every digit but the last into [0, 2^32); the last keeps the sign."""
    carry = np.int64(0)
    for k in range(DIGITS - 1):
        carry += digits[k]
        digits[k] = carry & _DIGIT_MASK
        carry >>= DIGIT_BITS
    digits[DIGITS - 1] += carry


@_kernel
def _round_magnitude(digits: Int64Array, top: int) -> float:
    """Round a positive number whose greatest digit is `top`: 64 bits from its first one, the rest as a sticky bit."""
    lead, second, third = digits[top], np.int64(0), np.int64(0)
    if top >= 1:
        second = digits[top - 1]
    if top >= 2:
        third = digits[top - 2]
    zeros = DIGIT_BITS
    while lead >> (DIGIT_BITS - zeros) != 0:
        zeros -= 1
    wide = (np.uint64(lead) << np.uint64(DIGIT_BITS)) | np.uint64(second)
    if zeros:
        wide = (wide << np.uint64(zeros)) | np.uint64(third >> (DIGIT_BITS - zeros))
    sticky = (third & ((1 << (DIGIT_BITS - zeros)) - 1)) != 0
    for k in range(top - 2):
        sticky = sticky or digits[k] != 0
    kept, rest = np.int64(wide >> np.uint64(11)), np.int64(wide & np.uint64(0x7FF))
    if rest > 0x400 or (rest == 0x400 and (sticky or kept & 1)):
        kept += 1
    return math.ldexp(float(kept), DIGIT_BITS * (top - 1) - zeros - _FRACTION_BITS + 11)
