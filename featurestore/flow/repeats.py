"""What was accepted before: rows by the digest of everything in them, writes by their id.

Two rows are the same when keys, event key, times and values are equal; null equals null, NaN equals NaN, and -0.0 equals 0.0. Inside
nested values every bit counts.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import TypeVar

import msgspec
import numpy as np
import pyarrow as pa

from featurestore.keys import encode_columns
from featurestore.lanes import LaneColumn, to_lane
from featurestore.online.codec import RowLayout
from featurestore.online.rows import micros
from featurestore.online.store import Snapshot, Transaction
from featurestore.refs import ViewRef
from featurestore.rows import CREATED, EVENT, RowSchema
from featurestore.types import Timestamp

WRITE_IDS_KEPT = 7 * 86_400_000_000  # microseconds

_DIGEST_BYTES = 16
_pack_time = struct.Struct(">Q").pack
_pack_length = struct.Struct(">H").pack
_BY_ID, _BY_TIME = b"i", b"t"
Answer = TypeVar("Answer")


def new_rows(transaction: Transaction, ref: ViewRef, schema: RowSchema, rows: pa.Table) -> pa.Table:
    """Return the rows that were not accepted before, each once and in their order, and remember them."""
    digests = _digests(ref, schema, rows)
    firsts = {digest: i for i, digest in reversed(list(enumerate(digests)))}
    known = transaction.multi_get("digests", b"", firsts)
    fresh = sorted((i, digest) for (digest, i), old in zip(firsts.items(), known, strict=True) if old is None)
    transaction.put_many("digests", sorted((digest, b"") for _, digest in fresh))
    return rows if len(fresh) == len(rows) else rows.take(pa.array([i for i, _ in fresh], pa.int64()))


def forget_rows(transaction: Transaction, ref: ViewRef, schema: RowSchema, rows: pa.Table) -> None:
    """Forget that rows were accepted: of an erased row not even a digest stays."""
    for digest in _digests(ref, schema, rows):
        transaction.delete("digests", digest)


def forget_warnings(transaction: Transaction) -> None:
    """Take the warnings out of the remembered answers: they may quote values."""
    for key, stored in list(transaction.scan("write_ids", _BY_ID, _BY_ID + b"\xff" * (_DIGEST_BYTES + 1))):
        answer = msgspec.msgpack.decode(stored)
        if answer.pop("warnings", None):
            transaction.put("write_ids", key, msgspec.msgpack.encode(answer))


def answer_of(snapshot: Snapshot, ref: ViewRef, write_id: bytes, kind: type[Answer]) -> Answer | None:
    """Return how a write with this id was answered within the last days, or None; an empty id is none."""
    stored = snapshot.get("write_ids", _BY_ID + _name(ref, write_id)) if write_id else None
    return None if stored is None else msgspec.msgpack.decode(stored, type=kind)


def remember_answer(transaction: Transaction, ref: ViewRef, write_id: bytes, answer: object, *, now: int) -> None:
    """Remember how a write was answered, and forget what is older than seven days."""
    _forget(transaction, until=now - WRITE_IDS_KEPT)
    if write_id:
        name = _name(ref, write_id)
        transaction.put("write_ids", _BY_ID + name, msgspec.msgpack.encode(answer))
        transaction.put("write_ids", _BY_TIME + _pack_time(max(now, 0)) + name, b"")


def _forget(transaction: Transaction, *, until: int) -> None:
    old = [key for key, _ in transaction.scan("write_ids", _BY_TIME, _BY_TIME + _pack_time(max(until, 0)))]
    for key in old:
        transaction.delete("write_ids", key)
        transaction.delete("write_ids", _BY_ID + key[-_DIGEST_BYTES:])


def _name(ref: ViewRef, write_id: bytes) -> bytes:
    return blake2b(f"{ref.view}@v{ref.version}|".encode() + write_id, digest_size=_DIGEST_BYTES).digest()


def _digests(ref: ViewRef, schema: RowSchema, rows: pa.Table) -> list[bytes]:
    layout = RowLayout.of(
        [(c.name, c.dtype) for c in (*schema.event_key, *schema.values)] + [(CREATED, Timestamp)],
    )
    columns = [_plain(to_lane(rows[slot.name], slot.dtype)) for slot in layout.slots]
    values = layout.encode(micros(rows[EVENT]), columns)
    keys = encode_columns([rows[key.name] for key in schema.keys], [key.dtype for key in schema.keys])
    view = f"{ref.view}@v{ref.version}|".encode()
    return [
        blake2b(view + _pack_length(len(key)) + key + row, digest_size=_DIGEST_BYTES).digest()
        for key, row in zip(keys, values, strict=True)
    ]


def _plain(column: LaneColumn) -> LaneColumn:
    """Give every NaN the same bits, and zero one sign."""
    values = column.values
    if isinstance(values, list) or values.dtype.kind != "f":
        return column
    return LaneColumn(np.where(np.isnan(values), np.nan, values + 0.0), column.valid)
