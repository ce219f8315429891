"""From SQL to column lineage: parsed by sqlglot, resolved by rules of our own.

sqlglot's own `lineage` follows values only: what filters, joins, groups and orders is not in its tree. So its parser is used, and
every clause is read by the rules in `queries` and `values`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import sqlglot
from sqlglot import exp
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import SqlglotError

from lineage.columns.edges import OutputColumn, QueryLineage, SourceColumn
from lineage.columns.flow import Binding, Column, Flow, Relation, Scope, union
from lineage.columns.queries import relation_of
from lineage.columns.values import flow_of
from lineage.errors import InvalidQuestionError

Schema = Sequence[str] | QueryLineage


def resolve(sql: str, schemas: Mapping[str, Schema], dialect: str = "duckdb") -> QueryLineage:
    """Return where each output column of a query comes from.

    Never wrong rather than complete: what cannot be followed (a table that is not in `schemas`, a table function, PIVOT, columns
    chosen by COLUMNS, SQL that does not parse) makes the columns it may touch, or the query, `opaque` with the reason.

    Args:
        sql: One query.
        schemas: Table -> its columns, in order; or the lineage of the query that makes it, to follow it to its sources.
        dialect: Name of the SQL dialect, as sqlglot knows it.

    Raises:
        InvalidQuestionError: There is no such dialect.

    >>> found = resolve("SELECT sum(b) AS total FROM t WHERE a > 1 GROUP BY c", {"t": ["a", "b", "c"]})
    >>> [str(column) for column in found.outputs[0].direct]
    ['t.b']
    >>> sorted(str(indirect) for indirect in found.outputs[0].indirect)
    ['t.a (filter)', 't.c (group)']
    """
    try:
        query = _parsed(sql, dialect)
        relation = relation_of(query, _scope(schemas))
    except (SqlglotError, RecursionError) as error:
        return QueryLineage((), opaque=f"the SQL cannot be read: {str(error).splitlines()[0]}")
    if not relation.columns:
        return QueryLineage((), opaque=relation.more or "the query has no output columns")
    return QueryLineage(
        outputs=tuple(_output(column.name, column.flow | relation.rows) for column in relation.columns),
        rows=relation.rows.indirect,
        tables=frozenset(_tables_read(query, schemas)),
    )


def resolve_expression(
    sql: str, schemas: Mapping[str, Schema], *, name: str = "", dialect: str = "duckdb"
) -> OutputColumn:
    """Return where the value of a scalar expression comes from.

    Args:
        sql: The expression, such as the one of an on-demand feature.
        schemas: Its inputs: table -> columns; a column may be named alone or with its table.
        name: Name of the result; empty means the SQL text.
        dialect: As in `resolve`.

    Raises:
        InvalidQuestionError: There is no such dialect.

    >>> output = resolve_expression("CASE WHEN a > 1 THEN b END", {"request": ["a", "b"]})
    >>> [str(column) for column in output.direct], [str(column) for column in output.indirect]
    (['request.b'], ['request.a (conditional)'])
    """
    try:
        expression = _parsed(sql, dialect)
        scope = _scope(schemas)
        scope.bindings = [Binding(table, scope.tables[table.lower()]) for table in schemas]
        return _output(name or sql, flow_of(expression, scope))
    except (SqlglotError, RecursionError) as error:
        return OutputColumn(name or sql, opaque=f"the SQL cannot be read: {str(error).splitlines()[0]}")


def resolve_window(
    column: str,
    *,
    table: str,
    schema: Schema,
    keys: Iterable[str],
    event_time: str,
    condition: str | None = None,
    name: str = "",
) -> OutputColumn:
    """Return where a windowed aggregate comes from: its column flows; keys, event time and condition decide.

    Args:
        column: The column that is aggregated.
        table: Table of the events.
        schema: Its columns, or the lineage of the query that makes it.
        keys: Columns of the entity's key.
        event_time: Column of the event time.
        condition: SQL condition that chooses the events; None means all.
        name: Name of the result; empty means the column's.

    >>> output = resolve_window("delay", table="t", schema=["k", "at", "delay"], keys=["k"], event_time="at")
    >>> sorted(str(indirect) for indirect in output.indirect)
    ['t.at (window)', 't.k (group)']
    """
    schemas = {table: schema}

    def part(sql: str) -> OutputColumn:
        return resolve_expression(sql, schemas)

    def named(column_name: str) -> OutputColumn:
        return part(exp.column(column_name, quoted=True).sql("duckdb"))

    parts = [(named(key), "group") for key in keys] + [(named(event_time), "window")]
    if condition is not None:
        parts.append((part(condition), "filter"))
    rows = schema.rows if isinstance(schema, QueryLineage) else frozenset()
    value = named(column)
    flow = Flow(value.direct, value.indirect | rows, value.opaque) | union(
        Flow(output.direct, output.indirect, output.opaque).deciding(reason) for output, reason in parts
    )
    return _output(name or column, flow)


def _parsed(sql: str, dialect: str) -> exp.Expr:
    try:
        Dialect.get_or_raise(dialect)
    except ValueError as error:
        raise InvalidQuestionError(f"There is no SQL dialect '{dialect}'.", repair=str(error)) from error
    statements = [statement for statement in sqlglot.parse(sql, dialect=dialect) if statement is not None]
    if len(statements) != 1:
        raise SqlglotError(f"it has {len(statements)} statements")
    return statements[0]


def _scope(schemas: Mapping[str, Schema]) -> Scope:
    tables = {table.lower(): _relation(table, schema) for table, schema in schemas.items()}
    return Scope(tables, relation_of, flow_of)


def _relation(table: str, schema: Schema) -> Relation:
    if not isinstance(schema, QueryLineage):
        return Relation(tuple(Column(name, Flow(frozenset({SourceColumn(table, name)}))) for name in schema))
    if schema.opaque:
        return Relation.unknown(schema.opaque)
    columns = (Column(out.name, Flow(out.direct, out.indirect, out.opaque)) for out in schema.outputs)
    return Relation(tuple(columns), Flow(indirect=schema.rows))


def _output(name: str, flow: Flow) -> OutputColumn:
    return OutputColumn(name, flow.direct, flow.indirect, flow.opaque)


def _tables_read(query: exp.Expr, schemas: Mapping[str, Schema]) -> Iterable[str]:
    """Yield the tables of the schemas whose names the query says; a CTE of the same name counts too."""
    said = {table.name.lower() for table in query.find_all(exp.Table)}
    for table, schema in schemas.items():
        if table.lower().rpartition(".")[2] in said:
            yield from schema.tables if isinstance(schema, QueryLineage) else (table,)
