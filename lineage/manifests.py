"""Manifests as text for features.py, and the difference between two."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from lineage.errors import NotFoundError
from lineage.graph import Node
from lineage.instants import written
from lineage.objects import resolve
from lineage.registry import Consumer, Dataset, Snapshot, feature_in, view_of, without_alias
from lineage.state import State
from lineage.usage import Coverage, Reads

CLASSES = {"model": "Model", "job": "Job", "service": "Service", "dashboard": "Dashboard", "person": "Person"}


def reads_line(
    snapshot: Snapshot, consumer: Consumer | None, *, add: Collection[str] = (), remove: Collection[str] = ()
) -> str:
    """Return the ``reads=[...]`` line of a manifest after adding and removing features.

    A service stays a service as long as everything it selects is still read.

    Args:
        snapshot: The registry.
        consumer: The manifest to change; None starts from nothing.
        add: Feature references to add.
        remove: Feature references to remove.
    """
    kept = [ref for ref in (consumer.reads if consumer else ()) if without_alias(ref) not in remove]
    wanted = [*kept, *sorted(set(add) - set(map(without_alias, kept)))]
    services = [
        name
        for name in (consumer.services if consumer else ())
        if name in snapshot.services and set(snapshot.services[name].features) <= set(wanted)
    ]
    through = {ref for name in services for ref in snapshot.services[name].features}
    items = [*services, *(ref for ref in wanted if ref not in through)]
    return f"reads=[{', '.join(map(_quoted, items))}]"


def constructor(key: str, reads: str, *, kind: str = "") -> str:
    """Return a whole manifest on one line.

    >>> constructor("delay_model@4", 'reads=["weather@v1:temp"]')
    'Model("delay_model", version="4", reads=["weather@v1:temp"])'
    """
    name, _, version = key.partition("@")
    class_name = CLASSES.get(kind, "Model" if version else "Service")
    number = f', version="{version}"' if version else ""
    return f'{class_name}("{name}"{number}, {reads})'


@dataclass(frozen=True, slots=True)
class Declaration:
    """A manifest written from the reads that were observed, for a person to review.

    Attributes:
        key: The consumer it is for.
        text: Python for features.py.
        reads: What was read, without what an on-demand feature among it is computed from.
        coverage: Whether all reads were counted.
    """

    key: str
    text: str
    reads: tuple[str, ...]
    coverage: Coverage


def declare(state: State, text: str) -> Declaration:
    """Write the manifest of a consumer, or of what a principal runs, from observed reads.

    Args:
        state: The registry and the usage.
        text: A consumer or a principal, as people write it.

    Raises:
        NotFoundError: There is no such consumer or principal.
    """
    target = resolve(text, state.graph, kinds=("consumer", "principal"))
    node = target.nodes[-1]
    observed: dict[str, list[Reads]] = {}
    for reader, read in state.reads:
        if read.served and (reader.node == node or (node.kind == "principal" and read.principal == node.name)):
            observed.setdefault(read.feature, []).append(read)
    manifest = state.snapshot.consumers.get(node.name) if node.kind == "consumer" else None
    # An on-demand feature reads its inputs: only what is listed already, or read for itself, is a line.
    wanted = state.snapshot.outermost(observed) | (manifest.features if manifest else frozenset())
    lines = {ref: reads for ref, reads in observed.items() if ref in wanted}
    text = "\n".join(_declaration_lines(node, manifest, lines))
    return Declaration(node.name, text, tuple(sorted(lines)), state.usage.coverage())


def _declaration_lines(node: Node, manifest: Consumer | None, observed: Mapping[str, list[Reads]]) -> Iterator[str]:
    name, version = _consumer_name(node)
    kind = manifest.kind if manifest else "model" if version else "service"
    declared = manifest.features if manifest else frozenset()
    yield f"{CLASSES.get(kind, 'Service')}("
    yield f'    "{name}",'
    if version:
        yield f'    version="{version}",'
    yield "    reads=["
    for ref in sorted(observed):
        yield f"        {_quoted(ref)},  # {_seen(observed[ref])}{'' if ref in declared else '; not declared yet'}"
    for ref in sorted(declared - set(observed)):
        yield f"        # {_quoted(ref)},  # declared, and no read was counted"
    yield "    ],"
    if manifest and manifest.writes:
        yield f"    writes=[{', '.join(map(_quoted, manifest.writes))}],"
    yield f"    owner={_quoted(manifest.owner if manifest else '')},"
    yield ")"
    if node.kind == "principal":
        yield f"# then: {bind_command(node.name, name)}"


def bind_command(principal: str, consumer: str) -> str:
    """Return the command that lets a principal say that it runs a consumer.

    >>> bind_command("CN=gate board", "gate_board")
    "featurestore token bind 'CN=gate board' gate_board"
    """
    return f"featurestore token bind {shlex.quote(principal)} {shlex.quote(consumer)}"


def _consumer_name(node: Node) -> tuple[str, str]:
    """Return name and version of a consumer, or a name that a consumer may have for a principal."""
    if node.kind == "consumer":
        name, _, version = node.name.partition("@")
        return name, version
    name = re.sub(r"\W", "_", node.name, flags=re.ASCII)
    return (f"_{name}" if name[:1].isdigit() else name), ""


def _seen(reads: list[Reads]) -> str:
    return f"calls: {sum(read.calls for read in reads)}, last {written(max(read.last_read for read in reads))}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@dataclass(frozen=True, slots=True)
class ManifestDiff:
    """What differs between two consumers, most often two versions of a model.

    Attributes:
        before: Key of the first.
        after: Key of the second.
        added: References only the second reads.
        removed: References only the first reads.
        versions: The same feature in another version: ``(before, after)``.
        sources_added: Sources only the second is made from.
        sources_removed: Sources only the first is made from.
        datasets: The training datasets; None where there is none.
        metrics: Name -> value before and after; None where it was not measured.
        settings: Other fields of the manifest that differ, before and after.
        definitions: What differs in the definition of a feature that has another version: ``(after, what)``.
        unused: What the second declares and certainly never read, or its model gives no weight.
    """

    before: str
    after: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    versions: tuple[tuple[str, str], ...]
    sources_added: tuple[str, ...]
    sources_removed: tuple[str, ...]
    datasets: tuple[Dataset | None, Dataset | None]
    metrics: Mapping[str, tuple[float | None, float | None]]
    settings: Mapping[str, tuple[str, str]]
    definitions: tuple[tuple[str, str], ...] = ()
    unused: tuple[str, ...] = ()


def diff(state: State, before: str, after: str) -> ManifestDiff:
    """Compare two manifests.

    Args:
        state: The registry and the usage.
        before: Key of a consumer, e.g. ``delay_model@1``.
        after: Key of another.

    Raises:
        NotFoundError: One of them has no manifest.
    """
    left, right = manifest_of(state, before), manifest_of(state, after)
    removed, added, versions = _compared_reads(set(left.reads), set(right.reads))
    left_sources, right_sources = _sources(state, left), _sources(state, right)
    names = sorted({*left.metrics, *right.metrics})
    return ManifestDiff(
        before=left.key,
        after=right.key,
        added=added,
        removed=removed,
        versions=versions,
        sources_added=tuple(sorted(right_sources - left_sources)),
        sources_removed=tuple(sorted(left_sources - right_sources)),
        datasets=(_dataset(state, left), _dataset(state, right)),
        metrics={name: (left.metrics.get(name), right.metrics.get(name)) for name in names},
        settings=dict(_settings(left, right)),
        definitions=tuple(_definition_changes(state.snapshot, versions)),
        unused=_unused(state, right),
    )


def _definition_changes(snapshot: Snapshot, versions: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield each part of a definition that differs between two versions of a feature; ``meaning`` where no part shows it."""
    for before, after in versions:
        old, new = _parts(snapshot, without_alias(before)), _parts(snapshot, without_alias(after))
        shown = [name for name in new if name != "fingerprint" and old.get(name) != new[name]]
        yield from ((after, f"{name} {old.get(name) or '-'} -> {new[name] or '-'}") for name in shown)
        if not shown and old.get("fingerprint") != new.get("fingerprint"):
            yield after, "meaning: another fingerprint"


def _parts(snapshot: Snapshot, ref: str) -> Mapping[str, str]:
    view = snapshot.views.get(view_of(ref))
    feature = next((feature for feature in view.features if feature.ref == ref), None) if view else None
    if view is None or feature is None:
        return {}
    return {
        "dtype": feature.dtype,
        "unit": feature.unit,
        "columns": ", ".join(feature.columns),
        "expression": feature.expression or "",
        "window": feature.settings,
        "ttl": "" if view.ttl is None else f"{view.ttl / 3_600_000_000:g} h",
        "source": view.source.name if view.source else "",
        "fingerprint": feature.fingerprint,
    }


def _unused(state: State, manifest: Consumer) -> tuple[str, ...]:
    from lineage.findings import Verdict, check

    found = check(state, select=["declared_never_read", "fetched_unused"]).all
    flagged = (f for f in found if f.verdict is Verdict.FLAGGED and f.subject.partition(" ")[0] == manifest.key)
    return tuple(sorted({feature for finding in flagged for feature in finding.features}))


def manifest_of(state: State, text: str) -> Consumer:
    """Return the manifest of exactly one consumer; a model's bare name means its last version in the registry.

    Raises:
        NotFoundError: It has no manifest.
    """
    manifests = state.snapshot.consumers
    node = resolve(text, state.graph, kinds=("consumer",)).nodes[-1]
    if node.name not in manifests:
        raise NotFoundError.of("manifest", node.name, manifests)
    return manifests[node.name]


def _compared_reads(
    left: set[str], right: set[str]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Return what only the left reads, what only the right reads, and the pairs that differ in the version alone."""
    removed, added = sorted(left - right), sorted(right - left)
    versions = []
    for ref in tuple(removed):
        match = next((other for other in added if _role(other) == _role(ref)), None)
        if match is not None:
            removed.remove(ref)
            added.remove(match)
            versions.append((ref, match))
    return tuple(removed), tuple(added), tuple(versions)


def _role(ref: str) -> tuple[str, str]:
    alias, _, plain = ref.rpartition("=")
    return alias, feature_in(plain)


def _sources(state: State, consumer: Consumer) -> set[str]:
    closure = state.graph.upstream([Node("feature", ref) for ref in consumer.features])
    return {node.name for node in closure.nodes if node.kind == "source"}


def _dataset(state: State, consumer: Consumer) -> Dataset | None:
    return state.snapshot.datasets.get(consumer.dataset) if consumer.dataset else None


def _settings(left: Consumer, right: Consumer) -> Iterator[tuple[str, tuple[str, str]]]:
    for name in ("services", "writes", "dataset", "label", "environment", "cadence_days", "expires_at", "owner"):
        before, after = getattr(left, name), getattr(right, name)
        if before != after:
            yield name, (_text(before), _text(after))


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
