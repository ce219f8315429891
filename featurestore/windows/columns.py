"""What the fold works on and gives back: events by entity, and columns of values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from featurestore.lanes import LaneColumn, from_lane, to_lane
from featurestore.types import DType, from_arrow, to_arrow

if TYPE_CHECKING:
    import pyarrow as pa

Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class WindowColumn:
    """One column of values with its nulls.

    Attributes:
        values: float64 or int64 (integers, booleans, microseconds, days), or for other types int64 positions in `choices`; what
            stands at a null is not looked at.
        valid: False where the value is null.
        choices: The values of a text, binary or decimal column, each once, or of a nested one, in any order; an Arrow array without
            nulls. None for numbers and times.
    """

    values: Float64Array | Int64Array
    valid: BoolArray
    choices: pa.Array | None = None

    @classmethod
    def from_arrow(cls, column: pa.ChunkedArray) -> WindowColumn:
        """Return an Arrow column as arrays.

        >>> import pyarrow as pa
        >>> WindowColumn.from_arrow(pa.chunked_array([pa.array([1, None])])).valid.tolist()
        [True, False]
        >>> texts = WindowColumn.from_arrow(pa.chunked_array([["b", "a"], ["b", None]]))
        >>> texts.values.tolist(), texts.choices.to_pylist()
        ([0, 1, 0, 0], ['b', 'a'])
        """
        dtype = from_arrow(column.type)
        if dtype.lane == "strings":
            return cls._chosen(column, dtype)
        lane = to_lane(column, dtype)
        return cls(cast(Float64Array, lane.values), lane.valid)

    @classmethod
    def _chosen(cls, column: pa.ChunkedArray, dtype: DType) -> WindowColumn:
        import pyarrow as pa
        import pyarrow.compute as pc

        valid = np.asarray(column.is_valid())
        plain = column.cast(to_arrow(dtype))
        if dtype.is_nested:
            return cls(np.cumsum(valid) - valid, valid, plain.drop_null().combine_chunks())
        encoded = pc.dictionary_encode(plain).unify_dictionaries()
        if not encoded.num_chunks:
            return cls(np.zeros(0, np.int64), valid, pa.array([], plain.type))
        positions = [np.asarray(chunk.indices.fill_null(0), np.int64) for chunk in encoded.chunks]
        return cls(np.concatenate(positions), valid, encoded.chunk(0).dictionary)

    @classmethod
    def concatenate(cls, parts: Sequence[WindowColumn], dtype: DType) -> WindowColumn:
        """Return the values of one or more columns of a type one after the other."""
        if dtype.lane == "strings":
            import pyarrow as pa

            return cls.from_arrow(pa.chunked_array([part.to_arrow(dtype) for part in parts], to_arrow(dtype)))
        values: Any = np.concatenate([part.values for part in parts])
        return cls(values, np.concatenate([part.valid for part in parts]))

    def to_arrow(self, dtype: DType) -> pa.Array:
        """Return the column as an Arrow array of that type."""
        if self.choices is None:
            return from_lane(LaneColumn(self.values, self.valid), dtype)
        return self._picked().cast(to_arrow(dtype))

    def compact(self) -> WindowColumn:
        """Return the column without choices that no row has, the others in the order of rows."""
        if self.choices is None:
            return self
        import pyarrow as pa

        return WindowColumn.from_arrow(pa.chunked_array([self._picked()]))

    def _picked(self) -> pa.Array:
        import pyarrow as pa

        assert self.choices is not None
        return self.choices.take(pa.array(self.values, mask=~self.valid))

    def lane(self, dtype: DType) -> LaneColumn:
        """Return the column as its lane carries it."""
        if self.choices is None:
            return LaneColumn(self.values, self.valid)
        return to_lane(self.to_arrow(dtype), dtype)

    def take(self, rows: Int64Array) -> WindowColumn:
        """Return the values at these rows; at -1 and at a null there is none."""
        if not len(self.values):
            nothing: Any = np.zeros(len(rows), self.values.dtype)
            return WindowColumn(nothing, np.zeros(len(rows), np.bool_), self.choices)
        values: Any = self.values[rows]
        return WindowColumn(values, (rows >= 0) & self.valid[rows], self.choices)


@dataclass(frozen=True, slots=True)
class WindowLists:
    """One list of values for each read.

    Attributes:
        values: The values of all lists, one list after the other.
        lengths: int64[reads] how many of them each list has.
    """

    values: WindowColumn
    lengths: Int64Array

    @property
    def valid(self) -> BoolArray:
        """True everywhere: an empty window is an empty list."""
        return np.ones(len(self.lengths), np.bool_)

    def to_arrow(self, dtype: DType) -> pa.Array:
        """Return the lists as an Arrow array of that list type."""
        import pyarrow as pa

        wanted = to_arrow(dtype)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths)]).astype(np.int32)
        return pa.ListArray.from_arrays(offsets, self.values.to_arrow(dtype.element)).cast(wanted)

    def lane(self, dtype: DType) -> LaneColumn:
        """Return the lists as their lane carries them."""
        return to_lane(self.to_arrow(dtype), dtype)


@dataclass(frozen=True, slots=True)
class Events:
    """Events by entity, sorted by (event, identity, created, seq) within each.

    Attributes:
        starts: int64[entities + 1]; the events of entity e are ``starts[e]`` up to ``starts[e + 1]``.
        event: int64[n] event times, microseconds since 1970 UTC.
        created: int64[n] created times in microseconds, INT64_MIN where there is none (and so not a time).
        seq: int64[n] order of acceptance.
        known_from: int64[n] time from which the event is known, microseconds.
        identity: int64[n] equal for the versions of one event, distinct otherwise; all distinct without an event key.
        columns: Column name -> values.
        passed: Filter name -> bool[n], the events that pass it, where that is known already; other filters are evaluated.
    """

    starts: Int64Array
    event: Int64Array
    created: Int64Array
    seq: Int64Array
    known_from: Int64Array
    identity: Int64Array
    columns: Mapping[str, WindowColumn]
    passed: Mapping[str, BoolArray] = field(default_factory=dict)
