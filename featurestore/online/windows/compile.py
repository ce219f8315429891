"""Compiling all that windows online need before somebody waits for it: an event is written and read in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from featurestore import windows
from featurestore.online.store import Table
from featurestore.online.windows import read, write
from featurestore.online.windows.layout import PageLayout, group_of
from featurestore.registry.snapshot import AggregationRecord, FeatureRecord
from featurestore.rows import CREATED, EVENT, SEQ, RowColumn
from featurestore.types import DType
from featurestore.windows.stored import Folded, fold_pieces


class _Memory:
    """A transaction over a dictionary."""

    def __init__(self) -> None:
        self._pairs: dict[bytes, bytes] = {}

    def get(self, _: Table, key: bytes) -> bytes | None:
        return self._pairs.get(key)

    def multi_get(self, _: Table, prefix: bytes, keys: Iterable[bytes]) -> list[bytes | None]:
        return [self._pairs.get(prefix + key) for key in keys]

    def scan(self, _: Table, first: bytes, until: bytes) -> Iterator[tuple[bytes, bytes]]:
        return ((key, self._pairs[key]) for key in sorted(self._pairs) if first <= key < until)

    def put(self, _: Table, key: bytes, value: bytes) -> None:
        self._pairs[key] = value

    def put_many(self, _: Table, items: Iterable[tuple[bytes, bytes]]) -> None:
        self._pairs.update(items)

    def delete(self, _: Table, key: bytes) -> None:
        self._pairs.pop(key, None)

    def part(self) -> AbstractContextManager[_Memory]:
        return nullcontext(self)


def compile_kernels() -> None:
    """Compile the kernels of windows, or load them from the cache, so that neither a read nor a write has to wait for it.

    >>> compile_kernels()
    """
    windows.compile_kernels()
    asked = AggregationRecord(column="x", dtype="float64", function="sum", time_window=1_000_000)
    layout = PageLayout.of([FeatureRecord("sum", "float64", "", aggregation=asked)], keyed=True)
    memory, count, keys = _Memory(), write.INLINE_EVENTS + 1, [b"entity"]
    instant = pa.scalar(datetime.fromtimestamp(1, UTC), pa.timestamp("us", "UTC"))
    rows = pa.table({"x": pa.repeat(1.0, count), EVENT: pa.repeat(instant, count), SEQ: pa.array(range(count))})
    rows = rows.append_column(CREATED, pa.nulls(count, instant.type))
    rows, key = rows.append_column("key", pa.array(range(count))), RowColumn("key", DType("int64"), "key")
    write.put_events(memory, b"", layout, keys * count, rows, event_key=[key], now=1_000_000)
    folded = Folded(
        windows=np.ones(1, np.int64),
        groups=layout.group_rows([group_of(asked)]),
        asked=np.zeros((1, 6), np.int64),
        event_columns=layout.event_columns,
        tile_columns=layout.tile_columns,
    )
    for every in (False, True):
        found = read.gather(memory, b"", layout, keys, t=1_500_000, windows=np.array([600_000]), every=every)
        fold_pieces(found.pieces, found.roots, found.pages, 1, 1_500_000, folded, np.zeros(8, np.uint8))
    read.events_of(found, layout, 1)
