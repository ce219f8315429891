"""The lineage graph: what everything is made from, and what breaks.

Edges point downstream. Upstream of an object is what it is made from; downstream is what breaks when it changes. Cycles are legal:
a model may read a score that it wrote. The graph is immutable; its adjacency is compressed sparse rows of integers, so a closure
visits each node and edge once, whatever the number of paths. Each edge has the time in which it held, and the time in which that was
known.
"""

from __future__ import annotations

from lineage.graph.build import build_graph, consumer_edges, observed_edges, registry_edges, registry_nodes
from lineage.graph.file import load_graph, save_graph
from lineage.graph.graph import Closure, Graph
from lineage.graph.history import EVER, SINCE_EVER, EdgeEvent, Span, spans_of
from lineage.graph.nodes import EDGE_KINDS, NODE_KINDS, Edge, Node, NodeTable
from lineage.graph.rows import Moment, Rows, Times

__all__ = [
    "EDGE_KINDS",
    "EVER",
    "NODE_KINDS",
    "SINCE_EVER",
    "Closure",
    "Edge",
    "EdgeEvent",
    "Graph",
    "Moment",
    "Node",
    "NodeTable",
    "Rows",
    "Span",
    "Times",
    "build_graph",
    "consumer_edges",
    "load_graph",
    "observed_edges",
    "registry_edges",
    "registry_nodes",
    "save_graph",
    "spans_of",
]
