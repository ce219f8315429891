"""DuckDB over Arrow tables in memory: no files, no network, no state between two queries."""

from __future__ import annotations

from functools import cache

import duckdb
import pyarrow as pa

THREADS = 2


def query(sql: str, **tables: pa.Table) -> pa.Table:
    """Run one SELECT over Arrow tables and return its rows.

    Times must come as integers (`with_integer_times`): DuckDB's own do not reach both ends of int64.

    Args:
        sql: A SELECT that names the tables; the order of its result is what its ORDER BY says, and no other.
        tables: Name in the query -> table.

    >>> query("SELECT a + 1 AS b FROM numbers", numbers=pa.table({"a": [1]})).to_pydict()
    {'b': [2]}
    """
    with _database().cursor() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name, table in tables.items():
            connection.register(name, table)
        return connection.sql(sql).to_arrow_table()


@cache
def _database() -> duckdb.DuckDBPyConnection:
    """Return the process's one empty database; each query has a connection of its own to it, and leaves nothing behind."""
    settings: dict[str, str | bool | int | float | list[str]] = {
        "threads": THREADS,
        "enable_external_access": False,
        "python_enable_replacements": False,
    }
    return duckdb.connect(config=settings)


def with_integer_times(table: pa.Table) -> pa.Table:
    """Return the table with instants as int64 microseconds and days as int32, which costs nothing."""
    for position, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            table = table.set_column(position, field.name, table.column(position).cast(pa.int64()))
        elif pa.types.is_date32(field.type):
            table = table.set_column(position, field.name, table.column(position).cast(pa.int32()))
    return table


def quoted(*names: str, prefix: str = "") -> str:
    """Return column names as a list in SQL.

    >>> quoted("origin", "dest", prefix="s.")
    's."origin", s."dest"'
    """
    return ", ".join(f'{prefix}"{name}"' for name in names)
