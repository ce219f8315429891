"""What OpenLineage events tell: edges, objects, and reads that went around the store.

An event of this project says it in our own facet, so that reading back what was written gives the same graph. An event of anybody
else is taken by the standard: a run feeds each of its outputs from each of its inputs, ``columnLineage`` says so for columns, and a job
that reads what is ours is a consumer. Facets that are not known are left alone; an event that is none is listed with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lineage.errors import InvalidQuestionError, NotFoundError
from lineage.graph import EDGE_KINDS, NODE_KINDS, Edge, Node
from lineage.imported import Access
from lineage.instants import instant
from lineage.openlineage.names import FACET, dataset_node, field_node, namespace_of


@dataclass(frozen=True, slots=True)
class Told:
    """What events tell.

    Attributes:
        edges: Each with the instant it was told for, in microseconds since 1970 UTC.
        nodes: Objects, which may have no edge.
        accesses: Reads of tables and files by jobs of others.
        events: The events themselves, as canonical JSON, each with its instant.
        skipped: ``(place, reason)`` of what is no event; places are counted from 1.
    """

    edges: list[tuple[Edge, int]] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    accesses: list[Access] = field(default_factory=list)
    events: list[tuple[str, int]] = field(default_factory=list)
    skipped: list[tuple[int, str]] = field(default_factory=list)


# What manifests and services say: it lets whoever may write it speak for others.
DECLARED = frozenset({"selects", "serves", "reads_declared", "trains_on", "produces"})


def read_events(path: Path) -> Iterator[Any]:
    """Yield what a file holds: JSON lines, or one array; a line that is no JSON comes as the ValueError that says so.

    Args:
        path: The file.

    Raises:
        NotFoundError: There is no such file.
        InvalidQuestionError: It is not text.
    """
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise NotFoundError(f"There is no file '{path}'.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidQuestionError(f"'{path}' cannot be read: {error}.") from error
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        yield from (_decoded(line) for line in text.splitlines() if line.strip())
    else:
        yield from whole if isinstance(whole, list) else [whole]


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        return error
    except RecursionError:
        return ValueError("it is nested too deeply")


def told_by(events: Iterable[tuple[int, Any]], *, project: str, origin: str, declared: bool = True) -> Told:
    """Return what events tell, in any order.

    Args:
        events: Decoded events with their places.
        project: Name of the project that they are read into: what is in its namespace is its own.
        origin: Where they come from, for evidence.
        declared: Whether our own facet may tell what manifests declare; if not, such an event is skipped.
    """
    told = Told()
    for place, event in events:
        try:
            _Event(event, project, origin, place, declared=declared).tell(told)
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError, InvalidQuestionError) as error:
            told.skipped.append((place, _reason(error)))
    return told


def _reason(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)


class _Event:
    """Reads one event."""

    def __init__(self, event: Any, project: str, origin: str, place: int, *, declared: bool) -> None:
        if isinstance(event, ValueError):
            raise event
        if not isinstance(event, Mapping):
            raise TypeError("it is no JSON object")
        _check_text(event)
        self.event, self.declared = event, declared
        self.at = instant(str(event["eventTime"]), now=0)
        self.namespace = namespace_of(project)
        self.origin, self.place = origin, place
        if "dataset" not in event and "job" not in event:
            raise ValueError("it is about no dataset and no job")

    def tell(self, told: Told) -> None:
        """Add what the event tells; one that cannot be understood adds nothing."""
        edges, nodes = list(self._edges()), [node for node, _ in self._objects()]
        accesses = list(self._accesses())
        told.edges.extend((edge, self.at) for edge in edges)
        told.nodes.extend(nodes)
        told.accesses.extend(accesses)
        told.events.append((json.dumps(self.event, sort_keys=True, separators=(",", ":")), self.at))

    def _objects(self) -> Iterator[tuple[Node, Mapping[str, Any]]]:
        """Yield what our own facets are about."""
        for described in (self.event.get("dataset"), self.event.get("job")):
            if described and described["namespace"] == self.namespace:
                facet = (described.get("facets") or {}).get(FACET)
                if facet:
                    yield _node(facet["object"]), facet

    def _edges(self) -> Iterator[Edge]:
        own = list(self._objects())
        for up, down, kind in (edge for _, facet in own for edge in facet["edges"]):
            if kind in DECLARED and not self.declared:
                raise ValueError(f"'{kind}' is declared, which is taken from `lineage import openlineage` alone")
            yield Edge(_node(up), _node(down), _edge_kind(kind))
        job = self.event.get("job")
        if own or (job and job["namespace"] == self.namespace):
            return
        outputs = [self.event["dataset"]] if "dataset" in self.event else list(self.event.get("outputs") or ())
        for output in outputs:
            yield from self._column_edges(output)
        if job:
            yield from self._job_edges(
                Node("consumer", f"{job['namespace']}/{job['name']}"), map(self._dataset, outputs)
            )

    def _job_edges(self, job: Node, outputs: Iterable[Node]) -> Iterator[Edge]:
        made = list(outputs)
        for read in self._inputs():
            if read.kind == "source":
                yield from (Edge(read, output, "feeds") for output in made if output.kind in ("source", "view"))
            else:
                yield Edge(read, job, "reads_observed")
                yield from (Edge(job, output, "produces") for output in made)

    def _column_edges(self, output: Mapping[str, Any]) -> Iterator[Edge]:
        made = self._dataset(output)
        facet = (output.get("facets") or {}).get("columnLineage") or {}
        fields = facet.get("fields") or {}
        for name, lineage in fields.items():
            for read in lineage["inputFields"]:
                yield from self._column_edge(read, made, name, _kind_of(read))
            for read in facet.get("dataset") or ():
                yield from self._column_edge(read, made, name, "derives_indirect")

    def _column_edge(self, read: Mapping[str, Any], made: Node, name: str, kind: str) -> Iterator[Edge]:
        dataset = self._dataset(read)
        origin, target = field_node(dataset, read["field"]), field_node(made, name)
        yield Edge(dataset, origin, "contains")
        yield Edge(made, target, "contains")
        yield Edge(origin, target, kind)

    def _accesses(self) -> Iterator[Access]:
        """Yield the reads of a run of somebody else."""
        job = self.event.get("job")
        if not job or "run" not in self.event or job["namespace"] == self.namespace:
            return
        for read in self.event.get("inputs") or ():
            if read["namespace"] != self.namespace:
                who = f"{job['namespace']}/{job['name']}"
                yield Access(
                    self.at, who, "object" if "/" in read["name"] else "query", read["name"], self.origin, self.place
                )

    def _inputs(self) -> list[Node]:
        return [self._dataset(read) for read in self.event.get("inputs") or ()]

    def _dataset(self, described: Mapping[str, Any]) -> Node:
        return dataset_node(described["namespace"], described["name"], own=self.namespace)


def _check_text(event: Mapping[str, Any]) -> None:
    """Refuse half of a surrogate pair: JSON can escape it, and no file and no answer can hold it."""
    try:
        json.dumps(event, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("it holds text that is no Unicode") from None


def _kind_of(read: Mapping[str, Any]) -> str:
    """Return the kind of an edge: indirect when every transformation says so; older events say nothing, and mean direct."""
    kinds = {str(how.get("type", "")).upper() for how in read.get("transformations") or ()}
    return "derives_indirect" if kinds == {"INDIRECT"} else "derives"


def _node(pair: Any) -> Node:
    kind, name = pair
    if kind not in NODE_KINDS or not isinstance(name, str):
        raise ValueError(f"'{kind}' is no kind of object")
    return Node(kind, name)


def _edge_kind(kind: Any) -> str:
    if kind not in EDGE_KINDS:
        raise ValueError(f"'{kind}' is no kind of edge")
    return str(kind)
