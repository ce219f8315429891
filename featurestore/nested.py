"""Nested values in bulk: Arrow columns of lists, structs and vectors <-> bytes, without a loop over elements.

What the bytes are says featurestore.types.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import InvalidArgumentError
from featurestore.types import DType, from_wire, numpy_type, to_arrow

_Range = Callable[[int, int], bytes]  # (first, end) -> the bytes of these values


def to_bytes(column: Any, dtype: DType) -> list[bytes]:
    """Return the bytes of each value of an Arrow column of lists or structs, nothing for null.

    >>> import pyarrow as pa
    >>> [value.hex() for value in to_bytes(pa.array([[1], None, [2, None]], pa.list_(pa.int8())), DType("list<int8>"))]
    ['010000000001', '', '0200000001010200']
    """
    array = _whole(column)
    values = _values(array, dtype)
    return [values(i, i + 1) if there else b"" for i, there in enumerate(np.asarray(array.is_valid()).tolist())]


def to_matrix(column: Any, dtype: DType) -> NDArray[np.uint8]:
    """Return the bytes of each vector of an Arrow column: uint8[n, bytes of a vector], zeros for null.

    Raises:
        InvalidArgumentError: A vector with a null element.
    """
    array = _whole(column)
    flat = array.flatten()  # of the vectors that are not null
    if flat.null_count:
        raise InvalidArgumentError("A vector has a null element.", repair="Make the whole vector null, or use a list.")
    wide = dtype.length * numpy_type(dtype.element).itemsize
    there = np.asarray(flat).astype(numpy_type(dtype.element), copy=False).view(np.uint8).reshape(-1, wide)
    if not array.null_count:
        return there
    matrix = np.zeros((len(array), wide), np.uint8)
    matrix[np.asarray(array.is_valid())] = there
    return matrix


def from_bytes(values: Sequence[bytes | None], dtype: DType) -> Any:
    """Return lists or structs as an Arrow array; raises InvalidArgumentError for bytes that are no such value."""
    import pyarrow as pa

    plain = [None if value is None else from_wire(dtype, value, calendar=False) for value in values]
    return pa.array(plain, to_arrow(dtype))


def from_matrix(matrix: NDArray[np.uint8], valid: NDArray[np.bool_], dtype: DType) -> Any:
    """Return vectors, as `to_matrix` makes them, as an Arrow array."""
    import pyarrow as pa

    flat = pa.array(np.ascontiguousarray(matrix).reshape(-1).view(numpy_type(dtype.element)))
    return pa.FixedSizeListArray.from_arrays(flat, type=to_arrow(dtype), mask=None if valid.all() else pa.array(~valid))


def _column(array: Any, dtype: DType) -> _Range:
    values = _values(array, dtype)
    if not array.null_count:
        return lambda first, end: b"\x00" + values(first, end)
    valid = np.asarray(array.is_valid())
    nulls = [0, *np.cumsum(~valid).tolist()]

    def column(first: int, end: int) -> bytes:
        if nulls[first] == nulls[end]:
            return b"\x00" + values(first, end)
        return b"\x01" + np.packbits(valid[first:end], bitorder="little").tobytes() + values(first, end)

    return column


def _values(array: Any, dtype: DType) -> _Range:
    match dtype.family:
        case "struct":
            fields = zip(array.flatten(), dtype.fields, strict=True)  # a field of a null struct is null
            columns = [_column(_whole(field), kind) for field, (_, kind) in fields]
            return lambda first, end: b"".join([column(first, end) for column in columns])
        case "list":
            return _lists(array, dtype)
        case "vector":
            matrix = to_matrix(array, dtype)
            return _fixed(matrix.tobytes(), matrix.shape[1])
        case "string" | "binary" | "decimal":
            return _texts(array, dtype)
    numbers = numbers_of(array, dtype)
    return _fixed(numbers.tobytes(), numbers.itemsize)


def _fixed(raw: bytes, wide: int) -> _Range:
    return lambda first, end: raw[wide * first : wide * end]


def _lists(array: Any, dtype: DType) -> _Range:
    import pyarrow.compute as pc

    lengths = np.asarray(pc.list_value_length(array).fill_null(0)).astype("<u4")
    ends, raw = [0, *np.cumsum(lengths, dtype=np.int64).tolist()], lengths.tobytes()
    elements = _column(_whole(pc.list_flatten(array)), dtype.element)
    return lambda first, end: raw[4 * first : 4 * end] + elements(ends[first], ends[end])


def _texts(array: Any, dtype: DType) -> _Range:
    import pyarrow as pa

    if dtype.family == "decimal":
        array = pa.array([None if value is None else str(value) for value in array.to_pylist()], pa.string())
    plain = array.cast(pa.large_binary()).fill_null(b"")
    _, offsets, data = plain.buffers()
    bounds = np.frombuffer(offsets, np.int64, len(plain) + 1, 8 * plain.offset) if offsets else np.zeros(1, np.int64)
    lengths, ends, text = np.diff(bounds).astype("<u4").tobytes(), bounds.tolist(), memoryview(data or b"")
    return lambda first, end: lengths[4 * first : 4 * end] + text[ends[first] : ends[end]]


def numbers_of(array: Any, dtype: DType) -> NDArray[Any]:
    """Return an Arrow column of numbers, booleans, instants or days in its NumPy type, 0 at nulls; instants and days as integers."""
    import pyarrow as pa

    integers = {"timestamp": pa.int64(), "date": pa.int32(), "bool": pa.uint8()}
    plain = array.cast(integers.get(dtype.family, array.type))
    return np.asarray(plain.fill_null(pa.scalar(0, plain.type))).astype(numpy_type(dtype), copy=False)


def _whole(column: Any) -> Any:
    """Return a column as one array."""
    import pyarrow as pa

    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole
