"""Definitions -> records: versions are chosen, references are frozen, fingerprints are taken. Pure; nothing is committed here.

A view keeps its version while the meaning of every feature it had is unchanged; otherwise a new version appears beside the old. A reference
that was frozen before stays where it is, whatever `current` means now: an apply never moves a reader silently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from featurestore.definitions import (
    Aggregation,
    Consumer,
    Entity,
    Expectation,
    Feature,
    FeatureSelection,
    FeatureService,
    FeatureView,
    Model,
    OnDemandFeatureView,
    ViewAlias,
)
from featurestore.definitions.checks import duration_micros
from featurestore.definitions.fingerprint import on_demand_fingerprint, stored_fingerprint
from featurestore.errors import DefinitionError, NotFoundError
from featurestore.expressions import Expression, cast, parse_expression, to_json
from featurestore.refs import FeatureRef, ViewRef
from featurestore.registry.snapshot import (
    AggregationRecord,
    AliasRecord,
    ConsumerRecord,
    Document,
    EntityRecord,
    ExpressionRecord,
    FeatureRecord,
    FilterRecord,
    RegistrySnapshot,
    ServiceRecord,
    SourceRecord,
    ViewRecord,
    ViewVersions,
)
from featurestore.types import DType, to_micros

DAY = 86_400_000_000


@dataclass(frozen=True, slots=True)
class Selected:
    """One item of a selection: a whole view (feature None), or one feature of it."""

    ref: ViewRef
    feature: str | None


@dataclass
class Resolver:
    """Builds the next document, object by object, on top of what is registered.

    Args:
        snapshot: What is registered.
        is_filled: Says whether a view version has rows; one that has none takes an added feature at once.
    """

    snapshot: RegistrySnapshot
    is_filled: Callable[[ViewRef], bool]
    entities: dict[str, EntityRecord] = field(init=False)
    views: dict[str, ViewVersions] = field(init=False)
    services: dict[str, ServiceRecord] = field(init=False)
    consumers: dict[str, ConsumerRecord] = field(init=False)

    def __post_init__(self) -> None:
        document = self.snapshot.document
        self.entities, self.views = dict(document.entities), dict(document.views)
        self.services, self.consumers = dict(document.services), dict(document.consumers)

    def document(self) -> Document:
        """Return the document as it stands now."""
        return msgspec.structs.replace(
            self.snapshot.document,
            entities=self.entities,
            views=self.views,
            services=self.services,
            consumers=self.consumers,
        )

    def add_entity(self, entity: Entity) -> None:
        """Register an entity, or what changed of it."""
        self.entities[entity.name] = EntityRecord(
            join_keys=entity.keys, description=entity.description, owner=entity.owner, tags=dict(entity.tags)
        )

    def add_view(self, view: FeatureView) -> ViewRef:
        """Register a stored view under the version that its meaning has."""
        self.add_entity(view.entity)
        return self._add_version(view.name, stored_view(view))

    def add_on_demand(self, view: OnDemandFeatureView) -> ViewRef:
        """Register an on-demand view; its inputs are frozen."""
        known = self.views.get(view.name)
        kept = [FeatureRef.parse(ref) for ref in known.versions[max(known.versions)].inputs] if known else []
        inputs = self.freeze((_at_kept(item, kept) for item in select(view.inputs)), kept, place=view.name)
        if roles := [str(ref) for ref in inputs if ref.alias]:
            raise DefinitionError(f"Input {roles[0]} of '{view.name}' is read for another role.", place=view.name)
        return self._add_version(view.name, self._on_demand_record(view, inputs))

    def add_service(self, service: FeatureService) -> None:
        """Register a feature service; its references are frozen."""
        known = self.services.get(service.name)
        kept = [FeatureRef.parse(ref) for ref in known.features] if known else []
        refs = self.freeze(select(service.features), kept, place=service.name)
        roles = {alias.name for alias in _aliases_of(service)}
        if unknown := [str(ref) for ref in refs if ref.alias and ref.alias not in roles]:
            raise DefinitionError(
                f"'{unknown[0]}' names a role without its keys.", place=service.name, repair="Write view.alias(...)."
            )
        self.services[service.name] = ServiceRecord(
            features=tuple(str(ref) for ref in refs),
            aliases=self._aliases(service, refs),
            owner=service.owner,
            description=service.description,
            tags=dict(service.tags),
        )

    def add_consumer(self, consumer: Consumer) -> None:
        """Register a consumer and freeze its manifest."""
        known = self.consumers.get(consumer.key)
        kept = [FeatureRef.parse(ref) for ref in known.reads] if known else []
        services = tuple(self._service_names(consumer))
        through = [FeatureRef.parse(ref).plain() for name in services for ref in self.services[name].features]
        own = [ref for ref in kept if ref not in through]
        if known and known.direct is not None:
            own = [FeatureRef.parse(ref) for ref in known.direct]
        directly = {ref.view for ref in own}
        kept = [*(ref for ref in kept if ref.view not in directly), *own]
        plain = [_plain(item) for item in select(self._direct_reads(consumer))]
        selected = (item if item.ref.view in directly else _at_kept(item, kept) for item in plain)
        direct = self.freeze(selected, kept, place=consumer.key)
        special: dict[str, Any] = {}
        if isinstance(consumer, Model):
            special = {"version": str(consumer.version), "dataset": consumer.dataset, "label": consumer.label}
            special["metrics"] = dict(consumer.metrics)
        self.consumers[consumer.key] = ConsumerRecord(
            kind=consumer.kind,  # type: ignore[arg-type]  # a ClassVar of one of the literals
            name=consumer.name,
            reads=tuple(dict.fromkeys(str(ref) for ref in (*through, *direct))),
            direct=tuple(map(str, direct)),
            services=services,
            writes=tuple(self._frozen_writes(consumer, known)),
            environment=consumer.environment,
            cadence_days=(duration_micros(consumer.cadence, "Cadence") or 0) / DAY or None,
            expires_at=to_micros(consumer.expires_at) if consumer.expires_at else None,
            owner=consumer.owner,
            description=consumer.description,
            tags=dict(consumer.tags),
            **special,
        )

    def freeze(self, selected: Iterable[Selected], kept: Sequence[FeatureRef], *, place: str) -> list[FeatureRef]:
        """Give every selected feature a version: the one it names, the one it was frozen to before, or the current one.

        Args:
            selected: What the file selects.
            kept: What was frozen before; a whole view that was selected before keeps exactly these features of it.
            place: Whose selection it is, for the error.

        Raises:
            NotFoundError: An unknown view, version or feature; says the nearest name.
        """
        before = {(ref.alias, ref.view, ref.feature): ref for ref in kept}
        frozen: dict[FeatureRef, None] = {}
        for item in selected:
            of_view = [ref for ref in kept if (ref.alias, ref.view) == (item.ref.alias, item.ref.view)]
            if item.feature is None and item.ref.version is None and of_view:
                frozen.update(dict.fromkeys(of_view))
                continue
            version_ref, record = self._version(item.ref, place)
            for name in (item.feature,) if item.feature else (f.name for f in record.features):
                old = None if item.ref.version else before.get((item.ref.alias, item.ref.view, name))
                frozen[old or self._existing(version_ref, record, name, place)] = None
        return list(frozen)

    def _version(self, ref: ViewRef, place: str) -> tuple[ViewRef, ViewRecord]:
        snapshot = RegistrySnapshot(self.document())
        try:
            return snapshot.freeze(ref), snapshot.view(ref)
        except NotFoundError as error:
            error.place = place
            raise

    def _existing(self, ref: ViewRef, record: ViewRecord, name: str, place: str) -> FeatureRef:
        if record.feature(name) is not None:
            return ref.feature(name)
        elsewhere = [number for number, other in self.views[ref.view].versions.items() if other.feature(name)]
        repair = None
        if elsewhere:
            newer = f"{ref.view}@v{elsewhere[-1]}"
            repair = f"{newer} has it: write '{newer}:{name}', or run `featurestore promote {newer}`."
        available = [str(ref.feature(feature.name)) for feature in record.features]
        raise NotFoundError.of("feature", str(ref.feature(name)), available, place=place, repair=repair)

    def _add_version(self, name: str, candidate: ViewRecord) -> ViewRef:
        """Put a candidate under the newest version whose meaning it keeps, or under a new one."""
        known = self.views.get(name)
        if known is None:
            self.views[name] = ViewVersions(current=1, versions={1: self._born(candidate)})
            return ViewRef(name, 1)
        live = [number for number, record in known.versions.items() if record.status != "retired"]
        same = [number for number in live if means_the_same(known.versions[number], candidate)]
        for number in (*same, *sorted(live, reverse=True)):
            if keeps_meaning(known.versions[number], candidate):
                ref = ViewRef(name, number)
                self._put(ref, self._extended(ref, known.versions[number], candidate))
                return ref
        ref = ViewRef(name, max(known.versions) + 1)
        self._put(ref, self._born(_linked(candidate, name, known.versions)))
        return ref

    def _put(self, ref: ViewRef, record: ViewRecord) -> None:
        """Put a version; who may read a view undeclared is said of the view, so older versions that are live follow."""
        known = self.views[ref.view]
        versions = {
            number: old if old.status == "retired" else msgspec.structs.replace(old, access=record.access)
            for number, old in known.versions.items()
        }
        self.views[ref.view] = msgspec.structs.replace(known, versions={**versions, ref.version or 0: record})

    def _born(self, candidate: ViewRecord) -> ViewRecord:
        return msgspec.structs.replace(candidate, created_revision=self.snapshot.revision + 1)

    def _extended(self, ref: ViewRef, old: ViewRecord, candidate: ViewRecord) -> ViewRecord:
        """Keep the old features where they lie and add the new ones as the next layout of the online rows."""
        by_name = {feature.name: feature for feature in candidate.features}
        kept = tuple(msgspec.structs.replace(by_name[f.name], layout=f.layout, same_as=f.same_as) for f in old.features)
        added = tuple(f for f in candidate.features if old.feature(f.name) is None)
        settled = not added and old.layout == old.newest_layout  # then nobody need open the stores to look
        readable_at_once = old.kind == "on_demand" or settled or not self.is_filled(ref)
        # Rows may arrive between plan and apply, so that two sets of columns never share a layout.
        layout = old.newest_layout + (1 if added and old.kind != "on_demand" else 0)
        return msgspec.structs.replace(
            candidate,
            features=kept + tuple(msgspec.structs.replace(f, layout=layout) for f in added),
            layout=layout if readable_at_once else old.layout,
            status=old.status,
            created_revision=old.created_revision,
        )

    def _on_demand_record(self, view: OnDemandFeatureView, inputs: Sequence[FeatureRef]) -> ViewRecord:
        request = {name: DType.of(dtype).name for name, dtype in view.request.items()}
        stored = {ref.feature: self._input(ref, view.name) for ref in inputs}
        clash = sorted(set(request) & set(stored)) or [ref.feature for ref in inputs if len(stored) < len(inputs)]
        if clash:
            raise DefinitionError(f"Two inputs of '{view.name}' are called '{clash[0]}'.", place=view.name)
        types = {**request, **{name: record.dtype for name, record in stored.items()}}
        parsed = {f.name: parse_expression(f.expression or "", columns=types) for f in view.features}
        used = {name for expression in parsed.values() for name in expression.columns}
        nested = [name for name in types if name in used | set(request) and DType(types[name]).is_nested]
        if nested:
            raise DefinitionError(
                f"'{nested[0]}' of '{view.name}' is {types[nested[0]]}; expressions read single values.",
                place=view.name,
                repair="Make a feature of the part that is needed in the view's source.",
            )
        meanings = {**request, **{name: record.fingerprint for name, record in stored.items()}}
        features = tuple(_computed(f, parsed[f.name], meanings) for f in view.features)
        return ViewRecord(
            kind="on_demand",
            features=features,
            request=tuple(request.items()),
            inputs=tuple(str(ref) for ref in inputs if ref.feature in used),
            access=view.access,
            owner=view.owner,
            description=view.description,
            tags=dict(view.tags),
        )

    def _input(self, ref: FeatureRef, place: str) -> FeatureRecord:
        _, record = self._version(ref.view_ref, place)
        if record.kind == "on_demand":
            raise DefinitionError(f"Input {ref} is itself computed on demand.", place=place, repair="Name its inputs.")
        feature = record.feature(ref.feature)
        assert feature is not None  # freeze() found it
        return feature

    def _aliases(self, service: FeatureService, refs: Sequence[FeatureRef]) -> dict[str, AliasRecord]:
        aliases = {}
        for alias in _aliases_of(service):
            version = next(ref.version for ref in refs if ref.alias == alias.name)
            _, record = self._version(ViewRef(alias.view, version), service.name)
            keys = [key for key, _ in record.join_keys]
            for key in alias.join_keys:
                if key not in keys:
                    raise NotFoundError.of("join key", key, keys, place=f"{service.name}.{alias.name}")
            aliases[alias.name] = AliasRecord(view=f"{alias.view}@v{version}", join_keys=dict(alias.join_keys))
        return aliases

    def _service_names(self, consumer: Consumer) -> Iterator[str]:
        for item in consumer.reads:
            if isinstance(item, FeatureService):
                if item.name not in self.services:
                    self.add_service(item)
                yield item.name
            elif isinstance(item, str) and item in self.services:
                yield item

    def _direct_reads(self, consumer: Consumer) -> Iterator[Any]:
        for item in consumer.reads:
            is_service = isinstance(item, FeatureService) or (isinstance(item, str) and item in self.services)
            if (
                isinstance(item, str)
                and not is_service
                and ":" not in item
                and item.partition("@")[0] not in self.views
            ):
                raise NotFoundError.of("service or view", item, [*self.services, *self.views], place=consumer.key)
            if not is_service:
                yield item

    def _frozen_writes(self, consumer: Consumer, known: ConsumerRecord | None) -> Iterator[str]:
        before = {ViewRef.parse(text).view: text for text in known.writes} if known else {}
        for item in consumer.writes:
            ref = ViewRef.parse(item) if isinstance(item, str) else ViewRef(item.name)
            kept = None if ref.version else before.get(ref.view)
            yield kept or str(self._version(ref, consumer.key)[0])


def stored_view(view: FeatureView) -> ViewRecord:
    """Return the record of a stored view, fingerprints taken, as if it were new."""
    source = view.source.document()
    facts: dict[str, Any] = {
        "join_keys": view.entity.keys,
        "ttl": duration_micros(view.ttl, "ttl"),
        "event_key": tuple((name, DType.of(dtype).name) for name, dtype in view.event_key.items()),
        "backfilled_until": to_micros(view.backfilled_until) if view.backfilled_until else None,
    }
    filterable = _filterable(view)
    return ViewRecord(
        kind="window" if view.is_windowed else "batch",
        features=tuple(_stored_feature(feature, facts, source, filterable) for feature in view.features),
        entity=view.entity.name,
        source=msgspec.convert(source, SourceRecord),
        access=view.access,
        owner=view.owner,
        description=view.description,
        tags=dict(view.tags),
        schedule=view.schedule,
        expectations=_expectations(view.expect),
        **facts,
    )


def keeps_meaning(old: ViewRecord, new: ViewRecord) -> bool:
    """Say whether every feature of the old version is in the new one with the same fingerprint."""
    if (old.kind, old.join_keys) != (new.kind, new.join_keys):
        return False
    if new.kind == "window" and not new.event_key and _aggregated(new) - _aggregated(old):
        return False  # without an event key, events that come again with one more column would count twice
    fingerprints = {feature.name: feature.fingerprint for feature in new.features}
    return all(fingerprints.get(feature.name) == feature.fingerprint for feature in old.features)


def _aggregated(view: ViewRecord) -> set[str]:
    return {name for feature in view.features if feature.aggregation for name, _ in feature.aggregation.columns}


def means_the_same(old: ViewRecord, new: ViewRecord) -> bool:
    """Say whether two versions have the same features with the same fingerprints."""
    return keeps_meaning(old, new) and keeps_meaning(new, old)


def select(items: Iterable[Any]) -> Iterator[Selected]:
    """Spell out what a selection names: views, parts of views, aliases, or references as text."""
    for item in items:
        if isinstance(item, str):
            parsed = FeatureRef.parse(item) if ":" in item else ViewRef.parse(item)
            is_feature = isinstance(parsed, FeatureRef)
            yield Selected(parsed.view_ref, parsed.feature) if is_feature else Selected(parsed, None)  # type: ignore[union-attr,arg-type]
        elif isinstance(item, FeatureSelection):
            alias = item.alias.name if item.alias else None
            yield from (Selected(ViewRef(item.view, None, alias), name) for name in item.names)
        elif isinstance(item, ViewAlias):
            yield Selected(ViewRef(item.view, None, item.name), None)
        elif isinstance(item, FeatureView | OnDemandFeatureView):
            yield Selected(ViewRef(item.name), None)
        else:
            raise DefinitionError(
                f"{item!r:.80} cannot be selected.", repair="Name a view, view[[...]] or 'view:feature'."
            )


def _plain(item: Selected) -> Selected:
    """Return the item without its role: a manifest declares what is read, not under which role."""
    return replace(item, ref=replace(item.ref, alias=None))


def _at_kept(item: Selected, kept: Sequence[FeatureRef]) -> Selected:
    """Return a whole view at the version that some of its features are frozen to, so that all of that version are selected."""
    versions = {ref.version or 0 for ref in kept if ref.view == item.ref.view}
    is_whole = item.feature is None and item.ref.version is None
    return replace(item, ref=replace(item.ref, version=max(versions))) if is_whole and versions else item


def _filterable(view: FeatureView) -> dict[str, str]:
    """Return the columns that filters of a view may read, with their types: the aggregated ones, and those it declares for that."""
    aggregated = {feature.column: feature.dtype for feature in view.features if isinstance(feature, Aggregation)}
    return {name: DType.of(dtype).name for name, dtype in (aggregated | dict(view.columns)).items()}


def _filter(aggregation: Aggregation, filterable: Mapping[str, str]) -> FilterRecord | None:
    """Parse the filter of an aggregation; raises DefinitionError when it is no condition over these columns."""
    if aggregation.where is None:
        return None
    place = f"where of '{aggregation.feature_name}'"
    try:
        condition = parse_expression(aggregation.where, columns=filterable)
    except DefinitionError as error:
        hint = "It reads aggregated columns, and those that the view declares: columns={'status': 'string'}."
        raise DefinitionError(error.message, place=f"{place}: {error.place}", repair=error.repair or hint) from None
    if condition.dtype != "bool":
        raise DefinitionError(
            f"A filter must be true or false; '{aggregation.where}' is {condition.dtype}.",
            place=place,
            repair="Compare it.",
        )
    columns = tuple((name, filterable[name]) for name in sorted(condition.columns))
    return FilterRecord(sql=aggregation.where, tree=to_json(condition), columns=columns)


def _stored_feature(
    feature: Feature | Aggregation,
    view: Mapping[str, Any],
    source: Mapping[str, Any],
    filterable: Mapping[str, str],
) -> FeatureRecord:
    facts: dict[str, Any] = {"unit": feature.unit, "column": None, "aggregation": None}
    where = None
    if isinstance(feature, Aggregation):
        where = _filter(feature, filterable)
        meaning = feature.document() | ({"where": where.tree} if where else {})
        facts |= {"name": feature.feature_name, "dtype": feature.result.name, "aggregation": meaning}
    else:
        facts |= {"name": feature.name, "dtype": feature.dtype_name, "column": feature.column or feature.name}
    fingerprint = stored_fingerprint(view, source, facts)
    if isinstance(feature, Aggregation):
        facts["aggregation"] = AggregationRecord(**feature.document(), where=where)
    return FeatureRecord(
        fingerprint=fingerprint,
        description=feature.description,
        expectations=_expectations(feature.expect),
        **facts,
    )


def _expectations(expect: Sequence[Expectation]) -> tuple[dict[str, Any], ...]:
    return tuple(expectation.document() for expectation in expect)


def _computed(feature: Feature, expression: Expression, meanings: Mapping[str, str]) -> FeatureRecord:
    tree = to_json(_as_declared(feature, expression))
    facts: dict[str, Any] = {"name": feature.name, "dtype": feature.dtype_name, "unit": feature.unit}
    fingerprint = on_demand_fingerprint(facts, tree, {name: meanings[name] for name in sorted(expression.columns)})
    record = ExpressionRecord(sql=feature.expression or "", tree=tree)
    return FeatureRecord(fingerprint=fingerprint, description=feature.description, expression=record, **facts)


def _as_declared(feature: Feature, expression: Expression) -> Expression:
    """Return the expression in the feature's type; a wider type of the same kind holds every value, another is refused."""
    have, wanted = expression.dtype, feature.dtype_name
    widths = ("int8", "int16", "int32", "int64"), ("float32", "float64")
    if have != wanted and not any(have in w and wanted in w and w.index(have) < w.index(wanted) for w in widths):
        raise DefinitionError(
            f"Expression '{feature.expression}' is {have}, declared {wanted}.",
            place=feature.name,
            repair=f"Declare {have}, or write CAST(... AS {wanted}).",
        )
    return expression if have == wanted else cast(expression, wanted)


def _linked(candidate: ViewRecord, name: str, before: Mapping[int, ViewRecord]) -> ViewRecord:
    """Link the features that mean what they meant in an earlier version, the newest such first."""
    linked = []
    for feature in candidate.features:
        known = (
            (ViewRef(name, number), before[number].feature(feature.name)) for number in sorted(before, reverse=True)
        )
        same = (
            old.same_as or str(ref.feature(old.name))
            for ref, old in known
            if old and old.fingerprint == feature.fingerprint
        )
        linked.append(msgspec.structs.replace(feature, same_as=next(same, None)))
    return msgspec.structs.replace(candidate, features=tuple(linked))


def _aliases_of(service: FeatureService) -> Iterator[ViewAlias]:
    for item in service.features:
        if isinstance(item, ViewAlias):
            yield item
        elif isinstance(item, FeatureSelection) and item.alias:
            yield item.alias
