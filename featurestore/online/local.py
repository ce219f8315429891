"""The read of the server without a server: the same request, the same reader, the same decoding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from featurestore.client import ReadShape
from featurestore.decoding import OnlineRows, decode
from featurestore.keys import encode_request
from featurestore.online.lmdb import open_lmdb
from featurestore.online.reader import OnlineReader, schema_message
from featurestore.planning import ReadPlan
from featurestore.v1 import serving_pb2 as pb


def read_in_process(
    folder: Path,
    plan: ReadPlan,
    keys: Mapping[str, Sequence[Any]],
    request: Mapping[str, Sequence[Any]],
    *,
    clock: Callable[[], int] | None,
) -> OnlineRows:
    """Read one row per entity from an online store in this process.

    Args:
        folder: Folder of the online store.
        plan: What to read.
        keys: Key column -> values, all of one length.
        request: Request column -> values of the same length.
        clock: Microseconds UTC; None is the replay clock, which lives in the store.

    Raises:
        FailedPreconditionError: A view was never filled; names the command that does.
        InvalidArgumentError: A column is missing or unknown, a key is null, or a value of another type; says where.
    """
    schema = schema_message(plan)
    message = pb.ReadRequest.FromString(ReadShape.of(schema).pack(keys, request))
    store = open_lmdb(folder)  # not read-only: a writer of this process may have it open, or open it next
    try:
        reader = OnlineReader(store, clock)
        encoded = [encode_request(message.columns, key_set) for key_set in plan.key_sets]
        return decode(schema, reader.read(reader.prepare(plan), encoded, message.columns))
    finally:
        store.close()
