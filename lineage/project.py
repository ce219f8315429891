"""The facade: ask a project about its lineage."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lineage.errors import MissingRegistryError
from lineage.instants import instant
from lineage.objects import resolve, with_parts
from lineage.state import State, read_coverage, read_state
from lineage.timeline import graph_now, kept_graph, timeline

if TYPE_CHECKING:  # each question loads what answers it, so that a command waits for no other
    from lineage.cells import Agreement
    from lineage.changes import Changes
    from lineage.consumers import Consumers
    from lineage.findings import Finding, Findings, Parameters, Rule
    from lineage.graph import Closure, Edge, Graph, Node
    from lineage.impact import Impact
    from lineage.log import LogEntry
    from lineage.manifests import Declaration, ManifestDiff
    from lineage.usage import Coverage, Reads

Since = str | int | None

CONFIG = "featurestore.toml"
REGISTRY = Path("store") / "registry.db"
ENVIRONMENT = "FEATURESTORE_PROJECT"


def find_project(start: str | Path | None = None) -> Path:
    """Return the project folder.

    Args:
        start: The folder itself; None asks FEATURESTORE_PROJECT, then looks for featurestore.toml here and in the folders above.

    Raises:
        MissingRegistryError: There is no project.
    """
    if named := start or os.environ.get(ENVIRONMENT):
        if not Path(named).is_dir():
            raise MissingRegistryError(f"There is no folder '{named}'.", path=Path(named))
        return Path(named)
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / CONFIG).is_file():
            return folder
    raise MissingRegistryError(
        f"No {CONFIG} in '{here}' or above.", path=here, repair=f"Give --project FOLDER, or set {ENVIRONMENT}."
    )


def _system_clock() -> int:
    return time.time_ns() // 1000


@dataclass(frozen=True, slots=True)
class ObjectUsage:
    """The recorded reads of an object, or by a reader.

    Attributes:
        object: As it was asked for.
        reads: By feature version, reader, environment and mode.
        coverage: Whether all reads of the window were counted.
        others: Other objects of that name, as they must be written.
    """

    object: str
    reads: tuple[Reads, ...]
    coverage: Coverage
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TakenEvents:
    """What came of taking in events.

    Attributes:
        events: How many were understood.
        new: How many of them were not there before.
        edges: How many edges they tell.
        skipped: ``(place, reason)`` of what is no event; places are counted from 1.
    """

    events: int
    new: int
    edges: int
    skipped: tuple[tuple[int, str], ...]


class Lineage:
    """Lineage of one project; every question reads the newest state.

    Args:
        project: The project folder; None finds it as `find_project` does.
        as_of: A revision, an ISO time or a duration ago such as ``7d``: answers as it was then. None is now.
        clock: Says now, in microseconds since 1970 UTC.

    Raises:
        MissingRegistryError: There is no project.
    """

    def __init__(
        self, project: str | Path | None = None, *, as_of: str | None = None, clock: Callable[[], int] = _system_clock
    ) -> None:
        self.project = find_project(project)
        self._as_of = as_of
        self._clock = clock

    def now(self) -> int:
        """Return the present, in microseconds since 1970 UTC."""
        return self._clock()

    def state(self, *, since: Since = None) -> State:
        """Return what the registry and the usage say now.

        Args:
            since: Only usage since this instant: microseconds since 1970 UTC, an ISO time, or a duration ago (``30d``); None is all.

        Raises:
            MissingRegistryError: Nothing was applied yet.
            CorruptRegistryError: The registry is not as published.
        """
        return read_state(self.project / REGISTRY, now=self._clock(), as_of=self._as_of, since=since)

    def consumers(self, ref: str = "", *, since: Since = None) -> Consumers:
        """Return who declares and who reads an object; empty is every feature."""
        from lineage.consumers import consumers

        return consumers(self.state(since=since), ref)

    def impact(
        self, ref: str, *, change: str = "remove", environment: str | None = None, since: Since = None
    ) -> Impact:
        """Return what a change of an object would break: ``remove``, ``schema``, ``meaning`` or ``freshness``."""
        from lineage.impact import impact

        return impact(self.state(since=since), ref, change=change, environment=environment)

    def upstream(self, ref: str, *, depth: int | None = None) -> Closure:
        """Return what an object is made from, nearest first; `depth` None is no limit."""
        graph = self.graph()
        return graph.upstream(with_parts(graph, resolve(ref, graph)), depth=depth)

    def downstream(self, ref: str, *, depth: int | None = None) -> Closure:
        """Return what breaks when an object changes, nearest first; `depth` None is no limit."""
        graph = self.graph()
        return graph.downstream(resolve(ref, graph).nodes, depth=depth)

    def path(self, start: str, end: str) -> tuple[Edge, ...] | None:
        """Return one shortest way downstream between two objects; None when there is none."""
        graph = self.graph()
        return graph.path(resolve(start, graph).nodes, resolve(end, graph).nodes)

    def usage(self, ref: str, *, since: Since = None) -> ObjectUsage:
        """Return the recorded reads of an object or by a reader, and whether all reads were counted."""
        return usage_of(self.state(since=since), ref)

    def check(
        self, parameters: Parameters | None = None, *, since: Since = None, select: Iterable[str] = ()
    ) -> Findings:
        """Run all findings, or those whose code or name is selected."""
        from lineage.findings import check

        return check(self.state(since=since), parameters or self.policy(), select=select)

    def selected(self, select: Iterable[str] = ()) -> tuple[Rule, ...]:
        """Return the rules that `check` would run for a selection."""
        from lineage.findings import selected

        return selected(select, self.policy())

    def policy(self) -> Parameters:
        """Return what the project sets for its findings in ``lineage.toml``.

        Raises:
            InvalidPolicyError: The file is not as described.
        """
        from lineage.policy import read_policy

        return read_policy(self.project)

    def explain(self, finding_id: str, parameters: Parameters | None = None) -> Finding:
        """Return one finding with its evidence, derived again."""
        from lineage.findings import explain

        return explain(self.state(), finding_id, parameters or self.policy())

    def declare(self, ref: str, *, since: Since = None) -> Declaration:
        """Write the manifest of a consumer or principal from its observed reads, for review."""
        from lineage.manifests import declare

        return declare(self.state(since=since), ref)

    def diff(self, before: str, after: str) -> ManifestDiff:
        """Compare two manifests, most often two versions of a model."""
        from lineage.manifests import diff

        return diff(self.state(), before, after)

    def graph(self) -> Graph:
        """Return the lineage graph, observed reads included; a large one from the file that is kept of it."""
        if self._as_of is not None:
            return self.state().graph
        return kept_graph(self.project / REGISTRY) or graph_now(self.state())

    def coverage(self) -> Coverage:
        """Return whether all reads were counted."""
        return read_coverage(self.project / REGISTRY, now=self._clock(), as_of=self._as_of)

    def timeline(self) -> Graph:
        """Return the graph of every commit and read, each edge with when it held and when that was learnt."""
        return timeline(self.state())

    def changes(self, before: str, after: str = "") -> tuple[tuple[Edge, ...], tuple[Edge, ...]]:
        """Return the edges that came and those that went between two instants.

        Args:
            before: An ISO time or a duration ago such as ``7d``.
            after: The same; empty is now.

        Raises:
            InvalidQuestionError: One of them is no time.
        """
        from lineage.graph import Moment

        now = self._clock()
        moments = (Moment(instant(text, now=now) if text else now) for text in (before, after))
        return self.timeline().changes(*moments)

    def cells(self, ref: str = "", *, since: Since = None) -> tuple[Agreement, ...]:
        """Return how declared, coded and observed agree, per consumer and feature version; empty is everything."""
        from lineage.cells import agreements

        return agreements(self.state(since=since), ref)

    def select(self, selection: str) -> tuple[Node, ...]:
        """Return the objects that a selection means, e.g. ``+weather@v1:temp+ and owner:risk``."""
        from lineage.selection import select

        return select(self.state(), selection)

    def impact_since(self, since: str, *, environment: str | None = None) -> Changes:
        """Return what changed since a revision, or a time, that somebody may feel, and what each change hits.

        Args:
            since: A revision, an ISO time or a duration ago.
            environment: Only reads of this environment count; None is all.
        """
        from lineage.changes import impact_since

        before = read_state(self.project / REGISTRY, now=self._clock(), as_of=since).snapshot
        return impact_since(self.state(), before, environment=environment)

    def openlineage(self) -> Iterator[dict[str, Any]]:
        """Yield what is known as OpenLineage events, as `lineage.openlineage.events_of` writes them."""
        from lineage.openlineage import events_of

        return events_of(self.state())

    def take_events(self, events: Iterable[Any], *, origin: str, declared: bool = True) -> TakenEvents:
        """Take in OpenLineage events; the same ones again, late or in another order change nothing.

        Args:
            events: Decoded JSON.
            origin: Where they come from, for evidence.
            declared: Whether they may tell what manifests declare; if not, such an event is skipped.
        """
        from lineage.imported import add_accesses, add_events
        from lineage.openlineage import told_by

        told = told_by(enumerate(events, 1), project=self.state().snapshot.project, origin=origin, declared=declared)
        new = add_events(self.records, told.events, nodes=told.nodes, edges=told.edges)
        add_accesses(self.records, told.accesses)
        return TakenEvents(len(told.events), new, len(told.edges), tuple(told.skipped))

    def log(self, about: str = "", *, since: str | None = None) -> tuple[LogEntry, ...]:
        """Return the change log of the registry, oldest first.

        Args:
            about: Only lines whose object contains this; empty is all.
            since: An ISO time or a duration ago; None is since ever.
        """
        from lineage.log import read_change_log
        from lineage.registry import connect

        now = self._clock()
        start = None if since is None else instant(since, now=now)
        with connect(self.project / REGISTRY) as connection:
            return read_change_log(connection, about=about, since=start, until=now)

    @property
    def records(self) -> Path:
        """The file of what was imported; there is none before the first import."""
        from lineage.imported import RECORDS

        return self.project / REGISTRY.with_name(RECORDS)


def usage_of(state: State, ref: str) -> ObjectUsage:
    """Return the recorded reads of an object, or by a consumer or principal.

    Args:
        state: The registry and the usage.
        ref: An object as people write it.

    Raises:
        NotFoundError: There is no such object.
    """
    from lineage.consumers import features_of

    target = resolve(ref, state.graph)
    match target.kind:
        case "consumer":
            reads = tuple(read for reader, read in state.reads if reader.node in target.nodes)
        case "principal":
            reads = state.usage.reads(principals={node.name for node in target.nodes})
        case _:
            reads = state.usage.reads(features=features_of(state, target.nodes))
    return ObjectUsage(ref, reads, state.usage.coverage(), target.others)
