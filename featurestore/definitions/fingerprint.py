"""The hash of a feature's meaning: what must change its version, and what must not.

Meaning: entity keys, source identity, query or expression, dtype, unit, time columns, ttl, window. Not meaning: owner, tags, description,
access mode, schedule, and where files lie. MEANING is the one table of what counts; a change of it is a new FINGERPRINT_VERSION.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

FINGERPRINT_VERSION = 1

MEANING: dict[str, tuple[str, ...]] = {
    "view": ("join_keys", "ttl", "event_key", "backfilled_until"),
    "source": ("kind", "name", "query", "event_timestamp", "created_timestamp"),
    "feature": ("name", "dtype", "unit", "column", "aggregation"),
    "on_demand": ("tree", "columns"),
}
# What counts only where it is set: it came later, and the fingerprints from before stay what they were.
MEANING_IF_SET: dict[str, tuple[str, ...]] = {"source": ("nulls",), "table": ("kind", "name", "query", "nulls")}


def stored_fingerprint(view: Mapping[str, Any], source: Mapping[str, Any], feature: Mapping[str, Any]) -> str:
    """Return the fingerprint of a feature of a stored view: 32 hexadecimal digits.

    Args:
        view: Neutral form of the view; only the fields in MEANING count.
        source: Neutral form of its source; a table of it counts where it is a source, and not where it is a path.
        feature: Neutral form of the feature.

    >>> a = stored_fingerprint({"ttl": 1}, {"name": "w"}, {"name": "temp", "unit": "degF", "description": "as seen"})
    >>> a == stored_fingerprint({"ttl": 1}, {"name": "w"}, {"name": "temp", "unit": "degF", "description": "reworded"})
    True
    >>> a == stored_fingerprint({"ttl": 2}, {"name": "w"}, {"name": "temp", "unit": "degF"})
    False
    """
    parts = {"view": view, "source": source, "feature": feature}
    meaning = {part: {name: value.get(name) for name in MEANING[part]} for part, value in parts.items()}
    return _digest(meaning | {"source": source_meaning(source)})


def source_meaning(source: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a source is meaning.

    Args:
        source: Its neutral form.

    >>> lookup = {"kind": "csv", "name": "airports", "path": "a.csv", "nulls": ["NA"]}
    >>> source_meaning({"kind": "sql", "name": "s", "tables": {"raw": "raw.parquet", "airports": lookup}})["tables"]
    {'airports': {'kind': 'csv', 'name': 'airports', 'nulls': ['NA']}}
    """
    return {name: source.get(name) for name in MEANING["source"]} | _if_set("source", source)


def _if_set(part: str, source: Mapping[str, Any]) -> dict[str, Any]:
    """Return what counts only where it is set, of a source or of a table of one."""
    own = {name: source[name] for name in MEANING_IF_SET[part] if source.get(name) is not None}
    tables = source.get("tables")
    named = tables.items() if isinstance(tables, Mapping) else ()
    meanings = {name: _if_set("table", table) for name, table in named if isinstance(table, Mapping)}
    return own | ({"tables": meanings} if meanings else {})


def on_demand_fingerprint(feature: Mapping[str, Any], tree: Any, columns: Mapping[str, str]) -> str:
    """Return the fingerprint of an on-demand feature: its expression, its type and unit, and what its columns mean.

    Args:
        feature: Neutral form of the feature.
        tree: The parsed expression.
        columns: Name in the expression -> fingerprint of the input feature, or type of the request column.
    """
    own = {name: feature.get(name) for name in ("name", "dtype", "unit")}
    return _digest({"feature": own, "on_demand": {"tree": tree, "columns": dict(columns)}})


def _digest(meaning: Mapping[str, Any]) -> str:
    text = json.dumps({"version": FINGERPRINT_VERSION, **meaning}, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()[:32]
