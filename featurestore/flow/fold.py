"""The row log -> the offline tables: in order, and exactly once.

Each table's commit carries the last sequence number it holds of the log, so a fold that was interrupted anywhere is simply done again:
rows that a table has are left out, and the log is trimmed only when every table has its part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.flow.row_log import conform, logged_rows
from featurestore.offline.table import OfflineTable
from featurestore.online.store import Head, OnlineStore
from featurestore.refs import ViewRef
from featurestore.rows import SEQ

TRIMMED = b"trimmed"  # key of the last entry of the log that was folded, in the table meta

_ROWS_AT_ONCE = 1_000_000

Tables = Callable[[ViewRef], OfflineTable]


def fold_log(store: OnlineStore, tables: Tables) -> int:
    """Move everything in the row log to the offline tables.

    Args:
        store: The store with the log; the caller is its only writer.
        tables: Gives the offline table of a view version.

    Returns:
        How many rows were moved.
    """
    folded = 0
    while True:
        keys, by_view = _next(store)
        if not keys:
            return folded
        folded += sum(_fold_view(tables(ref), parts) for ref, parts in by_view.items())
        with store.write() as transaction:
            for key in keys:
                transaction.delete("log", key)
            transaction.put("meta", TRIMMED, keys[-1])


def folded_head(head: Head, views: Iterable[ViewRef], tables: Tables) -> Head:
    """Return the head of a store that lost what it knew: it goes on after the last number that the offline tables hold."""
    filled = [table for table in map(tables, views) if table.exists]
    pushed = max((table.fold_position for table in filled), default=0)
    last = max((table.last_seq for table in filled), default=0)
    return replace(head, last_seq=max(last, pushed), pushed_seq=pushed)


def _next(store: OnlineStore) -> tuple[list[bytes], dict[ViewRef, list[pa.Table]]]:
    """Return the oldest entries of the log, as many as fit in memory: their keys, and their rows by view version."""
    keys: list[bytes] = []
    by_view: dict[ViewRef, list[pa.Table]] = {}
    count = 0
    with store.read() as snapshot:
        for key, ref, rows in logged_rows(snapshot):
            keys.append(key)
            by_view.setdefault(ref, []).append(rows)
            count += len(rows)
            if count >= _ROWS_AT_ONCE:
                break
    return keys, by_view


def _fold_view(table: OfflineTable, parts: Sequence[pa.Table]) -> int:
    schema = table.schema.arrow()
    rows = pa.concat_tables([conform(part, schema) for part in parts])
    fresh = rows.filter(pc.greater(rows[SEQ], table.fold_position))
    if not len(fresh) or not table.append(fresh, fold=pc.max(fresh[SEQ]).as_py()):
        return 0
    return len(fresh)
