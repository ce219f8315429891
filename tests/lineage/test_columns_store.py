"""From an apply to `lineage upstream`: the columns that a SQL source reads stand behind its features."""

import json
import subprocess
import sys
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import Entity, Feature, FeatureStore, FeatureView, ParquetSource, SQLSource
from lineage.graph import Node, build_graph
from lineage.registry import connect, parse_snapshot, read_commit

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
QUERY = """
    SELECT r.origin, r.at, (r.temp_f - 32) / 1.8 AS temp, CASE WHEN g.open THEN r.gust END AS gust
    FROM readings AS r JOIN gauges AS g USING (gauge) WHERE r.quality > 2"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "featurestore.toml").write_text('[project]\nname = "columns"\n')
    readings = {"origin": ["JFK"], "gauge": ["x"], "at": [NOON], "temp_f": [50.0], "gust": [3.0], "quality": [3]}
    pq.write_table(pa.table(readings), tmp_path / "readings.parquet")
    pq.write_table(pa.table({"gauge": ["x"], "open": [True]}), tmp_path / "gauges.parquet")
    return tmp_path


def weather(query):
    tables = {"readings": ParquetSource("readings", "readings.parquet", "at"), "gauges": "gauges.parquet"}
    features = [Feature("temp", "float64"), Feature("gust", "float64")]
    return FeatureView("weather", Entity("origin", {"origin": "string"}), SQLSource("w", query, tables, "at"), features)


def graph_of(project):
    path = project / "store" / "registry.db"
    with connect(path) as connection:
        return build_graph(parse_snapshot(read_commit(connection, path, None, now=0), path))


def kinds_into(graph, name):
    return {edge.upstream.name: edge.kind for edge in graph.edges if edge.downstream == Node("column", name)}


def test_an_apply_keeps_where_the_columns_of_a_query_come_from(project):
    with FeatureStore(project) as store:
        store.apply([weather(QUERY)])
        lineage = store.snapshot().document.views["weather"].versions[1].source.lineage
    assert lineage["temp"].direct == (("readings", "temp_f"),)
    assert lineage["gust"].indirect == (
        ("gauges", "gauge", "join"),
        ("gauges", "open", "conditional"),
        ("readings", "gauge", "join"),
        ("readings", "quality", "filter"),
    )
    assert {column.opaque for column in lineage.values()} == {None}


def test_the_graph_has_values_and_decisions_apart(project):
    with FeatureStore(project) as store:
        store.apply([weather(QUERY)])
    into = kinds_into(graph_of(project), "w.gust")
    assert {name: kind for name, kind in into.items() if kind != "contains"} == {
        "readings.gust": "derives",
        "gauges.parquet.open": "derives_indirect",
        "gauges.parquet.gauge": "derives_indirect",
        "readings.gauge": "derives_indirect",
        "readings.quality": "derives_indirect",
    }


def test_what_cannot_be_followed_says_so(project):
    with FeatureStore(project) as store:
        store.apply([weather("SELECT origin, readings.at, COLUMNS('temp_f') AS temp, gust FROM readings, gauges")])
    into = kinds_into(graph_of(project), "w.temp")
    assert into == {"w": "contains", "readings": "derives_opaque", "gauges.parquet": "derives_opaque"}


def test_applying_the_same_again_changes_nothing(project):
    with FeatureStore(project) as store:
        store.apply([weather(QUERY)])
        assert not store.plan([weather(QUERY)])


def test_upstream_of_a_feature_shows_source_columns_without_the_parser(project):
    with FeatureStore(project) as store:
        store.apply([weather(QUERY)])
    script = f"""
import sys
from lineage.cli import main
try:
    main(["upstream", "weather@v1:temp", "--project", {str(project)!r}, "--format", "json"])
except SystemExit:
    pass
assert "sqlglot" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    shown = json.dumps(json.loads(done.stdout))
    assert all(name in shown for name in ("readings.temp_f", "readings.quality", "gauges.parquet.gauge"))
    assert "readings.gust" not in shown
