"""(plan, spine) -> TrainingSet: one row for each spine row, in its order, with what was known at its time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import FailedPreconditionError, InvalidArgumentError
from featurestore.offline.engines import Engine, engine_of
from featurestore.offline.on_demand import compute_on_demand
from featurestore.offline.point_in_time import STATUSES, Int64Array, Knowledge
from featurestore.offline.reader import Position, ViewReader, ViewSource
from featurestore.offline.spine import spine_columns, spine_times
from featurestore.offline.table import OfflineTable
from featurestore.planning import PlannedView, ReadPlan
from featurestore.refs import ViewRef

if TYPE_CHECKING:
    import polars as pl


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


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What became of the spine's rows.

    Attributes:
        rows: Rows of the spine.
        views: One report for each stored view that was read.
        warnings: What a user should know, with the repair.
    """

    rows: int
    views: tuple[ViewReport, ...]
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        counted = [
            f"{view.view}: " + ", ".join(f"{getattr(view, name)} {name.replace('_', ' ')}" for name in STATUSES)
            for view in self.views
        ]
        return "\n".join([f"{self.rows} rows", *counted, *(f"warning: {text}" for text in self.warnings)])


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """The spine with features, and what they were made from.

    Attributes:
        table: The spine's columns as they came, then one column for each output of the plan.
        plan: The plan that was read.
        knowledge: What counted as known.
        position: For ``as_served``: the position, or the position of each view version.
        engine: Name of the engine that joined.
        sources: Where each view was read from.
        report: What became of the spine's rows.
    """

    table: pa.Table
    plan: ReadPlan
    knowledge: Knowledge
    position: Position
    engine: str
    sources: tuple[ViewSource, ...]
    report: TrainingReport

    def __repr__(self) -> str:
        return f"TrainingSet({len(self.table)} rows, {', '.join(output.name for output in self.plan.outputs)})\n{self.report}"

    def __len__(self) -> int:
        return len(self.table)

    def to_arrow(self) -> pa.Table:
        """Return the Arrow table."""
        return self.table

    def to_polars(self) -> pl.DataFrame:
        """Return a Polars frame; every type is kept."""
        import polars as pl

        frame = pl.from_arrow(self.table)
        assert isinstance(frame, pl.DataFrame)
        return frame

    def to_pandas(self) -> Any:
        """Return a pandas frame of Arrow-backed columns, so that an int64 with nulls stays one.

        Raises:
            FailedPreconditionError: pandas is not installed.
        """
        try:
            from pandas import ArrowDtype
        except ImportError as error:
            raise FailedPreconditionError("pandas is not installed.", repair="Run `pip install pandas`.") from error
        return self.table.to_pandas(types_mapper=ArrowDtype)

    def to_numpy(self) -> dict[str, np.ma.MaskedArray[Any, Any]]:
        """Return name -> masked array, nulls masked, so that every type is kept; times are datetime64[us] in UTC."""
        return {name: _masked(self.table[name]) for name in self.table.column_names}


def read_training_set(
    plan: ReadPlan,
    spine: pa.Table,
    *,
    timestamp: str = "event_timestamp",
    tables: Callable[[ViewRef], OfflineTable],
    engine: str | Engine = "duckdb",
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
    keys = [spine_columns(spine, list(zip(k.columns, k.dtypes, strict=True)), "join key") for k in plan.key_sets]
    request = spine_columns(spine, plan.request, "request column")
    engine = engine_of(engine) if isinstance(engine, str) else engine
    reader = ViewReader(tables, engine, knowledge, position)
    read = [reader.read(view, keys[view.key_set], at, timed) for view in plan.views]
    stored = [part.joined.table for part in read]
    computed = [compute_on_demand(view, request, stored, len(spine)) for view in plan.on_demand]
    sources = stored + computed
    table = spine
    for output in plan.outputs:
        table = table.append_column(output.name, sources[output.source][output.ref.feature])
    counted = {
        str(view.ref): _view_report(view, part.joined.status) for view, part in zip(plan.views, read, strict=True)
    }
    views = tuple(counted.values())  # a view that an on-demand feature reads once more is counted once
    warnings = (*_time_warnings(at[timed], now), *_loss_warnings(views, len(spine)))
    report = TrainingReport(len(spine), views, warnings)
    return TrainingSet(table, plan, knowledge, position, engine.name, tuple(part.source for part in read), report)


def _check_names(plan: ReadPlan, spine: pa.Table) -> None:
    taken = [output.name for output in plan.outputs if output.name in spine.column_names]
    if taken:
        raise InvalidArgumentError(
            f"The spine has a column '{taken[0]}', and so would the training set.",
            place=f"$.spine.{taken[0]}",
            repair="Rename it, or ask with full_feature_names=True.",
        )


def _view_report(view: PlannedView, status: npt.NDArray[np.int8]) -> ViewReport:
    return ViewReport(str(view.ref), *np.bincount(status, minlength=len(STATUSES)).tolist())


def _time_warnings(at: Int64Array, now: int | None) -> tuple[str, ...]:
    later = 0 if now is None else int((at > now).sum())
    return (
        (f"{later} rows of the spine lie in the future: what is known now is not all they would get.",) if later else ()
    )


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


def _masked(column: pa.ChunkedArray) -> np.ma.MaskedArray[Any, Any]:
    """Return a masked array; a null of a fixed-width type is filled first, so that Arrow does not turn integers into floats."""
    plain = column.cast(pa.timestamp(column.type.unit)) if pa.types.is_timestamp(column.type) else column
    if pa.types.is_primitive(plain.type) and plain.null_count:
        plain = pc.fill_null(plain, pa.scalar(0, pa.int64()).cast(plain.type))
    return np.ma.MaskedArray(plain.to_numpy(), mask=np.asarray(pc.is_null(column)))
