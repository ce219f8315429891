"""How a windowed view is read online; a module of its own, since the compiled loops are loaded where somebody reads one alone."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from featurestore.lanes import LaneColumn
from featurestore.online.codec import EVENT_TIME, RowLayout
from featurestore.online.rollout import Seen
from featurestore.online.store import Snapshot
from featurestore.online.windows import PageLayout, events_of, gather, group_of, is_in_tiles
from featurestore.planning import PlannedView
from featurestore.registry.snapshot import AggregationRecord, FeatureRecord
from featurestore.windows import WindowColumn, WindowLists, fold_windows
from featurestore.windows.stored import (
    COUNT,
    FIRST,
    LAST,
    MAX,
    MEAN,
    MIN,
    SUM,
    Folded,
    fold_pieces,
)

_FUNCTIONS = {"count": COUNT, "sum": SUM, "mean": MEAN, "min": MIN, "max": MAX, "first": FIRST, "last": LAST}
_pack_time = struct.Struct("<q").pack


@dataclass(frozen=True, slots=True)
class TileAggregates:
    """The features of a view that are made of tiles and of the events at the edges of windows, by one compiled fold.

    Attributes:
        aggregations: What they are.
        layout: How rows of them are laid out.
        folded: The same as the kernel takes it.
        row: A row in which nothing is written yet.
    """

    aggregations: list[AggregationRecord]
    layout: RowLayout
    folded: Folded
    row: bytes

    @classmethod
    def of(cls, features: Sequence[FeatureRecord], pages: PageLayout) -> TileAggregates:
        """Look up what does not change between reads."""
        asked = [(f.name, f.type, f.aggregation) for f in features if f.aggregation and is_in_tiles(f.aggregation)]
        layout = RowLayout.of((name, dtype) for name, dtype, _ in asked)
        aggregations = [aggregation for _, _, aggregation in asked]
        groups = list(dict.fromkeys(map(group_of, aggregations)))
        windows = sorted({aggregation.time_window for aggregation in aggregations})
        rows = [
            (windows.index(a.time_window), groups.index(group_of(a)), _FUNCTIONS[a.function], *_place(layout, name))
            for name, _, a in asked
        ]
        folded = Folded(
            windows=np.array(windows, np.int64),
            groups=pages.group_rows(groups),
            asked=np.array(sorted(rows), np.int64).reshape(len(rows), 6),
            event_columns=pages.event_columns,
            tile_columns=pages.tile_columns,
        )
        zeros = LaneColumn(np.zeros(1, np.int64), np.ones(1, np.bool_))
        return cls(aggregations, layout, folded, layout.encode(np.zeros(1, np.int64), [zeros] * len(asked))[0])

    def rows(self, snapshot: Snapshot, view: WindowedView, keys: Sequence[bytes], t: int) -> list[bytes]:
        """Return the aggregates of each entity as rows."""
        gathered = gather(snapshot, view.prefix, view.pages, keys, t=t, windows=self.folded.windows)
        row = b"".join((self.row[: EVENT_TIME.start], _pack_time(t), self.row[EVENT_TIME.stop :]))
        rows = bytearray(row * len(keys))
        into = np.frombuffer(rows, np.uint8)
        fits = fold_pieces(gathered.pieces, gathered.roots, gathered.pages, len(keys), t, self.folded, into)
        if not fits:
            view.fold(snapshot, self.aggregations, keys, t)  # says which sum does not
        if len(keys) == 1:
            return [bytes(rows)]
        raw, size = bytes(rows), len(row)
        return [raw[at : at + size] for at in range(0, len(raw), size)]


@dataclass(frozen=True, slots=True)
class WindowedView:
    """How a windowed view is read; an unknown entity is an empty window."""

    key_set: int
    prefix: bytes
    layout: RowLayout
    pages: PageLayout
    tiled: TileAggregates
    others: list[AggregationRecord]
    seen: Seen = field(default_factory=Seen)

    @classmethod
    def of(cls, view: PlannedView, prefix: bytes, layout: RowLayout) -> WindowedView:
        """Look up what reads of a view need; see featurestore.online.reader.prepare_stored."""
        pages = PageLayout.of(view.record.stored(), keyed=bool(view.record.event_key))
        others = [f.aggregation for f in view.features if f.aggregation and not is_in_tiles(f.aggregation)]
        return cls(view.key_set, prefix, layout, pages, TileAggregates.of(view.features, pages), others)

    def places(self, keys: Sequence[bytes]) -> list[tuple[bytes, Sequence[bytes]]]:
        """Return (prefix of the keyspace, entity keys)."""
        return [(self.prefix, keys)]

    def rows(self, snapshot: Snapshot, keys: Sequence[bytes], t: int) -> list[bytes]:
        """Return the aggregates of each entity's windows that end at t."""
        self.seen.rows += len(keys)
        if not self.others:
            return self.tiled.rows(snapshot, self, keys, t)
        tiled, names = self.tiled, [slot.name for slot in self.tiled.layout.slots]
        found = {}
        if names:
            found = dict(zip(names, tiled.layout.decode(tiled.rows(snapshot, self, keys, t), names), strict=True))
        others = iter(self.fold(snapshot, self.others, keys, t))
        slots = self.layout.slots
        columns = [found[slot.name] if slot.name in found else next(others).lane(slot.dtype) for slot in slots]
        return self.layout.encode(np.full(len(keys), t, np.int64), columns)

    def fold(
        self, snapshot: Snapshot, aggregations: Sequence[AggregationRecord], keys: Sequence[bytes], t: int
    ) -> list[WindowColumn | WindowLists]:
        """Return aggregates from every event of their windows, as training computes them.

        Args:
            snapshot: What to read.
            aggregations: What to compute.
            keys: The entities.
            t: The end of the windows, microseconds.

        Raises:
            InvalidArgumentError: A sum of integers does not fit int64.
        """
        windows = np.array([max(a.time_window for a in aggregations)])
        gathered = gather(snapshot, self.prefix, self.pages, keys, t=t, windows=windows, every=True)
        events = events_of(gathered, self.pages, len(keys))
        at = np.full(len(keys), t, np.int64)
        return fold_windows(events, aggregations, entity=np.arange(len(keys)), at=at)


def _place(layout: RowLayout, name: str) -> tuple[int, int, int]:
    """Return where the value of a feature lies in a row, and which byte and bit of it say that it is null."""
    slot = layout.slot(name)
    return layout.offset(slot.lane) + 8 * slot.index, layout.offset("nulls") + slot.bit // 8, 1 << slot.bit % 8
