"""Rows that are dated after now: accepted and durable, and invisible until they come due."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa

from featurestore.flow.row_log import decode_batch, encode_batch
from featurestore.online.rows import micros
from featurestore.online.store import Snapshot, Transaction
from featurestore.refs import ViewRef
from featurestore.rows import EVENT, SEQ
from featurestore.types import INT64_MAX

_KEY = struct.Struct(">QQ")
_BIAS = 1 << 63
_END = b"\xff" * 17


def park_rows(transaction: Transaction, ref: ViewRef, rows: pa.Table) -> None:
    """Keep accepted rows until they come due; rows of one event time wait together. To park a row twice changes nothing."""
    event, seq = micros(rows[EVENT]), np.asarray(rows[SEQ])
    order = np.lexsort((seq, event))
    ordered = rows.take(pa.array(order))
    edges = [0, *(np.flatnonzero(np.diff(event[order])) + 1).tolist(), len(rows)]
    for start, stop in pairwise(edges if len(rows) else []):
        key = _KEY.pack(int(event[order[start]]) + _BIAS, int(seq[order[start]]))
        transaction.put("parked", key, encode_batch(ref, ordered.slice(start, stop - start)))


def take_due(transaction: Transaction, now: int) -> dict[ViewRef, Sequence[pa.Table]]:
    """Remove the rows with an event time up to now, and return them by view version in the order of their events."""
    due = list(transaction.scan("parked", b"", _KEY.pack(min(now, INT64_MAX - 1) + 1 + _BIAS, 0)))
    rows: dict[ViewRef, list[pa.Table]] = {}
    for key, stored in due:
        transaction.delete("parked", key)
        ref, row = decode_batch(stored)
        rows.setdefault(ref, []).append(row)
    return dict(rows)


def parked_rows(snapshot: Snapshot) -> Iterator[tuple[bytes, ViewRef, pa.Table]]:
    """Go through the rows that wait, in the order of their events: (key of the entry, view version, rows)."""
    for key, stored in snapshot.scan("parked", b"", _END):
        yield key, *decode_batch(stored)


def replace_parked(transaction: Transaction, key: bytes, ref: ViewRef, rows: pa.Table) -> None:
    """Put fewer rows in the place of an entry; without any it goes."""
    transaction.delete("parked", key)
    park_rows(transaction, ref, rows)


def earliest_parked(snapshot: Snapshot) -> int:
    """Return the event time of the first row that waits, INT64_MAX when none does."""
    for key, _ in snapshot.scan("parked", b"", _END):
        event, _ = _KEY.unpack(key)
        return int(event) - _BIAS
    return INT64_MAX
