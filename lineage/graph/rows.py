"""One direction of a graph as compressed sparse rows, and the walk along it.

The neighbours of node i are ``targets[offsets[i]:offsets[i + 1]]``. A small graph is walked in plain Python, which starts at once; a
large one level by level with NumPy, which is loaded for it.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

# From this many edges on, loading NumPy costs less than walking without it.
LARGE = 30_000


@dataclass(frozen=True, slots=True)
class Times:
    """When each edge held and was known to: four instants an edge, in the order of the edges."""

    valid_from: Sequence[int]
    valid_to: Sequence[int]
    known_from: Sequence[int]
    known_to: Sequence[int]


@dataclass(frozen=True, slots=True)
class Moment:
    """An instant to ask about, and as it was known at which instant; both in microseconds since 1970 UTC."""

    at: int
    known_at: int = 2**63 - 2

    def holds(self, times: Times, edge: int) -> bool:
        """Say whether an edge held then."""
        return (
            times.valid_from[edge] <= self.at < times.valid_to[edge]
            and times.known_from[edge] <= self.known_at < times.known_to[edge]
        )


@dataclass(frozen=True, slots=True)
class Walk:
    """How a walk goes.

    Attributes:
        depth: Greatest number of edges to follow; None is no limit.
        passes: Says for a range of kinds whether a node may be passed: one byte a node; None passes all.
        moment: Only edges that held then; None is every edge.
    """

    depth: int | None = None
    passes: bytes | None = None
    moment: Moment | None = None


@dataclass(frozen=True, slots=True)
class Reached:
    """Node numbers that a walk reached, nearest first, their distances, and whether the depth cut something off."""

    numbers: Sequence[int]
    distances: Sequence[int]
    truncated: bool


@dataclass(frozen=True, slots=True)
class Rows:
    """One direction.

    Attributes:
        edges: The number of the edge at each place, which is where its kind and times are; None when it is the place itself.
        times: Of the edges; None when they always hold.
    """

    offsets: Sequence[int]
    targets: Sequence[int]
    edges: Sequence[int] | None
    times: Times | None

    def places(self, node: int) -> range:
        """Return the places of a node's edges."""
        return range(self.offsets[node], self.offsets[node + 1])

    def edge(self, place: int) -> int:
        """Return the number of the edge at a place."""
        return place if self.edges is None else self.edges[place]

    def holds(self, place: int, moment: Moment | None) -> bool:
        """Say whether the edge at a place held at a moment."""
        return moment is None or self.times is None or moment.holds(self.times, self.edge(place))

    def walk(self, start: Sequence[int], walk: Walk) -> Reached:
        """Return what is reached from some nodes, which are left out."""
        if len(self.targets) < LARGE:
            return self._walk(start, walk)
        return self._walk_levels(start, walk)

    def _walk(self, start: Sequence[int], walk: Walk) -> Reached:
        distances = dict.fromkeys(start, 0)
        queue = deque(distances)
        truncated = False
        while queue:
            number = queue.popleft()
            distance = distances[number]
            if walk.passes is not None and distance and not walk.passes[number]:
                continue
            for place in self.places(number):
                target = self.targets[place]
                if target in distances or not self.holds(place, walk.moment):
                    continue
                if distance == walk.depth:
                    truncated = True
                    break
                distances[target] = distance + 1
                queue.append(target)
        found = [(number, distance) for number, distance in distances.items() if distance]
        return Reached([n for n, _ in found], [d for _, d in found], truncated)

    def _walk_levels(self, start: Sequence[int], walk: Walk) -> Reached:
        import numpy as np

        seen = np.zeros(len(self.offsets) - 1, np.uint8)
        frontier = np.unique(np.asarray(start, np.int64))
        seen[frontier] = 1
        last = np.empty(len(seen), np.int32)
        levels: list[NDArray[Any]] = []
        truncated = False
        passes = None if walk.passes is None else np.frombuffer(walk.passes, np.uint8)
        gather = self.gatherer()
        while len(frontier):
            if passes is not None and levels:
                frontier = frontier[passes[frontier] != 0]
            following = _unseen(gather(frontier, walk.moment), seen, last)
            if not len(following):
                break
            if len(levels) == walk.depth:
                truncated = True
                break
            seen[following] = 1
            frontier = following
            levels.append(frontier)
        if not levels:
            return Reached([], [], truncated)
        distances = np.repeat(np.arange(1, len(levels) + 1), [len(level) for level in levels])
        return Reached(np.concatenate(levels), distances, truncated)  # type: ignore[arg-type]

    def gatherer(self) -> Callable[[NDArray[Any], Moment | None], NDArray[Any]]:
        """Return a function that gives the neighbours of many nodes at once, repeats included."""
        import numpy as np

        offsets, targets = as_array(self.offsets), as_array(self.targets)
        edges = None if self.edges is None else as_array(self.edges)
        times = None
        if self.times is not None:
            fields = (self.times.valid_from, self.times.valid_to, self.times.known_from, self.times.known_to)
            times = tuple(map(as_array, fields))

        def gather(nodes: NDArray[Any], moment: Moment | None) -> NDArray[Any]:
            starts = offsets[nodes]
            counts = offsets[nodes + 1] - starts
            ends = np.cumsum(counts)
            places = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + counts, counts)
            if moment is not None and times is not None:
                of = places if edges is None else edges[places]
                held = (times[0][of] <= moment.at) & (moment.at < times[1][of])
                held &= (times[2][of] <= moment.known_at) & (moment.known_at < times[3][of])
                places = places[held]
            found: NDArray[Any] = targets[places]
            return found

        return gather


def _unseen(found: NDArray[Any], seen: NDArray[Any], last: NDArray[Any]) -> NDArray[Any]:
    """Return the numbers among those found that were not seen yet, once each; `last` is room for a number a node."""
    import numpy as np

    if len(found) > len(seen) // 32:  # for many, a mark on every node costs less than a look at every number
        marked = np.zeros(len(seen), np.uint8)
        marked[found] = 1
        return np.flatnonzero(marked > seen)
    found = found[seen[found] == 0]
    place = np.arange(len(found), dtype=np.int32)
    last[found] = place  # of equal numbers the last one stays, and is the one that counts
    unseen: NDArray[Any] = found[last[found] == place]
    return unseen


def as_array(values: Any) -> NDArray[Any]:
    """Return integers as a NumPy array, without a copy where they lie in memory as such."""
    import numpy as np

    codes = {"q": np.int64, "i": np.int32, "B": np.uint8}
    if isinstance(values, array):
        return np.frombuffer(values, codes[values.typecode])
    if isinstance(values, memoryview):
        return np.frombuffer(values, codes[values.format])
    return np.asarray(values, np.int64) if not isinstance(values, np.ndarray) else values
