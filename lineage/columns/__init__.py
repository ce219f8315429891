"""Column lineage of SQL: where each output column of a query comes from, directly and indirectly.

    resolve             a query -> its output columns with their source columns
    resolve_expression  a scalar expression, such as an on-demand feature
    resolve_window      an aggregate over a window of events
    with_lineage        the neutral form of a source -> the same with the lineage of its columns
    compose             follow a query through tables that are queries themselves

An edge is **direct** when the value flows: a projection, an argument of a function or an aggregate, the result of CASE, the argument of
a window function. It is **indirect** when the column only decides which values or rows there are: a filter, a join's condition, a
group's key and the other REASONS. A comparison used as a value is an expression like any other, so its operands are direct.

Importing this package imports sqlglot (some 0.3 s): it is for the moment at which definitions change, not for questions.
"""

from lineage.columns.edges import REASONS, Indirect, OutputColumn, QueryLineage, SourceColumn, compose
from lineage.columns.resolve import resolve, resolve_expression, resolve_window
from lineage.columns.sources import with_lineage

__all__ = [
    "REASONS",
    "Indirect",
    "OutputColumn",
    "QueryLineage",
    "SourceColumn",
    "compose",
    "resolve",
    "resolve_expression",
    "resolve_window",
    "with_lineage",
]
