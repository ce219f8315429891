"""Who read which features: counted in a memory-mapped file of each worker, folded later into the registry's usage tables.

A worker writes one *segment* at a time, ``<worker>-<number>.usage``; numbers have no gap, so a lost segment shows. The file is
allocated in full before its first use and held under an flock while it is live:

    header   4096 bytes: magic, sizes, number, times, dropped, state; then worker and environment with a checksum
    slots    16 signed 64-bit words each, one per (minute, principal, consumer, binding, plan, client, mode, outcome)
    strings  entries of (u32 length, u32 crc32, UTF-8 bytes), each written once per segment; a slot names them by offset

A read that was counted before in this minute costs one dict look-up and three stores into the map: no lock and no system call.
The map belongs to the file, not to the process, so the counts survive ``kill -9``. A slot's ``used`` word is stored last: a slot that
was being written when the process died is not there.

``collect`` folds each segment that nobody writes any more exactly once: its row in ``usage_segments`` and its counts in
``usage_daily`` are one transaction, and the file goes away only after the commit. docs/reference/registry-json.md describes the tables.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import re
import sqlite3
import struct
import threading
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from featurestore.errors import (
    ConflictError,
    CorruptionError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
)
from featurestore.refs import FeatureRef
from featurestore.types import from_micros

BINDINGS = ("bound", "local", "undeclared", "ambiguous", "anonymous")
MODES = ("online", "offline")
OUTCOMES = ("ok", "refused")

MINUTE = 60_000_000
_SUFFIX = ".usage"
_WORKER = re.compile(r"[A-Za-z0-9_.-]{1,128}")

_MAGIC = int.from_bytes(b"FSUSAGE\n", "little")
_VERSION = 1
_HEADER = 4096
_WORD = 8
_IDENTITY = (
    128  # byte offset of (u32 crc32, u32 length, "worker\nenvironment"); the checksum spans the constant words too
)
_CONSTANT_WORDS = 6
_ENTRY = struct.Struct("<II")

# Words of the header; the first six never change.
_H_MAGIC, _H_VERSION, _H_SLOTS, _H_STRINGS, _H_NUMBER, _H_STARTED = range(_CONSTANT_WORDS)
_H_HEARTBEAT, _H_DROPPED, _H_STATE, _H_SLOTS_USED, _H_STRINGS_USED = range(_CONSTANT_WORDS, 11)
_LIVE, _ROTATED, _LAST = range(3)

# Words of a slot; seven of them are the key, summed so that a damaged one is noticed.
_SLOT_WORDS = 16
_USED, _MINUTE, _PRINCIPAL, _CONSUMER, _BINDING, _PLAN, _CLIENT, _MODE, _OUTCOME = range(9)
_CALLS, _ROWS, _FIRST, _LAST_READ, _CHECKSUM = range(9, 14)

_Key = tuple[str, str, str, str, str, str, str]


class UsageWriter:
    """Counts the reads of one worker process.

    It belongs to one event loop: no thread, no timer, no wait. The owner calls `heartbeat` now and then and `rotate` when it wants
    counts collected, or when `free_slots` runs low. Threads of one process may share it: allocation of slots is locked.

    Args:
        directory: Folder of the segments; made when missing.
        environment: The server's environment, e.g. ``production``; part of every folded row.
        clock: Returns now in microseconds since 1970 UTC.
        slots: Distinct keys that one segment can hold, 128 bytes each. Further keys are dropped and counted.
        worker: Name of this process life, never used again by another; None makes a fresh one.

    Raises:
        ConflictError: A segment of that worker is there already.

    >>> import tempfile
    >>> writer = UsageWriter(Path(tempfile.mkdtemp()), environment="dev", clock=lambda: 1383264000000000)
    >>> writer.register_plan("p1", ("weather@v1:temp",))
    >>> writer.record("p1", "ana", "delay_model@3", "bound", "10.0.0.7/python", "online", "ok", 2)
    >>> writer.close()
    """

    def __init__(
        self,
        directory: Path,
        *,
        environment: str,
        clock: Callable[[], int],
        slots: int = 16384,
        worker: str | None = None,
    ) -> None:
        self.worker = worker or uuid.uuid4().hex
        self.environment = environment
        if slots < 1:
            raise InvalidArgumentError(f"A usage segment needs at least one slot, not {slots}.")
        if not _WORKER.fullmatch(self.worker) or len(environment.encode()) > _HEADER // 2:
            raise InvalidArgumentError(f"'{self.worker}' or '{environment}' cannot name a worker and its environment.")
        self._directory = directory
        self._clock = clock
        self._capacity = slots
        self._plans: dict[str, str] = {}
        self._offsets: dict[_Key, int] = {}
        self._minute_start = 0
        self._minute_end = 0
        self._lock = threading.Lock()
        directory.mkdir(parents=True, exist_ok=True)
        self._segment: _LiveSegment | None = self._open(0)
        self._words = self._segment.words

    @property
    def number(self) -> int:
        """Number of the live segment, counted from 0."""
        return self._live().words[_H_NUMBER]

    @property
    def dropped(self) -> int:
        """Reads that the live segment could not count because it was full."""
        return self._live().words[_H_DROPPED]

    @property
    def free_slots(self) -> int:
        """Keys that the live segment can still take; 0 means that a new key is dropped."""
        return self._capacity - self._live().words[_H_SLOTS_USED]

    def register_plan(self, plan_id: str, refs: tuple[str, ...]) -> None:
        """Say which feature versions a plan reads, so that each segment that counts it can name them itself.

        Args:
            plan_id: The plan's identity; registering it again with the same features changes nothing.
            refs: Frozen references ``view@v1:feature``; an alias is left out, a feature named twice counts once.

        Raises:
            InvalidArgumentError: A reference is not frozen, or there is none.
            ConflictError: The identity stands for other features already.
        """
        features = dict.fromkeys(_frozen(ref) for ref in refs)
        if not features:
            raise InvalidArgumentError(f"Plan '{plan_id}' reads no feature.")
        text = "\n".join([plan_id, *features])
        if self._plans.setdefault(plan_id, text) != text:
            raise ConflictError(f"Plan '{plan_id}' is registered with other features.")

    def record(
        self,
        plan_id: str,
        principal: str,
        consumer: str,
        binding: str,
        client: str,
        mode: str,
        outcome: str,
        rows: int,
    ) -> None:
        """Count one read.

        Args:
            plan_id: A registered plan.
            principal: Who authenticated; ``""`` for nobody.
            consumer: What it says it runs; ``""`` when none was named.
            binding: How the consumer was established: one of `BINDINGS`.
            client: Peer host and user agent, ``10.0.0.7/python``.
            mode: ``online`` or ``offline``.
            outcome: ``ok`` or ``refused``.
            rows: Entity rows (spine rows offline) of the read; 0 for a refused one.

        Raises:
            NotFoundError: The plan was not registered.
            InvalidArgumentError: The binding, mode or outcome is none of the known ones.
            FailedPreconditionError: The writer is closed.
        """
        now = self._clock()
        if not self._minute_start <= now < self._minute_end:
            self._turn_minute(now)
        key = (plan_id, principal, consumer, binding, client, mode, outcome)
        slot = self._offsets.get(key)
        if slot is None:
            slot = self._allocate(key, now)
            if slot is None:
                return
        words = self._words
        words[slot + _CALLS] += 1
        words[slot + _ROWS] += rows
        words[slot + _LAST_READ] = now

    def heartbeat(self) -> None:
        """Note in the live segment that this worker is alive now: silence after it is a gap in coverage."""
        self._live().words[_H_HEARTBEAT] = self._clock()

    def rotate(self) -> None:
        """Hand the live segment over for collection and begin the next number."""
        with self._lock:
            segment = self._live()
            following = self._open(segment.words[_H_NUMBER] + 1)
            self._segment, self._words = following, following.words
            self._offsets.clear()
            segment.finish(_ROTATED, self._clock())

    def close(self) -> None:
        """Finish the live segment as this worker's last; closing again does nothing."""
        with self._lock:
            if self._segment is not None:
                self._offsets.clear()
                self._segment.finish(_LAST, self._clock())
                self._segment = None

    def _open(self, number: int) -> _LiveSegment:
        path = self._directory / f"{self.worker}-{number}{_SUFFIX}"
        identity = f"{self.worker}\n{self.environment}".encode()
        return _LiveSegment(path, identity, number=number, slots=self._capacity, now=self._clock())

    def _live(self) -> _LiveSegment:
        if self._segment is None:
            raise FailedPreconditionError(f"The usage writer of worker '{self.worker}' is closed.")
        return self._segment

    def _turn_minute(self, now: int) -> None:
        with self._lock:
            self._offsets.clear()
            self._minute_start = now - now % MINUTE
            self._minute_end = self._minute_start + MINUTE

    def _allocate(self, key: _Key, now: int) -> int | None:
        with self._lock:
            segment = self._live()
            known = self._offsets.get(key)  # another thread may have been first
            if known is not None:
                return known
            slot = segment.allocate(self._slot_texts(key), now)
            if slot is not None:
                self._offsets[key] = slot
            return slot

    def _slot_texts(self, key: _Key) -> tuple[str, ...]:
        plan_id, principal, consumer, binding, client, mode, outcome = key
        if plan_id not in self._plans:
            raise NotFoundError.of("registered plan", plan_id, self._plans)
        for name, value, known in (
            ("binding", binding, BINDINGS),
            ("mode", mode, MODES),
            ("outcome", outcome, OUTCOMES),
        ):
            if value not in known:
                raise InvalidArgumentError(f"No {name} '{value}'. There is: {', '.join(known)}.")
        return principal, consumer, binding, self._plans[plan_id], client, mode, outcome


class _LiveSegment:
    """The segment being written: its map, its lock and the strings it holds already."""

    def __init__(self, path: Path, identity: bytes, *, number: int, slots: int, now: int) -> None:
        self._strings_at = _HEADER + slots * _SLOT_WORDS * _WORD
        self._interned: dict[str, int] = {}
        strings = max(1 << 20, slots * 64)
        size = self._strings_at + strings
        # Made under another name and locked before anybody can see it, so that no collector takes it for an abandoned one.
        draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
        self._file = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            os.posix_fallocate(self._file, 0, size)  # a store into a hole of a full disk would kill the process
            self._map = mmap.mmap(self._file, size)
            self.words = memoryview(self._map).cast("q")
            constants = (_MAGIC, _VERSION, slots, strings, number, now)
            self._map[_IDENTITY : _IDENTITY + 8 + len(identity)] = _identity(constants, identity)
            for word, value in enumerate((*constants, now, 0, _LIVE, 0, 0)):
                self.words[word] = value
            os.link(draft, path)
        except FileExistsError:
            self._release()
            raise ConflictError(
                f"Usage segment '{path.name}' is there already.", repair="Give each process life its own worker name."
            ) from None
        except OSError:
            os.close(self._file)
            raise
        finally:
            draft.unlink()

    def allocate(self, texts: tuple[str, ...], now: int) -> int | None:
        """Return the first word of a new slot for these strings, or None (counted) when the segment is full."""
        words = self.words
        index = words[_H_SLOTS_USED]
        offsets = [self._intern(text) for text in texts] if index < words[_H_SLOTS] else [None]
        if None in offsets:
            words[_H_DROPPED] += 1
            return None
        slot = (_HEADER // _WORD) + index * _SLOT_WORDS
        for word, value in enumerate((now // MINUTE, *offsets), start=_MINUTE):
            words[slot + word] = value
        words[slot + _FIRST] = words[slot + _LAST_READ] = now
        words[slot + _CHECKSUM] = zlib.crc32(words[slot + _MINUTE : slot + _CALLS])
        words[_H_SLOTS_USED] = index + 1
        words[slot + _USED] = 1  # last: until here the slot does not exist
        return slot

    def finish(self, state: int, now: int) -> None:
        """Mark the segment as complete and let the collector have it."""
        self.words[_H_HEARTBEAT] = now
        self.words[_H_STATE] = state
        self._release()

    def _intern(self, text: str) -> int | None:
        known = self._interned.get(text)
        if known is not None:
            return known
        entry = _entry(text.encode(errors="replace"))  # a peer may send a user agent that is no text
        offset = self.words[_H_STRINGS_USED]
        end = offset + len(entry)
        if end > self.words[_H_STRINGS]:
            return None
        self._map[self._strings_at + offset : self._strings_at + end] = entry
        self.words[_H_STRINGS_USED] = end
        self._interned[text] = offset
        return offset

    def _release(self) -> None:
        self.words.release()
        self._map.close()
        os.close(self._file)


@dataclass(frozen=True, slots=True)
class FoldedSegment:
    """A segment whose counts are in the usage tables now.

    Attributes:
        worker: The worker that wrote it.
        number: Its number, counted from 0 for each worker.
        calls: Reads in it.
        dropped: Reads that it could not count because it was full.
        closed: Whether it was the worker's last: the worker said so, or is gone.
    """

    worker: str
    number: int
    calls: int
    dropped: int
    closed: bool


@dataclass(frozen=True, slots=True)
class CollectProblem:
    """A file that could not be folded; it stays where it is."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class CollectReport:
    """What one collection did.

    Attributes:
        folded: Segments folded now.
        removed: Files of segments that an earlier collection had folded already.
        live: Segments still being written.
        problems: Corrupt, foreign and unreadable files, with the reason.
    """

    folded: tuple[FoldedSegment, ...]
    removed: tuple[Path, ...]
    live: tuple[Path, ...]
    problems: tuple[CollectProblem, ...]


def collect(directory: Path, connection: sqlite3.Connection) -> CollectReport:
    """Fold every finished segment of a folder into ``usage_daily`` and ``usage_segments``, each exactly once.

    A segment is finished when its worker rotated or closed it, or when the worker is gone.

    Args:
        directory: Folder of the segments; one that does not exist holds none.
        connection: The registry database with both tables; not inside a transaction.

    Raises:
        FailedPreconditionError: The connection is inside a transaction, so a commit here would commit somebody else's work.
        sqlite3.Error: The database refused; no segment is half folded.
    """
    if connection.in_transaction:
        raise FailedPreconditionError("Usage cannot be collected inside another transaction.")
    folded: list[FoldedSegment] = []
    removed: list[Path] = []
    live: list[Path] = []
    problems: list[CollectProblem] = []
    for path in sorted(directory.glob(f"[!.]*{_SUFFIX}")):
        try:
            with _unowned(path) as content:
                if content is None:
                    live.append(path)
                    continue
                segment = _read_segment(path, content)
                if _fold(connection, segment):
                    folded.append(segment.summary())
                else:
                    removed.append(path)
                path.unlink()
        except FileNotFoundError:
            continue  # another collector was faster
        except (CorruptionError, ConflictError, OSError) as error:
            problems.append(CollectProblem(path, str(error)))
    return CollectReport(tuple(folded), tuple(removed), tuple(live), tuple(problems))


@dataclass(frozen=True, slots=True)
class LiveRead:
    """Reads of one feature version that a running worker has counted and not handed over yet.

    Attributes:
        ref: The feature version.
        principal: Who authenticated; empty for nobody.
        consumer: What it was accepted as; empty when none was named.
        outcome: ``ok`` or ``refused``.
        last_read: Microseconds since 1970 UTC.
    """

    ref: FeatureRef
    principal: str
    consumer: str
    outcome: str
    last_read: int


def live_reads(directory: Path) -> tuple[LiveRead, ...]:
    """Return what running workers have counted in the segments that they still write; nothing is folded or removed.

    Args:
        directory: Folder of the segments; one that does not exist holds none.

    Raises:
        CorruptionError: A segment is damaged, so that nobody can say what its worker read.
    """
    found: list[LiveRead] = []
    for path in sorted(directory.glob(f"[!.]*{_SUFFIX}")):
        with suppress(FileNotFoundError):  # collected in between: its reads are in the registry now
            for count in _read_segment(path, _peeked(path)).counts:
                who = (count.principal, count.consumer, count.outcome, count.last_read)
                found += (LiveRead(ref, *who) for ref in count.refs)
    return tuple(found)


def _peeked(path: Path) -> bytes:
    """Read a segment that may be written meanwhile: the header once more at the end, so that it knows of every string of a slot."""
    with path.open("rb") as file:
        content = file.read()
        file.seek(0)
        return file.read(_HEADER) + content[_HEADER:]


@contextmanager
def _unowned(path: Path) -> Iterator[bytes | None]:
    """Hold a segment's lock and give its bytes; None while its worker, or another collector, holds it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        locked = False
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        if locked and os.fstat(descriptor).st_nlink == 0:
            raise FileNotFoundError(path)
        if locked:
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                yield file.read()
        else:
            yield None
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class _Count:
    """One slot, read back."""

    minute: int
    principal: str
    consumer: str
    binding: str
    refs: tuple[FeatureRef, ...]
    client: str
    mode: str
    outcome: str
    calls: int
    rows: int
    first_read: int
    last_read: int


@dataclass(frozen=True, slots=True)
class _Segment:
    worker: str
    number: int
    environment: str
    started_at: int
    ended_at: int
    closed: bool
    dropped: int
    counts: tuple[_Count, ...]

    def summary(self) -> FoldedSegment:
        calls = sum(count.calls for count in self.counts)
        return FoldedSegment(self.worker, self.number, calls, self.dropped, self.closed)


class _SegmentReader:
    """Reads a whole segment and trusts nothing in it."""

    def __init__(self, path: Path, content: bytes) -> None:
        self._path = path
        self._content = content
        if len(content) < _HEADER or len(content) % _WORD:
            self._refuse("it is shorter than a header or cut off", 0)
        self._words = memoryview(content).cast("q")
        if self._words[_H_MAGIC] != _MAGIC:
            self._refuse("it is not a usage segment", 0)
        if self._words[_H_VERSION] != _VERSION:
            self._refuse(f"its format is {self._words[_H_VERSION]} and this build reads {_VERSION}", _H_VERSION * _WORD)
        self._strings_at = _HEADER + self._words[_H_SLOTS] * _SLOT_WORDS * _WORD
        self._strings_used = self._words[_H_STRINGS_USED]

    def read(self) -> _Segment:
        """Return the segment; raises CorruptionError with file and offset."""
        words = self._words
        worker, environment = self._identity()
        if self._path.name != f"{worker}-{words[_H_NUMBER]}{_SUFFIX}":
            self._refuse(f"it is segment {words[_H_NUMBER]} of worker '{worker}'", _IDENTITY)
        counts = tuple(self._counts())
        last_sign = max([words[_H_HEARTBEAT], *(count.last_read for count in counts)])
        return _Segment(
            worker=worker,
            number=words[_H_NUMBER],
            environment=environment,
            started_at=words[_H_STARTED],
            ended_at=last_sign,
            closed=words[_H_STATE] != _ROTATED,  # a live one is only read when its worker is gone: it was the last
            dropped=words[_H_DROPPED],
            counts=counts,
        )

    def _identity(self) -> tuple[str, str]:
        _, length = _ENTRY.unpack_from(self._content, _IDENTITY)
        begin = _IDENTITY + _ENTRY.size
        identity = self._content[begin : begin + length]
        stored = self._content[_IDENTITY : begin + length]
        constants = tuple(self._words[:_CONSTANT_WORDS])
        size = self._strings_at + self._words[_H_STRINGS]
        if begin + length > _HEADER or stored != _identity(constants, identity) or size != len(self._content):
            self._refuse("its header is damaged", 0)
        if self._words[_H_STATE] not in (_LIVE, _ROTATED, _LAST):
            self._refuse("its state is unknown", _H_STATE * _WORD)
        worker, environment = identity.decode().split("\n", 1)
        return worker, environment

    def _counts(self) -> Iterator[_Count]:
        # All slots are looked at, not the counted ones: a slot stands by its own `used` word.
        first = _HEADER // _WORD
        for slot in range(first, first + self._words[_H_SLOTS] * _SLOT_WORDS, _SLOT_WORDS):
            used = self._words[slot + _USED]
            if used not in (0, 1):
                self._refuse("a slot is neither used nor free", slot * _WORD)
            if used:
                yield self._count(slot)

    def _count(self, slot: int) -> _Count:
        words = self._words
        values = words[slot + _MINUTE : slot + _CHECKSUM].tolist()
        if (
            zlib.crc32(words[slot + _MINUTE : slot + _CALLS]) != words[slot + _CHECKSUM]
            or min(values[_CALLS - 1 :]) < 0
        ):
            self._refuse("a slot is damaged", slot * _WORD)
        minute, principal, consumer, binding, plan, client, mode, outcome, *numbers = values
        calls, rows, first_read, last_read = numbers
        return _Count(
            minute=minute,
            principal=self._string(principal),
            consumer=self._string(consumer),
            binding=self._string(binding),
            refs=self._refs(plan),
            client=self._string(client),
            mode=self._string(mode),
            outcome=self._string(outcome),
            calls=calls,
            rows=rows,
            first_read=first_read,
            last_read=last_read,
        )

    def _refs(self, offset: int) -> tuple[FeatureRef, ...]:
        _, *refs = self._string(offset).split("\n")
        try:
            return tuple(FeatureRef.parse(ref) for ref in refs)
        except InvalidArgumentError:
            self._refuse("a plan names something that is no feature", self._strings_at + offset)

    def _string(self, offset: int) -> str:
        at = self._strings_at + offset
        if not 0 <= offset <= self._strings_used - _ENTRY.size <= len(self._content) - self._strings_at:
            self._refuse("a string lies outside of its region", at)
        length, checksum = _ENTRY.unpack_from(self._content, at)
        text = self._content[at + _ENTRY.size : at + _ENTRY.size + length]
        if len(text) != length or zlib.crc32(text) != checksum:
            self._refuse("a string is damaged", at)
        return text.decode()

    def _refuse(self, reason: str, offset: int) -> NoReturn:
        raise CorruptionError(
            f"'{self._path.name}' cannot be counted: {reason}.",
            place=f"{self._path}:{offset}",
            repair="It stays in place and coverage of its time is incomplete; move it away when nobody needs it.",
        )


def _read_segment(path: Path, content: bytes) -> _Segment:
    return _SegmentReader(path, content).read()


_INSERT_SEGMENT = """
    INSERT INTO usage_segments (worker, number, environment, started_at, ended_at, closed, dropped) VALUES (?, ?, ?, ?, ?, ?, ?)
"""
_ADD_USAGE = """
    INSERT INTO usage_daily (day, view, version, feature, principal, consumer, binding, environment, mode, client, outcome,
                             calls, entity_rows, first_read, last_read)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (day, view, version, feature, principal, consumer, binding, environment, mode, client, outcome) DO UPDATE SET
        calls = calls + excluded.calls,
        entity_rows = entity_rows + excluded.entity_rows,
        first_read = min(first_read, excluded.first_read),
        last_read = max(last_read, excluded.last_read)
"""


def _fold(connection: sqlite3.Connection, segment: _Segment) -> bool:
    """Add a segment to both tables in one transaction; False when it was added before."""
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        known = connection.execute(
            "SELECT started_at FROM usage_segments WHERE worker = ? AND number = ?", (segment.worker, segment.number)
        ).fetchone()
        if known is not None and known[0] != segment.started_at:
            raise ConflictError(
                f"Another segment {segment.number} of worker '{segment.worker}' was counted before.",
                repair="Give each process life its own worker name.",
            )
        if known is None:
            connection.execute(_INSERT_SEGMENT, _segment_row(segment))
            connection.executemany(_ADD_USAGE, _usage_rows(segment))
    return known is None


def _segment_row(segment: _Segment) -> tuple[str | int, ...]:
    times = (segment.started_at, segment.ended_at)
    return (segment.worker, segment.number, segment.environment, *times, int(segment.closed), segment.dropped)


def _usage_rows(segment: _Segment) -> Iterator[tuple[str | int | None, ...]]:
    for count in segment.counts:
        day = from_micros(count.minute * MINUTE).date().isoformat()
        reader = (count.principal, count.consumer, count.binding, segment.environment)
        how = (count.mode, count.client, count.outcome)
        numbers = (count.calls, count.rows, count.first_read, count.last_read)
        for ref in count.refs:
            yield (day, ref.view, ref.version, ref.feature, *reader, *how, *numbers)


def _frozen(ref: str) -> str:
    parsed = FeatureRef.parse(ref)
    if parsed.version is None:
        raise InvalidArgumentError(f"'{ref}' names no version, so a read of it cannot be counted.")
    return str(parsed.plain())


def _entry(text: bytes) -> bytes:
    return _ENTRY.pack(len(text), zlib.crc32(text)) + text


def _identity(constants: tuple[int, ...], identity: bytes) -> bytes:
    checksum = zlib.crc32(struct.pack(f"<{_CONSTANT_WORDS}q", *constants) + identity)
    return _ENTRY.pack(checksum, len(identity)) + identity
