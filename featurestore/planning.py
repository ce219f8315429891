"""(snapshot, references) -> ReadPlan: every read, online or offline, starts here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import msgspec

from featurestore.errors import DefinitionError, InvalidArgumentError
from featurestore.refs import FeatureRef, ViewRef
from featurestore.registry.snapshot import AliasRecord, Document, FeatureRecord, RegistrySnapshot, ViewRecord
from featurestore.types import DType

MAX_PLANS = 1000


@dataclass(frozen=True, slots=True)
class KeySet:
    """The key columns by which some views of a plan are read.

    Attributes:
        entity: Name of the entity, or of the alias's role.
        columns: Columns of the spine or request, in the order of the entity's join keys.
        dtypes: Their types.
    """

    entity: str
    columns: tuple[str, ...]
    dtypes: tuple[DType, ...]


@dataclass(frozen=True, slots=True)
class PlannedView:
    """One stored view that a plan reads.

    Attributes:
        ref: Its frozen reference, with the alias if it is read under one.
        record: Its definition.
        key_set: Index into ReadPlan.key_sets.
        features: The features that are read, in order.
        rollout: The version that is on its way to take its place; None when there is none.
    """

    ref: ViewRef
    record: ViewRecord
    key_set: int
    features: tuple[FeatureRecord, ...]
    rollout: PlannedRollout | None = None

    @property
    def version(self) -> str:
        """The view version, ``weather@v1``, whatever role it is read in."""
        return f"{self.ref.view}@v{self.ref.version}"

    @property
    def counted(self) -> tuple[str, ...]:
        """The references that a read of it counts."""
        return tuple(f"{self.version}:{feature.name}" for feature in self.features)


@dataclass(frozen=True, slots=True)
class PlannedRollout:
    """A version that some keys get in the place of another, or that is compared with it.

    Attributes:
        view: The version, with the same features, or those of them that can be compared.
        share: Which share of the keys gets it, from 0 to 1; None compares it with the other, and nobody gets it.
    """

    view: PlannedView
    share: float | None


@dataclass(frozen=True, slots=True)
class PlannedOnDemand:
    """One on-demand view that a plan computes.

    Attributes:
        ref: Its frozen reference.
        record: Its definition.
        features: The features that are computed.
        inputs: Name in the expressions -> (index into ReadPlan.views, feature name); request columns are not among them.
    """

    ref: ViewRef
    record: ViewRecord
    features: tuple[FeatureRecord, ...]
    inputs: tuple[tuple[str, int, str], ...]


@dataclass(frozen=True, slots=True)
class OutputFeature:
    """One output column: where it comes from and what it is called.

    Attributes:
        name: Name of the output column.
        ref: The frozen reference.
        dtype: Its type.
        source: Index into ReadPlan.views, or for an on-demand feature len(views) + index into ReadPlan.on_demand.
    """

    name: str
    ref: FeatureRef
    dtype: DType
    source: int


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """What a read will do; the same plan serves training and serving.

    Attributes:
        fingerprint: 16 bytes that change whenever the answer's shape or meaning does.
        key_sets: The distinct key columns.
        views: Stored views; the first `visible` of them are part of the answer, the rest are read for on-demand inputs.
        visible: How many views are part of the answer.
        on_demand: On-demand views, computed after the stored ones.
        outputs: Output columns in the order asked for.
        request: (column, type) pairs that must come with the spine or request.
        counted: The frozen references that count as read, inputs of on-demand features included.
        revision: Registry revision the plan was made from.
    """

    fingerprint: bytes
    key_sets: tuple[KeySet, ...]
    views: tuple[PlannedView, ...]
    visible: int
    on_demand: tuple[PlannedOnDemand, ...]
    outputs: tuple[OutputFeature, ...]
    request: tuple[tuple[str, DType], ...]
    counted: tuple[str, ...]
    revision: int

    @property
    def plan_id(self) -> str:
        """The fingerprint as text, as usage slots name it."""
        return self.fingerprint.hex()

    @property
    def in_flight(self) -> tuple[PlannedView, ...]:
        """The views that another version is on its way to take the place of."""
        return tuple(view for view in self.views[: self.visible] if view.rollout is not None)

    def usage_plans(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Go through what usage counts: (id, references); the versions of a view in flight are counted by themselves."""
        always = {ref for view in self.views if view.rollout is None for ref in view.counted}
        apart = {ref for view in self.in_flight for ref in view.counted} - always
        rest = tuple(ref for ref in self.counted if ref not in apart)
        if rest:
            yield self.plan_id, rest
        for view in self.in_flight:
            yield self._usage_id(view), view.counted
            if view.rollout is not None:
                yield self._usage_id(view.rollout.view), view.rollout.view.counted

    def usage(self, rows: int, moved: Callable[[PlannedView], int] = lambda _: 0) -> Iterator[tuple[str, int]]:
        """Go through what a read counts: (id, rows), of the ids of `usage_plans`.

        Args:
            rows: Rows of each view.
            moved: Says how many rows of a view in flight are of the other version.
        """
        if not self.in_flight or next(self.usage_plans())[0] == self.plan_id:
            yield self.plan_id, rows
        for view in self.in_flight:
            assert view.rollout is not None
            other = moved(view)
            staying = rows - other if view.rollout.share is not None else rows
            both = ((view, staying), (view.rollout.view, other))
            yield from ((self._usage_id(one), count) for one, count in both if count or not rows)

    def _usage_id(self, view: PlannedView) -> str:
        return f"{self.plan_id}/{view.version}"


def plan_read(
    snapshot: RegistrySnapshot, features: str | Sequence[str], *, full_feature_names: bool = False
) -> ReadPlan:
    """Resolve a feature service, or references, to a read plan.

    Args:
        snapshot: The registry at one revision; the plan is cached on it.
        features: Name of a feature service, or references such as ``weather@v1:temp`` (the current version without ``@v1``).
        full_feature_names: Name outputs ``view__feature``, or ``view@v2__feature`` where two versions of a view are read.

    Raises:
        NotFoundError: An unknown service, view, version or feature; says the nearest name.
        FailedPreconditionError: A feature that was added and is not filled yet, or a retired version.
        InvalidArgumentError: No features, or two outputs of one name.
    """
    key = (features if isinstance(features, str) else tuple(features), full_feature_names)
    plan: ReadPlan | None = snapshot.plans.get(key)
    if plan is None:
        if len(snapshot.plans) >= MAX_PLANS:  # whoever asks for ever new combinations must not fill the memory
            snapshot.plans.clear()
        requested, aliases = _requested(snapshot, features)
        moving = _moving(snapshot, features, requested)
        plan = _Planner(snapshot, moving).plan(requested, aliases, full_feature_names=full_feature_names)
        snapshot.plans[key] = plan
    return plan


def refuse_windows(document: Document) -> None:
    """Refuse windowed views that are not retired, for an online store that has no windows; raises DefinitionError."""
    for ref, record in RegistrySnapshot(document).view_versions():
        if record.kind == "window" and record.status != "retired":
            raise DefinitionError(
                f"{ref} is windowed, and the online store in Redis has no windows.",
                place=f"view {ref.view}",
                repair='Set store = "lmdb" under [online], or retire the view.',
            )


def _requested(
    snapshot: RegistrySnapshot, features: str | Sequence[str]
) -> tuple[tuple[FeatureRef, ...], dict[str, AliasRecord]]:
    if isinstance(features, str):
        service = snapshot.service(features)
        return tuple(FeatureRef.parse(ref) for ref in service.features), service.aliases
    if not features:
        raise InvalidArgumentError("No features were asked for.", place="$.features")
    refs = tuple(FeatureRef.parse(ref) for ref in features)
    for n, ref in enumerate(refs):
        if ref.alias:
            raise InvalidArgumentError(
                f"'{ref}' names a role, and only a feature service says which columns hold its keys.",
                place=f"$.features[{n}]",
                repair="Ask for the service.",
            )
    return refs, {}


def _moving(snapshot: RegistrySnapshot, features: str | Sequence[str], refs: Sequence[FeatureRef]) -> frozenset[str]:
    """Return the views whose rollout a read takes part in: those it names without a version, or in whose rollout the service is."""
    rollouts = {name: view.rollout for name, view in snapshot.document.views.items() if view.rollout is not None}
    if not rollouts:
        return frozenset()
    if isinstance(features, str):
        return frozenset(name for name, rollout in rollouts.items() if features in rollout.moves)
    fixed = {ref.view for ref in refs if ref.version is not None}
    return frozenset(rollouts) - fixed


class _Planner:
    """Collects the views, key sets and outputs of one plan."""

    def __init__(self, snapshot: RegistrySnapshot, moving: frozenset[str]) -> None:
        self.snapshot = snapshot
        self.moving = moving
        self.key_sets: list[KeySet] = []

    def plan(
        self, requested: tuple[FeatureRef, ...], aliases: dict[str, AliasRecord], *, full_feature_names: bool
    ) -> ReadPlan:
        refs = tuple(dict.fromkeys(self.snapshot.freeze(ref.view_ref).feature(ref.feature) for ref in requested))
        by_view: dict[ViewRef, list[FeatureRecord]] = {}
        for ref in refs:
            by_view.setdefault(ref.view_ref, []).append(self.snapshot.feature(ref))
        stored = {view: found for view, found in by_view.items() if self.snapshot.view(view).kind != "on_demand"}
        computed = {view: found for view, found in by_view.items() if view not in stored}
        views = [self._in_flight(self._planned_view(view, tuple(found), aliases)) for view, found in stored.items()]
        visible = len(views)
        on_demand = tuple(self._planned_on_demand(view, tuple(found), views) for view, found in computed.items())
        outputs = self._outputs(refs, (*stored, *[None] * (len(views) - visible), *computed), full=full_feature_names)
        request = dict.fromkeys(column for view in on_demand for column in view.record.request)
        counted = dict.fromkeys(
            [str(ref.plain()) for ref in refs]
            + [str(view.ref.feature(f.name).plain()) for view in views[visible:] for f in view.features]
        )
        key_sets = tuple(self.key_sets)
        return ReadPlan(
            fingerprint=_fingerprint(views, on_demand, outputs, key_sets),
            key_sets=key_sets,
            views=tuple(views),
            visible=visible,
            on_demand=on_demand,
            outputs=outputs,
            request=tuple((name, DType(dtype)) for name, dtype in request),
            counted=tuple(counted),
            revision=self.snapshot.revision,
        )

    def _planned_view(
        self, ref: ViewRef, features: tuple[FeatureRecord, ...], aliases: dict[str, AliasRecord]
    ) -> PlannedView:
        record = self.snapshot.view(ref)
        renamed = aliases[ref.alias].join_keys if ref.alias and ref.alias in aliases else {}
        columns = tuple(renamed.get(key, key) for key, _ in record.join_keys)
        key_set = KeySet(
            ref.alias or record.entity or "", columns, tuple(DType(dtype) for _, dtype in record.join_keys)
        )
        same = [
            index
            for index, known in enumerate(self.key_sets)
            if (known.columns, known.dtypes) == (columns, key_set.dtypes)
        ]
        if not same:
            self.key_sets.append(key_set)
        return PlannedView(ref, record, same[0] if same else len(self.key_sets) - 1, features)

    def _in_flight(self, view: PlannedView) -> PlannedView:
        """Return a view with the version that is on its way to take its place, if this read takes part in that."""
        rollout = self.snapshot.document.views[view.ref.view].rollout
        if rollout is None or view.ref.view not in self.moving or view.ref.version == rollout.to:
            return view
        ref = replace(view.ref, version=rollout.to)
        record = self.snapshot.view(ref)
        if record.status == "retired" or record.access == "enforce":
            return view  # nobody reads it by chance
        there = {feature.name: feature for feature in record.stored()}
        kept = [f for f in view.features if f.name in there and there[f.name].dtype == f.dtype]
        if not kept or (rollout.kind == "canary" and len(kept) < len(view.features)):
            return view  # it cannot answer in its place
        target = PlannedView(ref, record, view.key_set, tuple(there[f.name] for f in kept))
        share = rollout.share if rollout.kind == "canary" else None
        return replace(view, rollout=PlannedRollout(target, share))

    def _planned_on_demand(
        self, ref: ViewRef, features: tuple[FeatureRecord, ...], views: list[PlannedView]
    ) -> PlannedOnDemand:
        """Plan the inputs of an on-demand view as hidden stored views, appended to `views`."""
        record = self.snapshot.view(ref)
        by_view: dict[ViewRef, list[FeatureRecord]] = {}
        for text in record.inputs:
            needed = FeatureRef.parse(text)
            by_view.setdefault(needed.view_ref, []).append(self.snapshot.feature(needed))
        inputs: list[tuple[str, int, str]] = []
        for view, found in by_view.items():
            inputs += [(feature.name, len(views), feature.name) for feature in found]
            views.append(self._planned_view(view, tuple(found), {}))
        return PlannedOnDemand(ref, record, features, tuple(inputs))

    def _outputs(
        self, refs: tuple[FeatureRef, ...], sources: tuple[ViewRef | None, ...], *, full: bool
    ) -> tuple[OutputFeature, ...]:
        versions: dict[str, set[int | None]] = {}
        for ref in refs:
            versions.setdefault(ref.alias or ref.view, set()).add(ref.version)
        outputs = []
        taken: dict[str, FeatureRef] = {}
        for ref in refs:
            role = ref.alias or ref.view
            shown = f"{role}@v{ref.version}" if len(versions[role]) > 1 else role
            name = f"{shown}__{ref.feature}" if full else ref.feature
            if name in taken:
                raise InvalidArgumentError(
                    f"Two features would be called '{name}': {taken[name]} and {ref}.",
                    repair="Ask with full_feature_names=True.",
                )
            taken[name] = ref
            outputs.append(OutputFeature(name, ref, self.snapshot.feature(ref).type, sources.index(ref.view_ref)))
        return tuple(outputs)


def _fingerprint(
    views: Sequence[PlannedView],
    on_demand: Sequence[PlannedOnDemand],
    outputs: Sequence[OutputFeature],
    key_sets: Sequence[KeySet],
) -> bytes:
    """Digest everything that shapes the answer: 16 bytes of BLAKE2b over canonical JSON."""
    facts: list[Any] = [
        [[str(v.ref), v.key_set, v.record.layout, v.record.ttl, [f.fingerprint for f in v.features]] for v in views],
        [[str(v.ref), v.inputs, [f.fingerprint for f in v.features]] for v in on_demand],
        [[o.name, str(o.ref), o.dtype.name, o.source] for o in outputs],
        [[k.entity, k.columns, [d.name for d in k.dtypes]] for k in key_sets],
    ]
    flying = [[str(v.ref), str(v.rollout.view.ref), v.rollout.share is None] for v in views if v.rollout]
    facts += [flying] if flying else []  # not the share: clients go on when it is raised
    return blake2b(msgspec.json.encode(facts), digest_size=16).digest()
