"""Nodes and edges, and a sorted table of nodes that is searched without being decoded."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import overload

NODE_KINDS = ("source", "column", "request", "view", "feature", "service", "dataset", "consumer", "principal")

# What flows along an edge, from upstream to downstream:
EDGE_KINDS = (
    "feeds",  # source -> view or SQL source: its rows
    "contains",  # source -> column, view -> feature
    "derives",  # column -> column of a query, column, request value or feature -> feature: values
    "derives_indirect",  # filter, join, group, key, time or condition column -> column or feature: which row counts
    "derives_opaque",  # source -> column of a query that could not be followed: it may be any of its columns
    "selects",  # feature -> service or dataset
    "serves",  # service -> consumer: its features came through it
    "reads_declared",  # feature -> consumer: the manifest says so
    "reads_observed",  # feature -> consumer or principal: it was seen
    "trains_on",  # dataset -> consumer
    "produces",  # consumer -> view: its predictions
)
KIND_CODES = {kind: code for code, kind in enumerate(EDGE_KINDS)}
_SORTED_KINDS = sorted(NODE_KINDS)
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


class NodeTable(Sequence[Node]):
    """Nodes sorted by kind and name, in one piece of UTF-8: a name is decoded when it is asked for.

    Args:
        starts: Kind by kind of the sorted kinds, the number of its first node; one more at the end.
        offsets: Where each name begins in `names`; one more at the end.
        names: All names, one after the other.

    >>> table = NodeTable.of([Node("view", "b@v1"), Node("view", "a@v1"), Node("source", "s")])
    >>> len(table), table.find(Node("view", "b@v1")), [node.name for node in table.starting("view", "a@")]
    (3, 2, ['a@v1'])
    """

    __slots__ = ("names", "offsets", "starts")

    def __init__(self, starts: Sequence[int], offsets: Sequence[int], names: bytes | memoryview) -> None:
        self.starts = starts
        self.offsets = offsets
        self.names = names

    @classmethod
    def of(cls, nodes: Iterable[Node]) -> NodeTable:
        """Build the table of some nodes; one that occurs twice is there once."""
        ordered = sorted(set(nodes), key=attrgetter("kind", "name"))
        encoded = [node.name.encode() for node in ordered]
        offsets = array("q", [0])
        for name in encoded:
            offsets.append(offsets[-1] + len(name))
        kinds = [node.kind for node in ordered]
        starts = array("q", [bisect_left(kinds, kind) for kind in _SORTED_KINDS] + [len(kinds)])
        return cls(starts, offsets, b"".join(encoded))

    def __len__(self) -> int:
        return self.starts[-1]

    @overload
    def __getitem__(self, place: int) -> Node: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Node, ...]: ...
    def __getitem__(self, place: int | slice) -> Node | tuple[Node, ...]:
        if isinstance(place, slice):
            return tuple(self[number] for number in range(len(self))[place])
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        number = place % len(self)
        return Node(self.kind_of(number), self.name_of(number))

    def __iter__(self) -> Iterator[Node]:
        for code, kind in enumerate(_SORTED_KINDS):
            for number in range(self.starts[code], self.starts[code + 1]):
                yield Node(kind, self.name_of(number))

    def __contains__(self, node: object) -> bool:
        return isinstance(node, Node) and self.find(node) is not None

    def name_of(self, number: int) -> str:
        """Return the name of a node."""
        return bytes(self.names[self.offsets[number] : self.offsets[number + 1]]).decode()

    def kind_of(self, number: int) -> str:
        """Return the kind of a node."""
        return _SORTED_KINDS[next(code for code in range(len(_SORTED_KINDS)) if number < self.starts[code + 1])]

    def find(self, node: Node) -> int | None:
        """Return the number of a node, or None when it is not there."""
        number = self._first(node.kind, node.name)
        is_there = number < self._range(node.kind).stop and self.name_of(number) == node.name
        return number if is_there else None

    def starting(self, kind: str, prefix: str) -> Iterator[Node]:
        """Yield the nodes of a kind whose names begin so, in order."""
        for number in range(self._first(kind, prefix), self._range(kind).stop):
            name = self.name_of(number)
            if not name.startswith(prefix):
                return
            yield Node(kind, name)

    def range_of(self, kind: str) -> range:
        """Return the numbers of all nodes of a kind."""
        return self._range(kind)

    def _range(self, kind: str) -> range:
        if kind not in _SORTED_KINDS:
            return range(0)
        code = _SORTED_KINDS.index(kind)
        return range(self.starts[code], self.starts[code + 1])

    def _first(self, kind: str, name: str) -> int:
        numbers = self._range(kind)
        return numbers.start + bisect_left(numbers, name, key=self.name_of)
