"""Filters: which events an aggregate counts. One evaluation, the same for training and serving.

An event counts where the filter is true: not where it is false or null, and not where it cannot be computed because a value leaves the
range of its type. So whether an event passes depends on the event alone, never on those beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np

from featurestore.errors import InvalidArgumentError
from featurestore.expressions import Column, Expression, evaluate, from_json
from featurestore.registry.snapshot import AggregationRecord, FilterRecord
from featurestore.types import DType
from featurestore.windows.columns import BoolArray, WindowColumn


def filter_name(where: FilterRecord) -> str:
    """Return the name under which `Events.passed` keeps a filter: its parsed tree, so that spelling does not matter."""
    return msgspec.json.encode(where.tree, order="deterministic").decode()


def filters_of(aggregations: Sequence[AggregationRecord]) -> dict[str, FilterRecord]:
    """Return the distinct filters of some aggregations by name."""
    return {filter_name(a.where): a.where for a in aggregations if a.where is not None}


def passing(where: FilterRecord, columns: Mapping[str, WindowColumn], rows: int) -> BoolArray:
    """Say which rows pass a filter.

    Args:
        where: The filter.
        columns: A column for each name that it reads, all of `rows` rows.
        rows: The number of rows.
    """
    operands = {name: _operand(columns[name], DType(dtype)) for name, dtype in where.columns}
    return _true(_parsed(filter_name(where)), operands, rows)


@lru_cache(maxsize=1024)
def _parsed(tree: str) -> Expression:
    return from_json(msgspec.json.decode(tree))


def _operand(column: WindowColumn, dtype: DType) -> Column:
    """Return a column in the exact types that expressions take."""
    if column.choices is None:
        exact = {"timestamp": "int64", "date": "int32"}.get(dtype.name, dtype.name)
        return Column(column.values.astype(exact), column.valid)
    choices: Any = np.empty(len(column.choices) + 1, object)
    choices[:-1] = column.choices.to_pylist()
    return Column(choices[np.where(column.valid, column.values, -1)], column.valid)


def _true(expression: Expression, columns: Mapping[str, Column], rows: int) -> BoolArray:
    try:
        result = evaluate(expression, columns, rows)
    except InvalidArgumentError:
        if rows == 1:
            return np.zeros(1, np.bool_)
        half = rows // 2
        parts = (slice(0, half), half), (slice(half, rows), rows - half)
        return np.concatenate([_true(expression, _part(columns, part), size) for part, size in parts])
    return np.asarray(result.values & result.valid, np.bool_)


def _part(columns: Mapping[str, Column], part: slice) -> dict[str, Column]:
    return {name: Column(column.values[part], column.valid[part]) for name, column in columns.items()}
