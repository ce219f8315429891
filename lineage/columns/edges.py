"""What column lineage says: for each output column, the source columns its values come from, and those that only decide."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

# Why a column decides without its value flowing into the output:
REASONS = (
    "filter",  # WHERE, or FILTER of an aggregate
    "join",  # a join's condition, USING and NATURAL included
    "group",  # GROUP BY
    "having",
    "qualify",
    "distinct",  # DISTINCT, DISTINCT ON, and the duplicates that a UNION removes
    "set",  # both sides of INTERSECT and EXCEPT
    "sort",  # ORDER BY where it decides: before LIMIT, in DISTINCT ON, a window or an aggregate, arg_max's second argument
    "limit",  # a LIMIT that is computed
    "partition",  # PARTITION BY
    "window",  # a frame that is computed, or the event time of a window
    "conditional",  # the condition of CASE, IF, NULLIF and of a filtered list
    "subquery",  # what EXISTS, IN, ANY and ALL look at
    "unnest",  # how many rows a list becomes
)


@dataclass(frozen=True, slots=True, order=True)
class SourceColumn:
    """A column of a table that a query reads.

    >>> str(SourceColumn("flights", "delay"))
    'flights.delay'
    """

    table: str
    column: str

    def __str__(self) -> str:
        return f"{self.table}.{self.column}"


@dataclass(frozen=True, slots=True, order=True)
class Indirect:
    """A column that decides which values there are without flowing into them, and how: one of REASONS.

    >>> str(Indirect(SourceColumn("flights", "year"), "filter"))
    'flights.year (filter)'
    """

    column: SourceColumn
    reason: str

    def __str__(self) -> str:
        return f"{self.column} ({self.reason})"


@dataclass(frozen=True, slots=True)
class OutputColumn:
    """One output column of a query.

    Attributes:
        name: As the query names it; the SQL text of an expression without a name.
        direct: Columns whose values flow into it.
        indirect: Columns that decide which values or rows there are.
        opaque: Why more columns may belong to `direct` or `indirect`; None when all are known.
    """

    name: str
    direct: frozenset[SourceColumn] = frozenset()
    indirect: frozenset[Indirect] = frozenset()
    opaque: str | None = None

    @property
    def sources(self) -> frozenset[SourceColumn]:
        """Every column it depends on, in either way."""
        return self.direct | {indirect.column for indirect in self.indirect}


@dataclass(frozen=True, slots=True)
class QueryLineage:
    """The column lineage of a query.

    Attributes:
        outputs: Its output columns, in order; empty when the query itself is opaque.
        rows: Columns that decide which rows there are; part of every output's `indirect` too.
        tables: The tables it reads, as the schemas name them.
        opaque: Why not even its outputs are known, such as SQL that cannot be parsed; None when they are.
    """

    outputs: tuple[OutputColumn, ...]
    rows: frozenset[Indirect] = frozenset()
    tables: frozenset[str] = frozenset()
    opaque: str | None = None

    def output(self, name: str) -> OutputColumn | None:
        """Return the first output column of that name, in any case; None when there is none."""
        return next((output for output in self.outputs if output.name.lower() == name.lower()), None)


def compose(outer: QueryLineage, inner: Mapping[str, QueryLineage]) -> QueryLineage:
    """Follow a query through the tables it reads that are queries themselves, so that it ends at their source columns.

    What is direct along the whole way is direct; one indirect step makes the whole way indirect, with the reason of the step
    nearest to the output.

    Args:
        outer: Lineage of the query.
        inner: Table -> lineage of the query that makes it; other tables stay as they are.

    >>> a, b = SourceColumn("raw", "a"), SourceColumn("raw", "b")
    >>> view = QueryLineage((OutputColumn("x", frozenset({a}), frozenset({Indirect(b, "filter")})),))
    >>> query = QueryLineage((OutputColumn("y", frozenset({SourceColumn("view", "x")})),))
    >>> y = compose(query, {"view": view}).outputs[0]
    >>> [str(column) for column in y.direct], [str(column) for column in y.indirect]
    (['raw.a'], ['raw.b (filter)'])
    """
    rows = frozenset().union(*(inner[table].rows for table in outer.tables & inner.keys()))
    return QueryLineage(
        outputs=tuple(_through(output, inner, rows) for output in outer.outputs),
        rows=frozenset(_followed(outer.rows, inner)) | rows,
        tables=frozenset().union(*(inner[t].tables if t in inner else {t} for t in outer.tables)),
        opaque=outer.opaque,
    )


def _through(output: OutputColumn, inner: Mapping[str, QueryLineage], rows: frozenset[Indirect]) -> OutputColumn:
    made = [_origin(column, inner) for column in sorted(output.direct)]
    decided = [_origin(column, inner) for column in sorted({indirect.column for indirect in output.indirect})]
    reasons = (origin.opaque for origin in (output, *made, *decided) if origin.opaque)
    return OutputColumn(
        name=output.name,
        direct=frozenset().union(*(origin.direct for origin in made)),
        indirect=rows.union(_followed(output.indirect, inner), *(origin.indirect for origin in made)),
        opaque=next(reasons, None),
    )


def _followed(indirect: Iterable[Indirect], inner: Mapping[str, QueryLineage]) -> Iterator[Indirect]:
    for edge in indirect:
        origin = _origin(edge.column, inner)
        yield from origin.indirect
        yield from (Indirect(column, edge.reason) for column in origin.direct)


def _origin(column: SourceColumn, inner: Mapping[str, QueryLineage]) -> OutputColumn:
    if column.table not in inner:
        return OutputColumn(column.column, frozenset({column}))
    query = inner[column.table]
    if query.opaque:
        return OutputColumn(column.column, opaque=query.opaque)
    return query.output(column.column) or OutputColumn(column.column, opaque=f"{column} is not known")
