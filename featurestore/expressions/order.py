"""Comparison of single values and of NumPy arrays alike: NaN equals itself and is greater than any number, as in DuckDB."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def equal(left: Any, right: Any) -> Any:
    """Whether two values are the same.

    >>> equal(float("nan"), float("nan")), equal(0.0, -0.0)
    (True, True)
    """
    return (left == right) | ((left != left) & (right != right))  # noqa: PLR0124 - only NaN differs from itself


def less(left: Any, right: Any) -> Any:
    """Whether the left value sorts before the right one.

    >>> less(1.0, float("nan")), less(float("nan"), 1.0)
    (True, False)
    """
    return (left < right) | ((right != right) & (left == left))  # noqa: PLR0124 - only NaN differs from itself


COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "=": equal,
    "<>": lambda left, right: equal(left, right) ^ True,
    "<": less,
    "<=": lambda left, right: less(right, left) ^ True,
    ">": lambda left, right: less(right, left),
    ">=": lambda left, right: less(left, right) ^ True,
}
