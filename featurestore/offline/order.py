"""The order of rows in an offline table: by key, event time, created time and seq; a null created time comes first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.offline.relations import with_integer_times
from featurestore.rows import CREATED, EVENT, SEQ, RowSchema
from featurestore.types import INT64_MIN

if TYPE_CHECKING:
    import polars as pl

_BUCKET = "__bucket"


def sorted_order(
    rows: pa.Table, schema: RowSchema, bucket: npt.NDArray[np.int64] | None = None
) -> npt.NDArray[np.int64]:
    """Return the positions of the rows in the order of (bucket, key, event, created, seq).

    Args:
        rows: Accepted rows.
        schema: Their columns.
        bucket: int64, the bucket of each row; None leaves it out.
    """
    import polars as pl  # of writers alone: a read does not wait for it

    frame = _order_frame(rows, schema)
    by = [key.name for key in schema.keys] + [EVENT, CREATED, SEQ]
    if bucket is not None:
        frame, by = frame.with_columns(pl.Series(_BUCKET, bucket)), [_BUCKET, *by]
    return frame.select(pl.arg_sort_by(by)).to_series().cast(pl.Int64).to_numpy()


def greatest_rows(rows: pa.Table, schema: RowSchema, *, until: int, in_order: bool = False) -> pa.Table:
    """Return the greatest row of each entity by (event, created, seq) among those with an event time up to an instant.

    Args:
        rows: Accepted rows.
        schema: Their columns.
        until: Microseconds since 1970 UTC, included.
        in_order: Whether the rows are in `sorted_order`; then the greatest of an entity is the last.
    """
    import polars as pl  # of writers alone: a read does not wait for it

    keys = [key.name for key in schema.keys]
    past = _order_frame(rows, schema).lazy().with_row_index("row").filter(pl.col(EVENT) <= until)
    if in_order:
        last = pl.any_horizontal(pl.col(key) != pl.col(key).shift(-1) for key in keys)
        greatest = past.filter(last.fill_null(value=True)).select("row")
    else:
        greatest = past.sort(EVENT, CREATED, SEQ).group_by(keys).agg(pl.col("row").last()).sort(keys).select("row")
    return rows.take(greatest.collect()["row"].to_arrow())


def _order_frame(rows: pa.Table, schema: RowSchema) -> pl.DataFrame:
    """Return keys, times and seq as a Polars frame; times as integers, a null created as the lowest."""
    import polars as pl  # of writers alone: a read does not wait for it

    narrow = with_integer_times(rows.select([*(key.name for key in schema.keys), EVENT, CREATED, SEQ]))
    created = narrow.column_names.index(CREATED)
    frame = pl.from_arrow(narrow.set_column(created, CREATED, pc.fill_null(narrow[CREATED], INT64_MIN)))
    assert isinstance(frame, pl.DataFrame)
    return frame
