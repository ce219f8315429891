"""Online reads: a plan is prepared once, then each read joins stored bytes.

A read is one snapshot. For a view of columns it gets the rows and puts templates where there is none, or none young enough; nothing is
decoded. A view that is read in part is cut down to the features asked for, so that nothing leaves the store that the plan does not count.
Windowed views fold the events of their pages; on-demand views compute over what the plan's views gave.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import starmap

from featurestore.errors import FailedPreconditionError, InvalidArgumentError
from featurestore.expressions import Column
from featurestore.lanes import WireColumn
from featurestore.online.codec import RowLayout, event_time, unpack_event_times, varint
from featurestore.online.keyspaces import PAGE_FORM, find_keyspace
from featurestore.online.on_demand import PreparedOnDemand, on_demand_layout, request_columns, typed_column
from featurestore.online.rollout import CanaryView, ReadVersion, Seen, ShadowView
from featurestore.online.store import Head, OnlineStore, Snapshot, read_head
from featurestore.planning import PlannedView, ReadPlan
from featurestore.types import DType
from featurestore.v1 import serving_pb2 as pb

Clock = Callable[[], int]
AnyView = ReadVersion | CanaryView | ShadowView

_TAIL = struct.Struct("<BqBQ")
_VIEW_TAG, _TIME_TAG, _POSITION_TAG = b"\x0a", 0x11, 0x19


@dataclass(frozen=True, slots=True)
class PreparedRead:
    """A read plan with everything looked up that does not change between reads.

    Attributes:
        plan: The plan.
        views: How each of its stored views is read.
        on_demand: How each of its on-demand views is computed.
        canaries: The views of which some keys get another version, with their places in the answer.
    """

    plan: ReadPlan
    views: tuple[AnyView, ...]
    on_demand: tuple[PreparedOnDemand, ...]
    canaries: tuple[tuple[int, CanaryView], ...] = field(init=False)

    def __post_init__(self) -> None:
        canaries = tuple((n, view) for n, view in enumerate(self.views) if isinstance(view, CanaryView))
        object.__setattr__(self, "canaries", canaries)  # frozen from here on

    def usage(self, keys: Sequence[Sequence[bytes]]) -> Iterator[tuple[str, int]]:
        """Go through what a read of some keys counts: (id, rows); see ReadPlan.usage."""
        views = {id(planned): view for planned, view in zip(self.plan.views, self.views, strict=True)}

        def moved(planned: PlannedView) -> int:
            view, asked = views[id(planned)], keys[planned.key_set]
            return sum(view.moved(asked)) if isinstance(view, CanaryView) else len(asked)

        return self.plan.usage(len(keys[0]) if keys else 0, moved)


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
            views = tuple(in_flight(view, partial(_prepare_view, snapshot)) for view in plan.views)
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
        with self._store.read() as snapshot:
            return answer(snapshot, prepared, keys, request, now=self._clock() if self._clock else None)

    def follow(self) -> bool:
        """Follow the store if it was rewritten elsewhere, and say whether it was; cheap enough to be asked often."""
        return self._store.reopen()

    def head(self) -> Head:
        """Return the state of the store: its position and its clock."""
        with self._store.read() as snapshot:
            return read_head(snapshot)


def answer(
    snapshot: Snapshot,
    prepared: PreparedRead,
    keys: Sequence[Sequence[bytes]],
    request: Iterable[WireColumn],
    *,
    now: int | None,
) -> bytes:
    """Return what a snapshot answers; see OnlineReader.read.

    Args:
        snapshot: The store at one moment.
        prepared: As there.
        keys: Likewise.
        request: Likewise.
        now: Microseconds UTC; None is the replay clock.
    """
    count = _count(prepared.plan, keys)
    head = read_head(snapshot)
    t = head.time(now)
    rows = [view.rows(snapshot, keys[view.key_set], t) for view in prepared.views]
    answered = rows[: prepared.plan.visible]
    if prepared.on_demand:
        answered += _computed(prepared, rows, request, t=t, count=count)
    response = _response(answered, t, head.pushed_seq)
    for number, view in prepared.canaries:
        moved = pb.MovedKeys(view=number, ref=view.name, keys=view.moved_bits(keys[view.key_set]))
        response += pb.ReadResponse(moved=[moved]).SerializeToString()
    return response


def in_flight(view: PlannedView, prepare: Callable[[PlannedView], ReadVersion]) -> AnyView:
    """Return how a view is read, with the version that is on its way to take its place.

    Args:
        view: The view.
        prepare: Says how one version is read.
    """
    old, rollout = prepare(view), view.rollout
    if rollout is None:
        return old
    name = rollout.view.version
    if rollout.share is not None:
        return CanaryView(old, prepare(rollout.view), name, rollout.share)
    try:
        new = prepare(rollout.view)
    except FailedPreconditionError:
        return old  # nobody gets what is not there to be compared
    return ShadowView(old, new, name, tuple(feature.name for feature in rollout.view.features))


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
class StoredView:
    """How a view of columns is read."""

    key_set: int
    prefix: bytes
    ttl: int | None
    layout: RowLayout
    missing: bytes
    expired: bytes
    project: Callable[[bytes], bytes] | None
    seen: Seen = field(default_factory=Seen)

    def places(self, keys: Sequence[bytes]) -> list[tuple[bytes, Sequence[bytes]]]:
        """Return (prefix of the keyspace, entity keys)."""
        return [(self.prefix, keys)]

    def rows(self, snapshot: Snapshot, keys: Sequence[bytes], t: int) -> list[bytes]:
        """Return the stored row of each entity, or a template."""
        stored = snapshot.multi_get("rows", self.prefix, keys)
        found = list(filter(None, stored))  # no row is empty
        self._note(found, len(stored), t)
        rows = found if len(found) == len(stored) else [row or self.missing for row in stored]
        if self.ttl is not None and found and min(unpack_event_times(found)) < t - self.ttl:
            rows = self._expire(rows, t - self.ttl)
        return list(map(self.project, rows)) if self.project else rows

    def _note(self, found: Sequence[bytes], asked: int, t: int) -> None:
        seen = self.seen
        seen.rows += asked
        seen.missing += asked - len(found)
        if found:
            seen.newest = (found[0], t)

    def _expire(self, rows: list[bytes], oldest: int) -> list[bytes]:
        """Put the template of an expired row in the place of each that is too old."""
        missing, expired = self.missing, self.expired
        aged = [row if row is missing or event_time(row) >= oldest else expired for row in rows]
        self.seen.expired += aged.count(expired)
        return aged


def _prepare_view(snapshot: Snapshot, view: PlannedView) -> ReadVersion:
    record = view.record
    keyspace = find_keyspace(snapshot, view.ref, record.layout)
    if keyspace is None or not keyspace.filled:
        name = f"{view.ref.view}@v{view.ref.version}"
        raise FailedPreconditionError(
            f"{name} was never filled online.",
            repair=f"Run `featurestore materialize {name}`, or `featurestore write {name}` if it has no rows yet.",
        )
    if record.kind == "window":
        if keyspace.form != PAGE_FORM:
            name = f"{view.ref.view}@v{view.ref.version}"
            raise FailedPreconditionError(
                f"The pages of {name} have an older form.", repair=f"Run `featurestore materialize {name}`."
            )
        from featurestore.online.windowed_view import WindowedView

        return WindowedView.of(view, keyspace.prefix, _answered_layout(view))
    return prepare_stored(view, keyspace.prefix)


def prepare_stored(view: PlannedView, prefix: bytes) -> StoredView:
    """Return how a view of columns is read.

    Args:
        view: The view.
        prefix: What the keys of its keyspace begin with.
    """
    answered, stored = _answered_layout(view), stored_layout(view)
    nothing = [None] * len(stored.slots)
    return StoredView(
        key_set=view.key_set,
        prefix=prefix,
        ttl=view.record.ttl,
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
    if len(keys) == 1 == len(plan.key_sets):
        return len(keys[0])
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
