"""Strongly connected components: the cycles of a graph.

A small graph, or what is left of a large one, by Tarjan's algorithm (*Depth-first search and linear graph algorithms*, 1972) without
recursion. Of a large graph first what lies on no cycle is peeled off (nodes that nothing leads to, or that lead to nothing, again
and again), then the component of the best-connected node is cut out by a walk forward and one backward (Fleischer, Hendrickson, Pinar,
*On identifying strongly connected components in parallel*, 2000), as long as that takes much away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lineage.graph.rows import LARGE, Moment, Rows, as_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PART = 8  # another cut by walks must take at least this part of what is left, or Tarjan does the rest


def components(down: Rows, moment: Moment | None = None) -> list[list[int]]:
    """Return the node numbers of every component that has a cycle, sorted, the largest component first.

    Args:
        down: The graph.
        moment: Only edges that held then; None is every edge.
    """
    small = len(down.targets) < LARGE
    found = _tarjan(down, range(len(down.offsets) - 1), None, moment) if small else _peeled(down, moment)
    return sorted((sorted(component) for component in found), key=lambda component: (-len(component), component))


def _peeled(down: Rows, moment: Moment | None) -> Iterator[list[int]]:
    import numpy as np

    size = len(down.offsets) - 1
    sources, targets = _ends(down, size, moment)
    left = np.ones(size, bool)
    while True:
        sources, targets = _peel(left, sources, targets)
        if not len(sources):
            return
        degree = np.bincount(sources, minlength=size) * np.bincount(targets, minlength=size)
        pivot = int(np.argmax(degree))
        forward = _reach(size, pivot, sources, targets)
        component = forward & _reach(size, pivot, targets, sources)
        count = int(component.sum())
        if count > 1 or bool(np.any((sources == pivot) & (targets == pivot))):
            yield [int(number) for number in np.flatnonzero(component)]
        left &= ~component
        kept = left[sources] & left[targets]
        remaining = int(np.count_nonzero(left))
        sources, targets = sources[kept], targets[kept]
        if count * _PART < remaining:
            sources, targets = _peel(left, sources, targets)
            nodes = [int(number) for number in np.unique(sources)]
            yield from _tarjan(down, nodes, {int(n) for n in np.flatnonzero(left)}, moment)
            return


def _ends(down: Rows, size: int, moment: Moment | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the two ends of every edge that held."""
    import numpy as np

    offsets = as_array(down.offsets)
    sources = np.repeat(np.arange(size), np.diff(offsets))
    targets = as_array(down.targets)
    if moment is None or down.times is None:
        return sources, targets
    valid_from, valid_to = as_array(down.times.valid_from), as_array(down.times.valid_to)
    known_from, known_to = as_array(down.times.known_from), as_array(down.times.known_to)
    held = (valid_from <= moment.at) & (moment.at < valid_to)
    held &= (known_from <= moment.known_at) & (moment.known_at < known_to)
    return sources[held], targets[held]


def _peel(left: NDArray[Any], sources: NDArray[Any], targets: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Take off, again and again, the nodes that nothing leads to or that lead to nothing; return the edges that are left."""
    import numpy as np

    while True:
        has_both = np.zeros(len(left), np.uint8)
        has_both[sources] |= 1
        has_both[targets] |= 2
        on = has_both == 3
        kept = on[sources] & on[targets]
        if kept.all():
            left &= on
            return sources, targets
        sources, targets = sources[kept], targets[kept]


def _reach(size: int, start: int, sources: NDArray[Any], targets: NDArray[Any]) -> NDArray[Any]:
    """Return which nodes are reached from one, the node itself included."""
    import numpy as np

    if np.any(sources[1:] < sources[:-1]):
        order = np.argsort(sources, kind="stable")
        sources, targets = sources[order], targets[order]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(sources, minlength=size))])
    gather = Rows(offsets, targets, None, None).gatherer()  # type: ignore[arg-type]
    seen = np.zeros(size, bool)
    seen[start] = True
    frontier = np.array([start])
    while len(frontier):
        found = gather(frontier, None)
        frontier = np.unique(found[~seen[found]])
        seen[frontier] = True
    return seen


def _tarjan(  # noqa: C901 - one loop of one algorithm
    down: Rows, nodes: Sequence[int], within: set[int] | None, moment: Moment | None
) -> Iterator[list[int]]:
    """Yield every component with a cycle among some nodes, edges to other nodes left out."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    for root in nodes:
        if root in index:
            continue
        work = [(root, iter(down.places(root)))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, places = work[-1]
            for place in places:
                target = down.targets[place]
                if (within is not None and target not in within) or not down.holds(place, moment):
                    continue
                if target not in index:
                    index[target] = low[target] = len(index)
                    stack.append(target)
                    on_stack.add(target)
                    work.append((target, iter(down.places(target))))
                    break
                if target in on_stack:
                    low[node] = min(low[node], index[target])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    component = _popped(stack, on_stack, node)
                    if len(component) > 1 or _loops(down, node, moment):
                        yield component


def _popped(stack: list[int], on_stack: set[int], root: int) -> list[int]:
    component = []
    while True:
        number = stack.pop()
        on_stack.discard(number)
        component.append(number)
        if number == root:
            return component


def _loops(down: Rows, node: int, moment: Moment | None) -> bool:
    return any(down.targets[place] == node and down.holds(place, moment) for place in down.places(node))
