"""The row log: accepted rows in the order of acceptance, kept until they are in the offline table.

A batch is the view version and its rows as an Arrow stream; its key is the first sequence number, so the log sorts by acceptance.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec
import pyarrow as pa

from featurestore.errors import CorruptionError
from featurestore.online.store import Snapshot, Transaction
from featurestore.refs import ViewRef
from featurestore.rows import SEQ

_pack_seq = struct.Struct(">Q").pack
_END = b"\xff" * 9


class _Batch(msgspec.Struct, array_like=True):
    view: str
    version: int
    rows: bytes


_decode = msgspec.msgpack.Decoder(_Batch).decode


def log_rows(transaction: Transaction, ref: ViewRef, rows: pa.Table) -> None:
    """Add accepted rows of one view version, with ``__seq``; there must be at least one."""
    transaction.put("log", _pack_seq(rows[SEQ][0].as_py()), encode_batch(ref, rows))


def first_logged(snapshot: Snapshot) -> int | None:
    """Return the first sequence number in the log, None when it is empty."""
    return next((int.from_bytes(key, "big") for key, _ in snapshot.scan("log", b"", _END)), None)


def logged_rows(snapshot: Snapshot, *, after: int = 0) -> Iterator[tuple[bytes, ViewRef, pa.Table]]:
    """Go through the log in order: (key of the entry, view version, rows).

    Args:
        snapshot: The store with the log.
        after: The first sequence number of the last entry to leave out; 0 leaves none out.
    """
    for key, batch in snapshot.scan("log", _pack_seq(after + 1), _END):
        yield key, *decode_batch(batch)


def encode_batch(ref: ViewRef, rows: pa.Table) -> bytes:
    """Return rows of a view version as bytes."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_table(rows)
    return msgspec.msgpack.encode(_Batch(ref.view, ref.version or 0, sink.getvalue().to_pybytes()))


def decode_batch(stored: bytes) -> tuple[ViewRef, pa.Table]:
    """Return the rows of a stored batch; raises CorruptionError when it is not one."""
    try:
        batch = _decode(stored)
        with pa.ipc.open_stream(batch.rows) as stream:
            rows = stream.read_all()
        rows.validate(full=True)
    except (msgspec.DecodeError, pa.ArrowInvalid, OSError) as error:
        raise CorruptionError(f"A batch of the row log is damaged: {error}.") from error
    return ViewRef(batch.view, batch.version), rows


def conform(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return rows that were accepted under an older layout with the columns of today: what they lack is null."""
    missing = [field for field in schema if field.name not in rows.column_names]
    for field in missing:
        rows = rows.append_column(field, pa.nulls(len(rows), field.type))
    return rows.select(schema.names)
