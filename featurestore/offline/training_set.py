"""(plan, spine) -> TrainingSet: one row for each spine row, in its order, with what was known at its time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.errors import InvalidArgumentError
from featurestore.offline.engines import Engine, engine_of
from featurestore.offline.frames import Frames
from featurestore.offline.on_demand import compute_on_demand
from featurestore.offline.point_in_time import STATUSES, Int64Array, Knowledge, Spine
from featurestore.offline.reader import Position, ViewReader, ViewSource
from featurestore.offline.spine import spine_columns, spine_times
from featurestore.offline.table import OfflineTable
from featurestore.planning import ReadPlan
from featurestore.refs import ViewRef
from featurestore.types import INT64_MAX, to_micros

Instant = datetime | int | str


@dataclass(frozen=True, slots=True)
class ViewReport:
    """What became of the spine's rows in one view; the four numbers add up to all of them.

    Attributes:
        view: The view version, with its alias if it was read under one.
        matched: Rows that got a row of the view; for windows: that have an event in the longest one.
        missing: Rows for whose key the view has nothing up to their time; null keys and times are among them.
        expired: Rows for which everything is older than the ttl.
        not_yet_known: Rows for which something is there, but was not known yet at their time.
    """

    view: str
    matched: int
    missing: int
    expired: int
    not_yet_known: int

    @classmethod
    def of(cls, view: str, status: npt.NDArray[np.int8]) -> ViewReport:
        """Return the report of a view by what became of each row."""
        return cls(view, *np.bincount(status, minlength=len(STATUSES)).tolist())

    def __add__(self, other: ViewReport) -> ViewReport:
        """Return the report of both sets of rows together."""
        return ViewReport(self.view, *(getattr(self, name) + getattr(other, name) for name in STATUSES))


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What became of the spine's rows.

    Attributes:
        rows: Rows of the spine.
        views: One report for each stored view that was read.
        warnings: What a user should know, with the repair.
        future: Rows whose time lay in the future.
    """

    rows: int
    views: tuple[ViewReport, ...]
    warnings: tuple[str, ...]
    future: int = 0

    @classmethod
    def of(cls, rows: int, views: Sequence[ViewReport], future: int) -> TrainingReport:
        """Return the report of so many rows, with the warnings that follow."""
        return cls(rows, tuple(views), (*_time_warnings(future), *_loss_warnings(views, rows)), future)

    def __add__(self, other: TrainingReport) -> TrainingReport:
        """Return the report of both sets of rows together."""
        views = {report.view: report for report in self.views}
        for report in other.views:
            views[report.view] = views[report.view] + report if report.view in views else report
        return TrainingReport.of(self.rows + other.rows, list(views.values()), self.future + other.future)

    def __str__(self) -> str:
        counted = [
            f"{view.view}: " + ", ".join(f"{getattr(view, name)} {name.replace('_', ' ')}" for name in STATUSES)
            for view in self.views
        ]
        return "\n".join([f"{self.rows} rows", *counted, *(f"warning: {text}" for text in self.warnings)])


@dataclass(frozen=True, slots=True)
class TrainingSet(Frames):
    """The spine with features, and what they were made from.

    Attributes:
        table: The spine's columns as they came, then one column for each output of the plan.
        plan: The plan that was read.
        knowledge: What counted as known.
        position: For ``as_served``: the position, or the position of each view version.
        engine: Name of the engine that joined.
        sources: Where each view was read from.
        report: What became of the spine's rows.
        timestamp: Name of the spine's column of times.
        statuses: View -> int8 for each row, as in `featurestore.offline.point_in_time.STATUSES`.
    """

    table: pa.Table
    plan: ReadPlan
    knowledge: Knowledge
    position: Position
    engine: str
    sources: tuple[ViewSource, ...]
    report: TrainingReport
    timestamp: str = "event_timestamp"
    statuses: Mapping[str, npt.NDArray[np.int8]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"TrainingSet({len(self.table)} rows, {', '.join(output.name for output in self.plan.outputs)})\n{self.report}"

    def __len__(self) -> int:
        return len(self.table)

    def to_arrow(self) -> pa.Table:
        """Return the Arrow table."""
        return self.table

    def described(self) -> TrainingSet:
        """Return a set that says what was read, and how: this one."""
        return self

    def parts(self) -> Iterator[TrainingSet]:
        """Return the set in parts that fit in memory: all of it."""
        return iter([self])

    def batches(self, rows: int) -> Iterator[pa.RecordBatch]:
        """Return the set in batches of at most so many rows, without copying."""
        return iter(self.table.to_batches(max_chunksize=rows))

    def split(
        self, parts: Mapping[str, Instant | None] | None = None, *, before: Instant | None = None
    ) -> dict[str, TrainingSet]:
        """Return parts of the set by the time of each row, in the order of the rows.

        Args:
            parts: Name -> where the part ends (that instant is in the next one), rising; None ends the last part.
            before: Short for ``{"train": before, "test": None}``.

        Returns:
            Name -> training set, with a report of its own rows.

        Raises:
            InvalidArgumentError: The ends do not rise, or a row is in no part: its time is null, or after the last end.

        >>> parts = train.split({"train": "2026-01-01", "valid": "2026-02-01", "test": None})  # doctest: +SKIP
        """
        wanted = parts if parts is not None else {"train": before, "test": None}
        part = _part_of(self.table, self.timestamp, wanted)
        return {name: self._only(np.flatnonzero(part == number)) for number, name in enumerate(wanted)}

    def _only(self, rows: Int64Array) -> TrainingSet:
        statuses = {view: status[rows] for view, status in self.statuses.items()}
        views = [ViewReport.of(view, status) for view, status in statuses.items()]
        table = self.table.take(pa.array(rows))
        return replace(self, table=table, statuses=statuses, report=TrainingReport.of(len(rows), views, 0))


def read_training_set(
    plan: ReadPlan,
    spine: pa.Table,
    *,
    timestamp: str = "event_timestamp",
    tables: Callable[[ViewRef], OfflineTable],
    engine: str | Engine = "kernel",
    knowledge: Knowledge = "as_known",
    position: Position = None,
    now: int | None = None,
) -> TrainingSet:
    """Join the features of a plan onto a spine, as they were known at each row's time.

    Args:
        plan: What to read.
        spine: Keys, times, and the request columns of on-demand features; its other columns pass through.
        timestamp: Name of the spine's column of times; naive ones count as UTC, and a null one matches nothing.
        tables: View version -> its offline table.
        engine: Name of an engine, or one.
        knowledge: ``as_known`` (rows created after the spine's time do not count), ``latest`` (they do), or ``as_served``.
        position: For ``as_served``: the last seq that the server had applied, for all views or by view version (``weather@v1``).
        now: Microseconds since 1970 UTC; rows of the spine after it are warned about. None does not look.

    Returns:
        One row for each spine row, in its order. Types never change: an int64 with misses stays one, with nulls.

    Raises:
        InvalidArgumentError: A column is missing, has another type, or has the name of an output; says where.
        FailedPreconditionError: A view version was never filled; names the command.
    """
    _check_names(plan, spine)
    at, timed = spine_times(spine, timestamp)
    spines = [
        Spine(spine_columns(spine, list(zip(k.columns, k.dtypes, strict=True)), "join key"), at, timed)
        for k in plan.key_sets
    ]
    request = spine_columns(spine, plan.request, "request column")
    engine = engine_of(engine) if isinstance(engine, str) else engine
    reader = ViewReader(tables, engine, knowledge, position)
    read = [reader.read(view, spines[view.key_set]) for view in plan.views]
    stored = [part.joined.table for part in read]
    computed = [compute_on_demand(view, request, stored, len(spine)) for view in plan.on_demand]
    columns = stored + computed
    table = _with_columns(spine, {output.name: columns[output.source][output.ref.feature] for output in plan.outputs})
    # A view that an on-demand feature reads once more is counted once.
    statuses = {str(view.ref): part.joined.status for view, part in zip(plan.views, read, strict=True)}
    report = TrainingReport.of(
        len(spine),
        [ViewReport.of(view, status) for view, status in statuses.items()],
        0 if now is None else int((at[timed] > now).sum()),
    )
    sources = tuple(part.source for part in read)
    return TrainingSet(table, plan, knowledge, position, engine.name, sources, report, timestamp, statuses)


def _with_columns(spine: pa.Table, columns: Mapping[str, pa.ChunkedArray]) -> pa.Table:
    """Return the spine with more columns, all at once: there may be thousands."""
    fields = [*spine.schema, *(pa.field(name, column.type) for name, column in columns.items())]
    return pa.table([*spine.columns, *columns.values()], schema=pa.schema(fields, metadata=spine.schema.metadata))


def _check_names(plan: ReadPlan, spine: pa.Table) -> None:
    taken = [output.name for output in plan.outputs if output.name in spine.column_names]
    if taken:
        raise InvalidArgumentError(
            f"The spine has a column '{taken[0]}', and so would the training set.",
            place=f"$.spine.{taken[0]}",
            repair="Rename it, or ask with full_feature_names=True.",
        )


def _part_of(table: pa.Table, timestamp: str, parts: Mapping[str, Instant | None]) -> Int64Array:
    """Return the number of the part that each row belongs to."""
    at, timed = spine_times(table, timestamp)
    ends = [INT64_MAX if end is None else to_micros(end) for end in parts.values()]
    if not ends or any(second <= first for first, second in pairwise(ends)) or None in list(parts.values())[:-1]:
        raise InvalidArgumentError(
            f"The ends of {', '.join(parts) or 'no parts'} do not rise.",
            repair="Give them in order; None is for the last.",
        )
    part = np.searchsorted(ends, at, side="right").astype(np.int64)
    if list(parts.values())[-1] is None:
        part = np.minimum(part, len(ends) - 1)
    outside = int((~timed | (part == len(ends))).sum())
    if outside:
        raise InvalidArgumentError(
            f"{outside} rows are in no part: their time is null, or not before the last end.",
            place=f"$.{timestamp}",
            repair="Leave them out of the spine, or end the last part with None.",
        )
    return part


def _time_warnings(future: int) -> tuple[str, ...]:
    text = f"{future} rows of the spine lie in the future: what is known now is not all they would get."
    return (text,) if future else ()


def _loss_warnings(views: Sequence[ViewReport], rows: int) -> tuple[str, ...]:
    """Warn where a view loses most rows of the spine to one cause."""
    return tuple(
        f"{report.view} has no value for {lost} of {rows} rows: {_CAUSES[cause]}"
        for report in views
        for cause, lost in zip(STATUSES[1:], (report.missing, report.expired, report.not_yet_known), strict=True)
        if 2 * lost > rows
    )


_CAUSES = {
    "missing": "their keys have nothing up to their times. Look at the keys, and at how far back the source goes.",
    "expired": "everything is older than the ttl. Look at the ttl, and at when the source was last ingested.",
    "not_yet_known": "it was created after their times. If that is the load time of old history, declare backfilled_until= on the view.",
}
