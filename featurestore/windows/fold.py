"""Aggregations of events: what is asked is sorted by column, computed together, and handed out again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from featurestore.compiling import frozen
from featurestore.errors import InvalidArgumentError
from featurestore.registry.snapshot import AggregationRecord
from featurestore.types import INT64_MAX
from featurestore.windows.columns import BoolArray, Events, Int64Array, WindowColumn, WindowLists
from featurestore.windows.filters import filter_name, filters_of, passing
from featurestore.windows.kernels import (
    NAN_IMAGE,
    Answers,
    Index,
    Panes,
    Reads,
    Values,
    find_events,
    fold_column,
    sort_reads,
)

# Many reads are shared out to threads: the kernels hold no interpreter lock, and no result depends on the shares.
READS_A_TASK, THREADS = 16_384, 2

_EVERY = ""  # the name of no filter

Pane = tuple[int, str]  # window, name of the filter


def fold_windows(
    events: Events,
    aggregations: Sequence[AggregationRecord],
    *,
    entity: Int64Array,
    at: Int64Array,
    known_at: Int64Array | None = None,
    position: Int64Array | int | None = None,
) -> list[WindowColumn | WindowLists]:
    """Aggregate the visible events of each read's window.

    Reads of an entity at times that rise, each knowing what its own time knows (`known_at` is `at`, or None) and one position, share
    their work; every other read is answered alone, from the events of its window.

    Args:
        events: The events; must be sorted as Events says.
        aggregations: What to compute; `columns_read` names the columns that `events` must have for them.
        entity: int64[reads] index of the entity, -1 for one without events.
        at: int64[reads] end of the window, included; microseconds since 1970 UTC.
        known_at: int64[reads]; events known later are not visible. None lifts that.
        position: Events with a greater seq are not visible; one for all reads, or int64[reads]. None lifts that.

    Returns:
        One column for each aggregation, of the type that its definition promises; lists for those with n. An empty window counts 0, is
        an empty list, and is null elsewhere.

    Raises:
        InvalidArgumentError: A sum of integers does not fit int64.
    """
    index, reads = _index(events), _reads(entity, at, known_at, position)
    order = frozen(sort_reads(index.starts, reads))
    masks = {_EVERY: np.ones(len(events.event), np.bool_), **_masks(events, aggregations)}
    answers = {
        column: _fold_column(index, reads, order, events.columns[column], masks, asked)
        for column, asked in _by_column(aggregations).items()
    }
    return [answers[a.column].result(a) for a in aggregations]


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
    find_events(_index(events), _reads(entity, at, known_at, position), window, found)
    return found


def columns_read(aggregations: Sequence[AggregationRecord]) -> dict[str, str]:
    """Return the columns that some aggregations read, those of their filters included, each with its type."""
    return {name: dtype for aggregation in aggregations for name, dtype in aggregation.columns}


def compile_kernels() -> None:
    """Compile the kernels, or load them from the cache, so that no read has to wait for it.

    >>> compile_kernels()
    """
    one = np.zeros(1, np.int64)
    events = Events(np.array([0, 1]), one, one, one, one, one, {"x": WindowColumn(np.ones(1), np.ones(1, np.bool_))})
    asked = [AggregationRecord(column="x", dtype="float64", function="stddev", time_window=1)]
    fold_windows(events, asked, entity=one, at=one)
    has_events(events, 1, entity=one, at=one)


@dataclass(frozen=True, slots=True)
class _FoldedColumn:
    """Everything that was asked of one column.

    Attributes:
        column: The column.
        panes: The place of each window and filter in the answers.
        answers: What the kernel wrote.
        sorted_choices: Positions in the column's choices in their order, where its extremes were asked; None where they were not, or
            there are no choices.
    """

    column: WindowColumn
    panes: Mapping[Pane, int]
    answers: Answers
    sorted_choices: Int64Array | None

    def result(self, aggregation: AggregationRecord) -> WindowColumn | WindowLists:
        """Pick one aggregate out of what was computed."""
        return _RESULTS[aggregation.function](self, self.panes[_pane(aggregation)], aggregation)

    def mean(self, pane: int) -> WindowColumn:
        """Return the rounded sum by the count."""
        counted = self.answers.counted[pane]
        return WindowColumn(self.answers.total[pane] / np.maximum(counted, 1) + 0.0, counted > 0)

    def extreme(self, images: Int64Array, pane: int) -> WindowColumn:
        """Return the values of these images."""
        valid = self.answers.counted[pane] > 0
        if self.column.values.dtype != np.int64:
            return WindowColumn(images.view(np.float64), valid)
        if self.sorted_choices is None or not len(self.sorted_choices):
            return WindowColumn(images, valid, self.column.choices)
        return WindowColumn(self.sorted_choices[images], valid, self.column.choices)

    def sum(self, pane: int, aggregation: AggregationRecord) -> WindowColumn:
        """Return the exact sum; raises InvalidArgumentError where one of integers does not fit int64."""
        valid = self.answers.counted[pane] > 0
        if self.column.values.dtype != np.int64:
            return WindowColumn(self.answers.total[pane], valid)
        beyond = np.flatnonzero(self.answers.overflow[pane])
        if beyond.size:
            raise InvalidArgumentError(
                f"The sum of column '{aggregation.column}' does not fit int64 in {beyond.size} of {len(valid)} windows.",
                place=f"$.rows[{beyond[0]}]",
                repair="Declare the column float64, or aggregate a shorter window.",
            )
        return WindowColumn(self.answers.whole[pane], valid)


_RESULTS: dict[str, Callable[[_FoldedColumn, int, AggregationRecord], WindowColumn | WindowLists]] = {
    "count": lambda folded, pane, _: _certain(folded.answers.counted[pane]),
    "count_distinct": lambda folded, pane, _: _certain(folded.answers.distinct[pane]),
    "sum": lambda folded, pane, asked: folded.sum(pane, asked),
    "mean": lambda folded, pane, _: folded.mean(pane),
    "stddev": lambda folded, pane, _: WindowColumn(folded.answers.spread[pane], folded.answers.counted[pane] > 1),
    "min": lambda folded, pane, _: folded.extreme(folded.answers.smallest[pane], pane),
    "max": lambda folded, pane, _: folded.extreme(folded.answers.greatest[pane], pane),
    "first": lambda folded, pane, asked: _ends(folded.column, folded.answers.oldest[pane], asked.n),
    "last": lambda folded, pane, asked: _ends(folded.column, folded.answers.newest[pane], asked.n),
}


def _certain(values: Int64Array) -> WindowColumn:
    return WindowColumn(values, np.ones(len(values), np.bool_))


def _index(events: Events) -> Index:
    arrays = (events.starts, events.event, events.created, events.seq, events.known_from, events.identity)
    return Index(*map(frozen, arrays))


def _reads(entity: Int64Array, at: Int64Array, known_at: Int64Array | None, position: Int64Array | int | None) -> Reads:
    return Reads(frozen(entity), frozen(at), _each(known_at, len(at)), _each(position, len(at)))


def _each(limit: Int64Array | int | None, reads: int) -> Int64Array:
    if isinstance(limit, np.ndarray):
        return frozen(limit)
    return frozen(np.full(reads, INT64_MAX if limit is None else limit, np.int64))


def _masks(events: Events, aggregations: Sequence[AggregationRecord]) -> dict[str, BoolArray]:
    """Return the events that pass each filter; a filter is evaluated once, however many windows and columns it is for."""
    rows = len(events.event)
    return {
        name: events.passed[name] if name in events.passed else passing(where, events.columns, rows)
        for name, where in filters_of(aggregations).items()
    }


def _pane(aggregation: AggregationRecord) -> Pane:
    return aggregation.time_window, filter_name(aggregation.where) if aggregation.where else _EVERY


def _by_column(aggregations: Sequence[AggregationRecord]) -> dict[str, list[AggregationRecord]]:
    columns: dict[str, list[AggregationRecord]] = {}
    for aggregation in aggregations:
        columns.setdefault(aggregation.column, []).append(aggregation)
    return columns


def _fold_column(
    index: Index,
    reads: Reads,
    order: Int64Array,
    column: WindowColumn,
    masks: Mapping[str, BoolArray],
    asked: Sequence[AggregationRecord],
) -> _FoldedColumn:
    """Run the kernel over all reads, shared out to threads when they are many."""
    filters = list(dict.fromkeys(_pane(aggregation)[1] for aggregation in asked))
    numbers = {pane: number for number, pane in enumerate(dict.fromkeys(map(_pane, asked)))}
    panes = _panes(numbers, filters, asked)
    answers = _empty_answers(panes, len(reads.at))
    sorted_choices = _sorted_choices(column) if panes.extremes.any() and column.choices is not None else None
    values = Values(
        frozen(_images(column, sorted_choices)),
        column.values.dtype != np.int64,
        frozen(column.valid),
        frozen(np.stack([masks[name] for name in filters])),
    )

    def fold_part(start: int, stop: int) -> None:
        fold_column(index, reads, order, start, stop, values, panes, answers)

    tasks = max(1, min(len(order) // READS_A_TASK, 8 * THREADS))
    cuts = np.linspace(0, len(order), tasks + 1).astype(np.int64)
    if tasks == 1:
        fold_part(0, len(order))
    else:
        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(fold_part, cuts[:-1], cuts[1:]))
    return _FoldedColumn(column, numbers, answers, sorted_choices)


def _panes(numbers: Mapping[Pane, int], filters: Sequence[str], asked: Sequence[AggregationRecord]) -> Panes:
    functions: list[set[str]] = [set() for _ in numbers]
    oldest, newest = np.zeros(len(numbers), np.int64), np.zeros(len(numbers), np.int64)
    for aggregation in asked:
        number = numbers[_pane(aggregation)]
        functions[number].add(aggregation.function)
        if aggregation.function in ("first", "last"):
            ends = oldest if aggregation.function == "first" else newest
            ends[number] = max(ends[number], aggregation.n or 1)

    def wants(*names: str) -> BoolArray:
        return np.array([bool(asked & set(names)) for asked in functions], np.bool_)

    return Panes(
        window=np.array([window for window, _ in numbers], np.int64),
        filter=np.array([filters.index(name) for _, name in numbers], np.int64),
        total=wants("sum", "mean", "stddev"),
        spread=wants("stddev"),
        extremes=wants("min", "max"),
        distinct=wants("count_distinct"),
        oldest=oldest,
        newest=newest,
    )


def _empty_answers(panes: Panes, reads: int) -> Answers:
    count = len(panes.window)

    def made(wanted: BoolArray, dtype: npt.DTypeLike) -> Any:
        return np.zeros((count, reads if wanted.any() else 0), dtype)

    return Answers(
        counted=np.zeros((count, reads), np.int64),
        total=made(panes.total, np.float64),
        whole=made(panes.total, np.int64),
        overflow=made(panes.total, np.bool_),
        spread=made(panes.spread, np.float64),
        smallest=made(panes.extremes, np.int64),
        greatest=made(panes.extremes, np.int64),
        distinct=made(panes.distinct, np.int64),
        oldest=np.full((count, reads if panes.oldest.any() else 0, panes.oldest.max()), -1, np.int64),
        newest=np.full((count, reads if panes.newest.any() else 0, panes.newest.max()), -1, np.int64),
    )


def _images(column: WindowColumn, sorted_choices: Int64Array | None) -> Int64Array:
    """Return each value as an int64 that is equal where the value is: a double by its bits, one of some choices by its rank."""
    if sorted_choices is not None and len(sorted_choices):
        ranks = np.empty(len(sorted_choices), np.int64)
        ranks[sorted_choices] = np.arange(len(sorted_choices))
        return ranks[column.values]
    if column.values.dtype == np.int64:
        return cast(Int64Array, column.values)
    values: Any = column.values + 0.0  # -0.0 + 0.0 is 0.0
    images: Int64Array = values.view(np.int64)
    return np.where(np.isnan(values), NAN_IMAGE, images)


def _sorted_choices(column: WindowColumn) -> Int64Array:
    import pyarrow.compute as pc

    return np.asarray(pc.sort_indices(column.choices), np.int64)


def _ends(column: WindowColumn, rows: Int64Array, n: int | None) -> WindowColumn | WindowLists:
    """Return the values at the rows of one end, or lists of them; -0.0 is 0.0."""
    wanted = rows[:, : n or 1]
    taken = column.take(wanted[wanted >= 0] if n else wanted[:, 0])
    values: Any = taken.values
    if values.dtype != np.int64:
        values = values + 0.0
    plain = WindowColumn(values, taken.valid, taken.choices)
    return plain if n is None else WindowLists(plain, (wanted >= 0).sum(axis=1))
