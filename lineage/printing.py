"""Answers as a person reads them (aligned columns) and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import singledispatch
from typing import Any

from lineage.graph import Edge, Node
from lineage.usage import Coverage

SCHEMA_VERSION = 1


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return rows as aligned columns under their headers.

    >>> print(table(["FEATURE", "CALLS"], [["weather@v1:temp", 12]]))
    FEATURE          CALLS
    weather@v1:temp     12
    """
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
    numeric = [bool(rows) and all(isinstance(row[place], int) for row in rows) for place in range(len(headers))]
    lines = (
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in (list(headers), *cells)
    )
    return "\n".join(lines)


def document(
    command: str, payload: Mapping[str, Any], *, elapsed_ms: float, coverage: Coverage | None, truncated: bool
) -> str:
    """Return an answer as JSON text.

    Args:
        command: What was asked.
        payload: The answer; records and nodes are turned into JSON values.
        elapsed_ms: How long the answer took.
        coverage: Whether all reads were counted; None when the answer does not rest on usage.
        truncated: Whether a limit cut something off.
    """
    head = {
        "schema_version": SCHEMA_VERSION,
        "command": command,
        "elapsed_ms": round(elapsed_ms, 3),
        "truncated": truncated,
    }
    known = coverage_document(coverage) if coverage is not None else None
    return json.dumps({**head, "coverage": known, **as_json(dict(payload))}, indent=2, ensure_ascii=False)


def coverage_document(coverage: Coverage) -> dict[str, Any]:
    """Return a coverage as JSON values; instants are microseconds since 1970 UTC."""
    return {"complete": coverage.complete, **as_json(coverage)}


@singledispatch
def as_json(value: Any) -> Any:
    """Return a record as JSON values: a node is how it is written, an edge its two ends and its kind."""
    if is_dataclass(value):
        return {field.name: as_json(getattr(value, field.name)) for field in fields(value)}
    return value


@as_json.register
def _(value: Node) -> str:
    return str(value)


@as_json.register
def _(value: Edge) -> dict[str, str]:
    return {"upstream": str(value.upstream), "downstream": str(value.downstream), "kind": value.kind}


@as_json.register(dict)
def _(value: dict[str, Any]) -> dict[str, Any]:
    return {str(key): as_json(item) for key, item in value.items()}


@as_json.register(list)
@as_json.register(tuple)
def _(value: Sequence[Any]) -> list[Any]:
    return [as_json(item) for item in value]
