"""The graph over time, from every commit of the registry and every read, kept in a file beside the registry.

A commit says what holds from its instant on, and was learnt then. A read says that its reader depends on the feature from its first
read on. The files are copies: they are built again when the registry, the bindings or the usage are not those they were built
from. Nothing is kept where the folder may not be written, or of a graph that is built as fast as it is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lineage.graph import (
    Edge,
    EdgeEvent,
    Graph,
    consumer_edges,
    load_graph,
    observed_edges,
    registry_edges,
    registry_nodes,
    save_graph,
)
from lineage.graph.nodes import Node
from lineage.graph.rows import LARGE
from lineage.imported import RECORDS, told_key
from lineage.registry import Commit, connect, parse_snapshot

if TYPE_CHECKING:
    import sqlite3

    from lineage.state import State

NOW_FILE = "lineage.graph"
TIME_FILE = "lineage.timeline"
# What every graph is built from: it changes with each commit, binding and folded read.
_KEY = """
    SELECT (SELECT max(revision) FROM commits), (SELECT max(committed_at) FROM commits),
           (SELECT count(*) FROM bindings), (SELECT max(created_at) FROM bindings),
           (SELECT count(*) FROM usage_daily), (SELECT sum(calls) FROM usage_daily), (SELECT max(last_read) FROM usage_daily)
"""


def graph_key(connection: sqlite3.Connection, path: Path) -> str:
    """Return a text that changes with everything the graph is built from; `path` is the registry file."""
    return json.dumps([*connection.execute(_KEY).fetchone(), *told_key(path.parent / RECORDS)])


def graph_now(state: State) -> Graph:
    """Return the graph of a state that is read as of now, from the file where that is of this state."""
    with connect(state.path) as connection:
        key = graph_key(connection, state.path)
    path = state.path.parent / NOW_FILE
    if (graph := load_graph(path, key)) is None:
        graph = state.graph
        if graph.edge_count >= LARGE:
            save_graph(path, graph, key)
    return graph


def kept_graph(path: Path) -> Graph | None:
    """Return the graph that was kept of a registry; None when it is not of what the registry says now.

    Args:
        path: The registry file.
    """
    with connect(path) as connection:
        return load_graph(path.parent / NOW_FILE, graph_key(connection, path))


def timeline(state: State) -> Graph:
    """Return the graph of every commit and read, each edge with when it held and when that was learnt.

    Args:
        state: The registry and the usage, read as of now.
    """
    with connect(state.path) as connection:
        key = graph_key(connection, state.path)
    path = state.path.parent / TIME_FILE
    if (graph := load_graph(path, key)) is None:
        told = (EdgeEvent(edge, at, at) for edge, at in state.told.edges)
        events = [*_commit_events(state), *_read_events(state), *told, *_manifest_events(state)]
        graph = Graph.told(events, registry_nodes(state.snapshot))
        if graph.edge_count >= LARGE:
            save_graph(path, graph, key)
    return graph


def _commit_events(state: State) -> Iterator[EdgeEvent]:
    """Yield what each commit added to the edges of the one before, and what it took away."""
    before: frozenset[Edge] = frozenset()
    with connect(state.path) as connection:
        rows = connection.execute("SELECT revision, committed_at, document FROM commits ORDER BY revision")
        for revision, committed_at, document in rows:
            snapshot = parse_snapshot(Commit(revision, committed_at, document, None), state.path)
            edges = frozenset(registry_edges(snapshot))
            yield from (EdgeEvent(edge, committed_at, committed_at) for edge in edges - before)
            yield from (EdgeEvent(edge, committed_at, committed_at, holds=False) for edge in before - edges)
            before = edges


def _manifest_events(state: State) -> Iterator[EdgeEvent]:
    """Yield what the manifests say that other tools hold."""
    for consumer, at in state.imported:
        yield from (EdgeEvent(edge, at, at) for edge in consumer_edges(consumer))


def _read_events(state: State) -> Iterator[EdgeEvent]:
    for reader, read in state.reads:
        if read.served:
            for edge in observed_edges([(read.feature, Node(reader.node.kind, reader.node.name))]):
                if edge.kind == "reads_observed":
                    yield EdgeEvent(edge, read.first_read, read.first_read)
