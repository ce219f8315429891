"""The graph in time and at size: equal to networkx and to SQL, whatever the order of events, and from its file as from memory."""

import sqlite3

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.lineage_scale import layered_graph
from lineage.graph import EVER, Edge, EdgeEvent, Graph, Moment, Node, NodeTable, load_graph, rows, save_graph, spans_of
from lineage.imported import put_manifests
from lineage.registry import Consumer

DAY = 86_400_000_000


def node(number):
    return Node("view", f"v{number:02}")


@st.composite
def edge_events(draw, size=6):
    number = st.integers(0, size - 1)
    edges = st.tuples(number, number, st.sampled_from(["feeds", "derives"]))
    drawn = draw(st.lists(st.tuples(edges, st.integers(0, 9), st.integers(0, 9), st.booleans()), max_size=25))
    return [EdgeEvent(Edge(node(a), node(b), kind), at, learnt, holds) for (a, b, kind), at, learnt, holds in drawn]


def believed(events, at, known_at):
    """The definition: of what was learnt by then, the newest said of each edge up to an instant."""
    newest = {}
    for event in sorted(events, key=lambda e: (e.at, e.learnt_at, e.holds)):
        if event.learnt_at <= known_at and event.at <= at:
            newest[event.edge] = event
    return {edge for edge, event in newest.items() if event.holds}


@settings(max_examples=100, deadline=None)
@given(edge_events(), st.integers(0, 10), st.integers(0, 10))
def test_what_held_is_what_was_told_and_known_by_then(events, at, known_at):
    held = {edge for edge, span in spans_of(events) if span.holds(at, known_at=known_at)}
    assert held == believed(events, at, known_at)
    assert set(Graph.told(events).at(Moment(at, known_at)).edges) == held


@settings(max_examples=100, deadline=None)
@given(edge_events(), st.randoms())
def test_late_repeated_and_shuffled_events_give_one_history(events, random):
    shuffled = [*events, *random.sample(events, len(events) // 2)]
    random.shuffle(shuffled)
    assert list(spans_of(shuffled)) == list(spans_of(events))


@settings(max_examples=60, deadline=None)
@given(edge_events(), st.integers(0, 10), st.integers(0, 5), st.booleans(), st.data())
def test_closures_cycles_and_changes_at_a_moment_are_those_of_networkx(
    tmp_path_factory, events, at, start, large, data
):
    """In memory, from the file, and by both walks: the plain one and the one for large graphs."""
    built = Graph.told(events, [node(number) for number in range(6)])
    path = tmp_path_factory.mktemp("graph") / "lineage.graph"
    assert save_graph(path, built, "k")
    graph = load_graph(path, "k")
    oracle = nx.MultiDiGraph()
    oracle.add_nodes_from(built.nodes)
    oracle.add_edges_from((e.upstream, e.downstream) for e in believed(events, at, EVER))
    moment = Moment(at)
    with pytest.MonkeyPatch.context() as patch:
        if large:
            patch.setattr("lineage.graph.rows.LARGE", 0)
            patch.setattr("lineage.graph.components.LARGE", 0)
            patch.setattr("lineage.graph.graph.LARGE", 0)
        begin = node(start)
        lengths = dict(nx.single_source_shortest_path_length(oracle, begin))
        for each in (built, graph):
            assert {begin: 0, **each.downstream([begin], moment=moment).distances} == lengths
            assert set(each.upstream([begin], moment=moment).nodes) == nx.ancestors(oracle, begin)
            cyclic = {
                frozenset(c)
                for c in nx.strongly_connected_components(oracle)
                if len(c) > 1 or oracle.has_edge(*(list(c) * 2))
            }
            assert {frozenset(c) for c in each.components(moment=moment)} == cyclic
            end = node(data.draw(st.integers(0, 5)))
            way = each.path([begin], [end], moment=moment)
            assert (None if way is None else len(way)) == lengths.get(end)
            later = believed(events, at + 1, EVER)
            came, went = each.changes(moment, Moment(at + 1))
            now = believed(events, at, EVER)
            assert (set(came), set(went)) == (later - now, now - later)


def test_a_large_graph_answers_like_networkx_and_recursive_sql():
    graph = layered_graph(3_000, 40_000, seed=5, in_time=False)
    assert graph.edge_count >= rows.LARGE
    oracle = nx.DiGraph(graph.to_networkx())
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE edge (up TEXT, down TEXT)")
    database.executemany("INSERT INTO edge VALUES (?, ?)", [(e.upstream.name, e.downstream.name) for e in graph.edges])
    database.execute("CREATE INDEX by_up ON edge (up)")
    recursive = """WITH RECURSIVE reached(name) AS
                   (SELECT down FROM edge WHERE up = ? UNION SELECT down FROM edge JOIN reached ON up = name)
                   SELECT name FROM reached WHERE name != ?"""
    for start in [graph.nodes[place] for place in range(0, 3_000, 300)]:
        found = set(graph.downstream([start]).nodes)
        assert found == nx.descendants(oracle, start)
        assert {n.name for n in found} == {name for (name,) in database.execute(recursive, (start.name, start.name))}
    components = {frozenset(c) for c in nx.strongly_connected_components(oracle) if len(c) > 1}
    assert {frozenset(c) for c in graph.components() if len(c) > 1} == components
    assert components


def test_a_graph_of_many_small_cycles_and_what_lies_between_them():
    """What is peeled, what is cut out by walks and what is left to Tarjan, together."""
    size = 9_000
    edges = [(number, number + 1) for number in range(size)] + [(3 * n + 1, 3 * n) for n in range(size // 3)]
    edges += [(number, number + 2) for number in range(size - 1)] + [(n, n + 3) for n in range(size - 2)]
    ends = np.array(sorted(set(edges)))
    table = NodeTable.of(Node("column", f"n{number:05}") for number in range(size + 1))
    down = rows.Rows(np.searchsorted(ends[:, 0], np.arange(size + 2)), ends[:, 1].astype(np.int32), None, None)
    graph = Graph.of_rows(table, down, down, np.zeros(len(ends), np.uint8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lineage.graph.components.LARGE", 0)
        found = {frozenset(table.find(n) for n in component) for component in graph.components()}
    oracle = nx.strongly_connected_components(nx.DiGraph(edges))
    assert found == {frozenset(c) for c in oracle if len(c) > 1}
    assert len(found) == size // 3


def test_names_of_every_script_are_found_and_listed_in_order():
    nodes = [Node("column", name) for name in ("ä.b", "a.b", "日.本", "a.ab", "𝄞")] + [Node("view", "a")]
    table = NodeTable.of(nodes)
    assert list(table) == sorted(nodes)
    assert [table.find(n) for n in table] == list(range(len(nodes)))
    assert list(table.starting("column", "a.")) == [Node("column", "a.ab"), Node("column", "a.b")]
    assert table.find(Node("column", "a")) is None
    assert table[-1] == Node("view", "a")


@pytest.mark.parametrize("damage", ["other key", "cut off", "noise", "gone"])
def test_a_file_that_is_not_of_this_registry_is_built_again(tmp_path, damage):
    path = tmp_path / "lineage.graph"
    save_graph(path, Graph([], [Edge(node(0), node(1), "feeds")]), "one")
    assert load_graph(path, "one").downstream([node(0)]).nodes == (node(1),)
    match damage:
        case "cut off":
            path.write_bytes(path.read_bytes()[:-8])
        case "noise":
            path.write_bytes(b"\0" * 100)
        case "gone":
            path.unlink()
    assert load_graph(path, "two" if damage == "other key" else "one") is None


def test_a_folder_that_may_not_be_written_keeps_no_file(tmp_path):
    assert not save_graph(tmp_path / "nowhere" / "lineage.graph", Graph([], []), "k")


def test_what_an_apply_and_a_read_change_between_two_dates(project, document, ask):
    document["consumers"]["gate_board"]["reads"] = ["weather@v1:temp"]
    project.commit(document, revision=2, when=DAY * 20_570)
    project.read("plane@v1:seats", "", principal="bob", binding="undeclared", when=DAY * 20_580)
    came, went = ask.changes("2026-03-15", "2026-06-01")
    assert [str(edge) for edge in came] == [
        "weather@v1:temp -[reads_declared]-> gate_board",
        "plane@v1:seats -[reads_observed]-> principal:bob",
    ] or {str(edge) for edge in came} == {
        "weather@v1:temp -[reads_declared]-> gate_board",
        "plane@v1:seats -[reads_observed]-> principal:bob",
    }
    assert [str(edge) for edge in went] == ["delay_score@v1:score -[reads_declared]-> gate_board"]
    history = ask.timeline()
    assert Node("consumer", "gate_board") in history.downstream([Node("feature", "weather@v1:temp")]).nodes
    before = history.downstream([Node("feature", "weather@v1:temp")], depth=1, moment=Moment(DAY * 20_560))
    assert Node("consumer", "gate_board") not in before.nodes


def test_a_kept_graph_answers_like_the_registry_and_is_dropped_when_that_changes(project, ask, monkeypatch):
    monkeypatch.setattr("lineage.timeline.LARGE", 0)
    first = set(ask.graph().edges)
    assert project.path.with_name("lineage.graph").is_file()
    monkeypatch.setattr("lineage.project.graph_now", None)  # a second question needs the file alone
    assert set(ask.graph().edges) == first
    monkeypatch.undo()
    project.read("plane@v1:seats", "", principal="bob", binding="undeclared")
    assert "principal:bob" in map(str, ask.graph().nodes)


def test_a_kept_graph_is_dropped_when_a_manifest_of_another_tool_changes_and_nothing_else(project, ask, monkeypatch):
    monkeypatch.setattr("lineage.timeline.LARGE", 0)
    for ref in ("weather@v1:temp", "weather@v2:temp"):
        put_manifests(ask.records, [(Consumer("fresh@1", "model", "fresh", "1", reads=(ref,)), DAY)], origin="mlflow")
        assert "fresh@1" in {str(node) for node in ask.downstream(ref).nodes}
        assert any(ref in str(edge) and "fresh@1" in str(edge) for edge in ask.timeline().edges)


def test_a_kept_answer_on_declarations_is_that_of_all_commits(project, document, ask, monkeypatch):
    monkeypatch.setattr("lineage.state.KEPT_FROM", 1)
    for revision in range(2, 9):
        reads = ["weather@v1:temp", "weather@v1:humid", "plane@v1:seats"][: 1 + revision % 3]
        document["consumers"]["delay_model@1"]["reads"] = reads
        project.commit(document, revision=revision, when=DAY * (20_550 + revision))
        kept = ask.state().declared_since
        project.path.with_name("lineage.db").rename(project.path.with_name("moved"))
        assert ask.state().declared_since == kept
        project.path.with_name("moved").replace(project.path.with_name("lineage.db"))
    assert ask.state().declared_since["delay_model@1", "plane@v1:seats"] == DAY * 20_558
