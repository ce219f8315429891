"""The methods of the writer: the store's one writer behind handlers, all of its work on one thread."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import msgspec
import pyarrow as pa

from featurestore.audit import CollectReport, collect
from featurestore.errors import InvalidArgumentError
from featurestore.flow.remote import SERVICE
from featurestore.flow.write import Writer, WriteReport
from featurestore.lanes import from_lane, wire_lane
from featurestore.refs import ViewRef
from featurestore.registry.snapshot import RegistrySnapshot
from featurestore.rows import CREATED, RowSchema
from featurestore.serving.call import Call, Handler, Reply
from featurestore.serving.status import Guard
from featurestore.v1 import serving_pb2 as pb
from featurestore.v1 import writer_pb2 as wire

_T = TypeVar("_T")


class WriterHandlers:
    """The handlers of the writer process.

    Args:
        writer: The store's writer.
        snapshot: Returns the registry as it is now.
        replay: Whether time is the store's own.
        usage_directory: Where workers leave their usage segments.
        registry_path: The SQLite registry that usage is folded into; None collects nothing.
    """

    def __init__(
        self,
        writer: Writer,
        snapshot: Callable[[], RegistrySnapshot],
        *,
        replay: bool,
        usage_directory: Path,
        registry_path: Path | None,
    ) -> None:
        self.guard = Guard()
        self._writer = writer
        self._snapshot = snapshot
        self._replay = replay
        self._usage_directory = usage_directory
        self._registry_path = registry_path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writer")

    def methods(self) -> Mapping[str, Handler]:
        """Return the handlers by method path."""
        work: Mapping[str, Callable[[bytes], bytes]] = {
            "Write": self._write,
            "WriteTable": self._write_table,
            "AdvanceClock": self._advance_clock,
            "Reserve": self._reserve,
            "Fold": self._fold,
            "Materialize": self._materialize,
            "CollectUsage": self._collect_usage,
        }
        return {f"/{SERVICE}/{name}": self._on_thread(step) for name, step in work.items()}

    async def fold(self) -> int:
        """Move the row log to the offline tables."""
        return await self._run(self._writer.fold)

    async def release(self, now: int) -> None:
        """Make rows visible that have come due by now (microseconds UTC); costs a commit only if there are any."""
        if not self._replay:
            await self._run(lambda: self._writer.release() if self._writer.head().earliest_parked <= now else None)

    async def collect(self) -> CollectReport | None:
        """Fold finished usage segments into the registry; None without an SQLite registry."""
        return await self._run(self._collect)

    async def close(self) -> None:
        """Finish the work that is queued, bring the log offline, collect usage, and give the store's lock back."""
        await self._run(self._writer.fold)
        await self._run(self._collect)
        await self._run(self._writer.close)
        self._thread.shutdown()

    async def _run(self, step: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, step)

    def _on_thread(self, step: Callable[[bytes], bytes]) -> Handler:
        async def answer(_: Call, body: bytes) -> Reply:
            return Reply(await self._run(lambda: step(body)))

        return self.guard.wrap(answer)

    def _write(self, body: bytes) -> bytes:
        request = pb.WriteRequest.FromString(body)
        snapshot = self._snapshot()
        ref = snapshot.freeze(ViewRef.parse(request.view))
        record = snapshot.view(ref)
        rows = table_of(request.columns, RowSchema.of(record))
        return _reply(self._writer.write(ref, rows, write_id=request.write_id)).SerializeToString()

    def _write_table(self, body: bytes) -> bytes:
        request = wire.WriteTableRequest.FromString(body)
        try:
            rows = pa.ipc.open_stream(request.rows).read_all()
            rows.validate(full=True)
        except pa.ArrowInvalid as error:
            raise InvalidArgumentError(f"The rows are not an Arrow table: {error}.", place="$.rows") from error
        report = self._writer.write(ViewRef.parse(request.view), rows, write_id=request.write_id)
        return _reply(report).SerializeToString()

    def _advance_clock(self, body: bytes) -> bytes:
        head = self._writer.advance_clock(pb.AdvanceClockRequest.FromString(body).time)
        return pb.Clock(time=head.clock, replay=True).SerializeToString()

    def _reserve(self, body: bytes) -> bytes:
        first = self._writer.reserve(wire.ReserveRequest.FromString(body).count)
        return wire.Reserved(first_seq=first).SerializeToString()

    def _fold(self, _: bytes) -> bytes:
        return wire.Folded(rows=self._writer.fold()).SerializeToString()

    def _materialize(self, body: bytes) -> bytes:
        report = self._writer.materialize(ViewRef.parse(wire.MaterializeRequest.FromString(body).view))
        return wire.Materialized(report=msgspec.json.encode(report).decode()).SerializeToString()

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


def _reply(report: WriteReport) -> pb.WriteReply:
    return pb.WriteReply(
        accepted=report.accepted,
        repeated_rows=report.repeated_rows,
        parked=report.parked,
        first_seq=report.first_seq,
        last_seq=report.last_seq,
        warnings=report.warnings,
    )
