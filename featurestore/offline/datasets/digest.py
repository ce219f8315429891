"""Digests and comparison of values: what a column says, not how a file or Arrow's many layouts hold it.

A dictionary is its values, an instant is its microseconds in UTC, every NaN is one, -0.0 is 0.0, and what lies under a null does not
count. Lists, vectors and structs are taken apart in the same way, down to their scalars.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import InvalidArgumentError
from featurestore.lanes import to_lane
from featurestore.types import from_arrow, is_arrow_list, to_arrow

BoolArray = npt.NDArray[np.bool_]
Numbers = npt.NDArray[Any]

DIGEST_BYTES = 16


# Rows of a table are taken so many at a time, whatever chunks they come in: no more than those have to be in memory.
BLOCK_ROWS = 1 << 17


def table_digest(table: pa.Table) -> str:
    """Return a digest of the values, columns and rows in their order: 16 bytes of BLAKE2b as text.

    Raises:
        InvalidArgumentError: A column has a type whose values have no canonical form, such as a calendar interval.

    >>> table_digest(pa.table({"a": [0.0, None]})) == table_digest(pa.table({"a": [-0.0, None]}))
    True
    """
    return digests(table)[0]


def digests(table: pa.Table) -> tuple[str, dict[str, str]]:
    """Return the digest of a table, and of each of its columns."""
    digest = TableDigest()
    digest.update(table)
    return digest.finish()


class TableDigest:
    """The digests of a table that comes in parts; how it is cut changes nothing.

    >>> digest, table = TableDigest(), pa.table({"a": [1, 2, 3]})
    >>> digest.update(table.slice(0, 1))
    >>> digest.update(table.slice(1))
    >>> digest.finish() == digests(table)
    True
    """

    def __init__(self) -> None:
        self._whole = blake2b(digest_size=DIGEST_BYTES)
        self._columns: dict[str, Any] = {}
        self._waiting: list[pa.Table] = []

    def update(self, part: pa.Table) -> None:
        """Take the next rows.

        Raises:
            InvalidArgumentError: A column has a type whose values have no canonical form.
        """
        self._waiting.append(part)
        if sum(map(len, self._waiting)) < BLOCK_ROWS:
            return
        rows = pa.concat_tables(self._waiting)
        full = len(rows) // BLOCK_ROWS * BLOCK_ROWS
        for start in range(0, full, BLOCK_ROWS):
            self._add(rows.slice(start, BLOCK_ROWS))
        rest = rows.slice(full)
        self._waiting = [rest.take(pa.array(np.arange(len(rest))))]  # a slice would keep the whole part in memory

    def finish(self) -> tuple[str, dict[str, str]]:
        """Return the digest of the table, and of each of its columns; no rows may come after."""
        if self._waiting and (any(map(len, self._waiting)) or not self._columns):
            self._add(pa.concat_tables(self._waiting))
        return self._whole.hexdigest(), {name: column.hexdigest() for name, column in self._columns.items()}

    def _add(self, block: pa.Table) -> None:
        for name in block.column_names:
            column = self._columns.setdefault(name, blake2b(digest_size=DIGEST_BYTES))
            for part in (f"{name}\0{len(block)}\0".encode(), *canonical(block[name])):
                self._whole.update(part)
                column.update(part)


def canonical(column: pa.ChunkedArray) -> Iterator[bytes | memoryview]:
    """Return the type, validity and values of a column as bytes that equal columns have alike."""
    array = _whole(column)
    yield type_name(array.type).encode()
    yield from _values(array)


def differs(left: pa.ChunkedArray, right: pa.ChunkedArray) -> BoolArray:
    """Return bool[n]: where two columns of one length say different things; null equals null, and NaN equals NaN.

    >>> differs(pa.chunked_array([[1.0, float("nan"), None]]), pa.chunked_array([[1.0, float("nan"), 2.0]])).tolist()
    [False, False, True]
    """
    one, other = _whole(left), _whole(right)
    if type_name(one.type) != type_name(other.type):
        return np.ones(len(one), np.bool_)
    return _differs(one, other)


def shown(value: pa.Scalar) -> Any:
    """Return one value as Python has it; an instant or day beyond Python's years as text.

    >>> shown(pa.scalar(2**62, pa.timestamp("us", "UTC")))
    '4611686018427387904 timestamp[us, tz=UTC]'
    """
    try:
        return value.as_py()
    except (ValueError, OverflowError):
        return f"{value.value} {value.type}"


def type_name(arrow_type: pa.DataType) -> str:
    """Return the name of what a type means: the same for every Arrow layout of it.

    Raises:
        InvalidArgumentError: Values of this type have no canonical form.

    >>> type_name(pa.large_list(pa.timestamp("ms"))), type_name(pa.dictionary(pa.int8(), pa.string())), type_name(pa.uint8())
    ('list<timestamp>', 'string', 'uint8')
    """
    kind = _decoded(arrow_type)
    if _is_any_list(kind):
        return f"list<{type_name(kind.value_type)}>"
    if pa.types.is_fixed_size_list(kind):
        return f"vector<{type_name(kind.value_type)},{kind.list_size}>"
    if pa.types.is_map(kind):
        return f"map<{type_name(kind.key_type)},{type_name(kind.item_type)}>"
    if pa.types.is_struct(kind):
        return f"struct<{','.join(f'{field.name}:{type_name(field.type)}' for field in kind.fields)}>"
    if _is_foreign(kind):
        return "time" if pa.types.is_time(kind) else str(kind)
    return from_arrow(kind).name


_FOREIGN = (
    pa.types.is_unsigned_integer, pa.types.is_time, pa.types.is_duration, pa.types.is_float16, pa.types.is_null,
    pa.types.is_decimal256,
)  # fmt: skip


def _is_foreign(kind: pa.DataType) -> bool:
    """Say whether a type has no counterpart in this store; a column that came with a spine may have one."""
    return any(test(kind) for test in _FOREIGN)


def _decoded(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return _decoded(kind.value_type)
    return _decoded(kind.storage_type) if isinstance(kind, pa.BaseExtensionType) else kind


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array without encodings; texts with offsets that any size fits."""
    if pa.types.is_string(column.type) or pa.types.is_binary(column.type):
        column = column.cast(pa.large_string() if pa.types.is_string(column.type) else pa.large_binary())
    return _plain(column.combine_chunks())


def _plain(array: pa.Array) -> pa.Array:
    if isinstance(array, pa.ExtensionArray):
        return _plain(array.storage)
    if pa.types.is_dictionary(array.type):
        return _plain(array.dictionary_decode())
    if pa.types.is_run_end_encoded(array.type):
        return _plain(pc.run_end_decode(array))
    return array


def _is_list(kind: pa.DataType) -> bool:
    return _is_any_list(kind) or bool(pa.types.is_fixed_size_list(kind) or pa.types.is_map(kind))


def _is_any_list(kind: pa.DataType) -> bool:
    """Say whether a type is a list of any length; a view's elements may lie in any order, which `flatten` puts right."""
    return is_arrow_list(kind) or bool(pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind))


def _elements(array: pa.Array) -> tuple[npt.NDArray[np.int64], pa.Array]:
    """Return how many elements each list has, none where it is null, and all of them in a row."""
    if pa.types.is_map(array.type):
        array = array.cast(pa.list_(pa.struct([("key", array.type.key_type), ("value", array.type.item_type)])))
    lengths = pc.list_value_length(array).cast(pa.int64()).fill_null(0)
    return np.asarray(lengths), _plain(array.flatten())


def _fields(array: pa.StructArray) -> list[pa.Array]:
    """Return the fields of structs, null where the struct is."""
    return [_plain(field) for field in array.flatten()]


def _values(array: pa.Array) -> Iterator[bytes | memoryview]:
    valid = np.asarray(array.is_valid())
    yield np.packbits(valid).tobytes()
    if _is_list(array.type):
        lengths, elements = _elements(array)
        yield lengths.tobytes()
        yield from _values(elements)
    elif pa.types.is_struct(array.type):
        for field in _fields(array):
            yield from _values(field)
    else:
        scalars = _scalars(array)
        if isinstance(scalars, pa.Array):
            yield np.asarray(pc.binary_length(scalars), np.int64).tobytes()
            yield _joined(scalars)
        else:
            yield np.ascontiguousarray(scalars).data.cast("B")


def _differs(left: pa.Array, right: pa.Array) -> BoolArray:
    valid, other_valid = np.asarray(left.is_valid()), np.asarray(right.is_valid())
    return np.asarray((valid != other_valid) | (valid & other_valid & _values_differ(left, right)), np.bool_)


def _values_differ(left: pa.Array, right: pa.Array) -> BoolArray:
    """Compare the values of two arrays; what it says about nulls does not count."""
    if _is_list(left.type):
        return _lists_differ(left, right)
    if pa.types.is_struct(left.type):
        pairs = zip(_fields(left), _fields(right), strict=True)
        return np.asarray(np.logical_or.reduce([np.zeros(len(left), np.bool_), *(_differs(a, b) for a, b in pairs)]))
    one, other = _scalars(left), _scalars(right)
    if isinstance(one, pa.Array):
        return np.asarray(pc.not_equal(one, other), np.bool_)
    return np.asarray(~((one == other) | ((one != one) & (other != other))))  # noqa: PLR0124  # NaN is the one that differs from itself


def _lists_differ(left: pa.Array, right: pa.Array) -> BoolArray:
    lengths, _ = _elements(left)
    other_lengths, _ = _elements(right)
    same = lengths == other_lengths
    places = np.flatnonzero(same & np.asarray(left.is_valid()) & np.asarray(right.is_valid()))
    (_, one), (_, other) = (_elements(side.take(pa.array(places))) for side in (left, right))
    owner = np.repeat(places, lengths[places])
    differing = np.asarray(~same)
    differing[owner[_differs(one, other)]] = True
    return differing


def _scalars(array: pa.Array) -> Numbers | pa.Array:
    """Return int64[n] or float64[n] with zeros at nulls and one NaN, or an array of bytes, empty at nulls."""
    kind = array.type
    if pa.types.is_timestamp(kind) and kind.unit == "ns" and _is_finer(array):
        raise InvalidArgumentError("A time is finer than a microsecond.", repair="Round the column first.")
    if _is_foreign(kind):
        return _foreign(array)
    dtype = from_arrow(kind)
    if dtype.name in {"string", "binary"}:
        return array.cast(pa.large_binary()).fill_null(b"")
    values = to_lane(array.cast(to_arrow(dtype)), dtype).values
    return pa.array(values, pa.large_binary()) if isinstance(values, list) else _one_nan(values)


def _foreign(array: pa.Array) -> Numbers | pa.Array:
    kind = array.type
    if pa.types.is_decimal256(kind):
        return array.cast(pa.string()).cast(pa.large_binary()).fill_null(b"")
    if pa.types.is_null(kind):
        return np.zeros(len(array), np.int64)
    if pa.types.is_float16(kind):
        return _one_nan(np.asarray(array.cast(pa.float64()).fill_null(0.0)))
    if pa.types.is_uint64(kind):
        return np.asarray(array.fill_null(0), np.uint64).view(np.int64)
    if pa.types.is_time(kind):
        array = array.cast(pa.time64("ns"))
    return np.asarray(array.cast(pa.int64()).fill_null(0), np.int64)


def _one_nan(values: Numbers) -> Numbers:
    return np.where(np.isnan(values), np.nan, values + 0.0) if values.dtype == np.float64 else values


def _is_finer(array: pa.Array) -> bool:
    return bool(np.any(np.asarray(array.cast(pa.int64()).fill_null(0)) % 1000))


def _joined(texts: pa.Array) -> bytes | memoryview:
    """Return the bytes of all texts in a row."""
    _, offsets, data = texts.buffers()
    if data is None or not len(texts):
        return b""
    ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return memoryview(data)[int(ends[0]) : int(ends[-1])]
