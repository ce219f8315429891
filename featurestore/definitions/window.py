"""Aggregates of the events in a sliding window that ends at the time of a read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import NoneType
from typing import Any

from featurestore.definitions.checks import check_kind, check_name, duration_micros
from featurestore.definitions.expectation import Expectation, check_expectations
from featurestore.errors import DefinitionError, nearest_name
from featurestore.types import MICROSECOND, DType

FUNCTIONS = ("count", "sum", "mean", "min", "max", "first", "last", "stddev", "count_distinct")
MOST_VALUES = 1000
_NUMERIC = {"sum", "mean", "stddev"}
_SCALAR = {"min", "max", "count_distinct"}


@dataclass(frozen=True)
class Aggregation:
    """One aggregate over the events in ``(t - time_window, t]``, exact to the microsecond at both ends.

    Args:
        column: Column of the source that is aggregated.
        function: ``count`` (non-null values), ``count_distinct`` (different ones), ``sum``, ``mean``, ``min``, ``max``, ``first``,
            ``last`` or ``stddev`` (sample). Sum, mean and stddev need numbers; min, max and count_distinct take every type that is not
            nested, text and binary in the order of their bytes; count, first and last take every type.
        time_window: Length of the window.
        dtype: Type of the column.
        unit: Unit of the result.
        name: Name of the feature; None makes ``sum_amount_30d`` of function, column and window.
        description: One sentence for people.
        expect: What must hold of the values of the column before events are accepted; no part of the meaning.
        n: For ``last`` a list of up to n values, the last one first; for ``first`` likewise, the first one first; 1 to 1000, nulls
            stay in it. None is the one value.
        where: SQL condition over columns of the source; events for which it is false, null, or cannot be computed are left out. Columns
            that are not aggregated need a type in the view's `columns`. None leaves out nothing.

    Raises:
        DefinitionError: A bad name, function, type, window or n.

    An empty window counts 0, is an empty list with n, and is null for everything else; `stddev` needs two values.

    >>> Aggregation("dep_delay", "mean", timedelta(hours=3), dtype="float64").feature_name
    'mean_dep_delay_3h'
    >>> Aggregation("carrier", "last", timedelta(days=1), dtype="string", n=3).result.name
    'list<string>'
    """

    column: str
    function: str
    time_window: timedelta
    dtype: str | DType = "float64"
    unit: str = ""
    name: str | None = None
    description: str = ""
    expect: Sequence[Expectation] = ()
    n: int | None = None
    where: str | None = None

    def __post_init__(self) -> None:
        check_name("Column", self.column)
        if self.function not in FUNCTIONS:
            near = nearest_name(self.function, FUNCTIONS)
            hint = f"Did you mean '{near}'?" if near else f"There is: {', '.join(FUNCTIONS)}."
            raise DefinitionError(f"No aggregate function '{self.function}'. {hint}")
        dtype = DType.of(self.dtype)
        numeric = dtype.is_integer or dtype.lane == "doubles"
        if self.function in _NUMERIC and not numeric:
            raise DefinitionError(f"'{self.function}' of column '{self.column}' needs numbers, not {dtype}.")
        if self.function in _SCALAR and dtype.is_nested:
            raise DefinitionError(f"'{self.function}' of column '{self.column}' does not take {dtype}.")
        self._check_n()
        check_kind(f"The filter of '{self.feature_name}'", self.where, (str, NoneType), "where=\"status = 'paid'\"")
        duration_micros(self.time_window, f"The window of '{self.feature_name}'")
        check_name("Feature", self.feature_name)
        check_expectations(self.expect, self.feature_name, dtype)

    def _check_n(self) -> None:
        if self.n is None:
            return
        if self.function not in ("first", "last"):
            raise DefinitionError(
                f"'{self.function}' of column '{self.column}' has an n.", repair="Only first and last do."
            )
        if type(self.n) is not int or not 1 <= self.n <= MOST_VALUES:
            raise DefinitionError(
                f"n of '{self.function}' of column '{self.column}' is {self.n!r}, not 1 to {MOST_VALUES}."
            )

    @property
    def feature_name(self) -> str:
        """The name of the feature it makes."""
        return self.name or f"{self.function}{self.n or ''}_{self.column}_{_short(self.time_window)}"

    @property
    def result(self) -> DType:
        """The type of the feature it makes."""
        dtype = DType.of(self.dtype)
        if self.function in ("count", "count_distinct") or (self.function == "sum" and dtype.is_integer):
            return DType("int64")
        if self.n is not None:
            return DType.of(f"list<{dtype}>")
        return dtype if self.function in ("min", "max", "first", "last") else DType("float64")

    def document(self) -> dict[str, Any]:
        """Return the neutral JSON form without the filter, which the registry parses; the window in microseconds."""
        form: dict[str, Any] = {"column": self.column, "function": self.function, "dtype": DType.of(self.dtype).name}
        form["time_window"] = self.time_window // MICROSECOND
        return form if self.n is None else form | {"n": self.n}


def _short(window: timedelta) -> str:
    for name, unit in (("d", timedelta(days=1)), ("h", timedelta(hours=1)), ("m", timedelta(minutes=1))):
        if not window % unit:
            return f"{window // unit}{name}"
    return f"{window // MICROSECOND}us"
