"""Offline -> online: the latest row of each entity, or the events that windows can reach, into the keyspaces of a view version.

A fill goes from one version of the table's log to another, or from nothing: it looks at the files that brought new rows in between, late
and corrected ones among them, whatever their event times. It goes group by group of files, the files of a bucket being one, and each group
is recorded in the transaction that brought it in, so a fill that was killed goes on where it was. A greater row that is online stays, so
that doing something twice changes nothing. Rows dated after now are parked until they come due.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import msgspec
import pyarrow as pa

from featurestore.flow.apply import WrittenView, apply_rows
from featurestore.flow.parked import earliest_parked, park_rows
from featurestore.offline.data_files import DataFile, grouped
from featurestore.offline.table import OfflineTable
from featurestore.online.keyspaces import (
    PAGE_FORM,
    Fill,
    Keyspace,
    find_keyspace,
    live_layouts,
    open_keyspace,
    record_keyspace,
)
from featurestore.online.rows import micros
from featurestore.online.store import OnlineStore, Transaction, read_head, write_head
from featurestore.rows import EVENT

_ROWS_AT_ONCE = 50_000  # in one transaction
_ROWS_BESIDE_WRITES = 5_000  # likewise while somebody else writes, who then waits for some milliseconds


@dataclass(frozen=True, slots=True)
class MaterializeReport:
    """What a materialize did.

    Attributes:
        view: The view version.
        rows: Rows, or events of a windowed view, that were read offline.
        changed: How many of them are new online; a row that was there, or a greater one, stays.
        watermark: Event time up to which the online rows are complete, microseconds since 1970 UTC.
        layout: The newest layout that was filled.
        version: Version of the offline table's log that the online rows are complete to.
        full: Whether everything was read, and not only what came since the last time.
        parked: Rows that are dated after now; they become visible when they come due.
    """

    view: str
    rows: int
    changed: int
    watermark: int
    layout: int
    version: int = 0
    full: bool = True
    parked: int = 0


@dataclass(frozen=True, slots=True)
class _Reached:
    """The rows of a group of files that a read from now on can need.

    Attributes:
        due: Those to bring online.
        later: Those dated after now.
    """

    due: pa.Table
    later: pa.Table


def fill_online(
    store: OnlineStore, view: WrittenView, table: OfflineTable, *, now: int, full: bool = False
) -> MaterializeReport:
    """Bring a view version's rows online and, after the work, say so.

    Args:
        store: The online store; the caller is its only writer, and no row that is due waits in it.
        view: The view version; a newer layout of it is filled too.
        table: Its offline table, with the row log folded in.
        now: Rows with a later event time are parked; microseconds.
        full: Read everything, whatever was brought online before.
    """
    fill, groups = _everything(table) if full else _next(store, view, table)
    report = MaterializeReport(str(view.ref), 0, 0, now, view.record.newest_layout, full=fill.since is None)
    while True:
        report = _fill(store, view, table, fill, groups, report)
        if fill.until >= table.version:
            return replace(report, version=fill.until)
        fill, groups = _next(store, view, table)  # what came while an unfinished fill waited to be gone on with


Groups = list[tuple[DataFile, ...]]


def _everything(table: OfflineTable) -> tuple[Fill, Groups]:
    pinned = table.pinned()
    return Fill(None, pinned.version, form=PAGE_FORM), grouped(pinned.files())


def _next(store: OnlineStore, view: WrittenView, table: OfflineTable) -> tuple[Fill, Groups]:
    """Return the fill to do, and its groups of files: the one that was not finished, what came since the last one, or all."""
    with store.read() as snapshot:
        keyspaces = [find_keyspace(snapshot, view.ref, layout) or Keyspace(0) for layout in live_layouts(view.record)]
    unfinished = keyspaces[-1].fill
    is_same = unfinished is not None and all(keyspace.fill == unfinished for keyspace in keyspaces)
    if unfinished is not None and is_same and _is_current(view, unfinished.form):
        groups = _groups(table, unfinished)
        if groups is not None:
            return unfinished, groups
    known = [k.version for k in keyspaces if k.version is not None and _is_current(view, k.form)]
    if len(known) == len(keyspaces):
        fill = Fill(min(known), table.version, form=PAGE_FORM)
        groups = _groups(table, fill)
        if groups is not None:
            return fill, groups
    return _everything(table)


def _is_current(view: WrittenView, form: int) -> bool:
    """Say whether what was brought online in a form is read; only windowed views have pages."""
    return form == PAGE_FORM or view.record.kind != "window"


def _groups(table: OfflineTable, fill: Fill) -> Groups | None:
    """Return the groups of files of a fill, always in the same order; None when they are not all known and on disk any more."""
    files = table.files_at(fill.until) if fill.since is None else table.added_between(fill.since, fill.until)
    return None if files is None else grouped(files)


def _fill(
    store: OnlineStore,
    view: WrittenView,
    table: OfflineTable,
    fill: Fill,
    groups: Groups,
    report: MaterializeReport,
) -> MaterializeReport:
    """Bring the groups online that are not yet, then record that the keyspaces are complete."""
    now = report.watermark
    reads = [partial(_reach, view, table, files, now) for files in groups[fill.done :]]
    for reached in _ahead(reads):
        fill = msgspec.structs.replace(fill, done=fill.done + 1)
        changed = _bring(store, view, reached, fill, now)
        report = replace(
            report,
            rows=report.rows + len(reached.due),
            changed=report.changed + changed,
            parked=report.parked + len(reached.later),
        )
    with store.write() as transaction:
        for layout in live_layouts(view.record):
            keyspace = open_keyspace(transaction, view.ref, layout)
            complete = msgspec.structs.replace(
                keyspace, filled=True, watermark=now, version=fill.until, fill=None, form=PAGE_FORM
            )
            record_keyspace(transaction, view.ref, layout, complete)
    return report


def _reach(view: WrittenView, table: OfflineTable, files: Sequence[DataFile], now: int) -> _Reached:
    """Read of some files what a read from now on can need, due rows in the order of keys: pages of the store are then written once."""
    windowed = view.record.kind == "window"
    events = table.events_since(now - view.longest_window if windowed else now, files=files)
    is_due = micros(events[EVENT]) <= now
    due = events.filter(pa.array(is_due)) if windowed else table.latest(now, files=files)
    keys = [(key.name, "ascending") for key in view.schema.keys]
    return _Reached(due.sort_by(keys), events.filter(pa.array(~is_due)))


def _bring(store: OnlineStore, view: WrittenView, reached: _Reached, fill: Fill, now: int) -> int:
    """Put the rows of a group online and record with the last of them that the group is done; returns how many rows are new."""
    changed, rest = 0, reached.due
    while True:
        count = _ROWS_BESIDE_WRITES if store.writers() else _ROWS_AT_ONCE
        rows, rest = rest.slice(0, count), rest.slice(count)
        with store.write() as transaction:
            changed += apply_rows(transaction, view, rows, now=now)
            if not len(rest):
                _park(transaction, view, reached.later)
                _note(transaction, view, fill)
        if not len(rest):
            return changed


def _park(transaction: Transaction, view: WrittenView, later: pa.Table) -> None:
    if len(later):
        park_rows(transaction, view.ref, later)
        write_head(transaction, replace(read_head(transaction), earliest_parked=earliest_parked(transaction)))


def _note(transaction: Transaction, view: WrittenView, fill: Fill) -> None:
    for layout in live_layouts(view.record):
        keyspace = open_keyspace(transaction, view.ref, layout)
        record_keyspace(transaction, view.ref, layout, msgspec.structs.replace(keyspace, fill=fill))


def _ahead(reads: Iterable[partial[_Reached]]) -> Iterator[_Reached]:
    """Do one read after the other, each while the result of the one before it is worked with."""
    waiting: Future[_Reached] | None = None
    with ThreadPoolExecutor(1) as thread:
        for read in reads:
            following = thread.submit(read)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()
