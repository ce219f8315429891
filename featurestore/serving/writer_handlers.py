"""The methods of the writer: the store's one writer behind handlers.

Writes have a thread of their own. What takes long, folding, materializing and erasing, goes on beside them on another, one at a time, and
writes to the online store in short steps, so that no write waits for the end of it.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing, closing
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import pyarrow as pa

from featurestore.audit import CollectReport, collect
from featurestore.errors import FailedPreconditionError, InvalidArgumentError, UnavailableError
from featurestore.flow.sockets import SERVICE
from featurestore.flow.write import Write, Writer, WriteReport
from featurestore.lanes import from_lane, wire_lane
from featurestore.refs import ViewRef
from featurestore.registry.snapshot import RegistrySnapshot
from featurestore.rows import CREATED, RowSchema
from featurestore.serving.call import Call, Handler, Reply, StreamHandler
from featurestore.serving.metrics import MetricsFile
from featurestore.serving.status import Guard
from featurestore.serving.tracing import tracing
from featurestore.serving.write_queue import WriteQueue
from featurestore.v1 import serving_pb2 as pb
from featurestore.v1 import writer_pb2 as wire

LOG = logging.getLogger(__name__)
UNFOLDED = "featurestore_unfolded_rows"
FED = "featurestore_fed_rows_total"

_T = TypeVar("_T")


class WriterHandlers:
    """The handlers of the writer process.

    Args:
        writer: The store's writer.
        snapshot: Returns the registry as it is now.
        replay: Whether time is the store's own.
        usage_directory: Where workers leave their usage segments.
        registry_path: The SQLite registry that usage is folded into; None collects nothing.
        metrics: Where the writer's work is counted.
    """

    def __init__(
        self,
        writer: Writer,
        snapshot: Callable[[], RegistrySnapshot],
        *,
        replay: bool,
        usage_directory: Path,
        registry_path: Path | None,
        metrics: MetricsFile,
    ) -> None:
        self.guard = Guard(tracing=tracing())
        self._writer = writer
        self._snapshot = snapshot
        self._replay = replay
        self._usage_directory = usage_directory
        self._registry_path = registry_path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="beside")
        self._unfolded = metrics.gauge(UNFOLDED)
        self._fed, self._is_fed = metrics.counter(FED), True
        self._queue = WriteQueue(writer.write_all, self._thread, metrics)

    def methods(self) -> Mapping[str, Handler]:
        """Return the handlers by method path."""
        handlers: Mapping[str, Handler] = {
            "Write": self._writing(self._read_write),
            "WriteTable": self._writing(self._read_table),
            "Reserve": self._on(self._thread, self._reserve),
            "AdvanceClock": self._on(
                self._beside, self._advance_clock
            ),  # not while rows are brought online as of a time
            "Fold": self._on(self._beside, self._fold),
            "Materialize": self._on(self._beside, self._materialize),
            "Erase": self._on(self._beside, self._alone(self._erase)),
            "CollectUsage": self._on(self._beside, self._collect_usage),
        }
        return {f"/{SERVICE}/{name}": handler for name, handler in handlers.items()}

    def streams(self) -> Mapping[str, StreamHandler]:
        """Return the handlers of streams by method path."""
        return {f"/{SERVICE}/StreamWrite": self.guard.wrap_stream(self._stream_write)}

    async def fold(self) -> int:
        """Move the row log to the offline tables."""
        return await self._run(self._beside, self._writer.fold)

    async def feed(self) -> None:
        """Bring to Redis what is not there yet, on a thread of its own: neither writes nor a fold wait for it."""
        if not self._writer.is_feeding:
            return
        try:
            self._fed.add(await asyncio.to_thread(self._writer.feed))
            if self._writer.is_erasing:  # Redis was away: it is finished with writes held up, like every erasure
                await self._run(self._beside, lambda: self._thread.submit(self._writer.finish_erasure).result())
        except (UnavailableError, FailedPreconditionError) as error:
            if self._is_fed:  # it is tried many times a second, and said once
                LOG.warning("Redis is not fed: %s", error)
            self._is_fed = False
        else:
            if not self._is_fed:
                LOG.warning("Redis is fed again.")
            self._is_fed = True

    async def tend(self) -> None:
        """Compact the offline tables whose reads gain from it, on a thread of its own: writes do not wait for it."""
        await asyncio.to_thread(self._writer.tend)

    async def measure(self) -> None:
        """Take the measure of what grows between two folds."""
        self._unfolded.set(self._writer.unfolded())

    async def release(self, now: int) -> None:
        """Make rows visible that have come due by now (microseconds UTC); costs a commit only if there are any."""
        if not self._replay:
            await self._run(
                self._thread, lambda: self._writer.release() if self._writer.head().earliest_parked <= now else None
            )

    async def collect(self) -> CollectReport | None:
        """Fold finished usage segments into the registry; None without an SQLite registry."""
        return await self._run(self._beside, self._collect)

    async def close(self) -> None:
        """Finish the work that is queued, bring the log offline, collect usage, and give the store's lock back."""
        await self._queue.close()
        await self._run(self._beside, self._writer.fold)
        await self._run(self._beside, self._collect)
        await self._run(self._thread, self._writer.close)
        self._thread.shutdown()
        self._beside.shutdown()

    async def _run(self, thread: Executor, step: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(thread, step)

    async def _stream_write(self, call: Call, bodies: AsyncIterator[bytes]) -> AsyncIterator[Reply]:
        async with aclosing(self._queue.write_stream(call, bodies, self._read_write)) as reports:
            async for report in reports:
                yield _reply(report)

    def _writing(self, decode: Callable[[bytes], Write]) -> Handler:
        async def answer(call: Call, body: bytes) -> Reply:
            return _reply(await self._queue.write(call, body, decode))

        return self.guard.wrap(answer)

    def _on(self, thread: Executor, step: Callable[[bytes], bytes]) -> Handler:
        async def answer(_: Call, body: bytes) -> Reply:
            return Reply(await self._run(thread, partial(step, body)))

        return self.guard.wrap(answer)

    def _alone(self, step: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
        """Return a step that holds up writes: it is done on their thread."""
        return lambda body: self._thread.submit(step, body).result()

    def _read_write(self, body: bytes) -> Write:
        request = pb.WriteRequest.FromString(body)
        snapshot = self._snapshot()
        ref = snapshot.freeze(ViewRef.parse(request.view))
        record = snapshot.view(ref)
        rows = table_of(request.columns, RowSchema.of(record))
        return Write(ref, rows, request.write_id)

    def _read_table(self, body: bytes) -> Write:
        request = wire.WriteTableRequest.FromString(body)
        rows = _sent_table(request.rows, place="$.rows")
        return Write(ViewRef.parse(request.view), rows, request.write_id, request.released)

    def _advance_clock(self, body: bytes) -> bytes:
        head = self._writer.advance_clock(pb.AdvanceClockRequest.FromString(body).time)
        return pb.Clock(time=head.clock, replay=True).SerializeToString()

    def _reserve(self, body: bytes) -> bytes:
        first = self._writer.reserve(wire.ReserveRequest.FromString(body).count)
        return wire.Reserved(first_seq=first).SerializeToString()

    def _fold(self, _: bytes) -> bytes:
        return wire.Folded(rows=self._writer.fold()).SerializeToString()

    def _materialize(self, body: bytes) -> bytes:
        request = wire.MaterializeRequest.FromString(body)
        report = self._writer.materialize(ViewRef.parse(request.view), full=request.full)
        return wire.Materialized(report=msgspec.json.encode(report).decode()).SerializeToString()

    def _erase(self, body: bytes) -> bytes:
        request = wire.EraseRequest.FromString(body)
        receipt = self._writer.erase(
            request.entity,
            _sent_table(request.keys, place="$.keys"),
            principal=request.principal,
            reason=request.reason,
            now=request.now,
        )
        return wire.Erased(receipt=msgspec.json.encode(receipt)).SerializeToString()

    def _collect_usage(self, _: bytes) -> bytes:
        report = self._collect()
        return wire.UsageCollected(segments=len(report.folded) if report else 0).SerializeToString()

    def _collect(self) -> CollectReport | None:
        if self._registry_path is None:
            return None
        with closing(sqlite3.connect(self._registry_path, timeout=10, isolation_level=None)) as connection:
            return collect(self._usage_directory, connection)


def table_of(columns: Iterable[pb.Column], schema: RowSchema) -> pa.Table:
    """Return sent columns as a table that looks like the view's source.

    Args:
        columns: Columns as a client sent them; of two with one name, neither is guessed at.
        schema: The columns the view's rows have.

    Raises:
        InvalidArgumentError: A column is unknown, sent twice, of another type, or of another length.
    """
    types = {c.source: c.dtype for c in schema.columns if c.name != CREATED or schema.created_timestamp is not None}
    arrays = {}
    for column in columns:
        place = f"$.columns.{column.name}"
        if column.name not in types:
            raise InvalidArgumentError(f"No column '{column.name}' in rows of this view.", place=place)
        if column.name in arrays:
            raise InvalidArgumentError(f"Column '{column.name}' is sent twice.", place=place)
        dtype = types[column.name]
        arrays[column.name] = from_lane(wire_lane(column, dtype, place=place), dtype, place=place)
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        sizes = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise InvalidArgumentError(f"Columns differ in length: {sizes}.", place="$.columns")
    return pa.table(arrays)


def _sent_table(stream: bytes, *, place: str) -> pa.Table:
    try:
        rows = pa.ipc.open_stream(stream).read_all()
        rows.validate(full=True)
    except pa.ArrowInvalid as error:
        raise InvalidArgumentError(f"The rows are not an Arrow table: {error}.", place=place) from error
    return rows


def _reply(report: WriteReport) -> Reply:
    reply = pb.WriteReply(
        accepted=report.accepted,
        repeated_rows=report.repeated_rows,
        parked=report.parked,
        first_seq=report.first_seq,
        last_seq=report.last_seq,
        warnings=report.warnings,
    )
    return Reply(reply.SerializeToString())
