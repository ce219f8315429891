"""Offline -> online: the latest row of each entity, or the events that windows can reach, into the keyspaces of a view version."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.flow.apply import WrittenView, apply_rows
from featurestore.offline.table import OfflineTable
from featurestore.online.keyspaces import live_layouts, open_keyspace, record_keyspace
from featurestore.online.store import OnlineStore
from featurestore.rows import EVENT

_ROWS_AT_ONCE = 20_000


@dataclass(frozen=True, slots=True)
class MaterializeReport:
    """What a materialize did.

    Attributes:
        view: The view version.
        rows: Rows, or events of a windowed view, that were read offline.
        changed: How many of them are new online; a row that was there, or a greater one, stays.
        watermark: Event time up to which the online rows are complete, microseconds since 1970 UTC.
        layout: The newest layout that was filled.
    """

    view: str
    rows: int
    changed: int
    watermark: int
    layout: int


def fill_online(store: OnlineStore, view: WrittenView, table: OfflineTable, *, now: int) -> MaterializeReport:
    """Bring a view version's rows online and, after the work, say so.

    Args:
        store: The online store; the caller is its only writer, and no row that is due waits in it.
        view: The view version; a newer layout of it is filled too.
        table: Its offline table, with the row log folded in.
        now: Rows with a later event time stay offline; microseconds.
    """
    rows = _reachable(view, table, now)
    changed = 0
    for batch in _batches(rows, view):
        with store.write() as transaction:
            changed += apply_rows(transaction, view, batch, now=now)
    with store.write() as transaction:
        for layout in live_layouts(view.record):
            keyspace = open_keyspace(transaction, view.ref, layout)
            filled = msgspec.structs.replace(keyspace, filled=True, watermark=now)
            record_keyspace(transaction, view.ref, layout, filled)
    return MaterializeReport(str(view.ref), len(rows), changed, now, view.record.newest_layout)


def _reachable(view: WrittenView, table: OfflineTable, now: int) -> pa.Table:
    """Return the rows that a read from now on can need."""
    if view.record.kind != "window":
        return table.latest(now)
    events = table.events_since(now - view.longest_window)
    return events.filter(pc.less_equal(events[EVENT].cast(pa.int64()), now))


def _batches(rows: pa.Table, view: WrittenView) -> Iterator[pa.Table]:
    """Cut rows into batches for one transaction each, in the order of keys, in which pages of the store are written once."""
    ordered = rows.sort_by([(key.name, "ascending") for key in view.schema.keys])
    for start in range(0, len(ordered), _ROWS_AT_ONCE):
        yield ordered.slice(start, _ROWS_AT_ONCE)
