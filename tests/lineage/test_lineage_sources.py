"""Lineage knows of a source what the registry keeps: the SQL, whose SQL it is, and the columns of its tables."""

from pathlib import Path

import msgspec

from featurestore.definitions import CSVSource, Entity, Feature, FeatureView, PostgresSource, SQLSource
from featurestore.registry.plan import plan_changes
from featurestore.registry.snapshot import Document, RegistrySnapshot
from lineage.registry import Commit, parse_snapshot

FOUND = {"a": (("origin", "string"), ("at", "timestamp")), "b": (("origin", "string"),), "c": (("high", "float64"),)}


def test_the_sql_its_dialect_and_the_columns_of_its_tables():
    tables = {
        "a": "a.parquet",
        "b": CSVSource("lookup", "b.csv"),
        "c": PostgresSource("stock", "w", query="SELECT 1 AS high"),
    }
    source = SQLSource("all", "SELECT a.origin, a.at, high AS temp FROM a, b, c", tables, "at")
    view = FeatureView("weather", Entity("origin", {"origin": "string"}), source, [Feature("temp", "float64")])
    found = (("origin", "string"), ("at", "timestamp"), ("temp", "float64"))
    plan = plan_changes(
        RegistrySnapshot(Document(project="p")),
        [view],
        check_source=lambda _, record: msgspec.structs.replace(record.source, columns=found, table_columns=FOUND),
        is_filled=lambda _: False,
    )
    commit = Commit(1, 1, RegistrySnapshot(plan.document).to_json(), None)
    known = parse_snapshot(commit, Path("registry.db")).views["weather@v1"].source
    assert (known.query, known.dialect, known.columns) == (source.query, "duckdb", found)
    assert dict(zip(known.aliases, (table.columns for table in known.tables), strict=True)) == FOUND
    assert [(t.name, t.kind, t.query, t.dialect) for t in known.tables] == [
        ("a.parquet", "parquet", None, None),
        ("lookup", "csv", None, None),
        ("stock", "postgres", "SELECT 1 AS high", "postgres"),
    ]
