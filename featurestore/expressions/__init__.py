"""Request-time expressions: SQL scalar expressions with one meaning for training and serving.

``parse_expression`` reads SQL once, with sqlglot, into a small typed tree of our own; ``to_json`` and ``from_json`` keep that tree as
plain data. ``evaluate`` computes it over NumPy columns and ``evaluate_scalar`` over single Python values, with equal results; both
follow DuckDB, which is the oracle in the tests. Where they differ from it on purpose:

* a literal with a decimal point is a float64 (a float32 beside a float32), never a decimal;
* values of different kinds are never cast silently: no text beside numbers, no numbers as truth values;
* ``//`` divides whole numbers only.

What SQL leaves open is as in DuckDB: ``/`` divides as floats (by zero: infinity or NaN), whole numbers that overflow and ``//`` or ``%``
by zero are errors that name the expression, NaN equals itself and is greater than any number, CASE and COALESCE compute a branch only
for the rows that take it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featurestore.expressions.parse import parse_expression
from featurestore.expressions.tree import (
    Call,
    Case,
    Cast,
    ColumnRef,
    Expression,
    Literal,
    cast,
    from_json,
    to_json,
)

if TYPE_CHECKING:
    from featurestore.expressions.scalar import evaluate_scalar
    from featurestore.expressions.vector import Column, evaluate

__all__ = [
    "Call",
    "Case",
    "Cast",
    "Column",
    "ColumnRef",
    "Expression",
    "Literal",
    "cast",
    "evaluate",
    "evaluate_scalar",
    "from_json",
    "parse_expression",
    "to_json",
]


def __getattr__(name: str) -> Any:
    """Load what computes where it is first asked for: it brings NumPy, which who only reads definitions does not need."""
    if name == "evaluate_scalar":
        from featurestore.expressions.scalar import evaluate_scalar

        return evaluate_scalar
    if name in ("Column", "evaluate"):
        from featurestore.expressions import vector

        return getattr(vector, name)
    raise AttributeError(f"module 'featurestore.expressions' has no attribute '{name}'")
