"""Erasing entities from the online store: their rows, what orders them, and the pages of their windows, in every layout."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from featurestore.keys import key_parts
from featurestore.online.keyspaces import keyspaces_of
from featurestore.online.store import Snapshot, Table, Transaction
from featurestore.refs import ViewRef
from featurestore.subject import Subject

_pack_length = struct.Struct(">H").pack
_PREFIX, _LENGTH = 4, 2
_ENTITY_TABLES: tuple[Table, ...] = ("rows", "order", "pages")


def erase_entities(
    transaction: Transaction, ref: ViewRef, join_keys: Sequence[tuple[str, str]], subject: Subject
) -> int:
    """Remove what a view version holds of a subject; the old bytes go with the next rewrite of the store.

    Args:
        transaction: The write in progress.
        ref: The view version.
        join_keys: Its join keys.
        subject: Whom to erase; the view has its join keys.

    Returns:
        How many rows and pages were removed.
    """
    removed = 0
    for table in _ENTITY_TABLES:
        doomed = list(stored_keys(transaction, table, ref, join_keys, subject))
        for key in doomed:
            transaction.delete(table, key)
        removed += len(doomed) if table != "order" else 0
    return removed


def stored_keys(
    snapshot: Snapshot, table: Table, ref: ViewRef, join_keys: Sequence[tuple[str, str]], subject: Subject
) -> Iterator[bytes]:
    """Go through the keys under which a table holds something of a subject.

    Args:
        snapshot: Where to look.
        table: ``rows``, ``order`` or ``pages``.
        ref: The view version.
        join_keys: Its join keys.
        subject: Whom to look for; the view has its join keys. Where it has more, every entity of the view is looked at.
    """
    places = subject.places(join_keys)
    assert places is not None
    for keyspace in keyspaces_of(snapshot, ref):
        if places == tuple(range(len(join_keys))):
            yield from _exact(snapshot, table, keyspace.prefix, subject)
        else:
            yield from _matching(snapshot, table, keyspace.prefix, places, subject)


def _exact(snapshot: Snapshot, table: Table, prefix: bytes, subject: Subject) -> Iterator[bytes]:
    for key in subject.keys:
        if table == "pages":
            first = prefix + _pack_length(len(key)) + key
            yield from (found for found, _ in snapshot.scan(table, first, first + b"\xff" * 9))
        elif snapshot.get(table, prefix + key) is not None:
            yield prefix + key


def _matching(
    snapshot: Snapshot, table: Table, prefix: bytes, places: tuple[int, ...], subject: Subject
) -> Iterator[bytes]:
    until = (int.from_bytes(prefix, "big") + 1).to_bytes(_PREFIX, "big")
    for found, _ in snapshot.scan(table, prefix, until):
        parts = key_parts(_entity_key(table, found))
        if tuple(parts[place] for place in places) in subject.parts:
            yield found


def _entity_key(table: Table, stored: bytes) -> bytes:
    if table != "pages":
        return stored[_PREFIX:]
    length = int.from_bytes(stored[_PREFIX : _PREFIX + _LENGTH], "big")
    return stored[_PREFIX + _LENGTH : _PREFIX + _LENGTH + length]
