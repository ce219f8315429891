"""The graph itself: closures, ways, cycles, and what held when."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from lineage.errors import NotFoundError
from lineage.graph.components import components
from lineage.graph.history import EVER, SINCE_EVER, EdgeEvent, Span, spans_of
from lineage.graph.nodes import EDGE_KINDS, KIND_CODES, NODE_KINDS, Edge, Node, NodeTable
from lineage.graph.rows import LARGE, Moment, Reached, Rows, Times, Walk, as_array

if TYPE_CHECKING:
    import networkx as nx

_INDIRECT = KIND_CODES["derives_indirect"]
_ALWAYS = Span()


class Closure:
    """Everything that is reached from some nodes in one direction.

    The names are decoded when they are asked for; `len` and `truncated` cost nothing.
    """

    __slots__ = ("__dict__", "_reached", "_table")

    def __init__(self, table: NodeTable, reached: Reached) -> None:
        self._table = table
        self._reached = reached

    def __len__(self) -> int:
        return len(self._reached.numbers)

    @property
    def truncated(self) -> bool:
        """Whether a depth limit cut something off."""
        return self._reached.truncated

    @cached_property
    def distances(self) -> dict[Node, int]:
        """Node -> number of edges on the shortest way, from 1 on; nearest first. The start itself is left out."""
        numbers, distances = self._reached.numbers, self._reached.distances
        return {self._table[int(n)]: int(d) for n, d in zip(numbers, distances, strict=True)}

    @property
    def nodes(self) -> tuple[Node, ...]:
        """What was reached, nearest first."""
        return tuple(self.distances)


class Graph:
    """An immutable typed graph of dependencies; cycles are legal.

    Args:
        nodes: The nodes; the ends of the edges are added by themselves.
        edges: The edges; one that occurs twice counts once. They hold always; `Graph.told` makes a graph in time.

    >>> a, b = Node("source", "weather"), Node("view", "weather@v1")
    >>> Graph([], [Edge(a, b, "feeds")]).downstream([a]).nodes
    (Node(kind='view', name='weather@v1'),)
    """

    __slots__ = ("_down", "_kinds", "_up", "nodes")

    def __init__(self, nodes: Iterable[Node], edges: Iterable[Edge]) -> None:
        self._fill(nodes, ((edge, _ALWAYS) for edge in edges))

    @classmethod
    def told(cls, events: Iterable[EdgeEvent], nodes: Iterable[Node] = ()) -> Graph:
        """Return the graph in time that events tell, whatever their order."""
        graph = cls.__new__(cls)
        graph._fill(nodes, spans_of(events))  # noqa: SLF001 - of this class
        return graph

    @classmethod
    def of_rows(cls, nodes: NodeTable, down: Rows, up: Rows, kinds: Sequence[int]) -> Graph:
        """Return a graph over rows that are there already, such as those of a file; `kinds` are in the order of `down`."""
        graph = cls.__new__(cls)
        graph.nodes, graph._down, graph._up, graph._kinds = nodes, down, up, kinds  # noqa: SLF001 - of this class
        return graph

    def _fill(self, nodes: Iterable[Node], edges: Iterable[tuple[Edge, Span]]) -> None:
        given = set(edges)
        ends = {end for edge, _ in given for end in (edge.upstream, edge.downstream)}
        self.nodes: NodeTable = NodeTable.of(ends.union(nodes))
        number = {node: place for place, node in enumerate(self.nodes)}
        rows = sorted(
            (number[edge.upstream], number[edge.downstream], KIND_CODES[edge.kind], span) for edge, span in given
        )
        times = None
        if any(span != _ALWAYS for *_, span in rows):
            times = Times(
                array("q", [span.valid_from for *_, span in rows]),
                array("q", [span.valid_to for *_, span in rows]),
                array("q", [span.known_from for *_, span in rows]),
                array("q", [span.known_to for *_, span in rows]),
            )
        self._kinds: Sequence[int] = array("B", [kind for _, _, kind, _ in rows])
        size = len(self.nodes)
        self._down = Rows(_offsets(size, [r[0] for r in rows]), array("i", [r[1] for r in rows]), None, times)
        order = sorted(range(len(rows)), key=lambda place: (rows[place][1], place))
        sources = array("i", [rows[place][0] for place in order])
        self._up = Rows(_offsets(size, [r[1] for r in rows]), sources, array("i", order), times)

    def __contains__(self, node: object) -> bool:
        return node in self.nodes

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def edge_count(self) -> int:
        """How many edges there are; one that held twice counts twice."""
        return len(self._down.targets)

    @property
    def rows(self) -> tuple[Rows, Rows, Sequence[int]]:
        """The edges downstream, the same upstream, and the kind of each edge: what a file of the graph keeps."""
        return self._down, self._up, self._kinds

    @property
    def edges(self) -> Iterator[Edge]:
        """Every edge, in the order of the nodes; one that held twice is there once."""
        for number, node in enumerate(self.nodes):
            pairs = ((self._down.targets[place], self._kinds[place]) for place in self._down.places(number))
            for target, kind in dict.fromkeys(pairs):
                yield Edge(node, self.nodes[target], EDGE_KINDS[kind])

    def spans(self, edge: Edge) -> tuple[Span, ...]:
        """Return when an edge held, as it was known over time; empty when it never did."""
        origin, target = self.nodes.find(edge.upstream), self.nodes.find(edge.downstream)
        if origin is None or target is None:
            return ()
        code, targets = KIND_CODES[edge.kind], self._down.targets
        places = (p for p in self._down.places(origin) if targets[p] == target and self._kinds[p] == code)
        return tuple(self._span(place) for place in places)

    def _span(self, place: int) -> Span:
        times = self._down.times
        if times is None:
            return _ALWAYS
        fields = (times.valid_from, times.valid_to, times.known_from, times.known_to)
        return Span(*(int(field[place]) for field in fields))

    def downstream(
        self,
        start: Iterable[Node],
        *,
        depth: int | None = None,
        through: Collection[str] | None = None,
        moment: Moment | None = None,
    ) -> Closure:
        """Return what breaks when `start` changes.

        Args:
            start: Nodes to start from.
            depth: Greatest number of edges to follow; None is no limit.
            through: Node kinds that may be passed; others are reached and not passed. None is all.
            moment: Only edges that held then, as it was known then; None is every edge.

        Raises:
            NotFoundError: A node that is not in the graph.
        """
        return self._closure(self._down, start, depth, through, moment)

    def upstream(
        self,
        start: Iterable[Node],
        *,
        depth: int | None = None,
        through: Collection[str] | None = None,
        moment: Moment | None = None,
    ) -> Closure:
        """Return what `start` is made from; arguments as in `downstream`."""
        return self._closure(self._up, start, depth, through, moment)

    def path(
        self, start: Iterable[Node], end: Iterable[Node], *, moment: Moment | None = None
    ) -> tuple[Edge, ...] | None:
        """Return one shortest way downstream from any of `start` to any of `end`; of several, one with few indirect edges.

        Returns:
            The edges in order; empty when a node is in both, None when there is no way.

        Raises:
            NotFoundError: A node that is not in the graph.
        """
        origins, goals = self._numbers(start), self._numbers(end)
        if set(origins) & set(goals):
            return ()
        reached = self._down.walk(origins, Walk(moment=moment))
        distances = dict.fromkeys(origins, 0)
        wanted = frozenset(goals)
        for number, distance in zip(reached.numbers, reached.distances, strict=True):
            distances[int(number)] = int(distance)
            if int(number) in wanted:
                break
        nearest = [goal for goal in goals if goal in distances]
        if not nearest:
            return None
        return tuple(self._shortest(distances, min(nearest, key=lambda goal: (distances[goal], goal)), moment))

    def _shortest(self, distances: dict[int, int], goal: int, moment: Moment | None) -> list[Edge]:
        """Go back level by level over every shortest way to `goal`, then forward over the one with the fewest indirect edges."""
        cost = {goal: 0}
        onward: dict[int, tuple[int, int]] = {}
        level = [goal]
        for distance in range(distances[goal] - 1, -1, -1):
            before: dict[int, int] = {}
            for target in level:
                for place in self._up.places(target):
                    origin = self._up.targets[place]
                    if distances.get(origin) != distance or not self._up.holds(place, moment):
                        continue
                    kind = self._kinds[self._up.edge(place)]
                    total = cost[target] + (kind == _INDIRECT)
                    if origin not in before or total < before[origin]:
                        before[origin] = total
                        onward[origin] = (target, kind)
            level, cost = list(before), before
        number = min(level, key=lambda origin: (cost[origin], origin))
        edges = []
        while number != goal:
            target, kind = onward[number]
            edges.append(Edge(self.nodes[number], self.nodes[target], EDGE_KINDS[kind]))
            number = target
        return edges

    def components(self, *, moment: Moment | None = None) -> tuple[tuple[Node, ...], ...]:
        """Return the strongly connected components that have a cycle, the largest first."""
        found = components(self._down, moment)
        return tuple(tuple(self.nodes[number] for number in component) for component in found)

    def way_round(self, node: Node) -> tuple[Edge, ...]:
        """Return one shortest way from a node back to itself; empty when there is none."""
        ways = []
        for edge in self.out_of(node):
            back = self.path([edge.downstream], [node])
            if back is not None:
                ways.append((edge, *back))
        return min(ways, key=len, default=())

    def out_of(self, node: Node) -> tuple[Edge, ...]:
        """Return the edges that begin at a node."""
        (number,) = self._numbers([node])
        pairs = ((self._down.targets[place], self._kinds[place]) for place in self._down.places(number))
        return tuple(Edge(node, self.nodes[target], EDGE_KINDS[kind]) for target, kind in dict.fromkeys(pairs))

    def changes(self, before: Moment, after: Moment) -> tuple[tuple[Edge, ...], tuple[Edge, ...]]:
        """Return what differs between two moments: the edges that came, and those that went."""
        size, places = len(self.nodes), self._changed(before, after)
        sources = _sources(self._down.offsets, [place for side in places for place in side], size)
        came, went = ({self._edge(sources[place], place) for place in side} for side in places)
        return tuple(sorted(came - went)), tuple(sorted(went - came))

    def _changed(self, before: Moment, after: Moment) -> tuple[list[int], list[int]]:
        times = self._down.times
        if times is None:
            return [], []
        if self.edge_count < LARGE:
            held = [(before.holds(times, e), after.holds(times, e)) for e in range(self.edge_count)]
            came = [place for place, (was, is_now) in enumerate(held) if is_now and not was]
            return came, [place for place, (was, is_now) in enumerate(held) if was and not is_now]
        import numpy as np

        valid_from, valid_to = as_array(times.valid_from), as_array(times.valid_to)
        known_from, known_to = as_array(times.known_from), as_array(times.known_to)
        was, now = (
            (valid_from <= m.at) & (m.at < valid_to) & (known_from <= m.known_at) & (m.known_at < known_to)
            for m in (before, after)
        )
        return np.flatnonzero(now & ~was).tolist(), np.flatnonzero(was & ~now).tolist()

    def _edge(self, source: int, place: int) -> Edge:
        return Edge(self.nodes[source], self.nodes[self._down.targets[place]], EDGE_KINDS[self._kinds[place]])

    def at(self, moment: Moment) -> Graph:
        """Return the graph of the edges that held at a moment, with all nodes."""
        sources = _sources(self._down.offsets, range(self.edge_count), len(self.nodes))
        held = (place for place in range(self.edge_count) if self._down.holds(place, moment))
        return Graph(self.nodes, [self._edge(sources[place], place) for place in held])

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
            number = self.nodes.find(node)
            if number is None:
                raise NotFoundError.of("object", str(node), map(str, self.nodes))
            numbers.append(number)
        return numbers

    def _closure(
        self,
        rows: Rows,
        start: Iterable[Node],
        depth: int | None,
        through: Collection[str] | None,
        moment: Moment | None,
    ) -> Closure:
        passes = None if through is None else self._passes(through)
        return Closure(self.nodes, rows.walk(list(dict.fromkeys(self._numbers(start))), Walk(depth, passes, moment)))

    def _passes(self, through: Collection[str]) -> bytes:
        return b"".join(
            (b"\1" if kind in through else b"\0") * len(self.nodes.range_of(kind)) for kind in sorted(NODE_KINDS)
        )


def _offsets(size: int, origins: Iterable[int]) -> array[int]:
    offsets = array("q", bytes(8 * (size + 1)))
    for origin in origins:
        offsets[origin + 1] += 1
    for node in range(size):
        offsets[node + 1] += offsets[node]
    return offsets


def _sources(offsets: Sequence[int], places: Iterable[int], size: int) -> dict[int, int]:
    """Return place -> the node that its edge begins at."""
    from bisect import bisect_right

    return {place: bisect_right(offsets, place, 0, size + 1) - 1 for place in places}


__all__ = ["EVER", "SINCE_EVER", "Closure", "Graph"]
