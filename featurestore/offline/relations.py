"""DuckDB over Arrow tables in memory: no files, no network, no state between two queries."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    import duckdb

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
    import duckdb  # a read by the kernel does not wait for it

    settings: dict[str, str | bool | int | float | list[str]] = {
        "threads": THREADS,
        "enable_external_access": False,
        "python_enable_replacements": False,
    }
    return duckdb.connect(config=settings)


def with_integer_times(table: pa.Table) -> pa.Table:
    """Return the table with instants as int64 microseconds and days as int32, inside nested values too, which costs nothing."""
    for position, field in enumerate(table.schema):
        wanted = _with_integer_times(field.type)
        if wanted != field.type:
            table = table.set_column(position, field.name, table.column(position).cast(wanted))
    return table


def _with_integer_times(arrow_type: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(arrow_type):
        return pa.int64()
    if pa.types.is_date32(arrow_type):
        return pa.int32()
    if pa.types.is_list(arrow_type):
        return pa.list_(_with_integer_times(arrow_type.value_type))
    if pa.types.is_struct(arrow_type):
        return pa.struct([field.with_type(_with_integer_times(field.type)) for field in arrow_type.fields])
    return arrow_type


def quoted(*names: str, prefix: str = "") -> str:
    """Return column names as a list in SQL.

    >>> quoted("origin", "dest", prefix="s.")
    's."origin", s."dest"'
    """
    return ", ".join(f'{prefix}"{name}"' for name in names)
