"""What a change of an object would break, and whom to tell."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from lineage.consumers import READERS, Transitive, covered, features_of, transitively
from lineage.errors import InvalidQuestionError
from lineage.findings.finding import Verdict
from lineage.graph import NODE_KINDS, Node
from lineage.objects import Target, resolve
from lineage.readers import Reader
from lineage.registry import Consumer, Rollout, view_of
from lineage.state import State
from lineage.usage import Coverage, Reads

Change = Literal["remove", "schema", "meaning", "freshness"]
CHANGES: tuple[str, ...] = get_args(Change)

_NOT_READERS = frozenset(NODE_KINDS) - READERS
_OWNED = frozenset({"view", "feature", "consumer", "service", "principal"})
# A late value still has its meaning and its type: it harms less than a wrong or a missing one.
_MILDER = {"high": "medium", "medium": "low", "none": "none"}


@dataclass(frozen=True, slots=True)
class LiveReader:
    """A reader that was seen to read an affected feature version.

    Attributes:
        read: Where, how often and when last.
        declared: Whether its manifest lists the feature there.
    """

    reader: Node
    owner: str
    read: Reads
    declared: bool


@dataclass(frozen=True, slots=True)
class Contact:
    """Somebody to tell, and because of which objects."""

    owner: str
    objects: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Impact:
    """What a change would break.

    Attributes:
        object: As it was asked for.
        change: What kind of change.
        verdict: FLAGGED when something is hit, CLEARED when nothing can be, UNDETERMINED when nothing was seen and some reads may
            not have been counted.
        severity: ``high`` when somebody reads it, ``medium`` when somebody only declares it or was built from it, ``none``; one
            step less for freshness.
        features: Feature versions that change.
        live: Readers that were seen, per feature version, environment and mode.
        consumers: Consumers that declare an affected feature, or were trained on it.
        views: Other views computed from it.
        predictions: Views written by a consumer that is hit.
        services: Services that select it.
        datasets: Saved training sets made from it.
        transitive: Readers hit through predictions alone.
        contacts: Whom to tell.
        unowned: What is hit and has no owner.
        coverage: Whether all reads of the window were counted.
        others: Other objects of that name, as they must be written.
        rollouts: Versions of the views that are on their way to be current: some keys read them already, or will.
    """

    object: str
    change: str
    verdict: Verdict
    severity: str
    features: tuple[str, ...]
    live: tuple[LiveReader, ...]
    consumers: tuple[Consumer, ...]
    views: tuple[str, ...]
    predictions: tuple[str, ...]
    services: tuple[str, ...]
    datasets: tuple[str, ...]
    transitive: tuple[Transitive, ...]
    contacts: tuple[Contact, ...]
    unowned: tuple[str, ...]
    coverage: Coverage
    others: tuple[str, ...] = ()
    rollouts: tuple[Rollout, ...] = ()


def impact(state: State, text: str, *, change: str = "remove", environment: str | None = None) -> Impact:
    """Return what a change of an object would break.

    Args:
        state: The registry and the usage.
        text: An object as people write it.
        change: One of CHANGES.
        environment: Only reads of this environment count; None is all.

    Raises:
        NotFoundError: There is no such object.
        InvalidQuestionError: No such change.
    """
    if change not in CHANGES:
        raise InvalidQuestionError(f"No change '{change}'.", repair=f"There is: {', '.join(CHANGES)}.")
    target = resolve(text, state.graph)
    reach = _reach(state, target)
    live = _live(state, reach.features, environment)
    severity = "high" if live else "medium" if reach.hits_something else "none"
    coverage = state.usage.coverage(environment=environment)
    contacts, unowned = _contacts(state, reach.touched)
    return Impact(
        object=text,
        change=change,
        verdict=_verdict(severity, coverage),
        severity=_MILDER[severity] if change == "freshness" else severity,
        features=reach.features,
        live=live,
        consumers=reach.consumers,
        views=reach.views,
        predictions=reach.predictions,
        services=reach.services,
        datasets=reach.datasets,
        transitive=reach.transitive,
        contacts=contacts,
        unowned=unowned,
        coverage=coverage,
        others=target.others,
        rollouts=state.snapshot.in_flight(reach.features),
    )


@dataclass(frozen=True, slots=True)
class _Reach:
    """What lies downstream, before anybody was seen to read it; `touched` is every node, the target's own included."""

    features: tuple[str, ...]
    consumers: tuple[Consumer, ...]
    views: tuple[str, ...]
    predictions: tuple[str, ...]
    services: tuple[str, ...]
    datasets: tuple[str, ...]
    transitive: tuple[Transitive, ...]
    touched: tuple[Node, ...]

    @property
    def hits_something(self) -> bool:
        return any((self.consumers, self.views, self.predictions, self.services, self.datasets, self.transitive))


def _reach(state: State, target: Target) -> _Reach:
    """Follow the graph twice: up to the first reader, and through readers that write predictions."""
    direct = state.graph.downstream(target.nodes, through=_NOT_READERS).nodes
    every = state.graph.downstream(target.nodes).nodes
    own = features_of(state, [node for node in target.nodes if node.kind in _NOT_READERS - {"service", "dataset"}])
    own_views = {view_of(node.name) for node in target.nodes if node.kind in ("view", "feature")}
    features = own | _names(direct, "feature")
    views = (_names(direct, "view") | {view_of(ref) for ref in features}) - own_views
    written = {ref for consumer in state.snapshot.consumers.values() for ref in consumer.writes}
    near = [node for node in direct if node.kind in READERS]
    far = [node for node in every if node.kind in READERS and node not in near and node not in target.nodes]
    return _Reach(
        features=tuple(sorted(features)),
        consumers=tuple(state.snapshot.consumers[node.name] for node in near if node.name in state.snapshot.consumers),
        views=tuple(sorted(views - written)),
        predictions=tuple(sorted((_names(every, "view") & written) - own_views)),
        services=tuple(sorted(_names(direct, "service"))),
        datasets=tuple(sorted(_names(direct, "dataset"))),
        transitive=tuple(transitively(state, target.nodes, far)),
        touched=(*target.nodes, *every),
    )


def _names(nodes: Iterable[Node], kind: str) -> set[str]:
    return {node.name for node in nodes if node.kind == kind}


def _live(state: State, features: Iterable[str], environment: str | None) -> tuple[LiveReader, ...]:
    found = [
        _live_reader(state, reader, read)
        for feature in features
        for reader, read in state.reads_of.get(feature, ())
        if read.served and environment in (None, read.environment)
    ]
    return tuple(
        sorted(found, key=lambda live: (live.read.feature, live.reader, live.read.environment, live.read.mode))
    )


def _live_reader(state: State, reader: Reader, read: Reads) -> LiveReader:
    return LiveReader(reader.node, state.owner_of(reader.node.name), read, covered(state, reader, read))


def _verdict(severity: str, coverage: Coverage) -> Verdict:
    if severity != "none":
        return Verdict.FLAGGED
    return Verdict.CLEARED if coverage.complete else Verdict.UNDETERMINED


def _contacts(state: State, nodes: Iterable[Node]) -> tuple[tuple[Contact, ...], tuple[str, ...]]:
    """Return the owners of what is touched, and what has none; a principal that reads as itself has none."""
    owned: dict[str, set[str]] = {}
    for node in nodes:
        if node.kind in _OWNED:
            owned.setdefault(owner_of(state, node), set()).add(_owned_part(node))
    unowned = tuple(sorted(owned.pop("", ())))
    return tuple(Contact(owner, tuple(sorted(objects))) for owner, objects in sorted(owned.items())), unowned


def owner_of(state: State, node: Node) -> str:
    """Return the owner of a node; empty when it has none, or is of a kind that has none."""
    match node.kind:
        case "view" | "feature":
            return state.snapshot.owner_of(view_of(node.name))
        case "consumer":
            return state.owner_of(node.name)
        case "service":
            service = state.snapshot.services.get(node.name)
            return service.owner if service else ""
        case _:
            return ""


def _owned_part(node: Node) -> str:
    return view_of(node.name) if node.kind == "feature" else str(node)
