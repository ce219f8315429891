"""Writes that wait for the store's one writer: a bounded queue in front of it, and as many in one durable commit as have come meanwhile.

While a commit waits for the disk the next writes queue up, so the busier the writer is, the more of them share a commit (group commit:
DeWitt et al., Implementation Techniques for Main Memory Database Systems, SIGMOD 1984). A write is answered after its commit.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

from google.protobuf.message import DecodeError

from featurestore.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    FeatureStoreError,
    ResourceExhaustedError,
)
from featurestore.flow.write import Answer, Write, WriteReport
from featurestore.serving.call import Call, monotonic_micros
from featurestore.serving.metrics import MetricsFile

COMMITS, COMMIT_SECONDS = "featurestore_commits_total", "featurestore_commit_seconds"
ACCEPTED, REFUSED = "featurestore_accepted_rows_total", "featurestore_refused_writes_total"
QUEUED = "featurestore_queued_writes"

MAX_WRITES = 4096
MAX_BYTES = 64 << 20
_WRITES_AT_ONCE = 512
_BYTES_AT_ONCE = 8 << 20
_PARTS_AHEAD = 64  # of one stream
_SECOND = 1_000_000_000  # nanoseconds

Decode = Callable[[bytes], Write]
_Ahead = asyncio.Queue[asyncio.Future[WriteReport] | None]


@dataclass(eq=False, slots=True)
class _Stream:
    """Writes that come one after the other: once one is refused, those after it are not done; number 0 is a write by itself."""

    number: int
    is_over: bool = False


@dataclass(eq=False, slots=True)
class _Waiting:
    """A write in the queue."""

    body: bytes
    decode: Decode
    deadline: int | None
    answer: asyncio.Future[WriteReport]
    stream: _Stream


class WriteQueue:
    """The queue; every method but the constructor belongs to one event loop.

    Args:
        write_all: Commits writes together; runs on `thread`.
        thread: The writer's thread.
        metrics: Where commits, rows and the length of the queue are counted.
        max_writes: Longest queue.
        max_bytes: Most that the requests in the queue may weigh.
    """

    def __init__(
        self,
        write_all: Callable[[Sequence[Write]], list[Answer]],
        thread: Executor,
        metrics: MetricsFile,
        *,
        max_writes: int = MAX_WRITES,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._write_all = write_all
        self._thread = thread
        self._max_writes, self._max_bytes = max_writes, max_bytes
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._room = asyncio.Event()
        self._working: asyncio.Task[None] | None = None
        self._numbers = itertools.count(1)
        self._seconds_a_write = 0.001
        self._commits, self._refused = metrics.counter(COMMITS), metrics.counter(REFUSED)
        self._accepted, self._queued = metrics.counter(ACCEPTED), metrics.gauge(QUEUED)
        self._seconds = metrics.distribution(COMMIT_SECONDS)

    async def write(self, call: Call, body: bytes, decode: Decode) -> WriteReport:
        """Return how a write was answered, once it is durable.

        Args:
            call: What came with it; one whose deadline passes before its turn is not done.
            body: The request.
            decode: Reads it; runs on the writer's thread.

        Raises:
            ResourceExhaustedError: Too much waits already; says when to come again.
            DeadlineExceededError: Its turn came too late; nothing was accepted.
            FeatureStoreError: What the writer or `decode` raised.
        """
        if self._is_full(len(body)):
            self._refused.add()
            raise ResourceExhaustedError(
                f"{len(self._waiting)} writes with {self._bytes} bytes wait for the writer.",
                repair="Write again a little later, or in larger parts.",
                retry_after=max(0.01, len(self._waiting) * self._seconds_a_write),
            )
        return await self._put(call, body, decode, _Stream(0))

    async def write_stream(
        self, call: Call, bodies: AsyncIterator[bytes], decode: Decode
    ) -> AsyncGenerator[WriteReport]:
        """Return how the parts of a stream were answered, in their order; parts are taken as there is room for them.

        The first that is refused is the last that is done: its error is raised.
        """
        stream = _Stream(next(self._numbers))
        ahead: _Ahead = asyncio.Queue()
        room = asyncio.Semaphore(_PARTS_AHEAD)
        taking = asyncio.ensure_future(self._take_parts(call, bodies, decode, stream, ahead, room))
        try:
            while (part := await ahead.get()) is not None:
                yield await part
                room.release()
            await taking
        finally:
            stream.is_over = True
            taking.cancel()

    async def close(self) -> None:
        """Finish what waits."""
        while self._working is not None:
            await self._working

    async def _take_parts(
        self,
        call: Call,
        bodies: AsyncIterator[bytes],
        decode: Decode,
        stream: _Stream,
        ahead: _Ahead,
        room: asyncio.Semaphore,
    ) -> None:
        try:
            async for body in bodies:
                await room.acquire()
                while self._is_full(len(body)):
                    self._room.clear()
                    await self._room.wait()
                ahead.put_nowait(self._put(call, body, decode, stream))
        finally:
            ahead.put_nowait(None)

    def _is_full(self, size: int) -> bool:
        return bool(self._waiting) and (len(self._waiting) >= self._max_writes or self._bytes + size > self._max_bytes)

    def _put(self, call: Call, body: bytes, decode: Decode, stream: _Stream) -> asyncio.Future[WriteReport]:
        answer: asyncio.Future[WriteReport] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(body, decode, call.deadline, answer, stream))
        self._bytes += len(body)
        self._queued.set(len(self._waiting))
        if self._working is None:
            self._working = asyncio.ensure_future(self._work())
        return answer

    async def _work(self) -> None:
        """Commit what waits, again and again, until nothing does."""
        try:
            while self._waiting:
                group = self._take()
                began = time.perf_counter_ns()
                try:
                    answers = await asyncio.get_running_loop().run_in_executor(self._thread, self._commit, group)
                except Exception as error:  # noqa: BLE001  # every caller gets it, and its guard logs it
                    answers = [error] * len(group)
                self._count(answers, time.perf_counter_ns() - began)
                for waiting, answer in zip(group, answers, strict=True):
                    _tell(waiting, answer)
        finally:
            self._working = None

    def _take(self) -> list[_Waiting]:
        """Take writes off the queue: as many as go into one commit, without those that nobody waits for any more."""
        group: list[_Waiting] = []
        size = 0
        while self._waiting and len(group) < _WRITES_AT_ONCE and size < _BYTES_AT_ONCE:
            waiting = self._waiting.popleft()
            self._bytes -= len(waiting.body)
            if waiting.answer.cancelled() or waiting.stream.is_over:
                waiting.answer.cancel()
            elif waiting.deadline is not None and waiting.deadline <= monotonic_micros():
                _tell(waiting, DeadlineExceededError("The deadline passed while the write waited for its turn."))
            else:
                group.append(waiting)
                size += len(waiting.body)
        self._queued.set(len(self._waiting))
        self._room.set()
        return group

    def _commit(self, group: Sequence[_Waiting]) -> list[Answer | Exception]:
        """Decode writes and commit them together; runs on the writer's thread."""
        read = _decoded(group)
        writes = [write for write in read if isinstance(write, Write)]
        answers = iter(self._write_all(writes) if writes else ())
        return [next(answers) if isinstance(one, Write) else one for one in read]

    def _count(self, answers: Sequence[Answer | Exception], nanoseconds: int) -> None:
        rows = sum(answer.accepted for answer in answers if isinstance(answer, WriteReport))
        if answers:
            self._commits.add()
            self._seconds.record(nanoseconds)
            self._seconds_a_write += 0.1 * (nanoseconds / _SECOND / len(answers) - self._seconds_a_write)
        self._accepted.add(rows)


def _decoded(group: Sequence[_Waiting]) -> list[Write | Exception]:
    """Return writes, or why they cannot be read; a stream's parts after such a one are not done either."""
    broken: set[int] = set()
    read: list[Write | Exception] = []
    for waiting in group:
        number = waiting.stream.number
        try:
            if number and number in broken:
                raise FailedPreconditionError("A part of this stream before it was refused.")
            read.append(replace(waiting.decode(waiting.body), stream=number))
        except (FeatureStoreError, DecodeError) as error:
            broken.add(number)
            read.append(error)
    return read


def _tell(waiting: _Waiting, answer: Answer | Exception) -> None:
    """Give the caller its answer, if it is still there; of a stream nobody waits for more than the first error."""
    if waiting.answer.done() or waiting.stream.is_over:
        waiting.answer.cancel()
    elif isinstance(answer, Exception):
        waiting.stream.is_over = True
        waiting.answer.set_exception(answer)
    else:
        waiting.answer.set_result(answer)
