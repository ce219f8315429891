"""The bucket of an entity: a hash of its key that never changes, because files on disk are laid out by it.

A key column hashes to 64 bits: whole numbers, booleans, instants and days by the finalizer of SplitMix64 (Steele, Lea and Flood,
2014), text and binary by 64-bit FNV-1a (Fowler, Noll and Vo). The columns of a composite key are chained, each under the finalizer, so that
("1", "12") and ("11", "2") part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

UInt64Array = npt.NDArray[np.uint64]
Function = TypeVar("Function", bound=Callable[..., Any])

FNV_OFFSET, FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)


def buckets_of(keys: Sequence[pa.ChunkedArray], buckets: int) -> npt.NDArray[np.int64]:
    """Return the bucket, from 0 to buckets - 1, of each key.

    Args:
        keys: The key columns in the order of the entity, without nulls.
        buckets: How many there are.

    >>> buckets_of([pa.chunked_array([["JFK", "LGA", "EWR"]])], 16).tolist()
    [15, 15, 14]
    """
    chained = np.zeros(len(keys[0]), np.uint64)
    for column in keys:
        chained = _mix(_column_hash(column) + chained * FNV_PRIME)
    return np.asarray(chained % np.uint64(buckets), np.int64)


def _column_hash(column: pa.ChunkedArray) -> UInt64Array:
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        parts = [_text_hash(chunk) for chunk in column.chunks]
        return np.concatenate(parts) if parts else np.zeros(0, np.uint64)
    whole = column.cast(pa.int32()) if pa.types.is_date32(kind) else column
    return _mix(whole.cast(pa.int64()).to_numpy().view(np.uint64))


def _text_hash(chunk: pa.Array) -> UInt64Array:
    _, offsets, content = chunk.buffers()
    ends = np.frombuffer(offsets, np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
    return _fnv1a(ends, np.frombuffer(content or b"", np.uint8))


def _mix(value: UInt64Array) -> UInt64Array:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(value ^ (value >> np.uint64(31)))


def _kernel(function: Function) -> Function:
    return cast(Function, njit(cache=True, nogil=True)(function))


@_kernel
def _fnv1a(ends: npt.NDArray[np.int32], content: npt.NDArray[np.uint8]) -> UInt64Array:
    hashes = np.empty(len(ends) - 1, np.uint64)
    for row in range(len(ends) - 1):
        value = FNV_OFFSET
        for position in range(ends[row], ends[row + 1]):
            value = (value ^ np.uint64(content[position])) * FNV_PRIME
        hashes[row] = value
    return hashes
