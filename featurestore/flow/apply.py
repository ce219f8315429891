"""Accepted rows -> the online rows of every live layout of their view version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from featurestore.flow.parked import earliest_parked, park_rows, take_due
from featurestore.flow.row_log import conform
from featurestore.keys import encode_columns
from featurestore.online.codec import RowLayout
from featurestore.online.keyspaces import Keyspace, live_layouts, open_keyspace
from featurestore.online.rows import micros, put_rows
from featurestore.online.store import Head, Transaction, read_head, write_head
from featurestore.online.windows import PageLayout, put_events
from featurestore.refs import ViewRef
from featurestore.registry.snapshot import RegistrySnapshot, ViewRecord
from featurestore.rows import EVENT, RowColumn, RowSchema

_MANY = 1000  # rows, in which keys repeat


@dataclass(frozen=True, slots=True)
class WrittenView:
    """A view version with what writing its rows needs."""

    ref: ViewRef
    record: ViewRecord
    schema: RowSchema

    @classmethod
    def of(cls, snapshot: RegistrySnapshot, ref: ViewRef) -> WrittenView:
        """Return a version, the current one if none is named.

        Raises:
            NotFoundError: There is no such view or version.
            InvalidArgumentError: The view is computed on demand.
        """
        frozen = ViewRef(ref.view, snapshot.freeze(ref).version)
        record = snapshot.view(frozen)
        return cls(frozen, record, RowSchema.of(record))

    @property
    def longest_window(self) -> int:
        """The longest window of a windowed view, microseconds; 0 for others."""
        return max((f.aggregation.time_window for f in self.record.features if f.aggregation), default=0)


def apply_rows(transaction: Transaction, view: WrittenView, rows: pa.Table, *, now: int) -> int:
    """Put accepted rows that are not dated after now into every live layout; a greater row that is there stays.

    Args:
        transaction: The write in progress.
        view: The view version.
        rows: Rows in canonical form with ``__seq``, in any order.
        now: Microseconds.

    Returns:
        How many rows, or events, of the layout that is read changed.
    """
    keys = _encode(rows, view.schema.keys)
    changed = [
        _apply(transaction, view, open_keyspace(transaction, view.ref, layout), layout, keys, rows, now)
        for layout in live_layouts(view.record)
    ]
    return changed[0]


def show_rows(transaction: Transaction, view: WrittenView, rows: pa.Table, *, now: int) -> None:
    """Make accepted rows visible online, and park those that are dated after now; see `apply_rows`."""
    future = micros(rows[EVENT]) > now
    apply_rows(transaction, view, rows.filter(pa.array(~future)), now=now)
    if future.any():
        park_rows(transaction, view.ref, rows.filter(pa.array(future)))
        write_head(transaction, replace(read_head(transaction), earliest_parked=earliest_parked(transaction)))


def release_rows(transaction: Transaction, snapshot: RegistrySnapshot, *, now: int) -> Head:
    """Apply parked rows that are due, and move the store's clock: everything up to it is visible, nothing after it.

    Args:
        transaction: The write in progress.
        snapshot: The registry.
        now: Microseconds; the clock only rises.

    Returns:
        The head after it.
    """
    head = read_head(transaction)
    time = max(head.clock, now)
    for ref, parts in take_due(transaction, time).items():
        view = WrittenView.of(snapshot, ref)
        schema = view.schema.arrow()
        apply_rows(transaction, view, pa.concat_tables([conform(part, schema) for part in parts]), now=time)
    head = replace(head, clock=time, earliest_parked=earliest_parked(transaction))
    write_head(transaction, head)
    return head


def _apply(
    transaction: Transaction,
    view: WrittenView,
    keyspace: Keyspace,
    layout: int,
    keys: Sequence[bytes],
    rows: pa.Table,
    now: int,
) -> int:
    features = view.record.stored(layout)
    if view.record.kind != "window":
        stored = RowLayout.of((feature.name, feature.type) for feature in features)
        return put_rows(transaction, keyspace.prefix, stored, keys, rows)
    pages = PageLayout.of(features, keyed=bool(view.schema.event_key))
    return put_events(transaction, keyspace.prefix, pages, keys, rows, event_key=view.schema.event_key, now=now)


def _encode(rows: pa.Table, columns: Sequence[RowColumn]) -> list[bytes]:
    dtypes = [column.dtype for column in columns]
    if len(columns) > 1 or len(rows) < _MANY:
        return encode_columns([rows[column.name] for column in columns], dtypes)
    coded = rows[columns[0].name].combine_chunks().dictionary_encode()
    return list(map(encode_columns([coded.dictionary], dtypes).__getitem__, coded.indices.to_pylist()))
