"""Arrow columns <-> the lanes in which their values are stored and sent: 8-byte floats, 8-byte integers, or bytes.

A lane holds a value in every position; a null is 0 or empty there, and False in the array of valid positions that goes with it.
Vectors, which are all of one length, are a matrix of bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import InvalidArgumentError
from featurestore.nested import from_bytes, from_matrix, to_bytes, to_matrix
from featurestore.types import DType, numpy_type, to_arrow

Values = NDArray[np.float64] | NDArray[np.int64] | NDArray[np.uint8] | list[bytes]


@dataclass(frozen=True, slots=True)
class LaneColumn:
    """The values of one column as its lane carries them.

    Attributes:
        values: float64[n] or int64[n], a list of n bytes, or uint8[n, bytes of a vector]; what stands at a null is not a value.
        valid: bool[n], False at nulls.
    """

    values: Values
    valid: NDArray[np.bool_]

    def take(self, indices: Sequence[int]) -> LaneColumn:
        """Return the values at these positions."""
        picked = [self.values[i] for i in indices] if isinstance(self.values, list) else self.values[indices]
        return LaneColumn(picked, self.valid[indices])


def to_lane(column: Any, dtype: DType) -> LaneColumn:
    """Return an Arrow column of the declared type as its lane.

    >>> import pyarrow as pa
    >>> to_lane(pa.array([True, None]), DType("bool")).values.tolist()
    [1, 0]
    """
    valid = np.asarray(column.is_valid())
    if dtype.family == "vector":
        return LaneColumn(to_matrix(column, dtype), valid)
    if dtype.lane == "strings":
        return LaneColumn(_to_bytes(column, dtype), valid)
    import pyarrow as pa

    number = pa.float64() if dtype.lane == "doubles" else pa.int64()
    plain = column.cast(pa.int32()) if dtype.family == "date" else column
    return LaneColumn(np.asarray(plain.cast(number).fill_null(0)), valid)


def from_lane(lane: LaneColumn, dtype: DType, *, place: str | None = None) -> Any:
    """Return a lane as an Arrow array of the declared type.

    Args:
        lane: The values.
        dtype: The declared type.
        place: Where the column stands, for the error.

    Raises:
        InvalidArgumentError: A value does not fit the type: an integer too wide, text that is not UTF-8, a bad decimal.
    """
    import pyarrow as pa

    try:
        if isinstance(lane.values, list):
            return _from_bytes(lane, dtype)
        return from_matrix(lane.values, lane.valid, dtype) if lane.values.ndim > 1 else _from_numbers(lane, dtype)  # type: ignore[arg-type]  # two dimensions: bytes
    except (pa.ArrowInvalid, ArithmeticError, UnicodeDecodeError) as error:
        raise InvalidArgumentError(f"A value does not fit {dtype}: {error}.", place=place) from error
    except InvalidArgumentError as error:
        raise InvalidArgumentError(error.message, place=place, repair=error.repair) from error


def _to_bytes(column: Any, dtype: DType) -> list[bytes]:
    import pyarrow as pa

    if dtype.is_nested:
        return to_bytes(column, dtype)
    if dtype.family == "decimal":
        return [b"" if value is None else str(value).encode() for value in column.to_pylist()]
    values: list[bytes] = column.cast(pa.binary()).fill_null(b"").to_pylist()
    return values


def _from_bytes(lane: LaneColumn, dtype: DType) -> Any:
    import pyarrow as pa

    values = [value if ok else None for value, ok in zip(lane.values, lane.valid.tolist(), strict=True)]
    if dtype.is_nested:
        return from_bytes(values, dtype)
    if dtype.family == "decimal":
        numbers = [value if value is None else Decimal(value.decode()) for value in values]
        return pa.array(numbers, to_arrow(dtype))
    return pa.array(values, pa.binary()).cast(to_arrow(dtype))


def _from_numbers(lane: LaneColumn, dtype: DType) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    array = pa.array(lane.values, mask=~lane.valid)
    if dtype.family == "bool" and not set(array.unique().to_pylist()) <= {0, 1, None}:
        raise pa.ArrowInvalid("a bool is 0 or 1")
    if dtype.family == "date":
        array = array.cast(pa.int32())
    if dtype.name == "float32" and pc.any(pc.and_(pc.is_finite(array), pc.is_inf(array.cast(pa.float32())))).as_py():
        raise pa.ArrowInvalid("a number would become infinite")
    return array.cast(to_arrow(dtype))


class WireColumn(Protocol):
    """A column of a request or of a write: the protobuf message Column is one."""

    name: str

    @property
    def integers(self) -> Sequence[int]:
        """Integers, booleans, instants, days."""

    @property
    def doubles(self) -> Sequence[float]:
        """Floats."""

    @property
    def strings(self) -> Sequence[bytes]:
        """Texts, binaries, decimals as text."""

    @property
    def nulls(self) -> Sequence[int]:
        """Positions of nulls; something stands at each of them."""


def wire_lane(column: WireColumn, dtype: DType, *, place: str) -> LaneColumn:
    """Return a column of a request as its lane.

    Args:
        column: The column as it was sent.
        dtype: The declared type.
        place: Where the column stands, for the error, e.g. ``$.request.distance``.

    Raises:
        InvalidArgumentError: The values are in another list than the type's, or a null lies outside of them.
    """
    lanes = {"integers": column.integers, "doubles": column.doubles, "strings": column.strings}
    sent = [name for name, values in lanes.items() if values]
    if sent and sent != [dtype.lane]:
        raise InvalidArgumentError(f"Expected {dtype} in {dtype.lane}, got {' and '.join(sent)}.", place=place)
    values = lanes[dtype.lane]
    if column.nulls and max(column.nulls) >= len(values):
        raise InvalidArgumentError(f"Null {max(column.nulls)} lies outside of {len(values)} values.", place=place)
    valid = np.ones(len(values), np.bool_)
    valid[list(column.nulls)] = False
    if dtype.family == "vector":
        return LaneColumn(_matrix(column.strings, valid, dtype, place), valid)
    if dtype.lane == "strings":
        return LaneColumn(list(column.strings), valid)
    if dtype.lane == "doubles":
        return LaneColumn(np.array(column.doubles, np.float64), valid)
    return LaneColumn(np.array(column.integers, np.int64), valid)


def _matrix(vectors: Sequence[bytes], valid: NDArray[np.bool_], dtype: DType, place: str) -> NDArray[np.uint8]:
    wide = dtype.length * numpy_type(dtype.element).itemsize
    whole = [vector if there else bytes(wide) for vector, there in zip(vectors, valid.tolist(), strict=True)]
    for i, vector in enumerate(whole):
        if len(vector) != wide:
            raise InvalidArgumentError(f"Expected {dtype}, got {len(vector)} of {wide} bytes.", place=f"{place}[{i}]")
    return np.frombuffer(b"".join(whole), np.uint8).reshape(len(whole), wide)
