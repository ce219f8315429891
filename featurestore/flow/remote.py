"""The store's one writer as another process on this machine reaches it: over the Unix socket of a running server."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
import msgspec
import pyarrow as pa

from featurestore.client import error_of, texts
from featurestore.flow.erased import Receipt, stream_of
from featurestore.flow.materialize import MaterializeReport
from featurestore.flow.sockets import SERVICE, socket_path
from featurestore.flow.write import WriteReport
from featurestore.refs import ViewRef
from featurestore.v1 import serving_pb2 as pb
from featurestore.v1 import writer_pb2 as wire

_MAX_TABLE_BYTES = 512 << 20
_OPTIONS = (
    ("grpc.max_send_message_length", _MAX_TABLE_BYTES),
    ("grpc.max_receive_message_length", _MAX_TABLE_BYTES),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class RemoteWriter(AbstractContextManager["RemoteWriter"]):
    """The writer process of a running server, with the methods of flow.write.Writer.

    Every method raises UnavailableError when no server answers.

    Args:
        store_directory: The project's ``store`` folder.
        timeout: Seconds that a call may take; None waits for ever.
    """

    def __init__(self, store_directory: Path, *, timeout: float | None = None) -> None:
        self._timeout = timeout
        self._channel = grpc.insecure_channel(f"unix:{socket_path(store_directory)}", options=_OPTIONS)

    def write(self, ref: ViewRef, rows: pa.Table, *, write_id: bytes = b"", released: str = "") -> WriteReport:
        """Accept rows of a view; see Writer."""
        request = wire.WriteTableRequest(view=str(ref), rows=stream_of(rows), write_id=write_id, released=released)
        reply = pb.WriteReply.FromString(self._call("WriteTable", request))
        return WriteReport(
            reply.accepted, reply.repeated_rows, reply.parked, reply.first_seq, reply.last_seq, tuple(reply.warnings)
        )

    def reserve(self, count: int) -> int:
        """Return the first of `count` sequence numbers that nobody else will get."""
        return wire.Reserved.FromString(self._call("Reserve", wire.ReserveRequest(count=count))).first_seq

    def fold(self) -> int:
        """Move the row log to the offline tables; returns how many rows that were."""
        return wire.Folded.FromString(self._call("Fold", wire.FoldRequest())).rows

    def advance_clock(self, time: int) -> int:
        """Move the replay clock to an instant (microseconds UTC), and return it."""
        return pb.Clock.FromString(self._call("AdvanceClock", pb.AdvanceClockRequest(time=time))).time

    def materialize(self, ref: ViewRef, *, full: bool = False) -> MaterializeReport:
        """Bring the offline rows of a view version online; see Writer."""
        answer = wire.Materialized.FromString(
            self._call("Materialize", wire.MaterializeRequest(view=str(ref), full=full))
        )
        return msgspec.json.decode(answer.report, type=MaterializeReport)

    def erase(self, entity: str, keys: pa.Table, *, principal: str, reason: str, now: int) -> Receipt:
        """Erase keys of an entity from everything that the store holds; see Writer."""
        request = wire.EraseRequest(entity=entity, keys=stream_of(keys), principal=principal, reason=reason, now=now)
        return msgspec.json.decode(wire.Erased.FromString(self._call("Erase", request)).receipt, type=Receipt)

    def collect_usage(self) -> int:
        """Fold the usage that the server's workers have handed over; returns how many segments that were."""
        return wire.UsageCollected.FromString(self._call("CollectUsage", wire.CollectUsageRequest())).segments

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, method: str, request: Any) -> bytes:
        call: Any = self._channel.unary_unary(f"/{SERVICE}/{method}")
        try:
            answer: bytes = call(request.SerializeToString(), timeout=self._timeout)
        except grpc.RpcError as error:
            trailers = texts(error.trailing_metadata())
            raise error_of(error.code(), error.details() or "", trailers, "The writer") from error
        return answer
