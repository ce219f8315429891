"""Whether a table or a file that others name is a source of the store."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatch

from lineage.graph import Edge, Node
from lineage.imported import ToldGraph
from lineage.registry import Snapshot, Source

_FILES = frozenset({"parquet", "csv", "json"})


def is_place(source: Source, name: str) -> bool:
    """Say whether a table or path is a source: tables by as many last parts as both have, paths by their end, globs as such.

    >>> weather = Source("weather", "postgres", path="public.weather")
    >>> is_place(weather, "raw.public.weather"), is_place(weather, "weather"), is_place(weather, "raw.other.weather")
    (True, True, False)
    """
    known = source.path or source.name
    if "/" in name or "/" in known:
        pattern = known.removeprefix("./")
        return fnmatch(name, pattern) or fnmatch(name, f"*/{pattern}")
    parts, others = known.lower().split("."), name.lower().split(".")
    if {parts[-1], others[-1]} <= _FILES:
        return known == name
    size = min(len(parts), len(others))
    return parts[-size:] == others[-size:]


def is_dataset(source: Source, name: str) -> bool:
    """Say whether a dataset of somebody else, called ``<namespace>/<name>``, is a source; one without a place never is.

    >>> weather = Source("weather", "postgres", path="public.weather")
    >>> is_dataset(weather, "postgres://db:5432/raw.public.weather")
    True
    """
    if not source.path:
        return False
    return is_place(source, name if "/" in source.path else name.rpartition("/")[2])


def ours(told: ToldGraph, snapshot: Snapshot) -> ToldGraph:
    """Return what events told with the datasets that are sources of the store, and their columns, under our names."""
    foreign = {
        end.name
        for edge, _ in told.edges
        for end in (edge.upstream, edge.downstream)
        if end.kind == "source" and "/" in end.name
    }
    if not foreign:
        return told
    known = {source.name: source for view in snapshot.views.values() if view.source for source in view.source.every()}
    names = {name: known[own].name for name in foreign for own in known if is_dataset(known[own], name)}

    def named(node: Node) -> Node:
        if node.kind == "source":
            return Node("source", names.get(node.name, node.name))
        if node.kind == "column":
            dataset = next((name for name in names if node.name.startswith(f"{name}.")), None)
            return node if dataset is None else Node("column", names[dataset] + node.name.removeprefix(dataset))
        return node

    edges = ((Edge(named(edge.upstream), named(edge.downstream), edge.kind), at) for edge, at in told.edges)
    return replace(told, edges=tuple(edges)) if names else told
