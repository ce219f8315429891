"""The lineage of a project as OpenLineage events: datasets with schema, owner and column lineage, jobs, and runs.

A source, a view version and a saved dataset is a dataset; what fills a view, what makes a dataset and what a manifest declares is a job;
what was seen to be read is a run of the reader's job, one for each reader, environment and mode: never one for each request. What the
standard has no word for stands in a facet of ours, ``featurestore_lineage``, so that reading the events back gives the same graph.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cached_property
from itertools import groupby
from typing import Any

from lineage.graph import Edge, Node, observed_edges
from lineage.openlineage.names import EVENT, FACET, FACET_SCHEMA, PRODUCER, SPEC, dataset_name, field_node, namespace_of
from lineage.registry import Source, ViewVersion, view_of, without_alias
from lineage.state import State
from lineage.usage import Reads

Event = dict[str, Any]

_TRANSFORMATIONS = {"derives": "DIRECT", "derives_indirect": "INDIRECT"}


def events_of(state: State) -> Iterator[Event]:
    """Yield the events that tell all that is known: datasets first, then jobs, then what was seen to be read.

    Args:
        state: The registry and the usage.
    """
    project = _Project(state)
    yield from project.datasets()
    yield from project.jobs()
    yield from project.runs()


class _Project:
    """Writes the events of one state."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.namespace = namespace_of(state.snapshot.project)
        self.time = _time(state.snapshot.committed_at)

    @cached_property
    def into(self) -> Mapping[Node, tuple[Edge, ...]]:
        """Object -> the edges that end at it."""
        ordered = sorted(self.state.graph.edges, key=lambda edge: edge.downstream)
        return {node: tuple(edges) for node, edges in groupby(ordered, key=lambda edge: edge.downstream)}

    def datasets(self) -> Iterator[Event]:
        """Yield one event for each source, view version and saved dataset."""
        snapshot = self.state.snapshot
        for source in self._sources():
            yield self._dataset_event(Node("source", source.name), self._source_facets(source))
        for view in snapshot.views.values():
            yield self._dataset_event(Node("view", view.ref), self._view_facets(view))
        for dataset in snapshot.datasets.values():
            fields = [{"name": without_alias(ref)} for ref in dataset.refs]
            version = {"version": _facet("DatasetVersionDatasetFacet", "1-0-1", datasetVersion=dataset.digest)}
            facets = {"schema": _facet("SchemaDatasetFacet", "1-2-0", fields=fields)} | (
                version if dataset.digest else {}
            )
            yield self._dataset_event(Node("dataset", dataset.name), facets)

    def jobs(self) -> Iterator[Event]:
        """Yield one event for each view that is filled, each saved dataset and each manifest."""
        snapshot = self.state.snapshot
        for view in snapshot.views.values():
            inputs = [Node("source", view.source.name)] if view.source else _views(view.inputs)
            facets = self._sql(view.source)
            yield self._job_event(f"feed/{view.ref}", inputs, [Node("view", view.ref)], view.owner, facets)
        for dataset in snapshot.datasets.values():
            yield self._job_event(f"select/{dataset.name}", _views(dataset.refs), [Node("dataset", dataset.name)])
        for service in snapshot.services.values():
            node = Node("service", service.name)
            yield self._job_event(f"serve/{service.name}", _views(service.features), [], service.owner, about=node)
        for key, consumer in snapshot.consumers.items():
            inputs = [*_views(consumer.reads), *([Node("dataset", consumer.dataset)] if consumer.dataset else [])]
            outputs = [Node("view", ref) for ref in consumer.writes]
            node = Node("consumer", key)
            yield self._job_event(f"read/{node}", inputs, outputs, consumer.owner, about=node)
        for node in self.state.graph.nodes:
            if node.kind == "principal":
                yield self._job_event(f"read/{node}", [], [], about=node)

    def runs(self) -> Iterator[Event]:
        """Yield one event for each reader, environment and mode that was seen."""
        found: dict[tuple[Node, str, str], list[Reads]] = {}
        for reader, read in self.state.reads:
            if read.served:
                found.setdefault((reader.node, read.environment, read.mode), []).append(read)
        for (node, environment, mode), reads in sorted(found.items(), key=lambda item: item[0]):
            yield self._run_event(node, environment, mode, reads)

    def _run_event(self, reader: Node, environment: str, mode: str, reads: list[Reads]) -> Event:
        first, last = min(read.first_read for read in reads), max(read.last_read for read in reads)
        identity = f"{self.namespace}/read/{reader}/{environment}/{mode}/{first}/{last}"
        facets = {
            "nominalTime": _facet(
                "NominalTimeRunFacet", "1-0-1", nominalStartTime=_time(first), nominalEndTime=_time(last)
            ),
            FACET: _own(environment=environment, mode=mode, coverage=self._coverage),
        }
        inputs = []
        for view in _views(read.feature for read in reads):
            counts = {r.feature: _counts(r) for r in reads if view_of(r.feature) == view.name}
            inputs.append({**self._named(view), "inputFacets": {FACET: _own(features=counts)}})
        edges = list(observed_edges((read.feature, reader) for read in reads))
        job = {
            "namespace": self.namespace,
            "name": f"read/{reader}",
            "facets": {FACET: _own(object=_ids(reader), edges=_told(edges))},
        }
        return {
            "eventType": "COMPLETE",
            "eventTime": _time(last),
            "run": {"runId": str(uuid.uuid5(uuid.NAMESPACE_URL, identity)), "facets": facets},
            "job": job,
            "inputs": inputs,
            "outputs": [],
            **_signed("RunEvent"),
        }

    @cached_property
    def _coverage(self) -> str:
        return str(self.state.usage.coverage())

    def _dataset_event(self, node: Node, facets: dict[str, Any]) -> Event:
        return {
            "eventTime": self.time,
            "dataset": {**self._named(node), "facets": facets | self._lineage(node)},
            **_signed("DatasetEvent"),
        }

    def _job_event(
        self,
        name: str,
        inputs: Iterable[Node],
        outputs: Iterable[Node],
        owner: str = "",
        facets: Mapping[str, Any] | None = None,
        *,
        about: Node | None = None,
    ) -> Event:
        found = {**(facets or {}), **_ownership("Job", owner)}
        outputs = list(outputs)
        if about is not None:
            edges = [edge for edge in self.into.get(about, ()) if edge.kind != "reads_observed"]
            edges += [Edge(about, node, "produces") for node in outputs]
            found[FACET] = _own(object=_ids(about), edges=_told(edges))
        return {
            "eventTime": self.time,
            "job": {"namespace": self.namespace, "name": name, "facets": found},
            "inputs": [self._named(node) for node in inputs],
            "outputs": [self._named(node) for node in outputs],
            **_signed("JobEvent"),
        }

    def _source_facets(self, source: Source) -> dict[str, Any]:
        fields = [{"name": name, "type": dtype} for name, dtype in source.columns]
        facets = {"schema": _facet("SchemaDatasetFacet", "1-2-0", fields=fields)} if fields else {}
        if source.path:
            other = {"namespace": "file", "name": source.path, "type": "TABLE"}
            facets["symlinks"] = _facet("SymlinksDatasetFacet", "1-0-1", identifiers=[other])
        return facets

    def _view_facets(self, view: ViewVersion) -> dict[str, Any]:
        fields = [
            {"name": f.name, "type": f.dtype} | ({"description": f.description} if f.description else {})
            for f in view.features
        ]
        return {
            "schema": _facet("SchemaDatasetFacet", "1-2-0", fields=fields),
            "version": _facet("DatasetVersionDatasetFacet", "1-0-1", datasetVersion=f"v{view.version}"),
            **_ownership("Dataset", view.owner),
        }

    def _lineage(self, node: Node) -> dict[str, Any]:
        """Return the column lineage of a dataset, and in our own facet every edge that ends at it or at a field of it."""
        made = [node, *(edge.downstream for edge in self._edges_to_fields(node))]
        edges = [edge for end in dict.fromkeys(made) for edge in self.into.get(end, ()) if edge.kind != "produces"]
        fields: dict[str, list[dict[str, Any]]] = {}
        for edge in edges:
            if edge.kind in _TRANSFORMATIONS and (place := self._field(edge.upstream)) is not None:
                how = {"type": _TRANSFORMATIONS[edge.kind]}
                dataset, field = place
                entry = {**self._named(dataset), "field": field, "transformations": [how]}
                fields.setdefault(_field_name(node, edge.downstream), []).append(entry)
        facets = {FACET: _own(object=_ids(node), edges=_told(edges))}
        if fields:
            listed = {name: {"inputFields": found} for name, found in sorted(fields.items())}
            facets["columnLineage"] = _facet("ColumnLineageDatasetFacet", "1-2-0", fields=listed)
        return facets

    def _edges_to_fields(self, node: Node) -> tuple[Edge, ...]:
        return tuple(edge for edge in self.state.graph.out_of(node) if edge.kind == "contains")

    def _field(self, node: Node) -> tuple[Node, str] | None:
        """Return the dataset and the field that a node is; None for what a request brings."""
        if node.kind == "feature":
            view, _, name = node.name.partition(":")
            return Node("view", view), name
        owner = next((edge.upstream for edge in self.into.get(node, ()) if edge.kind == "contains"), None)
        return None if owner is None else (owner, _field_name(owner, node))

    def _sources(self) -> Iterator[Source]:
        found = [view.source for view in self.state.snapshot.views.values() if view.source]
        yield from {source.name: source for whole in found for source in whole.every()}.values()

    def _sql(self, source: Source | None) -> dict[str, Any]:
        if source is None or not source.query:
            return {}
        return {"sql": _facet("SQLJobFacet", "1-1-0", query=source.query, dialect=source.dialect or "duckdb")}

    def _named(self, node: Node) -> dict[str, Any]:
        return {"namespace": self.namespace, "name": dataset_name(node)}


def _field_name(dataset: Node, field: Node) -> str:
    """Return the name of a field in its dataset; a column may belong to a source whose name has dots."""
    whole = field_node(dataset, "").name
    return field.name.removeprefix(whole)


def _views(refs: Iterable[str]) -> list[Node]:
    return [Node("view", ref) for ref in dict.fromkeys(view_of(without_alias(ref)) for ref in refs)]


def _counts(read: Reads) -> dict[str, Any]:
    return {
        "calls": read.calls,
        "rows": read.entity_rows,
        "first": _time(read.first_read),
        "last": _time(read.last_read),
    }


def _ids(node: Node) -> list[str]:
    return [node.kind, node.name]


def _told(edges: Iterable[Edge]) -> list[list[Any]]:
    return [[_ids(edge.upstream), _ids(edge.downstream), edge.kind] for edge in dict.fromkeys(edges)]


def _ownership(kind: str, owner: str) -> dict[str, Any]:
    if not owner:
        return {}
    return {"ownership": _facet(f"Ownership{kind}Facet", "1-0-1", owners=[{"name": owner, "type": "MAINTAINER"}])}


def _facet(kind: str, version: str, **content: Any) -> dict[str, Any]:
    return {"_producer": PRODUCER, "_schemaURL": f"{SPEC}/facets/{version}/{kind}.json#/$defs/{kind}", **content}


def _own(**content: Any) -> dict[str, Any]:
    return {"_producer": PRODUCER, "_schemaURL": FACET_SCHEMA, **content}


def _signed(kind: str) -> dict[str, str]:
    return {"producer": PRODUCER, "schemaURL": f"{EVENT}/{kind}"}


def _time(micros: int) -> str:
    return datetime.fromtimestamp(micros / 1e6, UTC).isoformat(timespec="microseconds")
