"""Value columns as they are gathered: values of any type come in bit by bit, each for a place, and leave as one Arrow array."""

from __future__ import annotations

from threading import Lock
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.compiling import frozen
from featurestore.offline.engines.loops import scatter, scatter_codes, scatter_nulls, scatter_wide

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


class GatheredColumn(Protocol):
    """A column of a fixed number of places; threads may put values at the same time, as long as the places differ."""

    def put(self, values: pa.Array, rows: Int64Array, places: Int64Array) -> None:
        """Put the values of these rows at these places."""

    def finish(self, filled: BoolArray) -> pa.Array | pa.ChunkedArray:
        """Return the column, null where nothing was put; `filled` says where something was."""


def gathered_column(arrow_type: pa.DataType, places: int, *, coded: bool = False) -> GatheredColumn:
    """Return an empty column of a type.

    Args:
        arrow_type: Its type.
        places: How many values it will hold.
        coded: Whether to expect few different values: text is then kept as codes.
    """
    if pa.types.is_primitive(arrow_type) or pa.types.is_decimal(arrow_type):
        return FixedColumn(arrow_type, places)
    return CodedColumn(arrow_type, places) if coded else TakenColumn(arrow_type)


class _Places:
    """Which places were given a null."""

    def __init__(self, places: int) -> None:
        self._nulls = np.zeros(places, np.bool_)

    def mark(self, values: pa.Array, rows: Int64Array, places: Int64Array) -> None:
        """Mark the places whose row is null."""
        if values.null_count:
            bits = np.frombuffer(values.buffers()[0], np.uint8)
            scatter_nulls(frozen(bits), values.offset, rows, places, self._nulls)

    def valid(self, filled: BoolArray) -> BoolArray:
        """Return the places that were filled, and not with a null."""
        return filled & ~self._nulls


class FixedColumn:
    """Values of a fixed width, copied as words without looking at what they mean."""

    def __init__(self, arrow_type: pa.DataType, places: int) -> None:
        self._type = arrow_type
        word, self._words = _word(arrow_type)
        self._dtype = np.dtype(word)
        self._values: npt.NDArray[Any] = np.zeros((places, self._words) if self._words > 1 else places, self._dtype)
        self._places = _Places(places)

    def put(self, values: pa.Array, rows: Int64Array, places: Int64Array) -> None:
        """Put the values of these rows at these places."""
        rows, places = frozen(rows), frozen(places)
        self._places.mark(values, rows, places)
        if values.null_count == len(values):
            return
        plain = values.cast(pa.uint8()) if pa.types.is_boolean(values.type) else values
        words: Any = np.frombuffer(plain.buffers()[1], self._dtype)
        if self._words == 1:
            scatter(frozen(words[plain.offset :]), rows, places, self._values)
        else:
            scatter_wide(frozen(words.reshape(-1, self._words)[plain.offset :]), rows, places, self._values)

    def finish(self, filled: BoolArray) -> pa.Array:
        """Return the column, null where nothing was put."""
        valid = self._places.valid(filled)
        if pa.types.is_boolean(self._type):
            return pa.array(self._values.view(np.bool_), mask=~valid)
        bits = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
        return pa.Array.from_buffers(self._type, len(valid), [bits, pa.py_buffer(self._values)])


class CodedColumn:
    """Text of few different values: one list of them, and a number for each place."""

    def __init__(self, arrow_type: pa.DataType, places: int) -> None:
        self._codes = np.zeros(places, np.int32)
        self._places = _Places(places)
        self._known = pa.array([], arrow_type)
        self._growing = Lock()

    def put(self, values: pa.Array, rows: Int64Array, places: Int64Array) -> None:
        """Put the values of these rows at these places."""
        rows, places = frozen(rows), frozen(places)
        self._places.mark(values, rows, places)
        if values.null_count == len(values):
            return
        coded = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
        codes = np.frombuffer(coded.indices.buffers()[1], np.int32)[coded.offset :]
        scatter_codes(frozen(codes), frozen(self._meant(coded.dictionary)), rows, places, self._codes)

    def _meant(self, texts: pa.Array) -> npt.NDArray[np.int32]:
        """Return the number of each text, and give those that are new one."""
        with self._growing:
            number = pc.index_in(texts, self._known)
            if number.null_count:
                self._known = pa.concat_arrays([self._known, texts.filter(number.is_null())])
                number = pc.index_in(texts, self._known)
            return np.asarray(number)

    def finish(self, filled: BoolArray) -> pa.Array:
        """Return the column, null where nothing was put."""
        return self._known.take(pa.array(self._codes, mask=~self._places.valid(filled)))


class TakenColumn:
    """Values of any type: Arrow takes them bit by bit, and all of them once more to put them in place."""

    def __init__(self, arrow_type: pa.DataType) -> None:
        self._type = arrow_type
        self._parts: list[tuple[Int64Array, pa.Array]] = []

    def put(self, values: pa.Array, rows: Int64Array, places: Int64Array) -> None:
        """Put the values of these rows at these places."""
        taken = values.take(pa.array(rows))
        self._parts.append((places, taken.dictionary_decode() if pa.types.is_dictionary(taken.type) else taken))

    def finish(self, filled: BoolArray) -> pa.ChunkedArray:
        """Return the column, null where nothing was put."""
        number, count = np.full(len(filled), -1, np.int64), 0
        for places, taken in self._parts:
            number[places] = np.arange(count, count + len(taken))
            count += len(taken)
        values = pa.chunked_array([taken for _, taken in self._parts], self._type)
        return values.take(pa.array(number, mask=number < 0))


def _word(arrow_type: pa.DataType) -> tuple[type[np.unsignedinteger[Any]], int]:
    """Return the machine word that values of a fixed width are made of, and how many; a boolean is a byte."""
    width = max(1, arrow_type.bit_width // 8)
    return (np.uint64, width // 8) if width > 8 else (_WORDS[width], 1)


_WORDS: dict[int, type[np.unsignedinteger[Any]]] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
