"""What the registry and the usage say at one moment: every question is a pure function of this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from lineage.graph import Graph, Node, build_graph
from lineage.imported import (
    RECORDS,
    Records,
    ToldGraph,
    keep_declarations,
    read_kept_declarations,
    read_manifests,
    read_records,
    read_told,
)
from lineage.instants import instant
from lineage.places import ours
from lineage.readers import Reader, candidates_of, identify
from lineage.registry import (
    Binding,
    Consumer,
    Snapshot,
    connect,
    feature_in,
    parse_snapshot,
    read_bindings,
    read_commit,
    read_declarations,
)
from lineage.usage import Coverage, Reads, Session, Usage, read_segments, read_sessions, read_usage

if TYPE_CHECKING:
    from lineage.consumers import Relation

# Reading fewer commits than this again costs less than keeping what they said.
KEPT_FROM = 32


@dataclass(frozen=True)
class State:
    """The registry, the bindings and the usage of one moment.

    Attributes:
        path: The registry file it was read from.
        now: The moment, in microseconds since 1970 UTC.
        imported: Manifests that other tools hold, each with since when; they are in `snapshot` where it has none of that name.
    """

    path: Path
    snapshot: Snapshot
    bindings: tuple[Binding, ...]
    usage: Usage
    now: int
    imported: tuple[tuple[Consumer, int], ...] = ()

    @cached_property
    def candidates(self) -> Mapping[str, tuple[str, ...]]:
        """Principal -> the consumers it may run."""
        return candidates_of(self.bindings, self.snapshot)

    @cached_property
    def reads(self) -> tuple[tuple[Reader, Reads], ...]:
        """Every recorded read with who it belongs to; equal readers are one object."""
        known: dict[Reader, Reader] = {}
        told: dict[tuple[str, str, str], Reader] = {}
        found = []
        for read in self.usage.rows:
            said = (read.principal, read.consumer, read.binding)
            if (reader := told.get(said)) is None:
                reader = identify(read, self.candidates)
                reader = told[said] = known.setdefault(reader, reader)
            found.append((reader, read))
        return tuple(found)

    @cached_property
    def reads_by(self) -> Mapping[Reader, Mapping[str, tuple[Reads, ...]]]:
        """Reader -> feature version -> its reads."""
        found: dict[int, dict[str, list[Reads]]] = {}
        readers: dict[int, Reader] = {}
        for reader, read in self.reads:  # equal readers are one object, which is told by its number at once
            if id(reader) not in readers:
                readers[id(reader)], found[id(reader)] = reader, {}
            found[id(reader)].setdefault(read.feature, []).append(read)
        return {readers[n]: {ref: tuple(reads) for ref, reads in own.items()} for n, own in found.items()}

    @cached_property
    def declarers(self) -> Mapping[str, frozenset[str]]:
        """Feature version -> the consumers whose manifests cover it."""
        found: dict[str, set[str]] = {}
        for key, features in self.declared.items():
            for feature in features:
                found.setdefault(feature, set()).add(key)
        return {feature: frozenset(keys) for feature, keys in found.items()}

    @cached_property
    def reads_of(self) -> Mapping[str, tuple[tuple[Reader, Reads], ...]]:
        """Feature version -> its recorded reads."""
        found: dict[str, list[tuple[Reader, Reads]]] = {}
        for reader, read in self.reads:
            found.setdefault(read.feature, []).append((reader, read))
        return {feature: tuple(reads) for feature, reads in found.items()}

    @cached_property
    def served_to(self) -> Mapping[Reader, frozenset[str]]:
        """Reader -> the feature versions it got values of."""
        return {
            reader: frozenset(feature for feature, reads in own.items() if any(read.served for read in reads))
            for reader, own in self.reads_by.items()
        }

    @cached_property
    def relations(self) -> tuple[Relation, ...]:
        """Every reader and feature version with how declared and observed agree, as `lineage.consumers.relations` says it."""
        from lineage.consumers import relations

        return tuple(relations(self))

    @cached_property
    def unclaimed(self) -> tuple[str, ...]:
        """The consumers that no principal is bound to: an unknown principal may well be one of them."""
        bound = {binding.consumer for binding in self.bindings}
        return tuple(key for key in self.snapshot.consumers if not {key, f"{key.partition('@')[0]}@*"} & bound)

    @cached_property
    def relations_of(self) -> Mapping[str, tuple[Relation, ...]]:
        """Name of a consumer or principal -> its relations."""
        found: dict[str, list[Relation]] = {}
        for relation in self.relations:
            found.setdefault(relation.reader.node.name, []).append(relation)
        return {name: tuple(relations) for name, relations in found.items()}

    @cached_property
    def records(self) -> Records:
        """What was imported: reads around the server, references in code, model artefacts."""
        return read_records(self.path.parent / RECORDS, until=self.now)

    @cached_property
    def sessions(self) -> tuple[Session, ...]:
        """The reads by client, which tell workloads of one credential apart, of every principal that has several."""
        with connect(self.path) as connection:
            return read_sessions(connection, since=self.usage.since, until=self.usage.until)

    @cached_property
    def told(self) -> ToldGraph:
        """What events of others told, their datasets under the names of ours where they are ours."""
        return ours(read_told(self.path.parent / RECORDS, until=self.now), self.snapshot)

    @cached_property
    def graph(self) -> Graph:
        """The lineage graph, observed reads included."""
        observed = ((read.feature, reader.node) for reader, read in self.reads if read.served)
        principals = {*self.candidates, *(read.principal for read in self.usage.rows)} - {""}
        known = {node for reader, read in self.reads for node in (reader.node, Node("feature", read.feature))}
        known |= {Node("principal", name) for name in principals} | {*self.told.nodes}
        return build_graph(self.snapshot, observed, known, (edge for edge, _ in self.told.edges))

    @cached_property
    def declared(self) -> Mapping[str, frozenset[str]]:
        """Consumer -> the feature versions its manifest covers: those it lists, and what on-demand ones are computed from."""
        return {key: self.snapshot.with_inputs(manifest.features) for key, manifest in self.snapshot.consumers.items()}

    @cached_property
    def declared_versions(self) -> Mapping[str, Mapping[str, tuple[str, ...]]]:
        """Consumer -> feature without its version -> the versions that its manifest lists."""
        found: dict[str, dict[str, list[str]]] = {}
        for key, manifest in self.snapshot.consumers.items():
            own = found[key] = {}
            for ref in sorted(manifest.features):
                own.setdefault(feature_in(ref), []).append(ref)
        return {key: {name: tuple(refs) for name, refs in own.items()} for key, own in found.items()}

    @cached_property
    def declared_since(self) -> Mapping[tuple[str, str], int]:
        """``(consumer, feature)`` -> since when it is declared, in microseconds since 1970 UTC."""
        kept = self.path.parent / RECORDS
        known = read_kept_declarations(kept)
        with connect(self.path) as connection:
            found = read_declarations(connection, revision=self.snapshot.revision, known=known)
        if found.revision - known.revision >= KEPT_FROM:
            keep_declarations(kept, found)
        told = {(c.key, ref): at for c, at in self.imported for ref in c.features}
        return {**told, **found.since}

    def owner_of(self, consumer: str) -> str:
        """Return the owner of a consumer; empty when it has no manifest or names none."""
        manifest = self.snapshot.consumers.get(consumer)
        return manifest.owner if manifest else ""


def read_state(path: Path, *, now: int, as_of: str | None = None, since: str | int | None = None) -> State:
    """Read the state of a registry.

    Args:
        path: The registry file.
        now: Microseconds since 1970 UTC.
        as_of: A revision, an ISO time or a duration ago: the state as it was then; None is now.
        since: Only usage since this instant: microseconds since 1970 UTC, an ISO time, or a duration ago; None is all.

    Raises:
        MissingRegistryError: No such file, or nothing had been applied by then.
        CorruptRegistryError: The file is not a registry as published.
        InvalidQuestionError: `as_of` or `since` is no time.
    """
    with connect(path) as connection:
        commit = read_commit(connection, path, as_of, now=now)
        moment = _moment(as_of, commit.replaced_at, now)
        start = instant(since, now=moment) if isinstance(since, str) else since
        usage = read_usage(connection, since=start, until=moment)
        bindings = read_bindings(connection, until=moment)
    imported = read_manifests(path.parent / RECORDS, until=moment)
    snapshot = parse_snapshot(commit, path)
    if imported:
        snapshot = replace(snapshot, consumers={**{c.key: c for c, _ in imported}, **snapshot.consumers})
    return State(path, snapshot, bindings, usage, moment, imported)


def read_coverage(path: Path, *, now: int, as_of: str | None = None) -> Coverage:
    """Return whether all reads up to a moment were counted, without reading the registry itself; arguments as in `read_state`."""
    with connect(path) as connection:
        moment = (
            now if as_of is None else _moment(as_of, read_commit(connection, path, as_of, now=now).replaced_at, now)
        )
        return Usage((), read_segments(connection, until=moment), None, moment).coverage()


def _moment(as_of: str | None, replaced_at: int | None, now: int) -> int:
    """A revision was true until the next one came; a time is itself."""
    if as_of is None:
        return now
    if as_of.isdecimal():
        return now if replaced_at is None else replaced_at
    return instant(as_of, now=now)
