"""The names that configuration files give: YAML, TOML and JSON."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lineage.scan.calls import SQL

_REF = re.compile(r"(?:\w+=)?[A-Za-z_]\w*(?:@v\d+)?:[A-Za-z_]\w*")
_TEMPLATE = re.compile(r"\$\{[^}]*\}|\{\{.*?\}\}|\$[A-Z_]+|%\(\w+\)s")
_TABLE = re.compile(r"\S+\.(parquet|csv|delta|orc|avro)(/\S*)?$|(s3|gs|abfss?|hdfs|file)://\S+$")
_FEATURES = re.compile(r"(^|_)features?(_refs?|_names?|_list|s)?$|^feature_refs?$")
_SERVICES = re.compile(r"(^|_)feature_services?(_name)?$")
_TABLES = re.compile(r"(^|_)(table|path|uri|source|file|data|dataset)s?$")
_STATEMENTS = re.compile(r"(^|_)(sql|query|statement)$")


@dataclass(frozen=True, slots=True)
class Setting:
    """A name that a configuration file gives.

    Attributes:
        kind: ``feature``, ``service``, ``table`` or ``sql``.
        known: Whether no part of it is a placeholder.
        offset: Where in the text it stands, from 0.
    """

    kind: str
    text: str
    known: bool
    offset: int


def settings_in(name: str, text: str) -> Iterator[Setting]:
    """Yield the features, services and tables that a configuration file names.

    Args:
        name: The name of the file: its ending says its form.
        text: Its content.

    Raises:
        ValueError: It is not in its form, or PyYAML is missing.
    """
    cursor = 0
    for document in _documents(name, text):
        for key, value in _leaves(document, ""):
            found = text.find(value, cursor)
            cursor = found + len(value) if found >= 0 else cursor
            kind = _kind(key, value)
            if kind:
                yield Setting(kind, value, not _TEMPLATE.search(value), max(found, 0))


def _documents(name: str, text: str) -> list[Any]:
    if name.endswith(".toml"):
        return [tomllib.loads(text)]
    if name.endswith(".json"):
        return [json.loads(text)]
    try:
        import yaml
    except ImportError:
        raise ValueError("PyYAML is not installed") from None
    try:
        return list(yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from None


def _leaves(document: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield every text with the key that it stands under."""
    if isinstance(document, dict):
        for inner, value in document.items():
            yield from _leaves(value, str(inner))
    elif isinstance(document, list):
        for value in document:
            yield from _leaves(value, key)
    elif isinstance(document, str):
        yield key, document


def _kind(key: str, value: str) -> str | None:
    plain = key.lower().replace("-", "_")
    shape = _TEMPLATE.sub("x", value)
    if _SERVICES.search(plain) and re.fullmatch(r"[\w.@-]+", shape):
        return "service"
    if _FEATURES.search(plain) and _REF.fullmatch(shape):
        return "feature"
    if _STATEMENTS.search(plain) and SQL.match(value):
        return "sql"
    if _TABLES.search(plain) and _TABLE.match(shape):
        return "table"
    return None
