"""The spine, checked once at the edge: its keys, times and request columns, in the declared types and never by a silent cast."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import InvalidArgumentError, nearest_name
from featurestore.rows import may_become
from featurestore.types import DType, to_arrow


def spine_times(spine: pa.Table, timestamp: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return the spine's times as int64 microseconds since 1970 UTC, and where they are not null.

    Args:
        spine: The spine.
        timestamp: Name of its column of times; naive ones count as UTC.

    Raises:
        InvalidArgumentError: There is no such column, it does not hold instants, or it is finer than a microsecond.

    >>> spine_times(pa.table({"t": pa.array([5, None], pa.timestamp("us"))}), "t")
    (array([5, 0]), array([ True, False]))
    """
    column = _column(spine, timestamp, "time column", "Say timestamp= with the name of the column of times.")
    if not (pa.types.is_timestamp(column.type) or pa.types.is_null(column.type)):
        raise InvalidArgumentError(
            f"Column '{timestamp}' is {column.type}, not a timestamp.",
            place=f"$.spine.{timestamp}",
            repair="Make instants of it first: text by pyarrow.compute.strptime or pandas.to_datetime, days and numbers by a cast.",
        )
    micros = _cast(column, pa.timestamp("us"), timestamp, "microseconds").cast(pa.int64())
    return micros.fill_null(0).to_numpy(), np.asarray(pc.is_valid(micros))


def spine_columns(spine: pa.Table, columns: Sequence[tuple[str, DType]], what: str) -> pa.Table:
    """Return columns of the spine in their declared types.

    Args:
        spine: The spine.
        columns: (name, type) of each.
        what: What they are, for the errors, e.g. ``join key``.

    Raises:
        InvalidArgumentError: A column is missing, is of another family of types, or holds a value that does not fit.

    >>> spine_columns(pa.table({"id": [1.0]}), [("id", DType("int64"))], "join key")
    Traceback (most recent call last):
    featurestore.errors.InvalidArgumentError: The join key 'id' is double, declared int64. - at `$.spine.id`. Nothing is cast silently: ...
    """
    arrays = [_declared(spine, name, dtype, what) for name, dtype in columns]
    return pa.Table.from_arrays(arrays, names=[name for name, _ in columns])


def _declared(spine: pa.Table, name: str, dtype: DType, what: str) -> pa.ChunkedArray:
    column = _column(spine, name, what, f"It is needed as a {what} ({dtype}).")
    if not may_become(column.type, dtype):
        raise InvalidArgumentError(
            f"The {what} '{name}' is {column.type}, declared {dtype}.",
            place=f"$.spine.{name}",
            repair="Nothing is cast silently: cast the column where its meaning is known.",
        )
    plain = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
    return _cast(plain, to_arrow(dtype), name, str(dtype))


def _column(spine: pa.Table, name: str, what: str, repair: str) -> pa.ChunkedArray:
    found = spine.column_names.count(name)
    if found == 1:
        return spine[name]
    near = nearest_name(name, spine.column_names)
    hint = f" Did you mean '{near}'?" if near and not found else ""
    there = "has it twice" if found else "has none"
    raise InvalidArgumentError(f"No {what} '{name}': the spine {there}.{hint}", place=f"$.spine.{name}", repair=repair)


def _cast(column: pa.ChunkedArray, wanted: pa.DataType, name: str, what: str) -> pa.ChunkedArray:
    try:
        return column.cast(wanted, safe=True)
    except pa.ArrowInvalid as error:
        raise InvalidArgumentError(
            f"Column '{name}' does not fit {what}: {error}.", place=f"$.spine.{name}", repair="Round or cast it first."
        ) from error
