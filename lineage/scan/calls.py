"""What a call reads: the calls of our store and of Feast, of their servers, and of the usual readers of tables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lineage.scan.values import Constant, Entries, Foreign, Items, Service, Text, Value, joined

_FEATURES: Mapping[str, tuple[int, tuple[str, ...]]] = {
    "get_online_features": (0, ("features", "feature_refs", "feature_service")),
    "get_online_features_async": (0, ("features", "feature_refs", "feature_service")),
    "stream_online_features": (0, ("features",)),
    "get_historical_features": (1, ("features", "feature_refs", "feature_service")),
    "stream_historical_features": (1, ("features",)),
    "retrieve_online_documents": (9, ("features", "feature")),
    "retrieve_online_documents_v2": (0, ("features",)),
}
_TABLES: Mapping[str, tuple[str, ...]] = {
    "read_parquet": ("path", "source"),
    "scan_parquet": ("source",),
    "read_csv": ("filepath_or_buffer", "source", "path_or_buffer"),
    "scan_csv": ("source",),
    "read_table": ("source", "name"),
    "read_delta": ("source",),
    "scan_delta": ("source",),
    "read_sql_table": ("table_name",),
    "DeltaTable": ("table_uri",),
    "ParquetFile": ("source",),
    "ParquetDataset": ("path_or_paths",),
}
_STATEMENTS = frozenset({"read_sql", "read_sql_query", "read_database", "read_database_uri", "sql", "execute", "query"})
_STATEMENT_NAMES = ("sql", "query", "statement", "operation")
_SPARK_READ = re.compile(
    r"(^|\.)read(\.\w+\(\))*\.(parquet|csv|json|orc|table|load|delta)$|(^|[._])spark(\(\))?\.table$"
)
_POSTS = frozenset({"post", "request", "urlopen", "Request", "fetch", "put", "urlretrieve"})
_ROUTES = ("get-online-features", "get-historical-features")
_BODIES = ("json", "data", "content", "body")
_STORES = frozenset({"FeatureStore", "Client", "AsyncClient"})
SQL = re.compile(
    r"\s*(--[^\n]*\n\s*|/\*.*?\*/\s*)*\(?\s*(with|select|insert|create|merge|from|copy)\b", re.IGNORECASE | re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of a call.

    Attributes:
        complete: Whether there are no others: no ``*args`` or ``**options`` that is not known.
    """

    positional: list[Value]
    named: dict[str, Value]
    complete: bool = True

    def find(self, position: int, names: tuple[str, ...]) -> Value | None:
        """Return an argument by its names or its position; None when it is not given."""
        for name in names:
            if name in self.named:
                return self.named[name]
        if position < len(self.positional):
            return self.positional[position]
        return None if self.complete else (Foreign("**"),)


@dataclass(frozen=True, slots=True)
class Read:
    """What one call reads.

    Attributes:
        call: The name of what reads.
        kind: ``feature`` (or a service), ``service``, ``table``, or ``sql`` for a statement.
        consumer: The consumer that the call names; empty when it does not.
    """

    call: str
    kind: str
    value: Value
    consumer: str = ""


def reads_of(target: Foreign, arguments: Arguments) -> Iterator[Read]:
    """Yield what a call of something outside the repository reads.

    Args:
        target: What is called.
        arguments: With what.
    """
    name = target.path.rpartition(".")[2]
    if name in _FEATURES:
        yield from _features(name, target, arguments)
    elif name == "get_feature_service" and (service := arguments.find(0, ("name",))):
        yield Read(name, "service", service, target.consumer)
    elif (name in _TABLES and (value := arguments.find(0, _TABLES[name]))) or (
        _SPARK_READ.search(target.path) and (value := arguments.find(0, ("path", "tableName")))
    ):
        yield Read(name, "table", value, target.consumer)
    elif name in _STATEMENTS:
        yield from _statements(name, target, arguments)
    elif name in _POSTS:
        yield from _posts(name, arguments)


def _features(name: str, target: Foreign, arguments: Arguments) -> Iterator[Read]:
    position, names = _FEATURES[name]
    value = arguments.find(position, names)
    if value is not None:
        yield Read(name, "feature", value, target.consumer)
    spine = arguments.find(0, ("entity_df", "spine")) if name == "get_historical_features" else None
    if statements := tuple(atom for atom in spine or () if isinstance(atom, Text) and SQL.match(atom.text)):
        yield Read(name, "sql", statements, target.consumer)


def _statements(name: str, target: Foreign, arguments: Arguments) -> Iterator[Read]:
    value = arguments.find(0, _STATEMENT_NAMES)
    certain = name.startswith("read_") or (
        name == "sql" and target.path.partition(".")[0] in ("duckdb", "spark", "polars")
    )
    statements = tuple(
        atom
        for atom in value or ()
        if (SQL.match(atom.text) if isinstance(atom, Text) else certain and isinstance(atom, Foreign))
    )
    if statements:
        yield Read(name, "sql", statements, target.consumer)


def _posts(name: str, arguments: Arguments) -> Iterator[Read]:
    given = [*arguments.positional, *(v for key, v in arguments.named.items() if key in ("url", "path"))]
    texts = [atom.text for value in given for atom in value if isinstance(atom, Text)]
    if not any(route in text for route in _ROUTES for text in texts):
        return
    consumer = _consumer_of(arguments.named.get("headers", ()))
    body = next((arguments.named[key] for key in _BODIES if key in arguments.named), None)
    if body is None:
        body = next((v for v in given if any(isinstance(a, Entries) for a in v)), (Foreign("body"),))
    for atom in body:
        yield Read(name, "feature", _asked_for(atom if not isinstance(atom, Text) else _parsed(atom)), consumer)


def _asked_for(body: object) -> Value:
    if not isinstance(body, Entries):
        return (body if isinstance(body, Foreign) else Foreign("body"),)
    found = [body.entries[key] for key in ("features", "feature_service", "feature_refs") if key in body.entries]
    return joined(*found) if found else (Foreign("body"),) if not body.complete else ()


def _parsed(text: Text) -> Entries | Foreign:
    try:
        document = json.loads(text.text) if text.known else None
    except json.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        return Foreign("body", root=next((leaf for leaf in text.leaves if isinstance(leaf, Foreign)), None))
    return Entries({key: _value(value, text) for key, value in document.items()})


def _value(document: object, text: Text) -> Value:
    if isinstance(document, str):
        return (Text(document, text.file, text.at, text.made_of),)
    if isinstance(document, list):
        return (Items([_value(item, text) for item in document]),)
    return (Constant(None),) if document is None else (Foreign("json"),)


def result_of(target: Foreign, arguments: Arguments) -> Value:
    """Return what a call of something outside the repository gives, where that is known; else something unknown."""
    name = target.path.rpartition(".")[2]
    result = target.then("()")
    if name in _STORES:
        consumer = arguments.named.get("consumer", ())
        known = consumer[0].text if len(consumer) == 1 and isinstance(consumer[0], Text) and consumer[0].known else ""
        return (Foreign(result.path, result.causes, known, result.root),)
    if name in ("get_feature_service", "FeatureService"):
        names = [atom for atom in arguments.find(0, ("name",)) or () if isinstance(atom, Text) and atom.known]
        return tuple(Service(text, name == "get_feature_service") for text in names) or (result,)
    return (result,)


def _consumer_of(headers: Value) -> str:
    for atom in headers:
        if isinstance(atom, Entries):
            for key, value in atom.entries.items():
                if isinstance(key, str) and key.lower() == "featurestore-consumer":
                    return next((a.text for a in value if isinstance(a, Text) and a.known), "")
    return ""
