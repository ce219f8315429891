"""The lineage graph: what everything is made from, and what breaks.

Edges point downstream. Upstream of an object is what it is made from; downstream is what breaks when it changes. Cycles are legal:
a model may read a score that it wrote. The graph is immutable; its adjacency is two compressed sparse row arrays of integers, so a
closure visits each node and edge once, whatever the number of paths.
"""

from __future__ import annotations

import re
from array import array
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING

from lineage.errors import NotFoundError
from lineage.registry import Consumer, Feature, Service, Snapshot, Source, ViewVersion, view_of, without_alias

if TYPE_CHECKING:
    import networkx as nx

NODE_KINDS = ("source", "column", "request", "view", "feature", "service", "dataset", "consumer", "principal")

# What flows along an edge, from upstream to downstream:
EDGE_KINDS = (
    "feeds",  # source -> view or SQL source: its rows
    "contains",  # source -> column, view -> feature
    "derives",  # column, request value or feature -> feature: values
    "derives_indirect",  # key, time or condition column -> feature: which row counts
    "selects",  # feature -> service or dataset
    "serves",  # service -> consumer: its features came through it
    "reads_declared",  # feature -> consumer: the manifest says so
    "reads_observed",  # feature -> consumer or principal: it was seen
    "trains_on",  # dataset -> consumer
    "produces",  # consumer -> view: its predictions
)
_INDIRECT = EDGE_KINDS.index("derives_indirect")
_KEYWORDS = frozenset(
    {"and", "or", "not", "is", "null", "in", "between", "like", "ilike", "true", "false"}
    | {"case", "when", "then", "else", "end", "as", "cast", "interval"}
)
_PLAIN = frozenset({"view", "feature", "consumer"})


@dataclass(frozen=True, slots=True, order=True)
class Node:
    """One object of the graph.

    Attributes:
        kind: One of NODE_KINDS.
        name: Its name: ``weather@v1:temp``, ``delay_model@3``, ``weather.temp`` for a source column.

    >>> str(Node("feature", "weather@v1:temp")), str(Node("source", "weather"))
    ('weather@v1:temp', 'source:weather')
    """

    kind: str
    name: str

    def __str__(self) -> str:
        return self.name if self.kind in _PLAIN else f"{self.kind}:{self.name}"


@dataclass(frozen=True, slots=True, order=True)
class Edge:
    """One dependency, from upstream to downstream."""

    upstream: Node
    downstream: Node
    kind: str

    def __str__(self) -> str:
        return f"{self.upstream} -[{self.kind}]-> {self.downstream}"


@dataclass(frozen=True, slots=True)
class Closure:
    """Everything that is reached from some nodes in one direction.

    Attributes:
        distances: Node -> number of edges on the shortest way, from 1 on; nearest first. The start itself is left out.
        truncated: Whether a depth limit cut something off.
    """

    distances: dict[Node, int]
    truncated: bool

    @property
    def nodes(self) -> tuple[Node, ...]:
        """What was reached, nearest first."""
        return tuple(self.distances)


@dataclass(frozen=True, slots=True)
class _Adjacency:
    """One direction as compressed sparse rows: the neighbours of node i are ``targets[offsets[i]:offsets[i + 1]]``."""

    offsets: array[int]
    targets: array[int]
    kinds: array[int]

    @classmethod
    def of(cls, size: int, triples: Sequence[tuple[int, int, int]]) -> _Adjacency:
        offsets = array("q", bytes(8 * (size + 1)))
        for origin, _, _ in triples:
            offsets[origin + 1] += 1
        for node in range(size):
            offsets[node + 1] += offsets[node]
        return cls(offsets, array("q", [t for _, t, _ in triples]), array("B", [k for _, _, k in triples]))

    def of_node(self, node: int) -> Iterator[tuple[int, int]]:
        for place in range(self.offsets[node], self.offsets[node + 1]):
            yield self.targets[place], self.kinds[place]


@dataclass(frozen=True, slots=True)
class _Step:
    """How a node was reached: over how many edges, how many of them indirect, and the last one."""

    length: int
    indirect: int
    previous: int | None
    kind: int

    def then(self, previous: int, kind: int) -> _Step:
        return _Step(self.length + 1, self.indirect + (kind == _INDIRECT), previous, kind)


class Graph:
    """An immutable typed graph of dependencies.

    Args:
        nodes: The nodes; the ends of the edges are added by themselves.
        edges: The edges; one that occurs twice counts once.

    >>> a, b = Node("source", "weather"), Node("view", "weather@v1")
    >>> Graph([], [Edge(a, b, "feeds")]).downstream([a]).nodes
    (Node(kind='view', name='weather@v1'),)
    """

    __slots__ = ("_down", "_index", "_up", "nodes")

    def __init__(self, nodes: Iterable[Node], edges: Iterable[Edge]) -> None:
        given = list(edges)
        ends = {end for edge in given for end in (edge.upstream, edge.downstream)}
        self.nodes: tuple[Node, ...] = tuple(sorted(ends.union(nodes), key=attrgetter("kind", "name")))
        self._index = {node: number for number, node in enumerate(self.nodes)}
        code = {kind: number for number, kind in enumerate(EDGE_KINDS)}
        triples = {(self._index[e.upstream], self._index[e.downstream], code[e.kind]) for e in given}
        self._down = _Adjacency.of(len(self.nodes), sorted(triples))
        self._up = _Adjacency.of(len(self.nodes), sorted((down, up, kind) for up, down, kind in triples))

    def __contains__(self, node: object) -> bool:
        return node in self._index

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def edges(self) -> Iterator[Edge]:
        """Every edge, in the order of the nodes."""
        for number, node in enumerate(self.nodes):
            for target, kind in self._down.of_node(number):
                yield Edge(node, self.nodes[target], EDGE_KINDS[kind])

    def downstream(
        self, start: Iterable[Node], *, depth: int | None = None, through: Collection[str] | None = None
    ) -> Closure:
        """Return what breaks when `start` changes.

        Args:
            start: Nodes to start from.
            depth: Greatest number of edges to follow; None is no limit.
            through: Node kinds that may be passed; others are reached and not passed. None is all.

        Raises:
            NotFoundError: A node that is not in the graph.
        """
        return self._closure(self._down, start, depth, through)

    def upstream(
        self, start: Iterable[Node], *, depth: int | None = None, through: Collection[str] | None = None
    ) -> Closure:
        """Return what `start` is made from; arguments as in `downstream`."""
        return self._closure(self._up, start, depth, through)

    def path(self, start: Iterable[Node], end: Iterable[Node]) -> tuple[Edge, ...] | None:
        """Return one shortest way downstream from any of `start` to any of `end`; of several, one with few indirect edges.

        Returns:
            The edges in order; empty when a node is in both, None when there is no way.

        Raises:
            NotFoundError: A node that is not in the graph.
        """
        origins, goals = self._numbers(start), set(self._numbers(end))
        steps = {origin: _Step(0, 0, None, 0) for origin in origins}
        queue = deque(steps)
        while queue:
            number = queue.popleft()
            if number in goals:
                return tuple(self._walk_back(steps, number))
            for target, kind in self._down.of_node(number):
                step = steps[number].then(number, kind)
                if target not in steps:
                    queue.append(target)
                if target not in steps or (step.length, step.indirect) < (steps[target].length, steps[target].indirect):
                    steps[target] = step
        return None

    def to_networkx(self) -> nx.MultiDiGraph[Node]:
        """Return the graph as a networkx MultiDiGraph; an edge's key is its kind."""
        import networkx as nx

        graph: nx.MultiDiGraph[Node] = nx.MultiDiGraph()
        graph.add_nodes_from(self.nodes)
        for edge in self.edges:
            graph.add_edge(edge.upstream, edge.downstream, key=edge.kind)
        return graph

    def _numbers(self, nodes: Iterable[Node]) -> list[int]:
        numbers = []
        for node in nodes:
            if node not in self._index:
                raise NotFoundError.of("object", str(node), map(str, self.nodes))
            numbers.append(self._index[node])
        return numbers

    def _closure(
        self, adjacency: _Adjacency, start: Iterable[Node], depth: int | None, through: Collection[str] | None
    ) -> Closure:
        origins = self._numbers(start)
        distances = dict.fromkeys(origins, 0)
        queue = deque(distances)
        truncated = False
        while queue:
            number = queue.popleft()
            distance = distances[number]
            if through is not None and distance and self.nodes[number].kind not in through:
                continue
            for target, _ in adjacency.of_node(number):
                if target in distances:
                    continue
                if distance == depth:
                    truncated = True
                    break
                distances[target] = distance + 1
                queue.append(target)
        return Closure({self.nodes[number]: distance for number, distance in distances.items() if distance}, truncated)

    def _walk_back(self, steps: dict[int, _Step], number: int) -> list[Edge]:
        edges = []
        while (previous := steps[number].previous) is not None:
            edges.append(Edge(self.nodes[previous], self.nodes[number], EDGE_KINDS[steps[number].kind]))
            number = previous
        return edges[::-1]


def build_graph(snapshot: Snapshot, reads: Iterable[tuple[str, Node]] = (), known: Iterable[Node] = ()) -> Graph:
    """Build the graph of a snapshot and of the reads that were seen.

    Args:
        snapshot: The registry.
        reads: Observed: the feature reference that was read, and the consumer or principal that read it.
        known: Further nodes that should be found by name, such as what was only tried to be read.
    """
    nodes = {
        *(Node("view", ref) for ref in snapshot.views),
        *(Node("service", name) for name in snapshot.services),
        *(Node("consumer", key) for key in snapshot.consumers),
        *(Node("dataset", name) for name in snapshot.datasets),
        *known,
    }
    return Graph(nodes, _all_edges(snapshot, reads))


def _all_edges(snapshot: Snapshot, reads: Iterable[tuple[str, Node]]) -> Iterator[Edge]:
    for view in snapshot.views.values():
        yield from _view_edges(view)
    for service in snapshot.services.values():
        yield from _service_edges(service)
    for dataset in snapshot.datasets.values():
        for ref in dataset.refs:
            yield Edge(Node("feature", without_alias(ref)), Node("dataset", dataset.name), "selects")
    for consumer in snapshot.consumers.values():
        yield from _consumer_edges(consumer)
    for ref, reader in reads:
        yield Edge(Node("feature", ref), reader, "reads_observed")
        yield Edge(Node("view", view_of(ref)), Node("feature", ref), "contains")


def _view_edges(view: ViewVersion) -> Iterator[Edge]:
    node = Node("view", view.ref)
    for feature in view.features:
        yield Edge(node, Node("feature", feature.ref), "contains")
    if view.source is not None:
        yield Edge(Node("source", view.source.name), node, "feeds")
        yield from _source_edges(view.source)
        yield from _column_edges(view, view.source)
    for feature in view.features:
        yield from _input_edges(view, feature)


def _source_edges(source: Source) -> Iterator[Edge]:
    for table in source.tables:
        yield Edge(Node("source", table.name), Node("source", source.name), "feeds")
        yield from _source_edges(table)


def _column_edges(view: ViewVersion, source: Source) -> Iterator[Edge]:
    choosing = (*view.join_keys, source.event_timestamp, source.created_timestamp)
    for feature in view.features:
        for column in feature.columns:
            yield from _column_edge(source, column, feature, "derives")
        for column in filter(None, choosing):
            yield from _column_edge(source, column, feature, "derives_indirect")
        for column in sorted(_names_in(feature.condition or "")):
            yield from _column_edge(source, column, feature, "derives_indirect")


def _column_edge(source: Source, column: str, feature: Feature, kind: str) -> Iterator[Edge]:
    node = Node("column", f"{source.name}.{column}")
    yield Edge(Node("source", source.name), node, "contains")
    yield Edge(node, Node("feature", feature.ref), kind)


def _input_edges(view: ViewVersion, feature: Feature) -> Iterator[Edge]:
    """Yield what an on-demand feature is computed from: each input whose name its expression says.

    Too much rather than too little: an expression without SQL text is taken to use every input.
    """
    named = _names_in(feature.expression or "")
    for ref in view.inputs:
        if not named or ref.partition(":")[2].lower() in named:
            yield Edge(Node("feature", ref), Node("feature", feature.ref), "derives")
    for value in view.request:
        if not named or value.lower() in named:
            yield Edge(Node("request", f"{view.ref}.{value}"), Node("feature", feature.ref), "derives")


def _names_in(sql: str) -> frozenset[str]:
    """Return every name in an expression in lower case, and the part after ``__`` of a name that says its view."""
    without_strings = re.sub(r"'(?:[^']|'')*'", " ", sql)
    names = {name.lower() for name in re.findall(r"[A-Za-z_]\w*(?!\w|\s*\()", without_strings)} - _KEYWORDS
    return frozenset(names | {name.rpartition("__")[2] for name in names if "__" in name})


def _service_edges(service: Service) -> Iterator[Edge]:
    for ref in service.features:
        yield Edge(Node("feature", without_alias(ref)), Node("service", service.name), "selects")


def _consumer_edges(consumer: Consumer) -> Iterator[Edge]:
    node = Node("consumer", consumer.key)
    for ref in sorted(consumer.features):
        yield Edge(Node("feature", ref), node, "reads_declared")
    for service in consumer.services:
        yield Edge(Node("service", service), node, "serves")
    if consumer.dataset:
        yield Edge(Node("dataset", consumer.dataset), node, "trains_on")
    for view in consumer.writes:
        yield Edge(node, Node("view", view), "produces")
