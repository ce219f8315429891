"""The graph as text for other tools: JSON values, Graphviz DOT and Mermaid."""

from __future__ import annotations

from typing import Any

from lineage.graph import Graph, Node

_SHAPES = {"source": "cylinder", "dataset": "folder", "consumer": "box", "principal": "diamond", "service": "hexagon"}


def as_document(graph: Graph) -> dict[str, Any]:
    """Return the graph as JSON values: nodes with id, kind and name, edges with both ids and kind."""
    return {
        "nodes": [{"id": node_id(node), "kind": node.kind, "name": node.name} for node in graph.nodes],
        "edges": [
            {"upstream": node_id(edge.upstream), "downstream": node_id(edge.downstream), "kind": edge.kind}
            for edge in graph.edges
        ],
    }


def as_dot(graph: Graph) -> str:
    """Return the graph in Graphviz DOT.

    >>> print(as_dot(Graph([Node("view", "weather@v1")], [])))
    digraph lineage {
      rankdir=LR;
      "view:weather@v1" [label="weather@v1", shape=ellipse];
    }
    """
    nodes = (f"  {_quoted(node_id(node))} [label={_quoted(str(node))}, shape={_shape(node)}];" for node in graph.nodes)
    edges = (
        f"  {_quoted(node_id(edge.upstream))} -> {_quoted(node_id(edge.downstream))} [label={_quoted(edge.kind)}];"
        for edge in graph.edges
    )
    return "\n".join(["digraph lineage {", "  rankdir=LR;", *nodes, *edges, "}"])


def as_mermaid(graph: Graph) -> str:
    """Return the graph as a Mermaid flowchart.

    >>> print(as_mermaid(Graph([Node("view", "weather@v1")], [])))
    flowchart LR
      n0["weather@v1"]
    """
    number = {node: f"n{place}" for place, node in enumerate(graph.nodes)}
    lines = ["flowchart LR"]
    lines += [f'  {number[node]}["{_escaped(str(node))}"]' for node in graph.nodes]
    lines += [f"  {number[edge.upstream]} -->|{edge.kind}| {number[edge.downstream]}" for edge in graph.edges]
    return "\n".join(lines)


def node_id(node: Node) -> str:
    """Return the identity of a node in other tools: ``kind:name``."""
    return f"{node.kind}:{node.name}"


def _shape(node: Node) -> str:
    return _SHAPES.get(node.kind, "ellipse")


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
