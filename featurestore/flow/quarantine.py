"""Quarantine: where a batch goes of which an expectation does not hold, instead of into the store.

    <store>/quarantine/<id>/report.json      what was expected and what was found
    <store>/quarantine/<id>/batch.parquet    the rows that would have been new, with the source's column names; gone once it is decided
    <store>/quarantine/<id>/history.jsonl    hold, release, released, drop: when, who, why; the last line says how the batch stands

A held batch appears whole or not at all, before its writer is told. Its id is a digest of the view version, the way in and the rows, so
that the same batch is held once, however often it comes. Nothing of it is accepted until somebody releases it with a reason.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.definitions.expectation import Fresh
from featurestore.errors import (
    CorruptionError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    QuarantinedError,
    UnavailableError,
)
from featurestore.offline.durable import append_lines, sync
from featurestore.offline.expectations import Batch, Breach, References, breaches, compares_sizes, told
from featurestore.rows import CREATED, RowSchema
from featurestore.subject import Mask, Subject

SCHEMA_VERSION = 1
REFUSE = "refuse"

Way = Literal["ingest", "write"]
State = Literal["held", "releasing", "released", "dropped"]

_T = TypeVar("_T")
_REPORT, _BATCH, _HISTORY = "report.json", "batch.parquet", "history.jsonl"
_STATES: dict[str, State] = {"hold": "held", "release": "releasing", "released": "released", "drop": "dropped"}


class QuarantineReport(msgspec.Struct, frozen=True, kw_only=True):
    """Why a batch is held.

    Attributes:
        id: Its id.
        view: The view version it was for.
        way: ``ingest`` or ``write``: how it came, and how it is submitted again.
        held_at: Microseconds since 1970 UTC, by the store's clock.
        rows: Rows that would have been new; they lie in the batch.
        offered: Rows that were offered.
        digest: Digest of the values of the batch.
        write_id: Hexadecimal id of the write, empty for none.
        breaches: Every expectation that did not hold, those that only warn included.
        schema_version: Of this document.
    """

    id: str
    view: str
    way: Way
    held_at: int
    rows: int
    offered: int
    digest: str
    write_id: str
    breaches: tuple[Breach, ...]
    schema_version: int = SCHEMA_VERSION


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One step in the history of a held batch: ``hold``, ``release`` (begun), ``released`` or ``drop``."""

    kind: Literal["hold", "release", "released", "drop"]
    time: int
    principal: str = ""
    reason: str = ""
    accepted: int = 0


@dataclass(frozen=True, slots=True)
class HeldBatch:
    """A batch in quarantine.

    Attributes:
        report: Why it is held.
        directory: Its folder.
    """

    report: QuarantineReport
    directory: Path

    @property
    def id(self) -> str:
        """Its id."""
        return self.report.id

    @property
    def history(self) -> tuple[Decision, ...]:
        """What was decided, oldest first; a line that a killed process left unfinished does not count."""
        text = (self.directory / _HISTORY).read_bytes()
        return tuple(
            _decoded(line, Decision, self.directory / _HISTORY) for line in text[: text.rfind(b"\n") + 1].splitlines()
        )

    @property
    def state(self) -> State:
        """How it stands: ``releasing`` is a release that was interrupted and can be run again."""
        return _STATES[self.history[-1].kind]

    def rows(self) -> pa.Table:
        """Return its rows, with the source's column names.

        Raises:
            FailedPreconditionError: It was decided before, and the rows are gone.
            CorruptionError: The file is damaged.
        """
        last = self.history[-1]
        if self.state in ("released", "dropped"):
            raise FailedPreconditionError(
                f"Batch {self.id} was {self.state}: {last.reason}.",
                repair="Write or ingest the rows again to hold them.",
            )
        try:
            return pq.read_table(self.directory / _BATCH, page_checksum_verification=True)
        except (OSError, pa.ArrowException) as error:
            raise CorruptionError(
                f"Batch {self.id} is damaged: {error}.", place=str(self.directory / _BATCH)
            ) from error

    def decide(self, decision: Decision) -> None:
        """Add a decision to the history, durably; one that is final takes the rows away."""
        append_lines(self.directory / _HISTORY, [msgspec.json.encode(decision)])
        self.sweep()

    def sweep(self) -> None:
        """Take the rows away of a batch that was decided."""
        if self.state in ("released", "dropped"):
            (self.directory / _BATCH).unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Quarantine:
    """All held batches of a store.

    Args:
        directory: The folder ``quarantine`` of the store.
    """

    directory: Path

    def batches(self) -> list[HeldBatch]:
        """Return every batch that was ever held, oldest first."""
        found = [self._open(path.parent) for path in self.directory.glob(f"[!.]*/{_REPORT}")]
        return sorted(found, key=lambda held: (held.report.held_at, held.id))

    def batch(self, name: str) -> HeldBatch:
        """Return a batch by its id, or by how its id begins; raises NotFoundError, or InvalidArgumentError when several begin so."""
        ids = [path.parent.name for path in self.directory.glob(f"[!.]*/{_REPORT}")]
        found = [known for known in ids if name and known.startswith(name)]
        if not found:
            raise NotFoundError.of("quarantined batch", name, ids, repair="Run `featurestore quarantine list`.")
        if len(found) > 1:
            raise InvalidArgumentError(f"Several ids begin with '{name}': {', '.join(sorted(found)[:5])}.")
        return self._open(self.directory / found[0])

    def hold(self, batch: Batch, way: Way, found: tuple[Breach, ...], write_id: bytes) -> HeldBatch:
        """Keep a batch and the report on it, durably; the same batch is there once.

        Raises:
            UnavailableError: It cannot be written, e.g. because the disk is full.
        """
        from featurestore.offline.datasets import table_digest

        rows = as_source(batch.new, RowSchema.of(batch.record))
        digest = table_digest(rows)
        identity = _identity(str(batch.ref), way, digest)
        report = QuarantineReport(
            id=identity,
            view=str(batch.ref),
            way=way,
            held_at=batch.now,
            rows=len(rows),
            offered=batch.offered,
            digest=digest,
            write_id=write_id.hex(),
            breaches=found,
        )
        try:
            return self._keep(report, rows)
        except OSError as error:
            raise UnavailableError(
                f"A batch of {batch.ref} breaks expectations and cannot be quarantined: {error}. Nothing of it was accepted.",
                place=str(self.directory / identity),
            ) from error

    def erase(self, held: HeldBatch, subject: Subject, *, receipt: int) -> int:
        """Take the rows of a subject out of a batch, and the examples with its keys out of the report; returns how many rows.

        A batch that loses rows gets another id, since an id is a digest of the rows; one that loses all of them is dropped.

        Args:
            held: The batch, of a view that has the join keys of the subject.
            subject: Whom to erase.
            receipt: Number of the receipt.
        """
        rows = rows_of_subject(held, subject)
        report = msgspec.structs.replace(
            held.report, breaches=tuple(_unshown(b, subject) for b in held.report.breaches)
        )
        if rows is None or not rows.any():
            if report != held.report:
                _replace(held.directory / _REPORT, lambda path: path.write_bytes(_text(report)))
            return 0
        batch = held.directory / _BATCH
        self._move(held, report, pq.read_table(batch).filter(pa.array(~rows)), receipt)
        return int(rows.sum())

    def _move(self, held: HeldBatch, report: QuarantineReport, rows: pa.Table, receipt: int) -> None:
        """Put what is left of a batch into a folder of its own, then remove the old one."""
        report = self._report(report, rows)
        folder, unfinished = self.directory / report.id, self.directory / f".{report.id}-{uuid.uuid4().hex}"
        unfinished.mkdir()
        _write_rows(rows, unfinished / _BATCH)
        (unfinished / _REPORT).write_bytes(_text(report))
        shutil.copyfile(held.directory / _HISTORY, unfinished / _HISTORY)
        if not len(rows):
            reason = f"its rows were erased by receipt {receipt}"
            HeldBatch(report, unfinished).decide(Decision(kind="drop", time=report.held_at, reason=reason))
        sync(*unfinished.iterdir(), unfinished)
        if not folder.exists():
            unfinished.rename(folder)
        shutil.rmtree(unfinished, ignore_errors=True)
        sync(self.directory)
        shutil.rmtree(held.directory)

    def sweep(self) -> None:
        """Remove what killed processes left unfinished; the caller sees to it that nobody holds a batch meanwhile."""
        for unfinished in (*self.directory.glob(".*-*"), *self.directory.glob("*/.*-*")):
            if unfinished.is_dir():
                shutil.rmtree(unfinished)
            else:
                unfinished.unlink()

    @staticmethod
    def _report(report: QuarantineReport, rows: pa.Table) -> QuarantineReport:
        """Return the report of a batch that has other rows by now."""
        from featurestore.offline.datasets import table_digest

        digest = table_digest(rows)
        return msgspec.structs.replace(
            report, id=_identity(report.view, report.way, digest), rows=len(rows), digest=digest
        )

    def _keep(self, report: QuarantineReport, rows: pa.Table) -> HeldBatch:
        folder = self.directory / report.id
        text = _text(report)
        if not folder.exists():
            self._make(folder, report, rows, text)
            return HeldBatch(report, folder)
        held = self._open(folder)
        if held.state in ("released", "dropped"):  # it came again: hold it again, with its history
            _replace(folder / _BATCH, lambda path: _write_rows(rows, path))
            _replace(folder / _REPORT, lambda path: path.write_bytes(text))
            held.decide(Decision(kind="hold", time=report.held_at))
        else:
            _replace(folder / _REPORT, lambda path: path.write_bytes(text))
        return HeldBatch(report, folder)

    def _make(self, folder: Path, report: QuarantineReport, rows: pa.Table, text: bytes) -> None:
        """Write into a folder of another name, then give it the right one: it is there as a whole or not at all."""
        unfinished = folder.with_name(f".{report.id}-{uuid.uuid4().hex}")
        unfinished.mkdir(parents=True)
        try:
            _write_rows(rows, unfinished / _BATCH)
            (unfinished / _REPORT).write_bytes(text)
            history = msgspec.json.encode(Decision(kind="hold", time=report.held_at)) + b"\n"
            (unfinished / _HISTORY).write_bytes(history)
            sync(*(unfinished / name for name in (_BATCH, _REPORT, _HISTORY)), unfinished)
            unfinished.rename(folder)
            sync(folder.parent, folder.parent.parent)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def _open(self, folder: Path) -> HeldBatch:
        path = folder / _REPORT
        held = HeldBatch(_decoded(path.read_bytes(), QuarantineReport, path), folder)
        held.sweep()
        return held


@dataclass(frozen=True, slots=True)
class Gate:
    """Where a batch is let in or held: the one call that `write` and `ingest` make before they accept rows.

    Args:
        store: The project's ``store`` folder.
    """

    store: Path

    @property
    def quarantine(self) -> Quarantine:
        """The held batches of the store."""
        return Quarantine(self.store / "quarantine")

    @property
    def references(self) -> References:
        """What batches are compared with."""
        return References(self.store / "profiles", self.store / "datasets")

    def admit(self, batch: Batch, way: Way, *, write_id: bytes = b"", released: str = "") -> tuple[str, ...]:
        """Let a batch in, or hold it.

        Args:
            batch: The rows that would be accepted.
            way: How they come.
            write_id: Id of the write, empty for none.
            released: Id of the held batch that this is: what its report says is waived.

        Returns:
            Warnings: the expectations that do not hold and let the batch pass. Without new rows there is nothing to refuse.

        Raises:
            QuarantinedError: An expectation with severity ``refuse`` does not hold; the batch was stored with a report.
        """
        waived = self.quarantine.batch(released).report.breaches if released else ()
        known = [(breach.subject, breach.expectation) for breach in waived]
        found = tuple(b for b in breaches(batch, self.references) if (b.subject, b.expectation) not in known)
        refusing = [breach for breach in found if breach.severity == REFUSE]
        if refusing and len(batch.new):
            held = self.quarantine.hold(batch, way, found, write_id)
            raise quarantined(held)
        if len(batch.new) and compares_sizes(batch.record):
            self.references.log(batch.ref).note_rows(batch.offered)
        return tuple(f"{batch.ref} {breach}" for breach in found)


def quarantined(held: HeldBatch) -> QuarantinedError:
    """Return the error that tells a writer that a batch is held.

    Args:
        held: The batch.
    """
    report = held.report
    refusing = [str(breach) for breach in report.breaches if breach.severity == REFUSE]
    more = f" (and {len(refusing) - 3} more)" if len(refusing) > 3 else ""
    return QuarantinedError(
        f"{report.rows} rows of {report.view} are in quarantine, none was accepted: {'; '.join(refusing[:3])}{more}.",
        place=str(held.directory / _REPORT),
        repair=f"Run `featurestore quarantine show {held.id}`, then `featurestore quarantine release {held.id} --reason WHY` "
        f"or `featurestore quarantine drop {held.id} --reason WHY`.",
    )


def release(held: HeldBatch, *, reason: str, principal: str, now: int, submit: Callable[[pa.Table], int]) -> int:
    """Submit a held batch again by the way it came, with the expectations of its report waived.

    A release that is interrupted can be run again: rows that were accepted are repeated then.

    Args:
        held: The batch.
        reason: Why; it is recorded.
        principal: Who.
        now: Microseconds since 1970 UTC.
        submit: Accepts the rows and returns how many were new.

    Returns:
        How many rows were accepted.

    Raises:
        InvalidArgumentError: No reason.
        FailedPreconditionError: It was decided before.
        QuarantinedError: Something that its report does not name does not hold now.
    """
    _check_reason(reason)
    rows = held.rows()
    held.decide(Decision(kind="release", time=now, principal=principal, reason=reason))
    accepted = submit(rows)
    held.decide(Decision(kind="released", time=now, principal=principal, reason=reason, accepted=accepted))
    return accepted


def drop(held: HeldBatch, *, reason: str, principal: str, now: int) -> None:
    """Delete the rows of a held batch; its report and history stay.

    Raises:
        InvalidArgumentError: No reason.
        FailedPreconditionError: It was decided before, or is being released: some of its rows may be accepted.
    """
    _check_reason(reason)
    held.rows()
    if held.state == "releasing":
        raise FailedPreconditionError(
            f"A release of batch {held.id} was interrupted.",
            repair=f"Run `featurestore quarantine release {held.id}` again.",
        )
    held.decide(Decision(kind="drop", time=now, principal=principal, reason=reason))


def as_source(rows: pa.Table, schema: RowSchema) -> pa.Table:
    """Return canonical rows with the column names of the source; of a column that is read in two widths, the wider one."""
    columns: dict[str, pa.ChunkedArray] = {}
    for column in schema.columns:
        if column.name == CREATED and schema.created_timestamp is None:
            continue
        there = columns.get(column.source)
        if there is None or there.nbytes < rows[column.name].nbytes:
            columns[column.source] = rows[column.name]
    return pa.table(columns)


def rows_of_subject(held: HeldBatch, subject: Subject) -> Mask | None:
    """Return bool[n]: which rows of a batch are of a subject; None when the batch was decided and has none any more."""
    path = held.directory / _BATCH
    if not path.exists():
        return None
    names = [name for name, _ in subject.join_keys]
    rows = pq.read_table(path, columns=names)
    return subject.mask([rows[name] for name in names])


def _unshown(breach: Breach, subject: Subject) -> Breach:
    """Return a breach without the examples that have a key of a subject; when the newest event was is not said any more."""
    names = [name for name, _ in subject.join_keys]
    keys = {tuple(told(value) for value in row) for row in zip(*subject.values.columns, strict=True)}
    kept = tuple(each for each in breach.examples if tuple(each.keys.get(name) for name in names) not in keys)
    observed = "erased" if breach.expectation.get("kind") == Fresh.__name__ else breach.observed
    return msgspec.structs.replace(breach, examples=kept, observed=observed)


def _identity(view: str, way: Way, digest: str) -> str:
    return blake2b(f"{view}|{way}|{digest}".encode(), digest_size=8).hexdigest()


def _text(report: QuarantineReport) -> bytes:
    return msgspec.json.format(msgspec.json.encode(report))


def _check_reason(reason: str) -> None:
    if not reason.strip():
        raise InvalidArgumentError("A decision about a quarantined batch needs a reason.", repair="Give --reason WHY.")


def _write_rows(rows: pa.Table, path: Path) -> None:
    pq.write_table(rows, path, compression="zstd", write_page_checksum=True)


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside and put it in the place of the old one."""
    beside = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        write(beside)
        sync(beside)
        beside.replace(path)
        sync(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def _decoded(text: bytes, kind: type[_T], path: Path) -> _T:
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as error:
        raise CorruptionError(f"A record of the quarantine is damaged: {error}.", place=str(path)) from error
