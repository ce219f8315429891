"""How a windowed view is read online; a module of its own, since the compiled loops are loaded where somebody reads one alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from featurestore.online.codec import RowLayout
from featurestore.online.rollout import Seen
from featurestore.online.store import Snapshot
from featurestore.online.windows import PageLayout, aggregations_of, gather_events
from featurestore.planning import PlannedView
from featurestore.registry.snapshot import AggregationRecord
from featurestore.windows import fold_windows


@dataclass(frozen=True, slots=True)
class WindowedView:
    """How a windowed view is read; an unknown entity is an empty window."""

    key_set: int
    prefix: bytes
    layout: RowLayout
    pages: PageLayout
    aggregations: list[AggregationRecord]
    seen: Seen = field(default_factory=Seen)

    @classmethod
    def of(cls, view: PlannedView, prefix: bytes, layout: RowLayout) -> WindowedView:
        """Look up what reads of a view need; see featurestore.online.reader.prepare_stored."""
        pages = PageLayout.of(view.record.stored(), keyed=bool(view.record.event_key))
        return cls(view.key_set, prefix, layout, pages, aggregations_of(view.features))

    def places(self, keys: Sequence[bytes]) -> list[tuple[bytes, Sequence[bytes]]]:
        """Return (prefix of the keyspace, entity keys)."""
        return [(self.prefix, keys)]

    def rows(self, snapshot: Snapshot, keys: Sequence[bytes], t: int) -> list[bytes]:
        """Return the aggregates of each entity's windows that end at t."""
        self.seen.rows += len(keys)
        window = max(a.time_window for a in self.aggregations)
        events = gather_events(snapshot, self.prefix, self.pages, keys, t=t, window=window)
        at = np.full(len(keys), t, np.int64)
        folded = fold_windows(events, self.aggregations, entity=np.arange(len(keys)), at=at)
        slots = zip(folded, self.layout.slots, strict=True)
        return self.layout.encode(at, [column.lane(slot.dtype) for column, slot in slots])
