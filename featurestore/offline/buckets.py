"""The bucket of an entity: a hash of its key that never changes, because files on disk are laid out by it.

A key column hashes to 64 bits: whole numbers, booleans, instants and days by the finalizer of SplitMix64 (Steele, Lea and Flood,
2014), text and binary by 64-bit FNV-1a (Fowler, Noll and Vo). The columns of a composite key are chained, each under the finalizer, so that
("1", "12") and ("11", "2") part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.compiling import compiled
from featurestore.errors import InvalidArgumentError

UInt64Array = npt.NDArray[np.uint64]

MOST_BUCKETS = 1024
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


def check_buckets(buckets: int) -> int:
    """Return a number of buckets; raises InvalidArgumentError unless it is a power of two from 1 to 1024.

    With powers of two a bucket is split, or some are merged, without looking at any other.
    """
    if not 1 <= buckets <= MOST_BUCKETS or buckets & (buckets - 1):
        raise InvalidArgumentError(f"{buckets} buckets are not possible.", repair="Take a power of two from 1 to 1024.")
    return buckets


def suitable_buckets(rows: int, size: int) -> int:
    """Return how many buckets suit a table.

    A bucket is what a read holds in memory and what it can do beside others: at most about a million rows and 64 MiB, and where there
    are rows enough, four of them.

    Args:
        rows: How many rows the table has.
        size: Bytes of its files.

    >>> [suitable_buckets(rows, rows * 60) for rows in (100, 200_000, 1_000_000, 10_000_000)]
    [1, 2, 4, 16]
    """
    shared = min(4, _power_of_two(rows / _ROWS_TO_SHARE))
    return min(MOST_BUCKETS, max(shared, _power_of_two(max(rows / _ROWS, size / _BYTES))))


_ROWS_TO_SHARE, _ROWS, _BYTES = 128 << 10, 1 << 20, 64 << 20


def _power_of_two(number: float) -> int:
    """Return the least power of two that is not less than a number."""
    return 1 << max(0, math.ceil(number) - 1).bit_length()


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


@compiled
def _fnv1a(ends: npt.NDArray[np.int32], content: npt.NDArray[np.uint8]) -> UInt64Array:
    hashes = np.empty(len(ends) - 1, np.uint64)
    for row in range(len(ends) - 1):
        value = FNV_OFFSET
        for position in range(ends[row], ends[row + 1]):
            value = (value ^ np.uint64(content[position])) * FNV_PRIME
        hashes[row] = value
    return hashes
