"""On-demand features of a training set: request columns and joined inputs, through the expressions that serving uses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from featurestore.expressions import Column, evaluate, from_json
from featurestore.lanes import LaneColumn, from_lane
from featurestore.planning import PlannedOnDemand
from featurestore.types import DType, from_arrow, to_arrow


def compute_on_demand(view: PlannedOnDemand, request: pa.Table, joined: Sequence[pa.Table], rows: int) -> pa.Table:
    """Compute the features of an on-demand view.

    Args:
        view: What to compute.
        request: The spine's request columns, in their declared types.
        joined: For each stored view of the plan, its features, one row for each spine row.
        rows: Number of spine rows.

    Raises:
        InvalidArgumentError: A row leaves the range of its type.
    """
    inputs = {name: request[name] for name, _ in view.record.request}
    inputs |= {name: joined[source][feature] for name, source, feature in view.inputs}
    columns = {name: _operand(column) for name, column in inputs.items()}
    computed = {}
    for feature in view.features:
        assert feature.expression is not None  # a feature of an on-demand view has one
        result = evaluate(from_json(feature.expression.tree), columns, rows)
        computed[feature.name] = _outcome(result, feature.type)
    return pa.table(computed)


def _operand(column: pa.ChunkedArray) -> Column:
    """Return an Arrow column as expressions take it: exact NumPy widths, times as integers, text and decimals as objects."""
    dtype = from_arrow(column.type)
    valid = np.asarray(column.is_valid())
    if dtype.lane == "strings":
        values = np.empty(len(column), object)
        values[:] = column.to_pylist()
        return Column(values, valid)
    whole = {"timestamp": pa.int64(), "date": pa.int32()}.get(dtype.name)
    plain = column.cast(whole) if whole else column
    return Column(plain.fill_null(False if dtype.name == "bool" else 0).to_numpy(), valid)


def _outcome(column: Column, dtype: DType) -> pa.Array:
    """Return a computed column in the declared type: numbers may change their width, and never wrap around."""
    if dtype.lane == "doubles":
        return pa.array(column.values.astype(dtype.name), mask=~column.valid)
    if dtype.lane == "integers":
        return from_lane(LaneColumn(column.values.astype(np.int64), column.valid), dtype)
    pairs = zip(column.values.tolist(), column.valid.tolist(), strict=True)
    return pa.array([value if ok else None for value, ok in pairs], to_arrow(dtype))
