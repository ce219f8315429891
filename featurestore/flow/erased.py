"""What was erased: receipts, the keyed digests by which erased keys are known again, and the journal of an erasure that runs.

    <store>/erasures/<number>.json    Receipt: who, when, why, how much, and digests of the keys; no key
    <store>/erasures/secret           the key of the digests, random, for its owner alone
    <store>/erasures/journal.json     the keys, while an erasure runs; gone when its receipt is there
    <store>/erasures/lock             shared by whoever puts rows from memory on disk (a dataset, a profile), held by an erasure alone

A digest is BLAKE2b under the secret: without it, nobody can try keys until one fits.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import pyarrow as pa

from featurestore.errors import CorruptionError, ErasedError, NotFoundError
from featurestore.offline.durable import holding, sync, write_durably
from featurestore.offline.spine import spine_columns, spine_times
from featurestore.offline.training_set import TrainingSet
from featurestore.rows import EVENT
from featurestore.subject import JoinKeys, Mask, Subject, digest_inputs
from featurestore.types import INT64_MAX, INT64_MIN

SCHEMA_VERSION = 1

_OWNER = 0o600
_SECRET, _JOURNAL, _LOCK = "secret", "journal.json", "lock"
_SECRET_BYTES, _DIGEST_BYTES = 32, 16
_PATIENCE = 10.0  # seconds
_T = TypeVar("_T")


class ErasedKey(msgspec.Struct, frozen=True):
    """A key that was erased: its keyed digest, and the event time (microseconds UTC) up to which rows of it are not taken again."""

    digest: str
    until: int


class Trace(msgspec.Struct, frozen=True, order=True):
    """Where something of a subject was found: the file, relative to the store's folder, and how it was seen there."""

    file: str
    how: str


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What was looked through after an erasure, and what was found.

    Attributes:
        files: Files that were looked through.
        pages: Parquet pages that were decompressed for it.
        entries: Entries of the online store.
        bytes: Bytes, pages and entries included.
        patterns: Byte strings that were looked for; 0 where the keys are too short to be told from chance.
        found: Where the bytes of a key were found; they may be of a longer key, or stand in a feature's value by right.
        rows: Where rows of the subject were found; nothing, when the erasure is complete.
    """

    files: int = 0
    pages: int = 0
    entries: int = 0
    bytes: int = 0
    patterns: int = 0
    found: tuple[Trace, ...] = ()
    rows: tuple[Trace, ...] = ()


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What an erasure did.

    Attributes:
        number: Its number, from 1.
        entity: The entity.
        join_keys: (column, type) of its join keys.
        erased_at: Microseconds since 1970 UTC, by the system's clock.
        principal: Who asked for it.
        reason: Why.
        keys: The erased keys, by their digests.
        counts: Place -> rows that were erased there: ``offline weather@v1``, ``online weather@v1``, ``parked``, ``dataset NAME``,
            ``quarantine``, ``profiles weather@v1``.
        files: View version -> old file -> new file, empty where no row was left.
        datasets: Datasets that lost rows -> how many.
        proof: What was looked through afterwards.
        unknown: What an erasure cannot know.
        schema_version: Of this document.
    """

    number: int
    entity: str
    join_keys: JoinKeys
    erased_at: int
    principal: str
    reason: str
    keys: tuple[ErasedKey, ...]
    counts: dict[str, int]
    files: dict[str, dict[str, str]]
    datasets: dict[str, int]
    proof: Proof
    unknown: tuple[str, ...]
    schema_version: int = SCHEMA_VERSION

    @property
    def rows(self) -> int:
        """Rows that were erased in all places."""
        return sum(self.counts.values())


class Journal(msgspec.Struct, frozen=True, kw_only=True):
    """An erasure that runs: all it takes to go on with it.

    Attributes:
        number: Number of its receipt.
        entity: The entity.
        join_keys: (column, type) of its join keys.
        keys: The keys, as an Arrow stream.
        erased_at: Microseconds since 1970 UTC.
        principal: Who asked for it.
        reason: Why.
        until: Up to which event time rows of these keys are not taken again; None until that is known.
        counts: As in the receipt, as far as it got.
    """

    number: int
    entity: str
    join_keys: JoinKeys
    keys: bytes
    erased_at: int
    principal: str
    reason: str
    until: int | None = None
    counts: dict[str, int] = {}

    @property
    def subject(self) -> Subject:
        """Whom it erases."""
        with pa.ipc.open_stream(self.keys) as stream:
            return Subject(self.entity, self.join_keys, stream.read_all())

    def counted(self, place: str, rows: int) -> Journal:
        """Return the journal with a count: the most that any attempt has found."""
        counts = self.counts | ({place: max(rows, self.counts.get(place, 0))} if rows else {})
        return msgspec.structs.replace(self, counts=counts)


@dataclass(frozen=True, slots=True)
class Found:
    """Rows of erased keys among others.

    Attributes:
        mask: bool[n]: rows that are not taken again.
        receipts: Numbers of the receipts that say so.
    """

    mask: Mask
    receipts: tuple[int, ...]

    def __bool__(self) -> bool:
        return bool(self.mask.any())

    def error(self, what: str) -> ErasedError:
        """Return the error of rows that somebody wants to be taken again."""
        rows, named = np.flatnonzero(self.mask), ", ".join(map(str, self.receipts))
        return ErasedError(
            f"{len(rows)} rows of {what} are of entities that were erased by receipt {named}, and not later than that.",
            place=f"$.rows[{rows[0]}]",
            repair="Leave them out; rows of a later time are a new beginning.",
        )


@dataclass(frozen=True, slots=True)
class Ledger:
    """The keys that were erased, to be known again by their digests.

    Args:
        secret: The key of the digests.
        erased: Join keys of an entity -> digest -> (until, number of the receipt).
    """

    secret: bytes
    erased: dict[JoinKeys, dict[str, tuple[int, int]]]

    def find(self, join_keys: Sequence[tuple[str, str]], rows: pa.Table) -> Found:
        """Say which rows are of erased keys, and not later than their erasure.

        Args:
            join_keys: (column, type) pairs of the rows; only entities whose join keys are among them are looked for.
            rows: Rows with these columns, of these types, and their event times; a null key is nobody's.
        """
        mask, receipts = np.zeros(len(rows), np.bool_), set()
        at = np.asarray(rows[EVENT].cast(pa.int64()).fill_null(INT64_MAX)) if self.erased else mask
        there = set(map(tuple, join_keys))
        for entity, digests in self.erased.items():
            if set(entity) <= there and len(rows):
                for subject, until, receipt in self._among(entity, digests, rows):
                    found = subject.mask([rows[name] for name, _ in entity]) & (at <= until)
                    if found.any():
                        mask |= found
                        receipts.add(receipt)
        return Found(mask, tuple(sorted(receipts)))

    def _among(
        self, entity: JoinKeys, digests: dict[str, tuple[int, int]], rows: pa.Table
    ) -> list[tuple[Subject, int, int]]:
        """Return the erased keys that some rows have; each key of them is digested once."""
        names = [name for name, _ in entity]
        keys = rows.select(names).drop_null().group_by(names).aggregate([])
        by_receipt: dict[tuple[int, int], list[int]] = {}
        for i, digest in enumerate(keyed_digests(self.secret, digest_inputs(entity, keys.select(names).columns))):
            if digest in digests:
                by_receipt.setdefault(digests[digest], []).append(i)
        return [(Subject("", entity, keys.select(names).take(rows)), *erased) for erased, rows in by_receipt.items()]


@dataclass(frozen=True, slots=True)
class Erasures:
    """The erasures of a store.

    Args:
        directory: The folder ``erasures`` of the store.
    """

    directory: Path

    def receipts(self) -> list[Receipt]:
        """Return every receipt, oldest first."""
        return [self._read(number) for number in self._numbers()]

    def receipt(self, number: int) -> Receipt:
        """Return a receipt; raises NotFoundError."""
        if number not in self._numbers():
            raise NotFoundError.of("receipt", str(number), map(str, self._numbers()))
        return self._read(number)

    def next_number(self) -> int:
        """Return the number of the next receipt."""
        return max(self._numbers(), default=0) + 1

    def ledger(self) -> Ledger:
        """Return the keys that were erased; one that is being erased is not taken again at all until that is done."""
        erased: dict[JoinKeys, dict[str, tuple[int, int]]] = {}
        for receipt in self.receipts():
            digests = erased.setdefault(receipt.join_keys, {})
            digests.update({key.digest: (key.until, receipt.number) for key in receipt.keys})
        journal = self.journal()
        if journal is not None:
            digests = erased.setdefault(journal.join_keys, {})
            digests.update(dict.fromkeys(self.digests(journal.subject), (INT64_MAX, journal.number)))
        return Ledger(self._secret() if erased else b"", erased)

    def digests(self, subject: Subject) -> list[str]:
        """Return the keyed digest of each key of a subject, in its order."""
        return keyed_digests(self._secret(), subject.digests_input())

    def journal(self) -> Journal | None:
        """Return the erasure that runs, or that was interrupted; None when there is none."""
        path = self.directory / _JOURNAL
        return _decoded(path, Journal) if path.exists() else None

    def note(self, journal: Journal) -> None:
        """Record durably how far an erasure is."""
        self._make()
        write_durably(self.directory / _JOURNAL, msgspec.json.encode(journal), mode=_OWNER)

    def conclude(self, receipt: Receipt) -> None:
        """Keep the receipt, then forget the keys."""
        text = msgspec.json.format(msgspec.json.encode(receipt))
        write_durably(self.directory / f"{receipt.number}.json", text, mode=_OWNER)
        self.abandon()

    def abandon(self) -> None:
        """Forget an erasure that changed nothing yet."""
        (self.directory / _JOURNAL).unlink(missing_ok=True)
        for draft in self.directory.glob(f".{_JOURNAL}-*"):  # a process that was killed while it noted something
            draft.unlink()
        sync(self.directory)

    def reading(self) -> AbstractContextManager[None]:
        """Hold the lock that keeps erasures away while rows from memory are put on disk."""
        return holding(self.directory / _LOCK, shared=True)

    def erasing(self) -> AbstractContextManager[None]:
        """Hold the lock alone; raises UnavailableError while somebody puts rows on disk."""
        self._make()
        return holding(self.directory / _LOCK, patience=_PATIENCE)

    def _make(self) -> None:
        if not self.directory.is_dir():
            self.directory.mkdir(parents=True, mode=0o700)
            sync(self.directory.parent)

    def _numbers(self) -> list[int]:
        return sorted(int(path.stem) for path in self.directory.glob("*.json") if path.stem.isdigit())

    def _read(self, number: int) -> Receipt:
        return _decoded(self.directory / f"{number}.json", Receipt)

    def _secret(self) -> bytes:
        path = self.directory / _SECRET
        if not path.exists():
            if self._numbers():
                raise CorruptionError(
                    "The secret of the erasures is gone: erased keys cannot be known again.",
                    place=str(path),
                    repair="Restore it from a backup.",
                )
            self._make()
            write_durably(path, secrets.token_bytes(_SECRET_BYTES), mode=_OWNER)
        return path.read_bytes()


def keyed_digests(secret: bytes, inputs: Sequence[bytes]) -> list[str]:
    """Return the digest of each input under a secret, as text."""
    return [blake2b(each, key=secret, digest_size=_DIGEST_BYTES).hexdigest() for each in inputs]


def refuse_erased(ledger: Ledger, training_set: TrainingSet) -> None:
    """Refuse a training set with rows of erased entities, in whatever role, up to the time of their erasure; raises ErasedError.

    Args:
        ledger: The keys that were erased.
        training_set: What somebody wants to save.
    """
    plan, spine = training_set.plan, training_set.table
    for view in plan.views if ledger.erased else ():
        key_set = plan.key_sets[view.key_set]
        columns = spine_columns(spine, list(zip(key_set.columns, key_set.dtypes, strict=True)), "join key")
        keys = columns.rename_columns([name for name, _ in view.record.join_keys])
        at, timed = spine_times(spine, training_set.timestamp)
        rows = keys.append_column(EVENT, pa.array(np.where(timed, at, INT64_MIN)))
        found = ledger.find(view.record.join_keys, rows)
        if found:
            raise found.error("the training set")


def stream_of(table: pa.Table) -> bytes:
    """Return a table as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def erasures_of(store: Path) -> Erasures:
    """Return the erasures of a store.

    Args:
        store: The project's ``store`` folder.
    """
    return Erasures(store / "erasures")


def _decoded(path: Path, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.DecodeError as error:
        raise CorruptionError(f"A record of the erasures is damaged: {error}.", place=str(path)) from error
