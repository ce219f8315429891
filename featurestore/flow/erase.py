"""Erasing a subject from everything a store holds: one order of steps, each of which may be done again.

The journal is written before the first step and removed after the receipt. Rows stay in the files of the offline tables until the last
step, so that an erasure that was interrupted finds them again: what is said about them elsewhere goes first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import InvalidArgumentError, NotFoundError
from featurestore.flow.apply import WrittenView
from featurestore.flow.erased import ErasedKey, Erasures, Journal, Proof, Receipt, Trace, erasures_of, stream_of
from featurestore.flow.fold import Tables
from featurestore.flow.ingest import ingest_lock
from featurestore.flow.parked import earliest_parked, parked_rows, replace_parked
from featurestore.flow.quarantine import HeldBatch, Quarantine, rows_of_subject
from featurestore.flow.repeats import forget_rows, forget_warnings
from featurestore.flow.traces import patterns_of, search
from featurestore.offline.datasets.erase import all_datasets, erase_from_dataset, rename_files, rows_of_dataset
from featurestore.offline.durable import holding, rewriting
from featurestore.offline.erase import rows_of
from featurestore.offline.profiles import ProfileLog, drop_profiles, keep_profile, shown_values
from featurestore.online.erase import erase_entities, stored_keys
from featurestore.online.lmdb import LmdbStore
from featurestore.online.rows import micros
from featurestore.online.store import OnlineStore, Snapshot, Table, Transaction, read_head, write_head
from featurestore.refs import ViewRef
from featurestore.registry.snapshot import RegistrySnapshot
from featurestore.rows import EVENT, RowSchema
from featurestore.subject import Subject

UNKNOWN = (
    "keys that stand inside of feature values, or in the names of consumers and principals, if they are too short to be told from chance",
    "the sources that rows were pulled from, and copies of answers, training sets and datasets outside of the store",
    "backups of the store",
)

_PATIENCE = 10.0  # seconds to wait for an ingest or a compaction
_ENTITY_TABLES: tuple[Table, ...] = ("rows", "order", "pages")


@dataclass(frozen=True, slots=True)
class Places:
    """Where a store keeps rows.

    Attributes:
        store: The project's ``store`` folder.
        online: The online store; the caller is its only writer, and has folded the row log.
        tables: Gives the offline table of a view version.
        snapshot: The registry.
        copies: Online stores that are fed from this one; nobody feeds them meanwhile.
    """

    store: Path
    online: LmdbStore
    tables: Tables
    snapshot: RegistrySnapshot
    copies: Sequence[OnlineStore] = ()

    @property
    def erasures(self) -> Erasures:
        """The erasures of the store."""
        return erasures_of(self.store)

    @property
    def quarantine(self) -> Quarantine:
        """The held batches of the store."""
        return Quarantine(self.store / "quarantine")

    @property
    def datasets(self) -> Path:
        """The folder of the saved datasets."""
        return self.store / "datasets"

    def reached(self, subject: Subject) -> list[WrittenView]:
        """Return every stored view version, retired ones included, whose join keys include those of the entity."""
        return [
            WrittenView(ref, record, RowSchema.of(record))
            for ref, record in self.snapshot.view_versions()
            if record.source is not None and subject.places(record.join_keys) is not None
        ]

    def batches(self, subject: Subject) -> Iterator[HeldBatch]:
        """Go through the held batches of views that are reached."""
        names = {str(view.ref) for view in self.reached(subject)}
        return (held for held in self.quarantine.batches() if held.report.view in names)


def begin(places: Places, entity: str, keys: pa.Table, *, principal: str, reason: str, now: int) -> Journal:
    """Check what is to be erased, and return it as a journal that is not written yet.

    Args:
        places: Where rows are.
        entity: Name of the entity.
        keys: One row for each key, with the entity's join keys as columns.
        principal: Who asks for it.
        reason: Why.
        now: Microseconds since 1970 UTC.

    Raises:
        NotFoundError: There is no such entity.
        InvalidArgumentError: A key is missing, null or of another type, or the reason names it.
    """
    entities = places.snapshot.document.entities
    if entity not in entities:
        raise NotFoundError.of("entity", entity, entities)
    subject = Subject.of(entity, entities[entity].join_keys, keys)
    if any(pattern.decode(errors="ignore") in reason for pattern in patterns_of(subject)):
        raise InvalidArgumentError(
            "The reason names a key, and it is kept.", place="$.reason", repair="Word it without."
        )
    return Journal(
        number=places.erasures.next_number(),
        entity=entity,
        join_keys=subject.join_keys,
        keys=stream_of(subject.values),
        erased_at=now,
        principal=principal,
        reason=reason,
    )


def erase(places: Places, journal: Journal) -> Receipt:
    """Do everything that a journal says, from the start or after an interruption, and keep the receipt.

    Args:
        places: Where rows are.
        journal: From `begin`, or what an interrupted erasure left.

    Raises:
        UnavailableError: An ingest, a compaction or a save is in the way; nothing was changed yet.
        CorruptionError: A file cannot be decoded, so that nobody knows whose rows it holds.
        ResourceExhaustedError: The disk is full. The erasure is finished by the next start of a writer, or by the next `erase`.
    """
    erasures, subject = places.erasures, journal.subject
    views = places.reached(subject)
    with ExitStack() as locks:
        locks.enter_context(erasures.erasing())
        for view in views:
            directory = places.tables(view.ref).directory
            if directory.is_dir():
                locks.enter_context(holding(ingest_lock(directory), patience=_PATIENCE))
                locks.enter_context(holding(rewriting(directory), patience=_PATIENCE))
        return _Erasure(places, erasures, subject, views, journal).run()


class _Erasure:
    """An erasure that holds all locks."""

    def __init__(
        self, places: Places, erasures: Erasures, subject: Subject, views: Sequence[WrittenView], journal: Journal
    ) -> None:
        self._places = places
        self._erasures = erasures
        self._subject = subject
        self._views = views
        self._journal = journal
        self._rows: dict[ViewRef, pa.Table] = {}

    def run(self) -> Receipt:
        self._rows = {view.ref: self._stored_rows(view) for view in self._views}  # what cannot be decoded shows now
        self._erasures.note(self._journal)
        self._erase_online()
        self._erase_quarantine()
        self._erase_datasets()
        self._erase_profiles()
        files = {str(view.ref): self._erase_table(view) for view in self._views}
        self._profile_again()
        receipt = self._receipt({ref: renamed for ref, renamed in files.items() if renamed})
        self._erasures.conclude(receipt)
        return receipt

    def _count(self, place: str, rows: int) -> None:
        self._journal = self._journal.counted(place, rows)

    def _stored_rows(self, view: WrittenView) -> pa.Table:
        """Return the rows of the subject in all files of a table; a row that stands in several files comes several times."""
        directory = self._places.tables(view.ref).directory
        found = [rows for _, rows in rows_of(directory, view.schema, self._subject)]
        return pa.concat_tables([view.schema.arrow().empty_table(), *found])

    def _erase_online(self) -> None:
        with self._places.online.write() as transaction:
            until = [self._journal.erased_at, read_head(transaction).clock, self._erase_parked(transaction)]
            for view in self._views:
                rows = self._rows[view.ref]
                until += [int(micros(rows[EVENT]).max())] if len(rows) else []
                for schema in _schemas(view):
                    forget_rows(transaction, view.ref, schema, rows)
                erased = erase_entities(transaction, view.ref, view.record.join_keys, self._subject)
                self._count(f"online {view.ref}", erased)
            forget_warnings(transaction)
            self._journal = msgspec.structs.replace(self._journal, until=max([*until, self._journal.until or 0]))
            self._erasures.note(self._journal)
        self._places.online.rewrite()
        for copy in self._places.copies:
            with copy.write() as transaction:
                self._take_parked(transaction)
                for view in self._views:
                    erase_entities(transaction, view.ref, view.record.join_keys, self._subject)

    def _erase_parked(self, transaction: Transaction) -> int:
        """Erase the rows that wait for their time; returns the latest of these times, 0 when there are none."""
        erased, latest = self._take_parked(transaction)
        self._count("parked", erased)
        return latest

    def _take_parked(self, transaction: Transaction) -> tuple[int, int]:
        """Take out the rows that wait; returns how many, and the latest of their times."""
        records = {view.ref: view for view in self._views}
        erased, latest = 0, 0
        for key, ref, rows in list(parked_rows(transaction)):
            if ref in records:
                mask = self._subject.mask([rows[name] for name, _ in self._subject.join_keys])
                if mask.any():
                    latest = max(latest, int(micros(rows[EVENT])[mask].max()))
                    replace_parked(transaction, key, ref, rows.filter(pa.array(~mask)))
                    erased += int(mask.sum())
        head = read_head(transaction)
        write_head(transaction, replace(head, earliest_parked=earliest_parked(transaction)))
        return erased, latest

    def _erase_quarantine(self) -> None:
        quarantine = self._places.quarantine
        quarantine.sweep()
        receipt = self._journal.number
        erased = [
            quarantine.erase(held, self._subject, receipt=receipt) for held in self._places.batches(self._subject)
        ]
        self._note("quarantine", sum(erased))

    def _erase_datasets(self) -> None:
        for dataset in all_datasets(self._places.datasets):
            erased = erase_from_dataset(
                dataset, self._subject, receipt=self._journal.number, digests_of=self._erasures.digests
            )
            self._note(f"dataset {dataset.name}", erased)

    def _erase_profiles(self) -> None:
        for view in self._views:
            log = self._profiles(view)
            if log.path.exists():
                dropped = drop_profiles(log, self._own_values(view))
                self._note(f"profiles {view.ref}", dropped)

    def _profiles(self, view: WrittenView) -> ProfileLog:
        return ProfileLog(self._places.store / "profiles", view.ref)

    def _own_values(self, view: WrittenView) -> dict[str, set[float | str]]:
        """Return, for each column, the values that no row of somebody else has, in the forms in which a profile shows them."""
        table, names = self._places.tables(view.ref), [name for name, _ in self._subject.join_keys]
        columns = [column for column in view.schema.values if not column.dtype.is_nested]
        own = {column.name: self._rows[view.ref][column.name].unique() for column in columns}
        for file in table.files() if table.exists and len(self._rows[view.ref]) else ():
            others = table.read([*names, *own], files=[file])
            others = others.filter(pa.array(~self._subject.mask([others[name] for name in names])))
            for name, values in own.items():
                known = others[name].filter(pc.is_in(others[name], values)).unique()
                own[name] = values.filter(pc.invert(pc.is_in(values, known)))
        return {column.name: shown_values(column.dtype, pa.chunked_array([own[column.name]])) for column in columns}

    def _erase_table(self, view: WrittenView) -> dict[str, str]:
        table = self._places.tables(view.ref)
        if not table.directory.is_dir():
            return {}
        datasets = list(all_datasets(self._places.datasets))
        listed = {
            file
            for dataset in datasets
            for source in dataset.manifest.sources
            if source.is_of(table.directory, self._places.store)
            for file in source.files
        }
        erasure = table.erase(self._subject, receipt=self._journal.number, keep=listed)
        for dataset in datasets:
            rename_files(dataset, table.directory, erasure.renamed)
        erasure.finish()
        self._note(f"offline {view.ref}", erasure.rows)
        return {file.file: file.new for file in erasure.files}

    def _profile_again(self) -> None:
        """Take a profile in the place of those that were dropped."""
        for view in self._views:
            table = self._places.tables(view.ref)
            if self._journal.counts.get(f"profiles {view.ref}") and table.exists and table.files():
                keep_profile(self._profiles(view), table, now=self._journal.erased_at)

    def _note(self, place: str, rows: int) -> None:
        """Count and record it, for what is gone cannot be counted again."""
        self._count(place, rows)
        self._erasures.note(self._journal)

    def _receipt(self, files: dict[str, dict[str, str]]) -> Receipt:
        journal = self._journal
        digests = self._erasures.digests(self._subject)
        losses = [
            (dataset.name, gone.rows)
            for dataset in all_datasets(self._places.datasets)
            for gone in dataset.manifest.erased
            if gone.receipt == journal.number
        ]
        return Receipt(
            number=journal.number,
            entity=journal.entity,
            join_keys=journal.join_keys,
            erased_at=journal.erased_at,
            principal=journal.principal,
            reason=journal.reason,
            keys=tuple(ErasedKey(digest, journal.until or 0) for digest in sorted(set(digests))),
            counts=dict(journal.counts),
            files=files,
            datasets=dict(losses),
            proof=prove(self._places, self._subject),
            unknown=UNKNOWN,
        )


def prove(places: Places, subject: Subject) -> Proof:
    """Look everywhere for rows of a subject, and for the bytes of its keys where those are long enough to be told from chance.

    Args:
        places: Where rows are.
        subject: Whom to look for.
    """
    erasures = places.erasures.directory
    proof = search(places.store, patterns_of(subject), online=places.online, leave_out=erasures.glob("*journal.json*"))
    rows = sorted({Trace(file, "rows") for file in _with_rows(places, subject)})
    return msgspec.structs.replace(proof, rows=tuple(rows))


def _online_with_rows(snapshot: Snapshot, views: Sequence[WrittenView], subject: Subject) -> Iterator[str]:
    for view in views:
        for table in _ENTITY_TABLES:
            found = stored_keys(snapshot, table, view.ref, view.record.join_keys, subject)
            yield from (f"online {table}" for _ in found)
    reached = {view.ref for view in views}
    for _, ref, rows in parked_rows(snapshot):
        if ref in reached and subject.mask([rows[name] for name, _ in subject.join_keys]).any():
            yield "online parked"


def _with_rows(places: Places, subject: Subject) -> Iterator[str]:
    """Go through the places that still hold rows of a subject."""
    for online in (places.online, *places.copies):
        with online.read() as snapshot:
            yield from _online_with_rows(snapshot, places.reached(subject), subject)
    for view in places.reached(subject):
        directory = places.tables(view.ref).directory
        yield from (str(path.relative_to(places.store)) for path, _ in rows_of(directory, view.schema, subject))
    for held in places.batches(subject):
        mask = rows_of_subject(held, subject)
        if mask is not None and mask.any():
            yield f"quarantine/{held.id}"
    for dataset in all_datasets(places.datasets):
        if rows_of_dataset(dataset, subject).any():
            yield f"datasets/{dataset.name}"


def _schemas(view: WrittenView) -> list[RowSchema]:
    """Return the schemas that rows of a view version had over its layouts: a digest is of the columns of its time."""
    layouts = range(1, view.record.newest_layout + 1)
    return [
        RowSchema.of(msgspec.structs.replace(view.record, features=features))
        for layout in layouts
        if (features := view.record.stored(layout))
    ]
