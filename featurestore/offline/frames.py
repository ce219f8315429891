"""An Arrow table as a frame or as arrays; every type is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import FailedPreconditionError

if TYPE_CHECKING:
    import polars as pl


class Frames:
    """What has an Arrow table has it as Polars, pandas and NumPy too."""

    __slots__ = ()

    def to_arrow(self) -> pa.Table:
        """Return the Arrow table."""
        raise NotImplementedError

    def to_polars(self) -> pl.DataFrame:
        """Return a Polars frame; every type is kept."""
        import polars as pl

        frame = pl.from_arrow(self.to_arrow())
        assert isinstance(frame, pl.DataFrame)
        return frame

    def to_pandas(self) -> Any:
        """Return a pandas frame of Arrow-backed columns, so that an int64 with nulls stays one.

        Raises:
            FailedPreconditionError: pandas is not installed.
        """
        try:
            from pandas import ArrowDtype
        except ImportError as error:
            raise FailedPreconditionError("pandas is not installed.", repair="Run `pip install pandas`.") from error
        return self.to_arrow().to_pandas(types_mapper=ArrowDtype)

    def to_numpy(self) -> dict[str, np.ma.MaskedArray[Any, Any]]:
        """Return name -> masked array, nulls masked, so that every type is kept; times are datetime64[us] in UTC.

        Numbers and times without a null in one chunk are not copied; vectors are a row of a two-dimensional array each.
        """
        table = self.to_arrow()
        return {name: _masked(table[name]) for name in table.column_names}


def _masked(column: pa.ChunkedArray) -> np.ma.MaskedArray[Any, Any]:
    """Return a masked array; a null of a fixed-width type is filled first, so that Arrow does not turn integers into floats."""
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    mask = np.asarray(pc.is_null(array)) if array.null_count else np.ma.nomask
    if pa.types.is_fixed_size_list(array.type):
        rows = _vectors(array)
        return np.ma.MaskedArray(
            rows, mask=np.repeat(mask, rows.shape[1]).reshape(rows.shape) if array.null_count else mask
        )
    plain = array.cast(pa.timestamp(array.type.unit)) if pa.types.is_timestamp(array.type) else array
    if pa.types.is_primitive(plain.type) and plain.null_count:
        plain = pc.fill_null(plain, pa.scalar(0, pa.int64()).cast(plain.type))
    return np.ma.MaskedArray(plain.to_numpy(zero_copy_only=False), mask=mask)


def _vectors(array: pa.FixedSizeListArray) -> np.ndarray[Any, Any]:
    """Return vectors as rows; what stands at a null says nothing."""
    size = array.type.list_size
    elements = array.values.slice(array.offset * size, len(array) * size)  # noqa: PD011 - of Arrow, not of pandas
    rows: np.ndarray[Any, Any] = elements.to_numpy(zero_copy_only=False).reshape(len(array), size)
    return rows
