"""Claim: the graph answers in milliseconds at 220,000 nodes and 1.3 million edges, and findings on clean logs are exact.

    python -m benchmarks.lineage_scale graph        closures, components, as-of, changes, memory
    python -m benchmarks.lineage_scale findings S   precision and recall of structural findings with planted debts (S, M)

Makes its data; prints one line a measure.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lineage.graph import Graph, Moment, Node, NodeTable, Rows, Times, load_graph, save_graph

NODES, EDGES, LAYERS, BACK = 220_000, 1_300_000, 12, 200
DAY = 86_400_000_000


def layered_graph(nodes: int, edges: int, *, seed: int, in_time: bool) -> Graph:
    """Return a graph in layers with a few edges back, targets by a long-tailed popularity, built without one object per edge."""
    rng = np.random.default_rng(seed)
    names = sorted(f"n{number:07d}" for number in range(nodes))
    table = NodeTable.of(Node("column", name) for name in names)
    layer = np.sort(rng.integers(0, LAYERS, nodes))
    starts = np.searchsorted(layer, np.arange(LAYERS + 1))
    source = rng.integers(0, starts[LAYERS - 1], edges)
    following = layer[source] + 1
    width = starts[following + 1] - starts[following]
    target = starts[following] + np.minimum((rng.pareto(1.2, edges) * width * 0.02).astype(np.int64), width - 1)
    back = rng.integers(0, nodes, (BACK, 2))
    source[:BACK], target[:BACK] = back.max(axis=1), back.min(axis=1)
    order = np.lexsort((target, source))
    source, target = source[order], target[order]
    times = None
    if in_time:
        born = rng.integers(0, 1000, edges) * DAY
        dies = np.where(rng.random(edges) < 0.3, born + rng.integers(1, 400, edges) * DAY, 2**63 - 1)
        times = Times(born, dies, born, np.full(edges, 2**63 - 1))
    down = Rows(np.searchsorted(source, np.arange(nodes + 1)), target.astype(np.int32), None, times)
    reverse = np.argsort(target, kind="stable")
    up = Rows(
        np.searchsorted(target[reverse], np.arange(nodes + 1)),
        source[reverse].astype(np.int32),
        reverse.astype(np.int32),
        times,
    )
    return Graph.of_rows(table, down, up, np.full(edges, 2, np.uint8))


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    answer = run()
    return (time.perf_counter() - started) * 1000, answer


def percentiles(values: list[float]) -> str:
    ordered = sorted(values)
    return f"p50 {statistics.median(ordered):8.2f} ms   p99 {ordered[int(0.99 * (len(ordered) - 1))]:8.2f} ms   worst {ordered[-1]:8.2f} ms"


def measure_graph(nodes: int = NODES, edges: int = EDGES, starts: int = 200) -> dict[str, Any]:
    """Measure closures, components, as-of closures and changes on one graph read from its file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lineage.graph"
        save_graph(path, layered_graph(nodes, edges, seed=7, in_time=True), "bench")
        opened, graph = timed(lambda: load_graph(path, "bench"))
        assert graph is not None
        chosen = random.Random(11).sample(range(nodes), starts)
        moment = Moment(700 * DAY)
        graph.downstream([graph.nodes[chosen[0]]])  # loads NumPy
        closures, reach = zip(*(_closure(graph, number, None) for number in chosen), strict=True)
        as_of, _ = zip(*(_closure(graph, number, moment) for number in chosen), strict=True)
        components, found = timed(graph.components)
        changes, (came, went) = timed(lambda: graph.changes(Moment(700 * DAY), Moment(701 * DAY)))
        print(
            f"nodes {nodes}, edges {graph.edge_count}, opened in {opened:.1f} ms, file {path.stat().st_size >> 20} MiB"
        )
        print(f"closure of one node     {percentiles(list(closures))}   largest reach {max(reach)}")
        print(f"as-of closure           {percentiles(list(as_of))}")
        print(
            f"components              {components:8.1f} ms   {len(found)} with a cycle, largest {len(found[0]) if found else 0}"
        )
        print(f"changes between dates   {changes:8.1f} ms   {len(came)} came, {len(went)} went")
        print(
            f"memory of the process   {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB, the making included"
        )
        return {"closures": closures, "as_of": as_of, "components": components, "changes": changes}


def _closure(graph: Graph, number: int, moment: Moment | None) -> tuple[float, int]:
    node = graph.nodes[number]
    taken, closure = timed(lambda: graph.downstream([node], moment=moment))
    return taken, len(closure)


SIZES = {"S": (1_000, 100, 30), "M": (20_000, 2_000, 200)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["graph", "findings"])
    parser.add_argument("size", nargs="?", default="S", choices=list(SIZES))
    given = parser.parse_args()
    if given.what == "graph":
        measure_graph()
        return
    from benchmarks.lineage_truth import measure_findings

    measure_findings(*SIZES[given.size])


if __name__ == "__main__":
    main()
