"""Registries as real SQLite files, written by the published contract and by nothing of the store."""

import copy
import json
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

TABLES = """
CREATE TABLE commits (revision INTEGER PRIMARY KEY, committed_at INTEGER, principal TEXT, message TEXT, document TEXT);
CREATE TABLE changes (revision INTEGER, position INTEGER, kind TEXT, object TEXT, detail TEXT);
CREATE TABLE bindings (principal TEXT, consumer TEXT, created_at INTEGER);
CREATE TABLE tokens (name TEXT PRIMARY KEY, digest TEXT, principal TEXT, roles TEXT, created_at INTEGER, expires_at INTEGER,
                     revoked_at INTEGER);
CREATE TABLE usage_daily (day TEXT, view TEXT, version INTEGER, feature TEXT, principal TEXT, consumer TEXT, binding TEXT,
                          environment TEXT, mode TEXT, client TEXT, outcome TEXT, calls INTEGER, entity_rows INTEGER,
                          first_read INTEGER, last_read INTEGER,
                          PRIMARY KEY (day, view, version, feature, principal, consumer, binding, environment, mode, client,
                                       outcome));
CREATE TABLE usage_segments (worker TEXT, number INTEGER, environment TEXT, started_at INTEGER, ended_at INTEGER,
                             closed INTEGER, dropped INTEGER);
"""


def at(text: str) -> int:
    """Microseconds since 1970 UTC of an ISO time."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


NOW = at("2026-06-01T00:00:00")
DECLARED = at("2026-03-01T00:00:00")
READ = at("2026-05-20T10:00:00")


def feature(name, *, column=None, aggregation=None, sql=None):
    expression = {"sql": sql, "tree": None} if sql is not None else None
    return {
        "name": name,
        "dtype": "float64",
        "unit": "",
        "description": "",
        "fingerprint": f"fp-{name}",
        "available": True,
        "column": column if column or aggregation or expression else name,
        "aggregation": aggregation,
        "expression": expression,
        "same_as": None,
    }


def source(name, *, kind="parquet", tables=None):
    return {
        "kind": kind,
        "name": name,
        "path": f"data/{name}.parquet" if kind == "parquet" else None,
        "query": "SELECT 1" if kind == "sql" else None,
        "tables": tables or {},
        "event_timestamp": "event_timestamp",
        "created_timestamp": None,
    }


def version(*features, kind="batch", entity="origin", made_from=None, inputs=(), request=(), owner="ops@example.com"):
    return {
        "kind": kind,
        "status": "live",
        "entity": entity,
        "source": made_from,
        "features": list(features),
        "ttl": None,
        "event_key": [],
        "backfilled_until": None,
        "request": [list(pair) for pair in request],
        "inputs": list(inputs),
        "access": "observe",
        "owner": owner,
        "description": "",
        "tags": {},
        "schedule": "",
        "created_revision": 1,
    }


def consumer(key, *, reads=(), kind="model", **fields):
    name, _, number = key.partition("@")
    document = {
        "kind": kind,
        "name": name,
        "version": number or None,
        "reads": list(reads),
        "services": [],
        "writes": [],
    }
    document |= {
        "dataset": None,
        "label": "",
        "metrics": {},
        "environment": "",
        "cadence_days": None,
        "expires_at": None,
    }
    return {key: document | {"owner": "ml@example.com", "description": "", "tags": {}} | fields}


def flights() -> dict:
    """Return the document of a project: two views of weather, planes, a computed view, predictions, three consumers."""
    weather = source("weather")
    reads = ["weather@v1:temp", "weather@v1:humid", "plane@v1:seats"]
    return {
        "schema_version": 1,
        "project": "flights",
        "revision": 1,
        "committed_at": DECLARED,
        "entities": {
            "origin": {"join_keys": [["origin", "string"]], "description": "", "owner": "", "tags": {}},
            "plane": {"join_keys": [["tailnum", "string"]], "description": "", "owner": "", "tags": {}},
        },
        "views": {
            "weather": {
                "current": 2,
                "versions": {
                    "1": version(feature("temp"), feature("humid"), made_from=weather),
                    "2": version(feature("temp", column="temp_c"), feature("humid"), made_from=weather),
                },
            },
            "plane": {
                "current": 1,
                "versions": {
                    "1": version(
                        feature("seats"), entity="plane", made_from=source("planes"), owner="fleet@example.com"
                    )
                },
            },
            "comfort": {
                "current": 1,
                "versions": {
                    "1": version(
                        feature("heat", sql="temp * 2 + distance"),
                        feature("damp", sql="humid"),
                        kind="on_demand",
                        entity=None,
                        inputs=["weather@v1:temp", "weather@v1:humid"],
                        request=[("distance", "float64")],
                    )
                },
            },
            "delay_score": {
                "current": 1,
                "versions": {
                    "1": version(feature("score"), made_from=source("delay_score", kind="push"), owner="ml@example.com")
                },
            },
        },
        "services": {
            "delay_model": {"features": reads, "aliases": {}, "owner": "", "description": "", "tags": {}},
        },
        "consumers": {
            **consumer(
                "delay_model@1",
                reads=reads,
                services=["delay_model"],
                writes=["delay_score@v1"],
                dataset="delay_training",
                label="late",
                metrics={"roc_auc": 0.71},
            ),
            **consumer("gate_board", reads=["delay_score@v1:score"], kind="dashboard", owner="gates@example.com"),
        },
        "datasets": {
            "delay_training": {
                "refs": reads,
                "rows": 1000,
                "saved_at": DECLARED,
                "consumer": "delay_model@1",
                "digest": "ab12",
            }
        },
    }


class RegistryFile:
    """A project folder whose registry is written row by row."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "store" / "registry.db"
        self.path.parent.mkdir(parents=True)
        (folder / "featurestore.toml").write_text("")
        self._run(TABLES)

    def _run(self, script):
        connection = sqlite3.connect(self.path)
        connection.executescript(script)
        connection.close()

    def insert(self, table, *row):
        connection = sqlite3.connect(self.path)
        connection.execute(f"INSERT INTO {table} VALUES ({','.join('?' * len(row))})", row)
        connection.commit()
        connection.close()

    def commit(self, document, *, when=DECLARED, revision=1):
        text = (
            document
            if isinstance(document, str)
            else json.dumps(document | {"revision": revision, "committed_at": when})
        )
        self.insert("commits", revision, when, "alice", "apply", text)

    def bind(self, principal, name, *, when=DECLARED):
        self.insert("bindings", principal, name, when)

    def read(
        self,
        ref,
        reader="delay_model@1",
        *,
        principal="svc",
        binding="bound",
        environment="prod",
        mode="online",
        client="host-a",
        outcome="ok",
        calls=10,
        when=READ,
    ):
        view, _, name = ref.partition(":")
        view_name, _, number = view.partition("@v")
        day = datetime.fromtimestamp(when / 1_000_000, UTC).strftime("%Y-%m-%d")
        key = (day, view_name, int(number), name, principal, reader, binding, environment, mode, client, outcome)
        self.insert("usage_daily", *key, calls, calls * 5, when - 1_000_000, when)

    def segment(
        self, worker="w1", number=0, *, start="2026-01-01", end="2026-05-31", closed=1, dropped=0, environment="prod"
    ):
        self.insert("usage_segments", worker, number, environment, at(start), at(end), closed, dropped)


@pytest.fixture
def registry(tmp_path) -> RegistryFile:
    """An empty registry in a project folder."""
    return RegistryFile(tmp_path / "project")


@pytest.fixture
def project(registry) -> RegistryFile:
    """The flights project, applied once, with one worker that reported everything."""
    registry.commit(flights())
    registry.segment()
    return registry


@pytest.fixture
def document() -> dict:
    """The flights document, to be changed freely."""
    return copy.deepcopy(flights())


@pytest.fixture
def ask(registry):
    """Ask the project at a fixed moment, 2026-06-01."""
    from lineage import Lineage

    return Lineage(registry.folder, clock=lambda: NOW)
