"""The history of edges: when each held, and when we learnt it.

What is told of an edge is an event: from an instant on it holds, or holds no more, and when we learnt that. Events may come late,
twice and in any order; the history is a function of the set of them, so all orders give the same one. It is kept as *spans*: in
``[known_from, known_to)`` we believed that the edge held in ``[valid_from, valid_to)``. (Snodgrass, *Developing Time-Oriented Database
Applications in SQL*, 1999, calls this bitemporal.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from lineage.graph.nodes import Edge

EVER = 2**63 - 1  # the end of what has no end
SINCE_EVER = -(2**63)


@dataclass(frozen=True, slots=True, order=True)
class EdgeEvent:
    """What was told of an edge.

    Attributes:
        at: From when on, in microseconds since 1970 UTC.
        learnt_at: When we learnt it, in microseconds since 1970 UTC.
        holds: Whether the edge holds from then on, or no more.
    """

    edge: Edge
    at: int
    learnt_at: int
    holds: bool = True


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A time in which an edge held, as it was known for a time; ends are exclusive, EVER is no end.

    >>> a_span = Span(0, 10, 5)
    >>> a_span.holds(3, known_at=4), a_span.holds(3, known_at=5), a_span.holds(10)
    (False, True, False)
    """

    valid_from: int = SINCE_EVER
    valid_to: int = EVER
    known_from: int = SINCE_EVER
    known_to: int = EVER

    def holds(self, at: int, *, known_at: int = EVER - 1) -> bool:
        """Say whether the edge held at an instant, as it was known at another; by default as it is known at last."""
        return self.valid_from <= at < self.valid_to and self.known_from <= known_at < self.known_to


def spans_of(events: Iterable[EdgeEvent]) -> Iterator[tuple[Edge, Span]]:
    """Return the history that events tell, edge by edge.

    Args:
        events: In any order; one that is repeated says nothing new. Of two that contradict each other about the same instant, the
            one learnt later counts; learnt at the same time, the one that says the edge holds.

    >>> from lineage.graph import Node
    >>> edge = Edge(Node("view", "a"), Node("view", "b"), "feeds")
    >>> spans = [span for _, span in spans_of([EdgeEvent(edge, 7, 8, holds=False), EdgeEvent(edge, 1, 2)])]
    >>> [(span.valid_from, span.valid_to, span.known_from, span.known_to) for span in spans] == [(1, EVER, 2, 8), (1, 7, 8, EVER)]
    True
    """
    grouped: dict[Edge, set[EdgeEvent]] = {}
    for event in events:
        grouped.setdefault(event.edge, set()).add(event)
    for edge in sorted(grouped):
        yield from ((edge, span) for span in _edge_spans(grouped[edge]))


def _edge_spans(events: set[EdgeEvent]) -> Iterator[Span]:
    """Yield the spans of one edge: at each instant when something was learnt, the believed times may change."""
    learnt = sorted({event.learnt_at for event in events})
    open_since: dict[tuple[int, int], int] = {}
    for known_from, known_to in pairwise([*learnt, EVER]):
        believed = set(_believed(event for event in events if event.learnt_at <= known_from))
        for times in sorted(set(open_since) - believed):
            yield Span(*times, open_since.pop(times), known_from)
        for times in believed - set(open_since):
            open_since[times] = known_from
        if known_to == EVER:
            yield from (Span(*times, since) for times, since in sorted(open_since.items()))


def _believed(events: Iterable[EdgeEvent]) -> Iterator[tuple[int, int]]:
    """Yield the times in which the edge holds, if these events are all there is."""
    latest: dict[int, EdgeEvent] = {}
    for event in sorted(events, key=lambda event: (event.at, event.learnt_at, event.holds)):
        latest[event.at] = event
    since: int | None = None
    for at, event in latest.items():
        if event.holds and since is None:
            since = at
        elif not event.holds and since is not None:
            yield since, at
            since = None
    if since is not None:
        yield since, EVER
