"""Reading one planned view for a spine: the rule, the engine, and for a windowed view the fold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.errors import FailedPreconditionError, InvalidArgumentError
from featurestore.offline.engines import Engine
from featurestore.offline.engines.columns import gathered_column
from featurestore.offline.point_in_time import (
    MATCHED,
    MISSING,
    NOT_YET_KNOWN,
    Gathered,
    Int64Array,
    Joined,
    Knowledge,
    PointInTimeRule,
    Spine,
)
from featurestore.offline.table import OfflineTable, TableState
from featurestore.offline.tasks import in_turn
from featurestore.planning import PlannedView
from featurestore.refs import ViewRef
from featurestore.registry.snapshot import AggregationRecord
from featurestore.types import to_arrow
from featurestore.windows import WindowColumn, WindowLists, columns_read, fold_windows, has_events

Position = int | Mapping[str, int] | None


@dataclass(frozen=True, slots=True)
class ViewSource:
    """The files that a view was read from.

    Attributes:
        view: The view version, with its alias if it was read under one.
        directory: The folder of the version.
        state: Version of its Delta log, number of buckets, and the live files.
    """

    view: str
    directory: Path
    state: TableState

    @property
    def version(self) -> int:
        """Version of its Delta log."""
        return self.state.version

    @property
    def files(self) -> tuple[str, ...]:
        """The live files of that version, relative to the folder."""
        return tuple(str(file.path.relative_to(self.directory)) for file in self.state.files)


@dataclass(frozen=True, slots=True)
class ViewRead:
    """A view as it was read for a spine: its features, what became of each row, and where it was read from."""

    joined: Joined
    source: ViewSource


@dataclass(frozen=True, slots=True)
class ViewReader:
    """Reads one view after the other under the same knowledge; a version that is read twice is the same both times."""

    tables: Callable[[ViewRef], OfflineTable]
    engine: Engine
    knowledge: Knowledge
    position: Position
    pinned: dict[ViewRef, OfflineTable] = field(default_factory=dict)

    def read(self, view: PlannedView, spine: Spine) -> ViewRead:
        """Return the view's features for each spine row.

        Args:
            view: What to read.
            spine: The times, and the key columns of the view's key set, in order and under any names.

        Raises:
            FailedPreconditionError: The version was never filled; names the command.
            InvalidArgumentError: The position of this view is missing.
        """
        table = self._pinned(view)
        spine = replace(spine, keys=spine.keys.rename_columns([key.name for key in table.schema.keys]))
        rule = PointInTimeRule(view.record.ttl, self.knowledge, self._position(view), view.record.backfilled_until)
        if view.record.kind == "window":
            joined = self._fold(view, table, spine, rule)
        else:
            joined = self.engine.join(table, spine, rule, [feature.name for feature in view.features])
        return ViewRead(joined, ViewSource(str(view.ref), table.directory, table.state()))

    def _pinned(self, view: PlannedView) -> OfflineTable:
        version = replace(view.ref, alias=None)
        if version not in self.pinned:
            table = self.tables(version)
            if not table.exists:
                verb = "write" if view.record.source and view.record.source.kind == "push" else "ingest"
                raise FailedPreconditionError(
                    f"{view.ref} was never filled.", repair=f"Run `featurestore {verb} {view.ref.view}`."
                )
            self.pinned[version] = table.pinned()
        return self.pinned[version]

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
        columns = list(columns_read(aggregations))
        values = {feature.name: gathered_column(to_arrow(feature.type), len(spine)) for feature in view.features}
        status = np.full(len(spine), MISSING, np.int8)

        def fold(part: tuple[Int64Array, Callable[[], Gathered]]) -> None:
            rows, gather = part
            folded, status[rows] = _fold(aggregations, gather(), _taken(spine, rows), rule)
            for feature, column in zip(view.features, folded, strict=True):
                values[feature.name].put(column.to_arrow(feature.type), np.arange(len(rows)), rows)

        for _ in in_turn(fold, self.engine.gather(table, spine, rule, columns, reach=_reach(aggregations))):
            pass
        everywhere = np.ones(len(spine), np.bool_)
        return Joined(pa.table({name: column.finish(everywhere) for name, column in values.items()}), status)


def _reach(aggregations: Sequence[AggregationRecord]) -> int:
    """Return how far before the time of a read an event may lie that counts in one of its windows."""
    return max(aggregation.time_window for aggregation in aggregations)


def _taken(spine: Spine, rows: Int64Array) -> Spine:
    """Return some rows of the spine, without keys: an engine has found their entities."""
    return Spine(spine.keys.select([]), spine.at[rows], spine.timed[rows])


def _fold(
    aggregations: Sequence[AggregationRecord], gathered: Gathered, spine: Spine, rule: PointInTimeRule
) -> tuple[list[WindowColumn | WindowLists], npt.NDArray[np.int8]]:
    """Fold the windows of some rows of the spine; also say what became of each row."""
    known_at = spine.at if rule.knowledge == "as_known" else None
    folded = fold_windows(
        gathered.events,
        aggregations,
        entity=gathered.entity,
        at=spine.at,
        known_at=known_at,
        position=rule.position,
    )
    return folded, _window_status(gathered, aggregations, spine, known_at, rule.position)


def _window_status(
    gathered: Gathered,
    aggregations: Sequence[AggregationRecord],
    spine: Spine,
    known_at: Int64Array | None,
    position: int | None,
) -> npt.NDArray[np.int8]:
    """Say for each spine row whether its longest window has events, and whether they are visible."""
    longest = max(aggregation.time_window for aggregation in aggregations)
    events, entity = gathered.events, gathered.entity
    visible = has_events(events, longest, entity=entity, at=spine.at, known_at=known_at, position=position)
    empty = np.flatnonzero(~visible)
    present = has_events(events, longest, entity=entity[empty], at=spine.at[empty])
    status = np.full(len(spine), MATCHED, np.int8)
    status[empty] = np.where(present, NOT_YET_KNOWN, MISSING)
    return status
