"""The graph of a registry: which objects it has, and what each is made from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from lineage.graph.graph import Graph
from lineage.graph.nodes import Edge, Node
from lineage.registry import (
    ColumnOrigin,
    Consumer,
    Feature,
    Service,
    Snapshot,
    Source,
    ViewVersion,
    view_of,
    without_alias,
)

_KEYWORDS = frozenset(
    {"and", "or", "not", "is", "null", "in", "between", "like", "ilike", "true", "false"}
    | {"case", "when", "then", "else", "end", "as", "cast", "interval"}
)


def build_graph(
    snapshot: Snapshot,
    reads: Iterable[tuple[str, Node]] = (),
    known: Iterable[Node] = (),
    told: Iterable[Edge] = (),
) -> Graph:
    """Build the graph of a snapshot and of the reads that were seen.

    Args:
        snapshot: The registry.
        reads: Observed: the feature reference that was read, and the consumer or principal that read it.
        known: Further nodes that should be found by name, such as what was only tried to be read.
        told: Further edges, such as those that events of others tell.
    """
    nodes = {*registry_nodes(snapshot), *known}
    return Graph(nodes, [*registry_edges(snapshot), *observed_edges(reads), *told])


def registry_nodes(snapshot: Snapshot) -> Iterator[Node]:
    """Yield every object of a snapshot that may have no edge."""
    yield from (Node("view", ref) for ref in snapshot.views)
    yield from (Node("service", name) for name in snapshot.services)
    yield from (Node("consumer", key) for key in snapshot.consumers)
    yield from (Node("dataset", name) for name in snapshot.datasets)


def observed_edges(reads: Iterable[tuple[str, Node]]) -> Iterator[Edge]:
    """Yield the edges of reads that were seen: the feature reference, and who read it."""
    for ref, reader in reads:
        yield Edge(Node("feature", ref), reader, "reads_observed")
        yield Edge(Node("view", view_of(ref)), Node("feature", ref), "contains")


def registry_edges(snapshot: Snapshot) -> Iterator[Edge]:
    """Yield every edge of a snapshot; some more than once."""
    for view in snapshot.views.values():
        yield from _view_edges(view)
    for service in snapshot.services.values():
        yield from _service_edges(service)
    for dataset in snapshot.datasets.values():
        for ref in dataset.refs:
            yield Edge(Node("feature", without_alias(ref)), Node("dataset", dataset.name), "selects")
    for consumer in snapshot.consumers.values():
        yield from consumer_edges(consumer)


def _view_edges(view: ViewVersion) -> Iterator[Edge]:
    node = Node("view", view.ref)
    for feature in view.features:
        yield Edge(node, Node("feature", feature.ref), "contains")
    if view.source is not None:
        yield Edge(Node("source", view.source.name), node, "feeds")
        yield from _source_edges(view.source)
        yield from _column_edges(view, view.source)
    for feature in view.features:
        yield from _input_edges(view, feature)


def _source_edges(source: Source) -> Iterator[Edge]:
    for table in source.tables:
        yield Edge(Node("source", table.name), Node("source", source.name), "feeds")
        yield from _source_edges(table)
    for origin in source.lineage:
        yield from _origin_edges(source, origin)


def _origin_edges(source: Source, origin: ColumnOrigin) -> Iterator[Edge]:
    made = Node("column", f"{source.name}.{origin.column}")
    yield Edge(Node("source", source.name), made, "contains")
    for kind, columns in (("derives", origin.direct), ("derives_indirect", origin.indirect)):
        for table, name in columns:
            column = Node("column", f"{table}.{name}")
            yield Edge(Node("source", table), column, "contains")
            yield Edge(column, made, kind)
    if origin.opaque:
        for table_source in source.tables:
            yield Edge(Node("source", table_source.name), made, "derives_opaque")


def _column_edges(view: ViewVersion, source: Source) -> Iterator[Edge]:
    choosing = (*view.join_keys, source.event_timestamp, source.created_timestamp)
    for feature in view.features:
        for column in feature.columns:
            yield from _column_edge(source, column, feature, "derives")
        for column in filter(None, choosing):
            yield from _column_edge(source, column, feature, "derives_indirect")
        for column in feature.deciding:
            yield from _column_edge(source, column, feature, "derives_indirect")


def _column_edge(source: Source, column: str, feature: Feature, kind: str) -> Iterator[Edge]:
    node = Node("column", f"{source.name}.{column}")
    yield Edge(Node("source", source.name), node, "contains")
    yield Edge(node, Node("feature", feature.ref), kind)


def _input_edges(view: ViewVersion, feature: Feature) -> Iterator[Edge]:
    """Yield what an on-demand feature is computed from, and what only decides it.

    Where no tree of its expression is kept, each input whose name its text says: too much rather than too little, and all of them
    where there is no text either.
    """
    target = Node("feature", feature.ref)
    named = _names_in(feature.expression or "")
    inputs = {ref.partition(":")[2]: Node("feature", ref) for ref in view.inputs}
    inputs |= {value: Node("request", f"{view.ref}.{value}") for value in view.request}
    for name, node in inputs.items():
        if feature.inputs is None:
            if not named or name.lower() in named:
                yield Edge(node, target, "derives")
            continue
        direct, deciding = feature.inputs
        if name in direct:
            yield Edge(node, target, "derives")
        if name in deciding:
            yield Edge(node, target, "derives_indirect")


def _names_in(sql: str) -> frozenset[str]:
    """Return every name in an expression in lower case, and the part after ``__`` of a name that says its view."""
    without_strings = re.sub(r"'(?:[^']|'')*'", " ", sql)
    names = {name.lower() for name in re.findall(r"[A-Za-z_]\w*(?!\w|\s*\()", without_strings)} - _KEYWORDS
    return frozenset(names | {name.rpartition("__")[2] for name in names if "__" in name})


def _service_edges(service: Service) -> Iterator[Edge]:
    for ref in service.features:
        yield Edge(Node("feature", without_alias(ref)), Node("service", service.name), "selects")


def consumer_edges(consumer: Consumer) -> Iterator[Edge]:
    """Yield every edge of a manifest."""
    node = Node("consumer", consumer.key)
    for ref in sorted(consumer.features):
        yield Edge(Node("feature", ref), node, "reads_declared")
    for service in consumer.services:
        yield Edge(Node("service", service), node, "serves")
    if consumer.dataset:
        yield Edge(Node("dataset", consumer.dataset), node, "trains_on")
    for view in consumer.writes:
        yield Edge(node, Node("view", view), "produces")
