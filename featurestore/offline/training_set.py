"""(plan, spine) -> TrainingSet: one row for each spine row, in its order, with what was known at its time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurestore import expressions
from featurestore.errors import FailedPreconditionError, InvalidArgumentError
from featurestore.offline.engines import Engine, engine_of
from featurestore.offline.point_in_time import (
    MATCHED,
    MISSING,
    NOT_YET_KNOWN,
    STATUSES,
    Gathered,
    Int64Array,
    Joined,
    Knowledge,
    PointInTimeRule,
    Spine,
)
from featurestore.offline.spine import spine_columns, spine_times
from featurestore.offline.table import OfflineTable
from featurestore.planning import PlannedOnDemand, PlannedView, ReadPlan
from featurestore.refs import ViewRef
from featurestore.registry.snapshot import AggregationRecord
from featurestore.types import DType, from_arrow, to_arrow
from featurestore.windows import WindowColumn, fold_windows

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

Position = int | Mapping[str, int] | None


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
        report: What became of the spine's rows.
    """

    table: pa.Table
    plan: ReadPlan
    knowledge: Knowledge
    position: Position
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

    def to_pandas(self) -> pd.DataFrame:
        """Return a pandas frame of Arrow-backed columns, so that an int64 with nulls stays one.

        Raises:
            FailedPreconditionError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise FailedPreconditionError("pandas is not installed.", repair="Run `pip install pandas`.") from error
        return self.table.to_pandas(types_mapper=pd.ArrowDtype)

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
    reader = _Reader(tables, engine_of(engine) if isinstance(engine, str) else engine, knowledge, position)
    joined = [reader.read(view, Spine(_named(keys[view.key_set], tables(view.ref)), at, timed)) for view in plan.views]
    computed = [_compute(view, request, [part.values for part in joined]) for view in plan.on_demand]
    sources = [part.values for part in joined] + computed
    table = spine
    for output in plan.outputs:
        table = table.append_column(output.name, sources[output.source][output.ref.feature])
    views = tuple(_view_report(view, part.status) for view, part in zip(plan.views, joined, strict=True))
    warnings = (*_time_warnings(at[timed], now), *_loss_warnings(plan, views, len(spine)))
    return TrainingSet(table, plan, knowledge, position, TrainingReport(len(spine), views, warnings))


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads one view after the other under the same knowledge."""

    tables: Callable[[ViewRef], OfflineTable]
    engine: Engine
    knowledge: Knowledge
    position: Position

    def read(self, view: PlannedView, spine: Spine) -> Joined:
        table = self.tables(view.ref)
        if not table.exists:
            verb = "write" if view.record.source and view.record.source.kind == "push" else "ingest"
            raise FailedPreconditionError(
                f"{view.ref} was never filled.", repair=f"Run `featurestore {verb} {view.ref.view}`."
            )
        rule = PointInTimeRule(view.record.ttl, self.knowledge, self._position(view), view.record.backfilled_until)
        if view.record.kind == "window":
            return self._fold(view, table, spine, rule)
        return self.engine.join(table, spine, rule, [feature.name for feature in view.features])

    def _position(self, view: PlannedView) -> int | None:
        if not isinstance(self.position, Mapping):
            return self.position
        name = f"{view.ref.view}@v{view.ref.version}"
        if name not in self.position:
            raise InvalidArgumentError(f"The position of {name} is missing.", place=f"$.position.{name}")
        return self.position[name]

    def _fold(self, view: PlannedView, table: OfflineTable, spine: Spine, rule: PointInTimeRule) -> Joined:
        """Fold the windows of a view; an unknown entity is an empty window."""
        aggregations = [feature.aggregation for feature in view.features if feature.aggregation]
        columns = list(dict.fromkeys(aggregation.column for aggregation in aggregations))
        gathered = self.engine.gather(table, spine, rule, columns)
        known_at = spine.at if rule.knowledge == "as_known" else None
        folded = fold_windows(
            gathered.events,
            aggregations,
            entity=gathered.entity,
            at=spine.at,
            known_at=known_at,
            position=rule.position,
        )
        values = {
            feature.name: column.to_arrow(feature.type) for feature, column in zip(view.features, folded, strict=True)
        }
        return Joined(pa.table(values), _window_status(gathered, aggregations, spine, known_at, rule.position))


def _window_status(
    gathered: Gathered,
    aggregations: Sequence[AggregationRecord],
    spine: Spine,
    known_at: Int64Array | None,
    position: int | None,
) -> npt.NDArray[np.int8]:
    """Say for each spine row whether its longest window has events, and whether they are visible."""
    longest = max(aggregation.time_window for aggregation in aggregations)
    counted = AggregationRecord(column="", function="count", dtype="int64", time_window=longest)
    ones = WindowColumn(np.ones(len(gathered.events.event), np.int64), np.ones(len(gathered.events.event), np.bool_))
    events = replace(gathered.events, columns={"": ones})
    (visible,) = fold_windows(
        events, [counted], entity=gathered.entity, at=spine.at, known_at=known_at, position=position
    )
    empty = np.flatnonzero(visible.values == 0)
    (present,) = fold_windows(events, [counted], entity=gathered.entity[empty], at=spine.at[empty])
    status = np.full(len(spine), MATCHED, np.int8)
    status[empty] = np.where(present.values > 0, NOT_YET_KNOWN, MISSING)
    return status


def _compute(view: PlannedOnDemand, request: pa.Table, joined: Sequence[pa.Table]) -> pa.Table:
    """Compute the features of an on-demand view from request columns and joined inputs."""
    inputs = {name: request[name] for name, _ in view.record.request}
    inputs |= {name: joined[source][feature] for name, source, feature in view.inputs}
    columns = {name: _operand(column) for name, column in inputs.items()}
    rows = len(next(iter(inputs.values()))) if inputs else 0
    computed = {}
    for feature in view.features:
        assert feature.expression is not None
        result = expressions.evaluate(expressions.from_json(feature.expression.tree), columns, rows)
        computed[feature.name] = _outcome(result, feature.type)
    return pa.table(computed)


def _operand(column: pa.ChunkedArray) -> expressions.Column:
    """Return an Arrow column as expressions take it: exact NumPy widths, times as integers, text and decimals as objects."""
    dtype = from_arrow(column.type)
    valid = np.asarray(column.is_valid())
    if dtype.lane == "strings":
        values = np.empty(len(column), object)
        values[:] = column.to_pylist()
        return expressions.Column(values, valid)
    whole = {"timestamp": pa.int64(), "date": pa.int32()}.get(dtype.name)
    plain = column.cast(whole) if whole else column
    return expressions.Column(plain.fill_null(False if dtype.name == "bool" else 0).to_numpy(), valid)


def _outcome(column: expressions.Column, dtype: DType) -> pa.Array:
    wanted = to_arrow(dtype)
    if dtype.lane == "strings":
        return pa.array(np.where(column.valid, column.values, None).tolist(), wanted)
    return pa.array(column.values, mask=~column.valid).cast(wanted)


def _named(keys: pa.Table, table: OfflineTable) -> pa.Table:
    return keys.rename_columns([key.name for key in table.schema.keys])


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


def _loss_warnings(plan: ReadPlan, views: Sequence[ViewReport], rows: int) -> tuple[str, ...]:
    """Warn where a view loses most rows of the spine to one cause."""
    return tuple(
        f"{report.view} has no value for {lost} of {rows} rows: {_CAUSES[cause]}"
        for planned, report in zip(plan.views, views, strict=True)
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
