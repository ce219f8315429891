"""Putting accepted rows into a keyspace: the greatest (event, created, seq) of an entity stays, in whatever order rows come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurestore.lanes import to_lane
from featurestore.online.codec import RowLayout
from featurestore.online.store import Transaction
from featurestore.rows import CREATED, EVENT, SEQ
from featurestore.types import INT64_MIN

_STAMP_BYTES = 24


def put_rows(transaction: Transaction, prefix: bytes, layout: RowLayout, keys: Sequence[bytes], rows: pa.Table) -> int:
    """Put the rows that are greater than what is there.

    Args:
        transaction: The write in progress.
        prefix: The keyspace's prefix.
        layout: How its rows are laid out.
        keys: The entity key of each row.
        rows: Accepted rows in canonical form, with ``__seq``.

    Returns:
        How many entities got another row.
    """
    stamps = _stamps(rows)
    winners = sorted(_newer(transaction, prefix, keys, stamps, _greatest(keys, stamps)), key=keys.__getitem__)
    taken = rows.take(pa.array(winners, pa.int64()))
    columns = [to_lane(taken[slot.name], slot.dtype) for slot in layout.slots]
    fragments = layout.encode(micros(taken[EVENT]), columns)
    names = [prefix + keys[i] for i in winners]
    transaction.put_many("rows", zip(names, fragments, strict=True))
    transaction.put_many("order", zip(names, (stamps[i] for i in winners), strict=True))
    return len(winners)


def micros(column: Any) -> NDArray[np.int64]:
    """Return instants of an Arrow column as int64 microseconds, INT64_MIN for null."""
    return np.asarray(column.cast(pa.int64()).fill_null(INT64_MIN))


def _stamps(rows: pa.Table) -> list[bytes]:
    """Return what orders each row, as bytes that sort as (event, created, seq) do; a null created sorts lowest."""
    parts = [micros(rows[EVENT]), micros(rows[CREATED]), np.asarray(rows[SEQ])]
    biased = np.stack(parts, axis=1).view(np.uint64) ^ np.uint64(1 << 63)
    raw = biased.astype(">u8").tobytes()
    return [raw[at : at + _STAMP_BYTES] for at in range(0, len(raw), _STAMP_BYTES)]


def _greatest(keys: Sequence[bytes], stamps: Sequence[bytes]) -> list[int]:
    """Return the position of the greatest row of each entity."""
    best: dict[bytes, int] = {}
    for i, key in enumerate(keys):
        known = best.get(key)
        if known is None or stamps[known] < stamps[i]:
            best[key] = i
    return list(best.values())


def _newer(
    transaction: Transaction, prefix: bytes, keys: Sequence[bytes], stamps: Sequence[bytes], rows: Sequence[int]
) -> list[int]:
    """Leave out rows that are not greater than the stored one."""
    stored = transaction.multi_get("order", prefix, [keys[i] for i in rows])
    return [i for i, old in zip(rows, stored, strict=True) if old is None or old < stamps[i]]
