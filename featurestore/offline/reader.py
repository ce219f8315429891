"""Reading one planned view for a spine: the rule, the engine, and for a windowed view the fold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.errors import FailedPreconditionError, InvalidArgumentError
from featurestore.offline.engines import Engine
from featurestore.offline.point_in_time import (
    MATCHED,
    MISSING,
    NOT_YET_KNOWN,
    BoolArray,
    Gathered,
    Int64Array,
    Joined,
    Knowledge,
    PointInTimeRule,
    Spine,
)
from featurestore.offline.table import OfflineTable
from featurestore.planning import PlannedView
from featurestore.refs import ViewRef
from featurestore.registry.snapshot import AggregationRecord
from featurestore.windows import fold_windows, has_events

Position = int | Mapping[str, int] | None


@dataclass(frozen=True, slots=True)
class ViewSource:
    """The files that a view was read from.

    Attributes:
        view: The view version, with its alias if it was read under one.
        version: Version of its Delta log.
        files: The live files of that version, relative to the view's folder.
    """

    view: str
    version: int
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ViewRead:
    """A view as it was read for a spine: its features, what became of each row, and where it was read from."""

    joined: Joined
    source: ViewSource


@dataclass(frozen=True, slots=True)
class ViewReader:
    """Reads one view after the other under the same knowledge."""

    tables: Callable[[ViewRef], OfflineTable]
    engine: Engine
    knowledge: Knowledge
    position: Position

    def read(self, view: PlannedView, keys: pa.Table, at: Int64Array, timed: BoolArray) -> ViewRead:
        """Return the view's features for each spine row.

        Args:
            view: What to read.
            keys: The key columns of the view's key set, in order.
            at: int64 microseconds since 1970 UTC.
            timed: False where the spine's time is null.

        Raises:
            FailedPreconditionError: The version was never filled; names the command.
            InvalidArgumentError: The position of this view is missing.
        """
        table = self.tables(view.ref)
        if not table.exists:
            verb = "write" if view.record.source and view.record.source.kind == "push" else "ingest"
            raise FailedPreconditionError(
                f"{view.ref} was never filled.", repair=f"Run `featurestore {verb} {view.ref.view}`."
            )
        table = table.pinned()
        spine = Spine(keys.rename_columns([key.name for key in table.schema.keys]), at, timed)
        rule = PointInTimeRule(view.record.ttl, self.knowledge, self._position(view), view.record.backfilled_until)
        if view.record.kind == "window":
            joined = self._fold(view, table, spine, rule)
        else:
            joined = self.engine.join(table, spine, rule, [feature.name for feature in view.features])
        files = tuple(str(file.path.relative_to(table.directory)) for file in table.files())
        return ViewRead(joined, ViewSource(str(view.ref), table.version, files))

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
    events, entity = gathered.events, gathered.entity
    visible = has_events(events, longest, entity=entity, at=spine.at, known_at=known_at, position=position)
    empty = np.flatnonzero(~visible)
    present = has_events(events, longest, entity=entity[empty], at=spine.at[empty])
    status = np.full(len(spine), MATCHED, np.int8)
    status[empty] = np.where(present, NOT_YET_KNOWN, MISSING)
    return status
