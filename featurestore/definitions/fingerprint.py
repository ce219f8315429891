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


def stored_fingerprint(view: Mapping[str, Any], source: Mapping[str, Any], feature: Mapping[str, Any]) -> str:
    """Return the fingerprint of a feature of a stored view: 32 hexadecimal digits.

    Args:
        view: Neutral form of the view; only the fields in MEANING count.
        source: Neutral form of its source.
        feature: Neutral form of the feature.

    >>> a = stored_fingerprint({"ttl": 1}, {"name": "w"}, {"name": "temp", "unit": "degF", "description": "as seen"})
    >>> a == stored_fingerprint({"ttl": 1}, {"name": "w"}, {"name": "temp", "unit": "degF", "description": "reworded"})
    True
    >>> a == stored_fingerprint({"ttl": 2}, {"name": "w"}, {"name": "temp", "unit": "degF"})
    False
    """
    parts = {"view": view, "source": source, "feature": feature}
    return _digest({part: {name: value.get(name) for name in MEANING[part]} for part, value in parts.items()})


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
