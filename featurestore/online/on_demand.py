"""On-demand features at an online read: the plan's inputs and the request's columns, through the expressions that training uses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featurestore.errors import InvalidArgumentError, NotFoundError
from featurestore.expressions import Column, Expression, evaluate, from_json
from featurestore.lanes import LaneColumn, WireColumn, wire_lane
from featurestore.online.codec import RowLayout
from featurestore.planning import PlannedOnDemand
from featurestore.types import DType, from_wire, to_wire

Inputs = Mapping[str, Column]


@dataclass(frozen=True, slots=True)
class PreparedOnDemand:
    """One on-demand view, ready to be computed.

    Attributes:
        layout: How its rows are laid out.
        inputs: Name in the expressions -> (index of the stored view, feature).
        request: Request columns that it reads, with their types.
        expressions: One per feature, with the feature's declared type.
    """

    layout: RowLayout
    inputs: tuple[tuple[str, int, str], ...]
    request: tuple[tuple[str, DType], ...]
    expressions: tuple[tuple[Expression, DType], ...]

    @classmethod
    def of(cls, planned: PlannedOnDemand) -> PreparedOnDemand:
        """Return the prepared form of a planned on-demand view."""
        return cls(
            layout=on_demand_layout(planned),
            inputs=planned.inputs,
            request=tuple((name, DType(dtype)) for name, dtype in planned.record.request),
            expressions=tuple((from_json(f.expression.tree), f.type) for f in planned.features if f.expression),
        )

    def rows(
        self,
        stored: Callable[[int, str], Column],
        request: Inputs,
        *,
        t: int,
        count: int,
    ) -> list[bytes]:
        """Compute the rows.

        Args:
            stored: Gives the values of (index of a stored view, feature).
            request: The request's columns.
            t: Event time of the computed rows, microseconds.
            count: Number of rows.
        """
        columns = {name: stored(view, feature) for name, view, feature in self.inputs}
        columns |= {name: request[name] for name, _ in self.request}
        computed = [_lane(evaluate(e, columns, count), DType(e.dtype), dtype) for e, dtype in self.expressions]
        return self.layout.encode(np.full(count, t), computed)


def on_demand_layout(planned: PlannedOnDemand) -> RowLayout:
    """Return how the computed rows are laid out."""
    return RowLayout.of((feature.name, feature.type) for feature in planned.features)


def request_columns(
    columns: Iterable[WireColumn], wanted: Sequence[tuple[str, DType]], count: int
) -> dict[str, Column]:
    """Return the request data that on-demand features read.

    Args:
        columns: The request's columns; keys and others are ignored.
        wanted: (name, type) of each column that must be there.
        count: Number of entities; every column has that many values.

    Raises:
        InvalidArgumentError: A column is missing, has another type, or another length.
    """
    by_name = {column.name: column for column in columns}
    return {name: _requested(by_name, name, dtype, count) for name, dtype in wanted}


def _requested(by_name: Mapping[str, WireColumn], name: str, dtype: DType, count: int) -> Column:
    place = f"$.request.{name}"
    if name not in by_name:
        raise InvalidArgumentError(str(NotFoundError.of("request column", name, by_name)), place=place)
    lane = wire_lane(by_name[name], dtype, place=place)
    if len(lane.values) != count:
        raise InvalidArgumentError(f"Column '{name}' has {len(lane.values)} values for {count} entities.", place=place)
    return typed_column(lane, dtype)


def typed_column(lane: LaneColumn, dtype: DType) -> Column:
    """Return a lane in the exact types that expressions take."""
    if isinstance(lane.values, list):
        values = np.empty(len(lane.values), object)
        pairs = zip(lane.values, lane.valid.tolist(), strict=True)
        values[:] = [from_wire(dtype, value) if ok else None for value, ok in pairs]
        return Column(values, lane.valid)
    exact = {"timestamp": "int64", "date": "int32"}.get(dtype.name, dtype.name)
    return Column(lane.values.astype(exact), lane.valid)


def _lane(column: Column, computed: DType, declared: DType) -> LaneColumn:
    """Return a computed column in the lane of the declared type; only numbers of another width may become it, and exactly."""
    if declared.lane == "strings":
        pairs = zip(column.values.tolist(), column.valid.tolist(), strict=True)
        texts: list[Any] = [to_wire(declared, value) if ok else b"" for value, ok in pairs]
        return LaneColumn(texts, column.valid)
    if declared.lane == "doubles":
        width = "float32" if declared.name == "float32" else "float64"
        return LaneColumn(column.values.astype(width).astype(np.float64), column.valid)
    values = column.values.astype(np.int64)
    if declared.is_integer and computed != declared:
        bounds = np.iinfo(declared.name)
        if (((values < bounds.min) | (values > bounds.max)) & column.valid).any():
            raise InvalidArgumentError(f"An expression of type {computed} does not fit the declared {declared}.")
    return LaneColumn(values, column.valid)
