"""What an apply would do: the change plan, and the moves between versions (promote, deprecate, retire)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from featurestore.definitions import (
    Consumer,
    Definition,
    Entity,
    FeatureService,
    FeatureView,
    OnDemandFeatureView,
)
from featurestore.definitions.checks import check_unique
from featurestore.definitions.expectation import expectation_of
from featurestore.definitions.fingerprint import source_meaning
from featurestore.errors import DefinitionError, FailedPreconditionError, NotFoundError
from featurestore.refs import FeatureRef, ViewRef
from featurestore.registry.readers import Taken
from featurestore.registry.resolution import Resolver
from featurestore.registry.snapshot import (
    AggregationRecord,
    AliasRecord,
    ConsumerRecord,
    DatasetRecord,
    Document,
    FeatureRecord,
    RegistrySnapshot,
    ServiceRecord,
    SourceRecord,
    ViewRecord,
)
from featurestore.registry.storage import LoggedChange
from featurestore.types import MICROSECOND, from_micros


@dataclass(frozen=True, slots=True)
class Change:
    """One thing an apply would do.

    Attributes:
        kind: ``create``, ``new version``, ``add feature``, ``update`` or ``return``.
        object: What it is done to, e.g. ``view weather@v2``.
        detail: What is different, for people.
        consumers: Consumers whose manifest names what changes; they keep what they read until they are moved.
    """

    kind: str
    object: str
    detail: str = ""
    consumers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ChangePlan:
    """What an apply would do, and the revision it was planned from.

    Attributes:
        base_revision: Revision of the registry when the plan was made; a commit in between refuses it.
        document: The registry as it would be.
        changes: What would be done, in order.
        notes: What would not be done although one could think so.
        taken: What it takes from its readers; None when nobody loses anything.
    """

    base_revision: int
    document: Document
    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()
    taken: Taken | None = None

    def __bool__(self) -> bool:
        """Whether anything would change."""
        return bool(self.changes)

    def log(self) -> list[LoggedChange]:
        """Return the lines for the change log."""
        return [LoggedChange(change.kind, change.object, change.detail) for change in self.changes]

    def forced(self, reason: str, readers: Sequence[str]) -> ChangePlan:
        """Return the plan as it is done although somebody reads what it takes: the change log says why, and who that is."""
        line = Change("force", self.taken.object if self.taken else "", f"{reason}; {'; '.join(readers)}")
        return replace(self, changes=(*self.changes, line))


def plan_changes(
    snapshot: RegistrySnapshot,
    definitions: Iterable[Definition],
    *,
    check_source: Callable[[str, ViewRecord], SourceRecord | None],
    is_filled: Callable[[ViewRef], bool],
    remove: Sequence[str] = (),
) -> ChangePlan:
    """Compare definitions with what is registered.

    Args:
        snapshot: What is registered.
        definitions: What the file defines, in any order.
        check_source: Called with the name and record of every view that is new or changed; returns its source with the columns
            that it has now (None: as it is); raises DefinitionError when its columns are not in the source or its SQL does not
            resolve.
        is_filled: Says whether a view version has rows.
        remove: Views that left the file and shall go: every version of them is retired.

    Raises:
        DefinitionError: A definition is impossible, or a view to remove is still defined; nothing was changed.
        NotFoundError: A reference, or a view to remove, names nothing; says the nearest name.
    """
    sorted_out = _by_kind(definitions)
    _check_entities(sorted_out)
    resolver = Resolver(snapshot, is_filled)
    for entity in sorted_out[Entity]:
        resolver.add_entity(entity)
    for view in sorted_out[FeatureView]:
        resolver.add_view(view)
    for view in sorted_out[OnDemandFeatureView]:
        resolver.add_on_demand(view)
    for service in sorted_out[FeatureService]:
        resolver.add_service(service)
    for consumer in sorted_out[Consumer]:
        resolver.add_consumer(consumer)
    document = resolver.document()
    _check_readable(document)
    document = _with_columns(snapshot.document, document, check_source)
    changes = tuple(_changes(snapshot.document, document))
    notes = tuple(_notes(snapshot.document, sorted_out, remove))
    plan = ChangePlan(snapshot.revision, document, changes, notes)
    return _removing(
        plan, remove, {view.name for kind in (FeatureView, OnDemandFeatureView) for view in sorted_out[kind]}
    )


def promote(snapshot: RegistrySnapshot, ref: ViewRef, *, move: Sequence[str] = ()) -> ChangePlan:
    """Plan to make a version the current one for ad-hoc reads and new references.

    Args:
        snapshot: What is registered.
        ref: The version.
        move: Services and consumers whose frozen references to the view move to it as well; all others stay.

    Raises:
        NotFoundError: The version, or something to move, does not exist.
        FailedPreconditionError: The version lacks a feature that a moved one reads, or is retired.
    """
    target = snapshot.freeze(ref)
    record = snapshot.view(target)
    if record.status == "retired":
        raise FailedPreconditionError(f"{target} is retired.", repair="Promote a live version.")
    document = snapshot.document
    views, rollout = dict(document.views), document.views[target.view].rollout
    views[target.view] = msgspec.structs.replace(views[target.view], current=target.version or 1, rollout=None)
    if rollout is not None and rollout.to == target.version:
        move = tuple(dict.fromkeys((*move, *rollout.moves)))  # moves in progress end with it
    services, consumers = dict(document.services), dict(document.consumers)
    for name in move:
        if name not in services and name not in consumers:
            raise NotFoundError.of("service or consumer", name, [*services, *consumers])
        if name in services:
            moved = _moved(services[name].features, target, record, name)
            aliases = {alias: _moved_alias(record, target) for alias, record in services[name].aliases.items()}
            services[name] = msgspec.structs.replace(services[name], features=moved, aliases=aliases)
    for key, consumer in consumers.items():
        direct = _direct(consumer, document.services)
        if key in move:
            _check_through(key, consumer, services, target)
            direct = _moved(direct, target, record, key)
        reads = tuple(dict.fromkeys((*_through(consumer, services), *direct)))
        if reads != consumer.reads or key in move:
            consumers[key] = msgspec.structs.replace(consumer, reads=reads, direct=direct)
    new = msgspec.structs.replace(document, views=views, services=services, consumers=consumers)
    if new == document:
        return ChangePlan(snapshot.revision, document, (), (f"{target} is current already",))
    before, staying = _readers_elsewhere(document, target), _readers_elsewhere(new, target)
    was = document.views[target.view].current
    ended = f"; ended the {rollout.kind} of v{rollout.to}" if rollout else ""
    change = Change("promote", f"view {target}", f"current was v{was}{ended}", tuple(sorted(before - staying)))
    notes = (f"stay where they are: {', '.join(sorted(staying))}",) if staying else ()
    return ChangePlan(snapshot.revision, new, (change,), notes, _taken_by_promoting(document, new, target, move))


def set_status(snapshot: RegistrySnapshot, ref: ViewRef, status: str, *, reason: str = "") -> ChangePlan:
    """Plan to make a version ``deprecated``, ``retired`` or ``live`` again."""
    target = snapshot.freeze(ref)
    new, change = _with_status(snapshot.document, target, status, reason)
    taken = _taken_by_retiring(snapshot.document, [target], str(target), f"retire {target}")
    return ChangePlan(snapshot.revision, new, (change,), taken=taken if status == "retired" else None)


def switch_layout(snapshot: RegistrySnapshot, ref: ViewRef, filled: int) -> ChangePlan:
    """Plan to read the newest layout of a version, after its rows were filled.

    Args:
        snapshot: What is registered.
        ref: The version.
        filled: The layout that was filled; when a newer one was added meanwhile nothing changes, since that one has no rows yet
            and `filled` is not written to any more.
    """
    target = snapshot.freeze(ref)
    record = snapshot.view(target)
    added = [f.name for f in record.features if f.layout > record.layout] if record.newest_layout == filled else []
    new = replace_version(snapshot.document, target, msgspec.structs.replace(record, layout=filled))
    change = Change("fill", f"view {target}", f"readable now: {', '.join(added)}")
    return ChangePlan(snapshot.revision, new, (change,) if added else ())


def register_dataset(snapshot: RegistrySnapshot, name: str, record: DatasetRecord) -> ChangePlan:
    """Plan to register a saved training set."""
    document = snapshot.document
    new = msgspec.structs.replace(document, datasets={**document.datasets, name: record})
    return ChangePlan(snapshot.revision, new, (Change("save", f"dataset {name}", f"{record.rows} rows"),))


def drop_dataset(snapshot: RegistrySnapshot, name: str, *, reason: str = "") -> ChangePlan:
    """Plan to forget a saved training set, if it is registered.

    Args:
        snapshot: What is registered.
        name: The dataset.
        reason: Why it goes although a manifest names it, for the change log; empty where none does.

    Raises:
        FailedPreconditionError: The manifest of a consumer names it, and no reason is given.
    """
    document = snapshot.document
    trained = tuple(sorted(key for key, consumer in document.consumers.items() if consumer.dataset == name))
    if trained and not reason:
        raise FailedPreconditionError(
            f"Dataset '{name}' is what {', '.join(trained)} was trained on.",
            repair=f"Run `featurestore datasets delete {name} --force REASON`.",
        )
    kept = {key: record for key, record in document.datasets.items() if key != name}
    new = msgspec.structs.replace(document, datasets=kept)
    change = Change("delete", f"dataset {name}", reason, trained)
    return ChangePlan(snapshot.revision, new, (change,) if name in document.datasets else ())


def replace_version(document: Document, ref: ViewRef, record: ViewRecord) -> Document:
    """Return the document with one view version exchanged."""
    versions = document.views[ref.view]
    changed = msgspec.structs.replace(versions, versions={**versions.versions, ref.version or 0: record})
    return msgspec.structs.replace(document, views={**document.views, ref.view: changed})


def _by_kind(definitions: Iterable[Definition]) -> dict[type, list[Any]]:
    kinds: dict[type, list[Any]] = {
        kind: [] for kind in (Entity, FeatureView, OnDemandFeatureView, FeatureService, Consumer)
    }
    for definition in definitions:
        kinds[next(kind for kind in kinds if isinstance(definition, kind))].append(definition)
    views = [view.name for view in (*kinds[FeatureView], *kinds[OnDemandFeatureView])]
    check_unique("View", views, "features")
    check_unique("Entity", (entity.name for entity in kinds[Entity]), "features")
    check_unique("Service", (service.name for service in kinds[FeatureService]), "features")
    check_unique("Consumer", (consumer.key for consumer in kinds[Consumer]), "features")
    return kinds


def _check_entities(sorted_out: Mapping[type, list[Any]]) -> None:
    """Refuse two entities of one name with different keys: they would be two things."""
    keys: dict[str, tuple[tuple[str, str], ...]] = {}
    for entity in (*sorted_out[Entity], *(view.entity for view in sorted_out[FeatureView])):
        known = keys.setdefault(entity.name, entity.keys)
        if known != entity.keys:
            raise DefinitionError(
                f"Entity '{entity.name}' has the keys {_key_list(known)}, and elsewhere {_key_list(entity.keys)}.",
                place=f"entity {entity.name}",
                repair="Define it once, or give one another name.",
            )


def _key_list(keys: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{name} {dtype}" for name, dtype in keys)


def _check_readable(document: Document) -> None:
    """Refuse a document that would not be read back as it is, such as one with a number for a tag."""
    try:
        msgspec.json.decode(RegistrySnapshot(document).to_json(), type=Document, strict=False)
    except (msgspec.MsgspecError, TypeError, ValueError) as error:
        raise DefinitionError(f"A definition says something that cannot be kept: {error}.") from error


def _with_columns(old: Document, new: Document, check: Callable[[str, ViewRecord], SourceRecord | None]) -> Document:
    """Check the source of every view that is new or changed and keep the columns it has now; all others keep what they had."""
    before = dict(RegistrySnapshot(old).view_versions())
    for ref, record in RegistrySnapshot(new).view_versions():
        if record.source is None:
            continue
        known = before.get(ref)
        same = known and known.source and known.source.defined() == record.source.defined()
        source = known.source if known and same else record.source
        if msgspec.structs.replace(record, source=source) != known:
            source = check(ref.view, record) or source
        new = replace_version(new, ref, msgspec.structs.replace(record, source=source))
    return new


def _changes(old: Document, new: Document) -> Iterator[Change]:
    yield from _changed_objects("entity", old.entities, new.entities)
    for name, versions in new.views.items():
        known = old.views[name].versions if name in old.views else {}
        for number, record in versions.versions.items():
            yield from _changed_version(ViewRef(name, number), known, record, old)
    yield from _changed_objects("service", old.services, new.services)
    yield from _changed_objects("consumer", old.consumers, new.consumers)


def _changed_version(
    ref: ViewRef, known: Mapping[int, ViewRecord], record: ViewRecord, old: Document
) -> Iterator[Change]:
    before = known.get(ref.version or 0)
    if before is None and not known:
        yield Change("create", f"view {ref}", f"{len(record.features)} features of {record.entity or 'the request'}")
    elif before is None:
        newest = ViewRef(ref.view, max(known))
        hit = tuple(sorted(name for name, c in old.consumers.items() if _reads_version(c.reads, newest)))
        yield Change("new version", f"view {ref}", "; ".join(_meaning_changes(known[max(known)], record)), hit)
    elif record != before:
        added = [feature.name for feature in record.features if before.feature(feature.name) is None]
        if added:
            yield Change("add feature", f"view {ref}", ", ".join(added))
        informative = [name for name in record.__struct_fields__ if name not in ("features", "source", "expectations")]
        changed = [name for name in informative if getattr(before, name) != getattr(record, name)]
        changed += list(_source_changes(before.source, record.source))
        changed += [f.name for f in before.features if _told(record.feature(f.name)) != _told(f)]
        changed += list(_expectation_changes(before, record))
        if changed:
            yield Change("update", f"view {ref}", ", ".join(changed))


def _told(feature: FeatureRecord | None) -> FeatureRecord | None:
    """Return a feature without its expectations, whose changes are told in words."""
    return feature and msgspec.structs.replace(feature, expectations=())


def _expectation_changes(old: ViewRecord, new: ViewRecord) -> Iterator[str]:
    """Say what is expected of rows now, and what no longer is."""
    of_features = [(f.name, f.expectations, known.expectations) for f in old.features if (known := new.feature(f.name))]
    for name, before, after in (("rows", old.expectations, new.expectations), *of_features):
        yield from (f"{name}: no longer {expectation_of(document)}" for document in before if document not in after)
        yield from (f"{name}: expects {expectation_of(document)}" for document in after if document not in before)


def _source_changes(old: SourceRecord | None, new: SourceRecord | None) -> Iterator[str]:
    """Say what is different about a source that means the same: where it lies, or the columns it has."""
    if old != new:
        same_place = old and new and old.defined() == new.defined()
        yield "source columns" if same_place else "source path"


def _meaning_changes(old: ViewRecord, new: ViewRecord) -> Iterator[str]:
    """Say in words what makes the meaning different: first what concerns the whole view, then single features."""
    for name in ("kind", "join_keys", "ttl", "event_key", "backfilled_until"):
        if getattr(old, name) != getattr(new, name):
            yield f"{name}: {_shown(name, getattr(old, name))} -> {_shown(name, getattr(new, name))}"
    if old.source and new.source:
        before, after = (source_meaning(msgspec.to_builtins(source)) for source in (old.source, new.source))
        for name in dict.fromkeys((*before, *after)):
            if before.get(name) != after.get(name):
                yield f"source {name}: {before.get(name)!s:.60} -> {after.get(name)!s:.60}"
    yield from _input_changes(old, new)
    for feature in old.features:
        known = new.feature(feature.name)
        yield from _feature_changes(feature, known) if known else (f"{feature.name}: removed",)


def _input_changes(old: ViewRecord, new: ViewRecord) -> Iterator[str]:
    """Say what an on-demand view is computed from now, and from what before."""
    before, after = (
        dict(record.request) | {FeatureRef.parse(text).feature: text for text in record.inputs} for record in (old, new)
    )
    for name in dict.fromkeys((*before, *after)):
        if before.get(name) != after.get(name):
            yield f"input {name}: {before.get(name, 'none')} -> {after.get(name, 'none')}"


def _shown(name: str, value: Any) -> str:
    """Write a value of a definition as its user did: durations and instants, not microseconds."""
    if value is None:
        return "none"
    if name == "ttl":
        return str(value * MICROSECOND)
    return from_micros(value).isoformat() if name == "backfilled_until" else str(value)


def _feature_changes(old: FeatureRecord, new: FeatureRecord) -> Iterator[str]:
    for name in ("dtype", "unit", "column", "aggregation"):
        if getattr(old, name) != getattr(new, name):
            yield f"{old.name} {name}: {_written(getattr(old, name))} -> {_written(getattr(new, name))}"
    if old.expression and new.expression and old.expression.tree != new.expression.tree:
        yield f"{old.name} expression: {old.expression.sql} -> {new.expression.sql}"


def _written(value: str | AggregationRecord | None) -> str:
    if isinstance(value, AggregationRecord):
        listed = f" {value.n}" if value.n else ""
        where = f" where {value.where.sql}" if value.where else ""
        return f"{value.function}{listed} of {value.column}{where} over {value.time_window * MICROSECOND}"
    return value or "-"


def _changed_objects(kind: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for name, record in new.items():
        if name not in old:
            yield Change("create", f"{kind} {name}")
        elif record != old[name]:
            fields = record.__struct_fields__
            different = [field for field in fields if getattr(record, field) != getattr(old[name], field)]
            yield Change("update", f"{kind} {name}", ", ".join(different))


def _notes(old: Document, defined: Mapping[type, list[Any]], remove: Sequence[str]) -> Iterator[str]:
    """Say what is registered and no longer in the file: it stays."""
    views = {view.name for view in (*defined[FeatureView], *defined[OnDemandFeatureView])}
    for name in sorted({*old.views} - views - {*remove}):
        if any(record.status != "retired" for record in old.views[name].versions.values()):
            yield f"view {name} is not in the file any more and stays; `featurestore apply --remove {name}` takes it away"


def _removing(plan: ChangePlan, remove: Sequence[str], defined: Collection[str]) -> ChangePlan:
    """Add to a plan that every version of some views is retired."""
    document, changes, refs = plan.document, plan.changes, []
    for name in remove:
        if name in defined:
            raise DefinitionError(f"View '{name}' is still defined.", repair="Take it out of the file first.")
        if name not in document.views:
            raise NotFoundError.of("view", name, document.views)
        for number, record in document.views[name].versions.items():
            if record.status != "retired":
                refs.append(ViewRef(name, number))
                document, change = _with_status(document, refs[-1], "retired", "it left the file")
                changes += (change,)
    names = ", ".join(remove)
    taken = _taken_by_retiring(document, refs, names, " ".join(("apply", *(f"--remove {name}" for name in remove))))
    return replace(plan, document=document, changes=changes, taken=taken if refs else None)


def _with_status(document: Document, ref: ViewRef, status: str, reason: str) -> tuple[Document, Change]:
    record = document.views[ref.view].versions[ref.version or 0]
    new = replace_version(document, ref, msgspec.structs.replace(record, status=status))
    rollout = document.views[ref.view].rollout
    if status == "retired" and rollout is not None and rollout.to == ref.version:
        new = _without_rollout(new, ref.view)
    readers = tuple(sorted(name for name, c in new.consumers.items() if _reads_version(c.reads, ref)))
    return new, Change(status, f"view {ref}", reason, readers)


def _without_rollout(document: Document, view: str) -> Document:
    ended = msgspec.structs.replace(document.views[view], rollout=None)
    return msgspec.structs.replace(document, views={**document.views, view: ended})


def _taken_by_retiring(document: Document, refs: Sequence[ViewRef], what: str, command: str) -> Taken:
    """Return what a retirement takes: every feature of the versions, from everybody."""
    features = {f"{ref}:{f.name}" for ref in refs for f in document.views[ref.view].versions[ref.version or 0].features}
    named = tuple(fact for ref in refs for fact in _named_by(document, ref, {*map(str, refs)}))
    cadence = max((c.cadence_days or 0 for c in document.consumers.values() if features & {*c.reads}), default=0)
    return Taken(what, frozenset(features), named, cadence_days=cadence, command=command)


def _named_by(document: Document, ref: ViewRef, going: Collection[str]) -> Iterator[str]:
    """Say which services, on-demand views and consumers would break without a frozen version; what goes as well does not count."""
    for name, service in document.services.items():
        if _reads_version(service.features, ref):
            yield f"service {name} selects it"
    for view, record in RegistrySnapshot(document).view_versions():
        if record.status != "retired" and str(view) not in going and _reads_version(record.inputs, ref):
            yield f"{view} computes from it"
    for name, consumer in document.consumers.items():
        if _reads_version(consumer.reads, ref):
            yield f"{name} declares it"
    rollout = document.views[ref.view].rollout
    if rollout is not None and rollout.to == ref.version:
        yield f"it is on its way: {rollout.described}"


def _taken_by_promoting(old: Document, new: Document, target: ViewRef, named: Collection[str]) -> Taken | None:
    """Return what a promotion takes: what a reference without a version meant, and what a consumer that is not named was frozen to."""
    was = ViewRef(target.view, old.views[target.view].current)
    before, after = (RegistrySnapshot(old).view(ref) for ref in (was, target))
    changed = {f"{was}:{f.name}" for f in before.features if _fingerprint(after, f.name) != f.fingerprint}
    kept = {name: _with_inputs(new, consumer.reads) for name, consumer in new.consumers.items()}
    moved = [name for name, c in old.consumers.items() if name not in named and c.reads != new.consumers[name].reads]
    if not changed and not moved:
        return None
    facts = tuple(f"{name} would be moved through a service and is not named" for name in moved)
    command = " ".join(("promote", str(target), *(f"--move {name}" for name in (*named, *moved))))
    kept |= {name: frozenset(changed) for name in named}
    return Taken(str(was), frozenset(changed), facts, kept=kept, command=command)


def _fingerprint(view: ViewRecord, feature: str) -> str | None:
    record = view.feature(feature)
    return record.fingerprint if record else None


def _with_inputs(document: Document, refs: Iterable[str]) -> frozenset[str]:
    """Return references and what the on-demand ones among them are computed from: reading them reads that too."""
    snapshot = RegistrySnapshot(document)
    views = [snapshot.view(FeatureRef.parse(ref).view_ref) for ref in refs]
    return frozenset(refs).union(*(view.inputs for view in views))


def _moved(refs: Iterable[str], target: ViewRef, record: ViewRecord, who: str) -> tuple[str, ...]:
    moved = []
    for text in refs:
        ref = FeatureRef.parse(text)
        if ref.view == target.view and ref.version != target.version:
            if record.feature(ref.feature) is None:
                raise FailedPreconditionError(
                    f"{who} reads {text}, and {target} has no '{ref.feature}'.",
                    repair=f"Change what {who} reads first.",
                )
            ref = ref.at(target.version or 0)
        moved.append(str(ref))
    return tuple(dict.fromkeys(moved))


def _through(consumer: ConsumerRecord, services: Mapping[str, ServiceRecord]) -> list[str]:
    """Return what a consumer reads through services, without roles."""
    return [str(FeatureRef.parse(ref).plain()) for name in consumer.services for ref in services[name].features]


def _direct(consumer: ConsumerRecord, services: Mapping[str, ServiceRecord]) -> tuple[str, ...]:
    """Return what a consumer selects itself; where an older program did not keep it, what no service of it says."""
    if consumer.direct is not None:
        return consumer.direct
    through = _through(consumer, services)
    return tuple(ref for ref in consumer.reads if ref not in through)


def _check_through(key: str, consumer: ConsumerRecord, services: Mapping[str, ServiceRecord], target: ViewRef) -> None:
    """Refuse to move a consumer away from a service: it would still read through it what the service says."""
    for name in consumer.services:
        refs = [FeatureRef.parse(ref) for ref in services[name].features]
        if any(ref.view == target.view and ref.version != target.version for ref in refs):
            raise FailedPreconditionError(
                f"{key} reads {target.view} through service '{name}'.", repair=f"Move the service: --move {name}."
            )


def _reads_version(refs: Iterable[str], target: ViewRef) -> bool:
    return any((ref.view, ref.version) == (target.view, target.version) for ref in map(FeatureRef.parse, refs))


def _moved_alias(alias: AliasRecord, target: ViewRef) -> AliasRecord:
    same_view = ViewRef.parse(alias.view).view == target.view
    return msgspec.structs.replace(alias, view=str(target)) if same_view else alias


def _readers_elsewhere(document: Document, target: ViewRef) -> set[str]:
    """Return the services, consumers and on-demand views that are frozen to another version of the view."""
    refs_of = {name: service.features for name, service in document.services.items()}
    refs_of |= {name: consumer.reads for name, consumer in document.consumers.items()}
    refs_of |= {name: known.versions[max(known.versions)].inputs for name, known in document.views.items()}
    others = {name: [r for r in map(FeatureRef.parse, refs) if r.view == target.view] for name, refs in refs_of.items()}
    return {name for name, refs in others.items() if any(ref.version != target.version for ref in refs)}
