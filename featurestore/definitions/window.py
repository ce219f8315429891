"""Aggregates of the events in a sliding window that ends at the time of a read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from featurestore.definitions.checks import check_name, duration_micros
from featurestore.errors import DefinitionError, nearest_name
from featurestore.types import MICROSECOND, DType

FUNCTIONS = ("count", "sum", "mean", "min", "max", "first", "last", "stddev")
_NUMERIC = {"sum", "mean", "min", "max", "stddev"}


@dataclass(frozen=True)
class Aggregation:
    """One aggregate over the events in ``(t - time_window, t]``, exact to the microsecond at both ends.

    Args:
        column: Column of the source that is aggregated.
        function: ``count`` (non-null values), ``sum``, ``mean``, ``min``, ``max``, ``first``, ``last`` or ``stddev`` (sample).
        time_window: Length of the window.
        dtype: Type of the column.
        unit: Unit of the result.
        name: Name of the feature; None makes ``sum_amount_30d`` of function, column and window.
        description: One sentence for people.

    An empty window counts 0 and is null for every other function; `stddev` needs two values.

    >>> Aggregation("dep_delay", "mean", timedelta(hours=3), dtype="float64").feature_name
    'mean_dep_delay_3h'
    """

    column: str
    function: str
    time_window: timedelta
    dtype: str | DType = "float64"
    unit: str = ""
    name: str | None = None
    description: str = ""

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
        if self.function in ("first", "last") and dtype.lane == "strings":
            raise DefinitionError(f"'{self.function}' of column '{self.column}' of type {dtype} is not supported.")
        duration_micros(self.time_window, f"The window of '{self.feature_name}'")
        check_name("Feature", self.feature_name)

    @property
    def feature_name(self) -> str:
        """The name of the feature it makes."""
        return self.name or f"{self.function}_{self.column}_{_short(self.time_window)}"

    @property
    def result(self) -> DType:
        """The type of the feature it makes."""
        dtype = DType.of(self.dtype)
        if self.function == "count" or (self.function == "sum" and dtype.is_integer):
            return DType("int64")
        return dtype if self.function in ("min", "max", "first", "last") else DType("float64")

    def document(self) -> dict[str, Any]:
        """Return the neutral JSON form; the window in microseconds."""
        form = {"column": self.column, "function": self.function, "dtype": DType.of(self.dtype).name}
        return form | {"time_window": self.time_window // MICROSECOND}


def _short(window: timedelta) -> str:
    for name, unit in (("d", timedelta(days=1)), ("h", timedelta(hours=1)), ("m", timedelta(minutes=1))):
        if not window % unit:
            return f"{window // unit}{name}"
    return f"{window // MICROSECOND}us"
