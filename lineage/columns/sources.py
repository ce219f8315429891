"""Column lineage of the sources in the neutral JSON of a registry (docs/reference/registry-json.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lineage.columns.edges import OutputColumn
from lineage.columns.resolve import resolve


def with_lineage(source: Mapping[str, Any]) -> dict[str, Any]:
    """Return the neutral form of a source with the lineage of its columns, and so for every table of it.

    A query's columns are followed to the columns of its tables, as the query calls them; a table that is a query itself has its
    own lineage. A source without a query is returned as it is.

    Args:
        source: The neutral form, with `columns` and `table_columns` as they were found.

    >>> table = {"kind": "parquet", "name": "raw", "path": "raw.parquet", "query": None}
    >>> source = {"kind": "sql", "query": "SELECT a AS x FROM r WHERE b > 1", "tables": {"r": table}, "columns": [["x", "int64"]]}
    >>> with_lineage(source | {"table_columns": {"r": [["a", "int64"], ["b", "int64"]]}})["lineage"]
    {'x': {'direct': [['r', 'a']], 'indirect': [['r', 'b', 'filter']], 'opaque': None}}
    """
    if not source.get("query"):
        return dict(source)
    tables = {
        name: with_lineage(t) if isinstance(t, Mapping) else t for name, t in (source.get("tables") or {}).items()
    }
    schemas = {name: [column for column, _ in columns] for name, columns in (source.get("table_columns") or {}).items()}
    found = resolve(source["query"], schemas, source.get("dialect") or "duckdb")
    names = [column for column, _ in source.get("columns") or ()]
    if found.opaque or len(found.outputs) != len(names):
        reason = found.opaque or f"the query gives {len(names)} columns, and {len(found.outputs)} could be followed"
        outputs = tuple(OutputColumn(name, opaque=reason) for name in names)
    else:
        outputs = found.outputs
    lineage = {name: _document(output) for name, output in zip(names, outputs, strict=True)}
    return {**source, "tables": tables, "lineage": lineage}


def _document(output: OutputColumn) -> dict[str, Any]:
    return {
        "direct": sorted([column.table, column.column] for column in output.direct),
        "indirect": sorted([edge.column.table, edge.column.column, edge.reason] for edge in output.indirect),
        "opaque": output.opaque,
    }
