"""Online reads: a plan is prepared once, then each read joins stored bytes.

A read is one snapshot. For a view of columns it gets the rows and puts templates where there is none, or none young enough; nothing is
decoded. A view that is read in part is cut down to the features asked for, so that nothing leaves the store that the plan does not count.
Windowed views fold the events of their pages; on-demand views compute over what the plan's views gave.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import starmap

import numpy as np

from featurestore.errors import FailedPreconditionError, InvalidArgumentError
from featurestore.expressions import Column
from featurestore.lanes import WireColumn
from featurestore.online.codec import RowLayout, unpack_event_times, varint
from featurestore.online.keyspaces import find_keyspace
from featurestore.online.on_demand import PreparedOnDemand, on_demand_layout, request_columns, typed_column
from featurestore.online.store import Head, OnlineStore, Snapshot, read_head
from featurestore.online.windows import PageLayout, aggregations_of, gather_events
from featurestore.planning import PlannedView, ReadPlan
from featurestore.registry.snapshot import AggregationRecord
from featurestore.types import DType
from featurestore.v1 import serving_pb2 as pb
from featurestore.windows import fold_windows

Clock = Callable[[], int]

_TAIL = struct.Struct("<BqBQ")
_VIEW_TAG, _TIME_TAG, _POSITION_TAG = b"\x0a", 0x11, 0x19


@dataclass(slots=True)
class Seen:
    """What the reads of one view have found since somebody looked; counted in passing, by plain numbers.

    Attributes:
        rows: Rows that were asked for.
        missing: Of entities without a row.
        expired: Older than the ttl.
        newest: The first row of the latest read, and the instant t of that read; None before the first.
    """

    rows: int = 0
    missing: int = 0
    expired: int = 0
    newest: tuple[bytes, int] | None = None


@dataclass(frozen=True, slots=True)
class PreparedRead:
    """A read plan with everything looked up that does not change between reads.

    Attributes:
        plan: The plan.
        views: How each of its stored views is read.
        on_demand: How each of its on-demand views is computed.
    """

    plan: ReadPlan
    views: tuple[_StoredView | _WindowedView, ...]
    on_demand: tuple[PreparedOnDemand, ...]


class OnlineReader:
    """Reads features of entities.

    Args:
        store: The online store.
        clock: Microseconds since 1970 UTC; None is the replay clock, which lives in the store.
    """

    def __init__(self, store: OnlineStore, clock: Clock | None) -> None:
        self._store = store
        self._clock = clock

    def prepare(self, plan: ReadPlan) -> PreparedRead:
        """Look up what reads of a plan need; it stays right until a plan with another fingerprint takes its place.

        Raises:
            FailedPreconditionError: A view version was never filled; names the command that does.
        """
        with self._store.read() as snapshot:
            views = tuple(_prepare_view(snapshot, view) for view in plan.views)
        return PreparedRead(plan, views, tuple(map(PreparedOnDemand.of, plan.on_demand)))

    def read(
        self, prepared: PreparedRead, keys: Sequence[Sequence[bytes]], request: Iterable[WireColumn] = ()
    ) -> bytes:
        """Read one row per entity and view.

        Args:
            prepared: From `prepare`.
            keys: For each key set of the plan, the entity keys as featurestore.keys makes them; all of one length.
            request: Request data for on-demand features, as columns of the request.

        Returns:
            A serialized ReadResponse.

        Raises:
            InvalidArgumentError: Key sets of different lengths, or bad request data.
        """
        count = _count(prepared.plan, keys)
        with self._store.read() as snapshot:
            head = read_head(snapshot)
            t = head.time(self._clock() if self._clock else None)
            rows = [view.rows(snapshot, keys[view.key_set], t) for view in prepared.views]
        answered = rows[: prepared.plan.visible]
        if prepared.on_demand:
            answered += _computed(prepared, rows, request, t=t, count=count)
        return _response(answered, t, head.pushed_seq)

    def follow(self) -> bool:
        """Follow the store if it was rewritten elsewhere, and say whether it was; cheap enough to be asked often."""
        return self._store.reopen()

    def head(self) -> Head:
        """Return the state of the store: its position and its clock."""
        with self._store.read() as snapshot:
            return read_head(snapshot)


def schema_message(plan: ReadPlan) -> pb.Schema:
    """Return where each feature lies in the rows of a plan's answers."""
    layouts = [_answered_layout(view) for view in plan.views[: plan.visible]]
    layouts += [on_demand_layout(view) for view in plan.on_demand]
    shown = [(str(v.ref), v.key_set, v.record.ttl or 0) for v in plan.views[: plan.visible]]
    shown += [(str(v.ref), 0, 0) for v in plan.on_demand]
    hidden = len(plan.views) - plan.visible
    return pb.Schema(
        fingerprint=plan.fingerprint,
        revision=plan.revision,
        key_sets=[
            pb.KeySet(entity=k.entity, fields=list(starmap(_key_field, zip(k.columns, k.dtypes, strict=True))))
            for k in plan.key_sets
        ],
        views=[
            _view_schema(ref, key_set, ttl, layout) for (ref, key_set, ttl), layout in zip(shown, layouts, strict=True)
        ],
        features=[
            _feature_schema(output.name, str(output.ref), index, layouts[index], output.ref.feature)
            for output in plan.outputs
            for index in (output.source if output.source < plan.visible else output.source - hidden,)
        ],
        request=list(starmap(_key_field, plan.request)),
    )


@dataclass(frozen=True, slots=True)
class _StoredView:
    """How a view of columns is read."""

    key_set: int
    prefix: bytes
    ttl: int | None
    layout: RowLayout
    missing: bytes
    expired: bytes
    project: Callable[[bytes], bytes] | None
    seen: Seen = field(default_factory=Seen)

    def rows(self, snapshot: Snapshot, keys: Sequence[bytes], t: int) -> list[bytes]:
        """Return the stored row of each entity, or a template."""
        stored = snapshot.multi_get("rows", self.prefix, keys)
        rows = [row or self.missing for row in stored] if None in stored else stored
        seen = self.seen
        seen.rows += len(rows)
        if rows is not stored:
            seen.missing += stored.count(None)
        elif rows:
            seen.newest = (rows[0], t)  # type: ignore[assignment]  # no None is left
        if self.ttl is not None:
            rows = self._expire(rows, t - self.ttl)  # type: ignore[arg-type]  # no None is left
        return list(map(self.project, rows)) if self.project else rows  # type: ignore[arg-type, return-value]  # likewise

    def _expire(self, rows: list[bytes], oldest: int) -> list[bytes]:
        times = unpack_event_times(rows)
        if not rows or min(times) >= oldest:
            return rows
        missing, expired = self.missing, self.expired
        aged = [row if time >= oldest or row is missing else expired for row, time in zip(rows, times, strict=True)]
        self.seen.expired += aged.count(expired)
        return aged


@dataclass(frozen=True, slots=True)
class _WindowedView:
    """How a windowed view is read; an unknown entity is an empty window."""

    key_set: int
    prefix: bytes
    layout: RowLayout
    pages: PageLayout
    aggregations: list[AggregationRecord]
    seen: Seen = field(default_factory=Seen)

    def rows(self, snapshot: Snapshot, keys: Sequence[bytes], t: int) -> list[bytes]:
        """Return the aggregates of each entity's windows that end at t."""
        self.seen.rows += len(keys)
        window = max(a.time_window for a in self.aggregations)
        events = gather_events(snapshot, self.prefix, self.pages, keys, t=t, window=window)
        at = np.full(len(keys), t, np.int64)
        folded = fold_windows(events, self.aggregations, entity=np.arange(len(keys)), at=at)
        slots = zip(folded, self.layout.slots, strict=True)
        return self.layout.encode(at, [column.lane(slot.dtype) for column, slot in slots])


def _prepare_view(snapshot: Snapshot, view: PlannedView) -> _StoredView | _WindowedView:
    record = view.record
    keyspace = find_keyspace(snapshot, view.ref, record.layout)
    if keyspace is None or not keyspace.filled:
        name = f"{view.ref.view}@v{view.ref.version}"
        raise FailedPreconditionError(
            f"{name} was never filled online.",
            repair=f"Run `featurestore materialize {name}`, or `featurestore write {name}` if it has no rows yet.",
        )
    answered = _answered_layout(view)
    if record.kind == "window":
        pages = PageLayout.of(record.stored(), keyed=bool(record.event_key))
        return _WindowedView(view.key_set, keyspace.prefix, answered, pages, aggregations_of(view.features))
    stored = stored_layout(view)
    nothing = [None] * len(stored.slots)
    return _StoredView(
        key_set=view.key_set,
        prefix=keyspace.prefix,
        ttl=record.ttl,
        layout=answered,
        missing=stored.encode_row(0, nothing, state=pb.NOT_FOUND),
        expired=stored.encode_row(0, nothing, state=pb.EXPIRED),
        project=None if answered == stored else stored.projection(answered),
    )


def stored_layout(view: PlannedView) -> RowLayout:
    """Return how the stored rows of a view of columns are laid out."""
    return RowLayout.of((feature.name, feature.type) for feature in view.record.stored())


def _answered_layout(view: PlannedView) -> RowLayout:
    """Return how the rows of an answer are laid out: stored rows cut down to the features that are read."""
    if view.record.kind == "window":
        return RowLayout.of((feature.name, feature.type) for feature in view.features)
    return stored_layout(view).select(feature.name for feature in view.features)


def _count(plan: ReadPlan, keys: Sequence[Sequence[bytes]]) -> int:
    sizes = set(map(len, keys))
    if len(keys) != len(plan.key_sets) or len(sizes) > 1:
        raise InvalidArgumentError(
            f"The plan has {len(plan.key_sets)} key sets of one length; got lengths {list(map(len, keys))}.",
            place="$.keys",
        )
    return sizes.pop() if sizes else 0


def _computed(
    prepared: PreparedRead, rows: list[list[bytes]], request: Iterable[WireColumn], *, t: int, count: int
) -> list[list[bytes]]:
    """Return the rows of the on-demand views."""
    sent = request_columns(request, prepared.plan.request, count)
    stored = partial(_stored_column, prepared, rows)
    return [view.rows(stored, sent, t=t, count=count) for view in prepared.on_demand]


def _stored_column(prepared: PreparedRead, rows: list[list[bytes]], view: int, feature: str) -> Column:
    layout = prepared.views[view].layout
    return typed_column(layout.decode(rows[view], [feature])[0], layout.slot(feature).dtype)


def _response(views: Iterable[list[bytes]], t: int, position: int) -> bytes:
    parts = []
    for rows in views:
        body = b"".join(rows)
        parts += [_VIEW_TAG, varint(len(body)), body]
    return b"".join([*parts, _TAIL.pack(_TIME_TAG, t, _POSITION_TAG, position)])


def _key_field(column: str, dtype: DType) -> pb.KeyField:
    return pb.KeyField(column=column, dtype=dtype.name)


def _view_schema(ref: str, key_set: int, ttl: int, layout: RowLayout) -> pb.ViewSchema:
    return pb.ViewSchema(
        ref=ref,
        key_set=key_set,
        ttl=ttl,
        doubles=layout.count("doubles"),
        integers=layout.count("integers"),
        strings=layout.count("strings"),
    )


def _feature_schema(name: str, ref: str, view: int, layout: RowLayout, feature: str) -> pb.FeatureSchema:
    slot = layout.slot(feature)
    return pb.FeatureSchema(
        name=name, ref=ref, dtype=slot.dtype.name, view=view, lane=slot.lane, index=slot.index, bit=slot.bit
    )
