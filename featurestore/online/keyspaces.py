"""Keyspaces: each layout of each view version has rows of its own, under a number that prefixes its keys."""

from __future__ import annotations

import struct
from hashlib import blake2b

import msgspec

from featurestore.online.store import Snapshot, Transaction
from featurestore.refs import ViewRef
from featurestore.registry.snapshot import ViewRecord

_pack_prefix = struct.Struct(">I").pack
_NUMBERS = (1 << 32) - 2
_FIRST = b"keyspace/"

PAGE_FORM = 1  # the one that is written now


class Fill(msgspec.Struct, frozen=True, array_like=True):
    """A materialize that is under way.

    Attributes:
        since: Version of the offline table's log that was online before; None when nothing was.
        until: Version that it brings online.
        done: How many groups of files are in.
        form: In which form it brings the pages of windows; one of an older form is begun anew.
    """

    since: int | None
    until: int
    done: int = 0
    form: int = 0


class Keyspace(msgspec.Struct, frozen=True, array_like=True):
    """The online rows of one layout of a view version.

    Attributes:
        number: Its number; it prefixes the keys.
        filled: Whether it may be read: every row there should be is there.
        watermark: It holds every bulk-loaded row up to this event time, microseconds; None before the first materialize.
        version: It holds what the offline table held at this version of its log; None before the first materialize.
        fill: A materialize that is not finished; None when there is none.
        form: In which form it holds the pages of windows; those of an older one are not read.
    """

    number: int
    filled: bool = False
    watermark: int | None = None
    version: int | None = None
    fill: Fill | None = None
    form: int = 0

    @property
    def prefix(self) -> bytes:
        """The first four bytes of its keys."""
        return _pack_prefix(self.number)


decode_keyspace = msgspec.msgpack.Decoder(Keyspace).decode


def find_keyspace(snapshot: Snapshot, ref: ViewRef, layout: int) -> Keyspace | None:
    """Return the keyspace of a layout, or None if nothing was ever written to it."""
    stored = snapshot.get("meta", keyspace_name(ref, layout))
    return None if stored is None else decode_keyspace(stored)


def has_keyspaces(snapshot: Snapshot, ref: ViewRef) -> bool:
    """Say whether anything of a view version was ever written, in whatever layout."""
    every = f"keyspace/{ref.view}@v{ref.version}/".encode()
    return any(True for _ in snapshot.scan("meta", every, every + b"\xff"))


def keyspaces_of(snapshot: Snapshot, ref: ViewRef) -> list[Keyspace]:
    """Return the keyspaces of a view version, of all layouts that were ever written."""
    every = f"keyspace/{ref.view}@v{ref.version}/".encode()
    return [decode_keyspace(stored) for _, stored in snapshot.scan("meta", every, every + b"\xff")]


def open_keyspace(transaction: Transaction, ref: ViewRef, layout: int) -> Keyspace:
    """Return the keyspace of a layout, made now if there is none."""
    known = find_keyspace(transaction, ref, layout)
    if known is not None:
        return known
    keyspace = Keyspace(_free_number(transaction, ref, layout), form=PAGE_FORM)
    record_keyspace(transaction, ref, layout, keyspace)
    return keyspace


def usual_number(ref: ViewRef, layout: int) -> int:
    """Return the number that the keyspace of a layout gets in every store: a digest of its name, from 1 to 2**32 - 2.

    A store that was lost and is filled again has the same numbers, so that whoever has prepared a read goes on.
    """
    return int.from_bytes(blake2b(keyspace_name(ref, layout), digest_size=8).digest(), "big") % _NUMBERS + 1


def record_keyspace(transaction: Transaction, ref: ViewRef, layout: int, keyspace: Keyspace) -> None:
    """Record what became of a keyspace."""
    transaction.put("meta", keyspace_name(ref, layout), msgspec.msgpack.encode(keyspace))


def live_layouts(view: ViewRecord) -> tuple[int, ...]:
    """Return the layouts that are written: the one that is read, and a newer one that is being filled."""
    return tuple(sorted({view.layout, view.newest_layout}))


def keyspace_name(ref: ViewRef, layout: int) -> bytes:
    """Return the key of the record of a keyspace."""
    return f"keyspace/{ref.view}@v{ref.version}/{layout}".encode()


def _free_number(snapshot: Snapshot, ref: ViewRef, layout: int) -> int:
    """Return the usual number, or the next one that no other keyspace of the store has."""
    records = snapshot.scan("meta", _FIRST, _FIRST + b"\xff")
    taken = {decode_keyspace(stored).number for _, stored in records}
    number = usual_number(ref, layout)
    while number in taken:
        number = number % _NUMBERS + 1
    return number
