"""The bucket kernel: each bucket is a task of its own, and nothing needs the whole table.

The spine is put in order of the buckets of its keys. For each bucket the keys and times of its sorted runs are read, the greatest
visible row of each spine row is found by binary search in every run, and of those the greatest; then the values of the winners, and of
no other row, are copied to their places in the result.

* `latest`: rows count from their event time on, which rises with the row's number.
* `as_known`: rows count from the time they are known. Where that falls back within an entity, its rows are put in that order, each
  with the greatest row known by then.
* `as_served`: rows beyond the position are left out first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.compiling import frozen
from featurestore.offline.buckets import buckets_of
from featurestore.offline.engines.columns import FixedColumn, GatheredColumn, gathered_column
from featurestore.offline.engines.loops import (
    drop_after,
    find_entities,
    find_rows,
    is_rising,
    mark_starts,
    order_by_bucket,
    order_by_known,
    select_rows,
)
from featurestore.offline.engines.runs import (
    FileRun,
    RecentRows,
    Run,
    as_codes,
    in_one,
    is_text,
    key_image,
    to_micros_or_lowest,
)
from featurestore.offline.point_in_time import (
    MATCHED,
    MISSING,
    BoolArray,
    Gathered,
    Int64Array,
    Joined,
    PointInTimeRule,
    Spine,
    before,
)
from featurestore.offline.table import DataFile, OfflineTable
from featurestore.offline.tasks import in_turn
from featurestore.rows import CREATED, EVENT, SEQ
from featurestore.types import INT64_MIN
from featurestore.windows import Events, WindowColumn

# Text with more values to a byte than this is dictionary-encoded, with few different values.
CODED_ABOVE = 0.25

_NOTHING = frozen(np.zeros(0, np.int64))
_NOBODY = frozen(np.zeros(0, np.bool_))


class KernelEngine:
    """Joins bucket by bucket with compiled loops; memory is bounded by the result and a bucket for each thread."""

    name = "kernel"

    def join(self, table: OfflineTable, spine: Spine, rule: PointInTimeRule, columns: Sequence[str]) -> Joined:
        """Return for each spine row the value columns of the one row that the rule gives it.

        Args:
            table: The view's rows.
            spine: Keys and times.
            rule: Which row it gets.
            columns: Names of the value columns.

        Raises:
            CorruptionError: A file is missing or damaged; says which.
        """
        layout = _Layout.of(table, columns)
        gathered = layout.gathered(columns, len(spine))
        status = np.full(len(spine), MISSING, np.int8)
        for asked, found in in_turn(partial(_join_bucket, layout, rule, gathered), layout.split(spine)):
            status[asked.rows] = found
        filled = status == MATCHED
        return Joined(pa.table({name: column.finish(filled) for name, column in gathered.items()}), status)

    def gather(
        self,
        table: OfflineTable,
        spine: Spine,
        rule: PointInTimeRule,
        columns: Sequence[str],
        *,
        reach: int | None = None,
    ) -> Sequence[tuple[Int64Array, Callable[[], Gathered]]]:
        """Return bucket by bucket the rows of the spine, and what gathers the events of their entities; each row comes once.

        Args:
            table: The view's events.
            spine: Keys and times.
            rule: From when each event is known.
            columns: Names of the aggregated columns.
            reach: Events more than this many microseconds before all times of their entity are left out; None keeps them.

        Raises:
            CorruptionError: At the call or of what it returns: a file is missing or damaged; says which.
        """
        layout = _Layout.of(table, [*(key.name for key in table.schema.event_key), *columns])
        nobody = np.ones(len(spine), np.bool_)
        parts: list[tuple[Int64Array, Callable[[], Gathered]]] = []
        for asked in layout.split(spine):
            nobody[asked.rows] = False
            parts.append((asked.rows, partial(_gather_bucket, layout, rule, columns, reach, asked)))
        rest = np.flatnonzero(nobody)
        nothing = Gathered(_events(layout, rule, columns, 0, []), np.full(len(rest), -1, np.int64))
        return [*parts, (rest, lambda: nothing)] if len(rest) or not parts else parts


# --- the spine and the files, by bucket ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Asked:
    """The spine rows of one bucket.

    Attributes:
        bucket: Its number.
        rows: Where in the spine they stand.
        keys: Their keys, without nulls: text as it is, other types as int64.
        at: Their times.
    """

    bucket: int
    rows: Int64Array
    keys: tuple[pa.Array, ...]
    at: Int64Array

    def first_of_each(self, first: Int64Array) -> _Asked:
        """Return only these rows."""
        chosen = pa.array(first)
        return _Asked(self.bucket, self.rows[first], tuple(key.take(chosen) for key in self.keys), self.at[first])


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the rows of each bucket lie.

    Attributes:
        table: The table.
        schema: Columns of its rows.
        buckets: How many buckets it has.
        files: Bucket -> its files.
        recent: The recent run; None when there is none.
        coded: Names of text columns of few different values.
    """

    table: OfflineTable
    schema: pa.Schema
    buckets: int
    files: Mapping[int, Sequence[DataFile]]
    recent: RecentRows | None
    coded: frozenset[str]

    @classmethod
    def of(cls, table: OfflineTable, columns: Sequence[str]) -> _Layout:
        """Return the layout of a table, of which these columns will be read."""
        state = table.state()
        files = state.by_bucket()
        recent = RecentRows.read(table, state.recent, columns, state.buckets) if state.recent else None
        schema = table.schema.arrow()
        coded = _coded(schema, next(iter(files.values()), ()), columns)
        return cls(table, schema, state.buckets, files, recent, coded)

    @property
    def keys(self) -> list[str]:
        """Names of the key columns."""
        return [key.name for key in self.table.schema.keys]

    def split(self, spine: Spine) -> list[_Asked]:
        """Return the spine rows of each bucket that has any; rows with a null in key or time are in none."""
        if self.buckets not in spine.orders:
            spine.orders[self.buckets] = _split(spine, self.buckets)
        split: list[_Asked] = spine.orders[self.buckets]
        return split

    def runs(self, bucket: int, stack: ExitStack) -> list[Run]:
        """Return the sorted runs of a bucket; the stack closes their files."""
        text = [name for name in self.keys if is_text(self.schema.field(name).type)]
        files = [FileRun(file, self.schema, [*text, *self.coded]) for file in self.files.get(bucket, ())]
        runs: list[Run] = [stack.enter_context(run) for run in files]
        recent = self.recent.run(bucket) if self.recent else None
        return [*runs, recent] if recent else runs

    def gathered(self, columns: Sequence[str], places: int) -> dict[str, GatheredColumn]:
        """Return empty columns to gather values in."""
        return {
            name: gathered_column(self.schema.field(name).type, places, coded=name in self.coded) for name in columns
        }


def _coded(schema: pa.Schema, files: Sequence[DataFile], columns: Sequence[str]) -> frozenset[str]:
    """Return the text columns of few different values, going by one file."""
    text = [name for name in columns if is_text(schema.field(name).type)]
    if not (text and files):
        return frozenset()
    with FileRun(files[0], schema, []) as run:
        return frozenset(name for name in text if run.values_a_byte(name) > CODED_ABOVE)


def _split(spine: Spine, buckets: int) -> list[_Asked]:
    valid = spine.timed.copy()
    for key in spine.keys.columns:
        if key.null_count:
            valid &= np.asarray(pc.is_valid(key))
    rows = np.flatnonzero(valid)
    chosen = spine.keys if len(rows) == len(spine) else spine.keys.take(pa.array(rows))
    if not len(rows):
        return []
    starts = np.zeros(buckets + 1, np.int64)
    order = order_by_bucket(frozen(buckets_of(chosen.columns, buckets)), frozen(rows), starts)
    keys, at = [_in_order(key, order) for key in spine.keys.columns], spine.at[order]
    return [
        _Asked(bucket, order[start:stop], tuple(key.slice(start, stop - start) for key in keys), at[start:stop])
        for bucket, (start, stop) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True))
        if stop > start
    ]


def _in_order(key: pa.ChunkedArray, order: Int64Array) -> pa.Array:
    column = in_one(key)
    return column.take(pa.array(order)) if is_text(column.type) else pa.array(key_image(column)[order])


# --- the join of one bucket ------------------------------------------------------------------------------------------------------------


def _join_bucket(
    layout: _Layout, rule: PointInTimeRule, gathered: dict[str, GatheredColumn], asked: _Asked
) -> npt.NDArray[np.int8]:
    """Find the rows of one bucket, copy their values, and say what became of each spine row."""
    with ExitStack() as stack:
        runs = layout.runs(asked.bucket, stack)
        best = _best_of(runs, layout.keys, rule, asked)
        status = rule.status(best.row >= 0, best.event, best.present, best.newest, asked.at)
        for number, run in enumerate(runs):
            of_run = np.flatnonzero((status == MATCHED) & (best.run == number))
            _copy(run, best.row[of_run], asked.rows[of_run], gathered)
    return status


@dataclass(slots=True)
class _Found:
    """What one or more runs have for the spine rows of a bucket.

    Attributes:
        run: Number of the run of the greatest visible row.
        row: Its number in the run, or -1.
        event: Its event time.
        created: Its created time, where there is more than one run.
        present: Whether there is any row with an event time up to the spine's; may be False where the visible one is not expired.
        newest: The greatest event time of those.
    """

    run: Int64Array
    row: Int64Array
    event: Int64Array
    created: Int64Array
    present: BoolArray
    newest: Int64Array

    def improve(self, places: Int64Array, other: _Found) -> None:
        """Take the other's row at these places."""
        for mine, its in (
            (self.run, other.run), (self.row, other.row), (self.event, other.event), (self.created, other.created)
        ):  # fmt: skip
            mine[places] = its[places]


def _best_of(runs: Sequence[Run], keys: Sequence[str], rule: PointInTimeRule, asked: _Asked) -> _Found:
    """Return the greatest visible row of each spine row, by (event, created, seq) over all runs."""
    several = len(runs) > 1
    found = [_find(number, run, keys, rule, asked, several=several) for number, run in enumerate(runs)]
    if not found:
        return _nothing(len(asked.rows))
    best = found[0]
    for other in found[1:]:
        there, new = other.row >= 0, best.row < 0
        later = (other.event > best.event) | ((other.event == best.event) & (other.created > best.created))
        tied = np.flatnonzero(there & ~new & (other.event == best.event) & (other.created == best.created))
        best.improve(np.flatnonzero(there & (new | later)), other)
        if len(tied):
            best.improve(tied[_seq_of(runs, other, tied) > _seq_of(runs, best, tied)], other)
        best.present |= other.present
        best.newest = np.maximum(best.newest, other.newest)
    return best


def _nothing(reads: int) -> _Found:
    none = np.zeros(reads, np.int64)
    return _Found(none, none - 1, none, none, np.zeros(reads, np.bool_), none)


def _find(number: int, run: Run, keys: Sequence[str], rule: PointInTimeRule, asked: _Asked, *, several: bool) -> _Found:
    """Return the greatest visible row of each spine row in one run."""
    created_counts = several or rule.knowledge == "as_known"
    seq_counts = rule.knowledge == "as_served"
    columns = run.whole([*keys, EVENT, *([CREATED] if created_counts else []), *([SEQ] if seq_counts else [])])
    starts, entity = map(frozen, _match([columns[key] for key in keys], asked))
    event = frozen(to_micros_or_lowest(columns[EVENT]))
    created = to_micros_or_lowest(columns[CREATED]) if created_counts else event
    counting = _Counting(starts[1:], event)
    if rule.knowledge == "as_known":
        counting = _known(starts, entity, rule.known_from(event, created))
    elif seq_counts:
        counting = _applied(starts, event, key_image(columns[SEQ]), rule.position or 0)
    row = find_rows(entity, frozen(asked.at), starts, *counting)
    seen = event[row]
    lost = np.flatnonzero((row < 0) | rule.is_expired(seen, asked.at))
    last = find_rows(frozen(entity[lost]), frozen(asked.at[lost]), starts, *_Counting(starts[1:], event))
    return _Found(
        run=np.full(len(row), number),
        row=row,
        event=seen,
        created=created[row] if several else seen,
        present=_placed(lost, last >= 0, np.zeros(len(row), np.bool_)),
        newest=_placed(lost, np.where(last >= 0, event[last], INT64_MIN), np.full(len(row), INT64_MIN)),
    )


class _Counting(NamedTuple):
    """Which rows count from when on.

    Attributes:
        stops: Where the rows of each entity stop.
        since: The times from which they count, rising within an entity.
        moved: The entities of which `row` says the greatest row that counts by then; of others it is the row in the same place.
        row: That row.
    """

    stops: Int64Array
    since: Int64Array
    moved: BoolArray = _NOBODY
    row: Int64Array = _NOTHING


def _known(starts: Int64Array, entity: Int64Array, known: Int64Array) -> _Counting:
    """Rows count from when they were known; takes the array of those times over."""
    asked_for = np.zeros(len(starts), np.bool_)  # the last one is what -1 points at: nobody's
    asked_for[entity] = True
    row = np.empty(len(known), np.int64)
    moved = order_by_known(starts, frozen(asked_for[:-1]), known, row)
    return _Counting(starts[1:], frozen(known), frozen(moved), frozen(row))


def _applied(starts: Int64Array, event: Int64Array, seq: Int64Array, position: int) -> _Counting:
    """Rows count from their event time on, but only those that were applied."""
    since, row = np.empty(len(event), np.int64), np.empty(len(event), np.int64)
    stops = drop_after(starts, event, frozen(seq), position, since, row)
    everybody = np.ones(len(stops), np.bool_)
    return _Counting(frozen(stops), frozen(since), frozen(everybody), frozen(row))


_Array = TypeVar("_Array", Int64Array, BoolArray)


def _placed(places: Int64Array, values: _Array, out: _Array) -> _Array:
    out[places] = values
    return out


def _match(keys: Sequence[pa.Array], asked: _Asked) -> tuple[Int64Array, Int64Array]:
    """Return where the rows of each entity of a run start (entities + 1), and the entity of each spine row, or -1."""
    images = [frozen(key_image(key)) for key in keys]
    begins = np.zeros(len(images[0]), np.bool_)
    begins[:1] = True
    for image in images:
        mark_starts(image, begins)
    first = np.flatnonzero(begins)
    table = np.stack([image[first] for image in images])
    wanted = [_wanted(key, mine) for key, mine in zip(keys, asked.keys, strict=True)]
    known = np.logical_and.reduce([there for _, there in wanted])
    order = None if is_rising(frozen(table)) else np.lexsort(table[::-1])
    sorted_table = table if order is None else table[:, order]
    entity = find_entities(frozen(sorted_table), frozen(np.stack([image for image, _ in wanted])), frozen(known))
    if order is not None:
        entity = np.where(entity >= 0, order[entity], -1)
    return np.append(first, len(begins)), entity


def _wanted(key: pa.Array, asked: pa.Array) -> tuple[Int64Array, BoolArray]:
    """Return the images of the asked keys among those of a run, and which of them the run may have."""
    if not pa.types.is_dictionary(key.type):
        return np.asarray(asked), np.ones(len(asked), np.bool_)
    code = pc.index_in(asked, key.dictionary)
    return np.asarray(code.cast(pa.int64()).fill_null(-1)), np.asarray(code.is_valid())


def _seq_of(runs: Sequence[Run], found: _Found, places: Int64Array) -> Int64Array:
    """Return the seq of the rows that were found at these places."""
    seq = FixedColumn(pa.int64(), len(places))
    for number in np.unique(found.run[places]).tolist():
        of_run = np.flatnonzero(found.run[places] == number)
        _copy(runs[number], found.row[places[of_run]], of_run, {SEQ: seq})
    return np.asarray(seq.finish(np.ones(len(places), np.bool_)))


def _copy(run: Run, rows: Int64Array, places: Int64Array, gathered: Mapping[str, GatheredColumn]) -> None:
    """Copy the values of these rows to their places, in the order in which the rows lie."""
    if not is_rising(frozen(rows[np.newaxis])):
        order = np.argsort(rows)
        rows, places = rows[order], places[order]
    for part in run.parts(list(gathered), rows):
        for name, values in part.columns.items():
            gathered[name].put(values, part.rows, places[part.places])


# --- the events of one bucket, for windows -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Selected:
    """Events of one run: the number of the entity that owns each, its row, rising, and its event time."""

    run: Run
    owner: Int64Array
    row: Int64Array
    event: Int64Array


def _gather_bucket(
    layout: _Layout, rule: PointInTimeRule, columns: Sequence[str], reach: int | None, asked: _Asked
) -> Gathered:
    """Return the events of the entities of one bucket."""
    images = [key_image(as_codes(key)) for key in asked.keys]
    order = np.lexsort([asked.at, *reversed(images)])
    begins = np.zeros(len(order), np.bool_)
    begins[:1] = True
    for image in images:
        mark_starts(frozen(image[order]), begins)
    entity = _placed(order, np.cumsum(begins) - 1, np.empty(len(order), np.int64))
    first = np.flatnonzero(begins)
    last = np.append(first[1:], len(order)) - 1
    owners = asked.first_of_each(order[first])
    since = np.full(len(first), INT64_MIN) if reach is None else before(asked.at[order[first]], reach)
    with ExitStack() as stack:
        runs = layout.runs(asked.bucket, stack)
        selected = [_select(run, layout.keys, owners, since, asked.at[order[last]]) for run in runs]
        return Gathered(_events(layout, rule, columns, len(first), selected), entity)


def _select(run: Run, keys: Sequence[str], owners: _Asked, first: Int64Array, last: Int64Array) -> _Selected:
    """Return the events of these entities from their first to their last time, both included, in the order of the run."""
    columns = run.whole([*keys, EVENT])
    starts, entity = _match([columns[key] for key in keys], owners)
    event = frozen(to_micros_or_lowest(columns[EVENT]))
    order = np.argsort(entity)
    chosen = select_rows(frozen(entity[order]), frozen(starts), event, frozen(first[order]), frozen(last[order]))
    return _Selected(run, order[chosen[0]], chosen[1], event[chosen[1]])


def _events(
    layout: _Layout, rule: PointInTimeRule, columns: Sequence[str], entities: int, selected: Sequence[_Selected]
) -> Events:
    """Return selected events with their columns, in the order that a fold needs.

    What tells events of one instant apart is read only where there are such events.
    """
    event_key = [column.name for column in layout.table.schema.event_key]
    owner, event = (_joined([getattr(part, name) for part in selected]) for name in ("owner", "event"))
    order = _time_order(owner, event)
    tied = _has_repeats(owner, event, order)
    ties = [CREATED, SEQ, *event_key] if tied else _BOUNDS[rule.knowledge]
    read = _read_selected(layout, selected, list(dict.fromkeys([*ties, *columns])))
    created, seq = (
        to_micros_or_lowest(read[name]) if name in ties else np.full(len(event), INT64_MIN) for name in (CREATED, SEQ)
    )
    identity = [key_image(as_codes(_whole(read[name]))) for name in event_key] if tied else []
    if tied:
        order = np.lexsort([seq, created, *reversed(identity), event, owner])
    owner, event, created, seq = (_ordered(array, order) for array in (owner, event, created, seq))
    return Events(
        starts=np.searchsorted(owner, np.arange(entities + 1)),
        event=event,
        created=created,
        seq=seq,
        known_from=rule.known_from(event, created),
        identity=_numbered([owner, event, *(_ordered(image, order) for image in identity)])
        if identity
        else np.arange(len(event)),
        columns={name: _window_column(_whole(read[name]), order) for name in columns},
    )


# What bounds the visible events beside their own time.
_BOUNDS = {"latest": [], "as_known": [CREATED], "as_served": [SEQ]}


def _read_selected(
    layout: _Layout, selected: Sequence[_Selected], names: Sequence[str]
) -> dict[str, pa.Array | pa.ChunkedArray]:
    """Return columns of the selected events, one run after the other."""
    rows = sum(len(part.row) for part in selected)
    gathered, free = layout.gathered(names, rows), 0
    for part in selected:
        _copy(part.run, part.row, np.arange(free, free + len(part.row)), gathered)
        free += len(part.row)
    everywhere = np.ones(rows, np.bool_)
    return {name: column.finish(everywhere) for name, column in gathered.items()}


def _time_order(owner: Int64Array, event: Int64Array) -> Int64Array | None:
    """Return the order by (owner, event); None where they are in it, as in one run whose keys are numbers."""
    return None if is_rising(frozen(np.stack([owner, event]))) else np.lexsort([event, owner])


def _has_repeats(owner: Int64Array, event: Int64Array, order: Int64Array | None) -> bool:
    owner, event = _ordered(owner, order), _ordered(event, order)
    return bool(((owner[1:] == owner[:-1]) & (event[1:] == event[:-1])).any())


def _ordered(array: Int64Array, order: Int64Array | None) -> Int64Array:
    return array if order is None else array[order]


def _window_column(values: pa.Array, order: Int64Array | None) -> WindowColumn:
    return WindowColumn.from_arrow(pa.chunked_array([values if order is None else values.take(pa.array(order))]))


def _numbered(columns: Sequence[Int64Array]) -> Int64Array:
    """Number the runs of rows that are equal in all these columns."""
    begins = np.zeros(len(columns[0]), np.bool_)
    for column in columns:
        mark_starts(frozen(column), begins)
    return np.cumsum(begins, dtype=np.int64)


def _joined(parts: Sequence[Int64Array]) -> Int64Array:
    return np.concatenate([_NOTHING, *parts])


def _whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return in_one(column) if isinstance(column, pa.ChunkedArray) else column


def compile_kernels() -> None:
    """Compile the loops, or load them from the cache, so that no read has to wait for it.

    >>> compile_kernels()
    """
    one, yes, zero = frozen(np.ones(1, np.int64)), frozen(np.ones(1, np.bool_)), frozen(np.zeros(1, np.int64))
    edges = frozen(np.array([0, 1]))
    order_by_bucket(zero, zero, np.zeros(2, np.int64))
    mark_starts(zero, np.ones(1, np.bool_))
    is_rising(frozen(np.ones((1, 1), np.int64)))
    find_entities(frozen(np.ones((1, 1), np.int64)), frozen(np.ones((1, 1), np.int64)), yes)
    find_rows(zero, one, edges, edges[1:], one, _NOBODY, _NOTHING)
    order_by_known(edges, yes, np.ones(1, np.int64), np.empty(1, np.int64))
    drop_after(edges, one, one, 0, np.empty(1, np.int64), np.empty(1, np.int64))
    select_rows(zero, edges, one, one, one)
    for arrow_type in (pa.bool_(), pa.int16(), pa.int32(), pa.int64(), pa.decimal128(3, 1)):
        values = pa.array([None, 0], pa.int8() if arrow_type != pa.decimal128(3, 1) else arrow_type).cast(arrow_type)
        gathered_column(arrow_type, 1).put(values, one, zero)
    gathered_column(pa.string(), 1, coded=True).put(pa.array(["", None]), zero, zero)
