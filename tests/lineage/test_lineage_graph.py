"""The graph: closures, paths, cycles, and what becomes a node and an edge."""

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineage import Edge, Graph, Node, NotFoundError


def view_document(*features, made_from):
    return {
        "kind": "batch",
        "status": "live",
        "entity": "origin",
        "source": made_from,
        "features": list(features),
        "ttl": None,
        "request": [],
        "inputs": [],
        "access": "observe",
        "owner": "",
    }


def source_document(name, *, kind="parquet", tables=None):
    return {"kind": kind, "name": name, "tables": tables or {}, "event_timestamp": "at", "created_timestamp": None}


def view(number: int) -> Node:
    return Node("view", f"v{number:03}")


@st.composite
def graphs(draw):
    size = draw(st.integers(1, 14))
    number = st.integers(0, size - 1)
    kinds = st.sampled_from(["feeds", "derives", "produces"])
    edges = draw(st.lists(st.tuples(number, number, kinds), max_size=40))
    return Graph(map(view, range(size)), [Edge(view(a), view(b), kind) for a, b, kind in edges])


@settings(max_examples=100, deadline=None)
@given(graphs(), st.data())
def test_closures_and_paths_are_those_of_networkx_cycles_included(graph, data):
    oracle = graph.to_networkx()
    start = data.draw(st.sampled_from(graph.nodes))
    end = data.draw(st.sampled_from(graph.nodes))
    assert set(graph.downstream([start]).nodes) == nx.descendants(oracle, start)
    assert set(graph.upstream([start]).nodes) == nx.ancestors(oracle, start)
    expected = nx.single_source_shortest_path_length(oracle, start)
    assert {start: 0, **graph.downstream([start]).distances} == dict(expected)
    path = graph.path([start], [end])
    assert (None if path is None else len(path)) == expected.get(end)
    for before, after in zip(path or (), (path or ())[1:], strict=False):
        assert before.downstream == after.upstream


@settings(max_examples=50, deadline=None)
@given(graphs(), st.integers(1, 4))
def test_depth_cuts_and_says_so(graph, depth):
    start = graph.nodes[0]
    whole, cut = graph.downstream([start]), graph.downstream([start], depth=depth)
    assert cut.distances == {node: d for node, d in whole.distances.items() if d <= depth}
    assert cut.truncated == (len(cut.nodes) < len(whole.nodes))
    assert not whole.truncated


def test_a_ladder_of_diamonds_is_walked_once_not_once_a_path():
    edges = []
    for rung in range(30):
        top, left, right, bottom = (Node("view", f"{rung:02}{part}") for part in ("a", "b", "c", "d"))
        edges += [Edge(top, side, "feeds") for side in (left, right)] + [
            Edge(side, bottom, "feeds") for side in (left, right)
        ]
        edges.append(Edge(bottom, Node("view", f"{rung + 1:02}a"), "feeds"))
    graph = Graph([], edges)
    assert len(graph.downstream([Node("view", "00a")]).nodes) == 30 * 4
    assert len(graph.path([Node("view", "00a")], [Node("view", "30a")])) == 90


def test_a_node_that_is_not_there_is_named_with_the_nearest():
    graph = Graph([Node("view", "weather@v1")], [])
    with pytest.raises(NotFoundError, match="Did you mean 'weather@v1'") as caught:
        graph.downstream([Node("view", "wether@v1")])
    assert caught.value.nearest == "weather@v1"


def test_parallel_edges_of_different_kinds_are_kept_and_repeated_ones_are_not():
    edge = Edge(view(0), view(1), "feeds")
    graph = Graph([], [edge, edge, Edge(view(0), view(1), "derives")])
    assert [e.kind for e in graph.edges] == ["feeds", "derives"]


def test_upstream_of_a_model_reaches_its_source_columns(project, ask):
    found = set(map(str, ask.upstream("delay_model@1").nodes))
    assert {"weather@v1:temp", "weather@v1", "source:weather", "column:weather.temp", "dataset:delay_training"} <= found
    assert "weather@v2" not in found
    assert "column:weather.temp_c" not in found


def test_downstream_of_a_column_is_only_what_is_made_of_it(project, ask):
    found = set(map(str, ask.downstream("column:weather.temp").nodes))
    assert {"weather@v1:temp", "comfort@v1:heat", "delay_model@1", "delay_score@v1:score", "gate_board"} <= found
    assert found.isdisjoint({"weather@v1:humid", "comfort@v1:damp", "weather@v2:temp"})


def test_key_and_time_columns_hit_every_feature_of_the_view(project, ask):
    found = set(map(str, ask.downstream("column:weather.event_timestamp", depth=1).nodes))
    assert found == {"weather@v1:temp", "weather@v1:humid", "weather@v2:temp", "weather@v2:humid"}


def test_request_values_are_upstream_of_what_names_them(project, ask):
    assert [str(n) for n in ask.downstream("request:comfort@v1.distance").nodes] == ["comfort@v1:heat"]


def test_an_expression_without_text_is_taken_to_use_every_input(registry, document, ask):
    document["views"]["comfort"]["versions"]["1"]["features"][1]["expression"] = {"sql": "", "tree": {}}
    registry.commit(document)
    assert {"weather@v1:temp", "weather@v1:humid"} <= set(map(str, ask.upstream("comfort@v1:damp", depth=1).nodes))


def test_the_columns_that_filters_of_windows_read_are_indirect(registry, document, ask):
    where = {"sql": "lower(carrier) = 'UA'", "tree": {}, "columns": [["carrier", "string"]]}
    aggregation = {"column": "minutes", "function": "mean", "time_window": 1, "n": None, "where": where}
    late = {"name": "late", "dtype": "float64", "column": None, "aggregation": aggregation, "expression": None}
    document["views"]["traffic"] = {
        "current": 1,
        "versions": {"1": view_document(late, made_from=source_document("flights"))},
    }
    registry.commit(document)
    kinds = {str(e.upstream): e.kind for e in ask.graph().edges if str(e.downstream) == "traffic@v1:late"}
    assert kinds["column:flights.minutes"] == "derives"
    assert kinds["column:flights.carrier"] == "derives_indirect"
    assert "column:flights.UA" not in kinds
    assert "column:flights.lower" not in kinds


def test_tables_of_a_sql_source_are_upstream_of_it(registry, document, ask):
    tables = {"w": source_document("weather"), "s": "stations"}
    joined = source_document("joined", kind="sql", tables=tables)
    n = {"name": "n", "dtype": "int64", "column": "n", "aggregation": None, "expression": None}
    document["views"]["seats"] = {"current": 1, "versions": {"1": view_document(n, made_from=joined)}}
    registry.commit(document)
    assert {"source:joined", "source:weather", "source:stations"} <= set(map(str, ask.upstream("seats@v1:n").nodes))


def test_a_fed_back_score_is_a_legal_cycle(registry, document, ask):
    document["consumers"]["delay_model@1"]["reads"].append("delay_score@v1:score")
    registry.commit(document)
    upstream, downstream = ask.upstream("delay_model@1").nodes, ask.downstream("delay_model@1").nodes
    assert Node("feature", "delay_score@v1:score") in upstream
    assert Node("feature", "delay_score@v1:score") in downstream


def test_observed_reads_are_edges_and_refused_ones_are_not(project, ask):
    project.read("weather@v2:temp", "", principal="bob", binding="undeclared")
    project.read("plane@v1:seats", "", principal="bob", binding="undeclared", outcome="refused")
    assert [str(n) for n in ask.upstream("principal:bob", depth=1).nodes] == ["weather@v2:temp"]


def test_of_two_shortest_ways_the_one_of_values_is_shown(project, ask):
    edges = [str(edge) for edge in ask.path("source:planes", "plane@v1:seats")]
    assert edges == [
        "source:planes -[contains]-> column:planes.seats",
        "column:planes.seats -[derives]-> plane@v1:seats",
    ]
    assert ask.path("plane@v1:seats", "source:planes") is None
    assert ask.path("plane@v1", "plane@v1") == ()
