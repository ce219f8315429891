"""Who declares and who reads: declared against observed, per feature version."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from lineage.graph import Edge, Node
from lineage.objects import resolve
from lineage.readers import Reader
from lineage.registry import Consumer, Rollout
from lineage.state import State
from lineage.usage import Coverage, Reads

READERS = frozenset({"consumer", "principal"})


class Standing(StrEnum):
    """How what is declared and what was observed of one reader and feature version agree."""

    HEALTHY = "healthy"
    """Declared, and read."""
    DECLARED_NEVER_READ = "declared_never_read"
    """Declared, and known not to be read since."""
    UNDETERMINED = "undetermined"
    """Declared, and no read was counted, but some reads may not have been counted or cannot be told apart."""
    UNDECLARED = "undeclared"
    """Read, and not declared."""
    REFUSED = "refused"
    """Not declared, and every attempt was refused."""


@dataclass(frozen=True, slots=True)
class Relation:
    """One reader and one feature version.

    Attributes:
        reader: Who reads or declares.
        feature: ``view@v1:feature``.
        standing: How declared and observed agree.
        owner: Owner of the consumer; empty when unknown.
        reads: The reads that belong to this standing.
        declared_since: When it was declared, in microseconds since 1970 UTC; None when the manifest does not list it itself.
    """

    reader: Reader
    feature: str
    standing: Standing
    owner: str
    reads: tuple[Reads, ...]
    declared_since: int | None = None

    @property
    def calls(self) -> int:
        """Calls that were answered."""
        return sum(read.calls for read in self.reads if read.served)

    @property
    def last_read(self) -> int | None:
        """The last answered read, in microseconds since 1970 UTC; None when there is none."""
        return max((read.last_read for read in self.reads if read.served), default=None)


@dataclass(frozen=True, slots=True)
class Transitive:
    """A reader that depends on an object through something made from it, such as a prediction.

    Attributes:
        reader: The consumer or principal.
        owner: Owner of the consumer; empty when unknown.
        path: One shortest way from the object to the reader.
    """

    reader: Node
    owner: str
    path: tuple[Edge, ...]


@dataclass(frozen=True, slots=True)
class Consumers:
    """Who reads an object.

    Attributes:
        object: As it was asked for; empty for everything.
        relations: Direct readers, by feature version and reader.
        transitive: Readers of what is made from it.
        coverage: Whether all reads of the window were counted.
        others: Other objects of that name, as they must be written.
        rollouts: Versions of the views that are on their way to be current.
    """

    object: str
    relations: tuple[Relation, ...]
    transitive: tuple[Transitive, ...]
    coverage: Coverage
    others: tuple[str, ...] = ()
    rollouts: tuple[Rollout, ...] = ()


def consumers(state: State, text: str = "") -> Consumers:
    """Return who declares and who reads an object, per feature version.

    Args:
        state: The registry and the usage.
        text: An object as people write it; empty is every feature.

    Raises:
        NotFoundError: There is no such object.
    """
    if not text:
        everything = tuple(relations(state))
        return Consumers("", everything, (), state.usage.coverage(), rollouts=_in_flight(state, everything))
    target = resolve(text, state.graph)
    features = features_of(state, target.nodes)
    direct = tuple(relation for relation in relations(state) if relation.feature in features)
    known = {relation.reader.node for relation in direct}
    reached = [n for n in state.graph.downstream(target.nodes).nodes if n.kind in READERS and n not in known]
    transitive = tuple(transitively(state, target.nodes, reached))
    return Consumers(text, direct, transitive, state.usage.coverage(), target.others, _in_flight(state, direct))


def _in_flight(state: State, found: Iterable[Relation]) -> tuple[Rollout, ...]:
    return state.snapshot.in_flight(relation.feature for relation in found)


def features_of(state: State, nodes: Iterable[Node]) -> frozenset[str]:
    """Return the feature versions that nodes stand for.

    A feature is itself; a view, source or column is what is made of it directly; a service, dataset or principal is what it reads;
    a consumer is the predictions it writes.
    """
    found: set[str] = set()
    for node in nodes:
        match node.kind:
            case "feature":
                found.add(node.name)
            case "view" | "source" | "column" | "request":
                closure = state.graph.downstream([node], through={"source", "view", "column"})
                found.update(n.name for n in closure.nodes if n.kind == "feature")
            case "consumer":
                closure = state.graph.downstream([node], through={"view"})
                found.update(n.name for n in closure.nodes if n.kind == "feature")
            case _:
                closure = state.graph.upstream([node], depth=1)
                found.update(n.name for n in closure.nodes if n.kind == "feature")
    return frozenset(found)


def transitively(state: State, start: Iterable[Node], reached: Iterable[Node]) -> Iterator[Transitive]:
    """Yield each reader with one shortest way to it; a reader among `start` has none and is left out."""
    origins = tuple(start)
    for node in reached:
        if path := state.graph.path(origins, [node]):
            yield Transitive(node, state.owner_of(node.name), path)


def relations(state: State) -> Iterator[Relation]:
    """Yield every relation of a reader to a feature version: first what is declared, then what is only read."""
    for consumer in state.snapshot.consumers.values():
        reader = Reader(Node("consumer", consumer.key), "consumer")
        own = state.reads_by.get(reader, {})
        for feature in sorted(consumer.features):
            yield _declared(state, consumer, reader, feature, own.get(feature, ()))
    only_read = (
        (reader, feature, found)
        for reader, own in state.reads_by.items()
        for feature, found in _beside_the_manifest(state, reader, own)
    )
    for reader, feature, found in sorted(only_read, key=lambda item: (item[1], item[0].node)):
        yield from _only_read(state, reader, feature, found)


def _beside_the_manifest(
    state: State, reader: Reader, reads: Mapping[str, tuple[Reads, ...]]
) -> Iterable[tuple[str, tuple[Reads, ...]]]:
    """Return what a reader read, without what its manifest lists if that counts everywhere and always."""
    manifest = state.snapshot.consumers.get(reader.node.name) if reader.identity == "consumer" else None
    if manifest is None or manifest.environment or manifest.expires_at is not None:
        return reads.items()
    return ((feature, found) for feature, found in reads.items() if feature not in manifest.features)


def _only_read(state: State, reader: Reader, feature: str, reads: tuple[Reads, ...]) -> Iterator[Relation]:
    """Yield what was read and is not listed: covered by an on-demand feature that is listed, or undeclared."""
    manifest = state.snapshot.consumers.get(reader.node.name) if reader.identity == "consumer" else None
    listed = manifest is not None and feature in manifest.features
    implied = tuple(read for read in reads if not listed and read.served and covered(state, reader, read))
    undeclared = tuple(read for read in reads if not covered(state, reader, read))
    owner = manifest.owner if manifest else ""
    if implied:
        yield Relation(reader, feature, Standing.HEALTHY, owner, implied)
    if undeclared:
        standing = Standing.UNDECLARED if any(read.served for read in undeclared) else Standing.REFUSED
        yield Relation(reader, feature, standing, owner, undeclared)


def covered(state: State, reader: Reader, read: Reads) -> bool:
    """Say whether a read is declared by the manifest of its reader, for that environment and time."""
    if reader.identity != "consumer" or read.feature not in state.declared.get(reader.node.name, ()):
        return False
    return state.snapshot.consumers[reader.node.name].counts_in(read.environment, read.last_read)


def _declared(state: State, consumer: Consumer, reader: Reader, feature: str, reads: tuple[Reads, ...]) -> Relation:
    counted = _counted(consumer, reads)
    since = state.declared_since.get((consumer.key, feature), state.snapshot.committed_at)
    if any(read.served for read in counted):
        standing = Standing.HEALTHY
    elif certainly_unread(state, consumer, feature, since):
        standing = Standing.DECLARED_NEVER_READ
    else:
        standing = Standing.UNDETERMINED
    return Relation(reader, feature, standing, consumer.owner, counted, since)


def _counted(consumer: Consumer, reads: tuple[Reads, ...]) -> tuple[Reads, ...]:
    """Return the reads of a feature that a manifest lists for their environment and time; most manifests say neither."""
    if not consumer.environment and consumer.expires_at is None:
        return reads
    return tuple(read for read in reads if consumer.counts_in(read.environment, read.last_read))


def certainly_unread(state: State, consumer: Consumer, feature: str, since: int) -> bool:
    """Say whether no read of a feature by a consumer can have happened since an instant: all was counted and told apart."""
    coverage = state.usage.coverage(since=max(since, state.usage.since or since), environment=consumer.environment)
    return coverage.complete and not unattributed_reads(state, consumer, feature, since)


def unattributed_reads(state: State, consumer: Consumer, feature: str, since: int) -> tuple[Reads, ...]:
    """Return the reads of a feature since an instant that may have been a consumer's, though it did not say so."""
    return tuple(
        read
        for reader, read in state.reads_of.get(feature, ())
        if read.served
        and read.last_read >= since
        and reader.identity != "consumer"
        and reader.may_be(consumer.key)
        and consumer.environment in ("", read.environment)
    )
