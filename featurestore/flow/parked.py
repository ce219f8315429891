"""Rows that are dated after now: accepted and durable, and invisible until they come due."""

from __future__ import annotations

import struct
from collections.abc import Sequence

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
    """Keep accepted rows until they come due."""
    for i, (event, seq) in enumerate(zip(micros(rows[EVENT]).tolist(), rows[SEQ].to_pylist(), strict=True)):
        transaction.put("parked", _KEY.pack(event + _BIAS, seq), encode_batch(ref, rows.slice(i, 1)))


def take_due(transaction: Transaction, now: int) -> dict[ViewRef, Sequence[pa.Table]]:
    """Remove the rows with an event time up to now, and return them by view version in the order of their events."""
    due = list(transaction.scan("parked", b"", _KEY.pack(min(now, INT64_MAX - 1) + 1 + _BIAS, 0)))
    rows: dict[ViewRef, list[pa.Table]] = {}
    for key, stored in due:
        transaction.delete("parked", key)
        ref, row = decode_batch(stored)
        rows.setdefault(ref, []).append(row)
    return dict(rows)


def earliest_parked(snapshot: Snapshot) -> int:
    """Return the event time of the first row that waits, INT64_MAX when none does."""
    for key, _ in snapshot.scan("parked", b"", _END):
        event, _ = _KEY.unpack(key)
        return int(event) - _BIAS
    return INT64_MAX
