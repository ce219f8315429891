"""A training set that a server makes: what is sent for it, and what arrives, without pyarrow until Arrow is asked for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from featurestore.errors import FailedPreconditionError, InvalidArgumentError
from featurestore.ipc import from_parts, to_parts
from featurestore.v1 import serving_pb2 as pb

if TYPE_CHECKING:
    import pyarrow as pa


class RemoteTrainingSet:
    """The spine with features, as a stream that is read once.

    Args:
        parts: What the server sends.
    """

    def __init__(self, parts: Iterator[pb.TrainingPart]) -> None:
        self._parts = parts
        self._report: dict[str, Any] | None = None
        self.rows = 0

    @property
    def report(self) -> dict[str, Any]:
        """What became of the spine's rows: ``rows``, ``views`` (matched, missing, expired, not yet known) and ``warnings``.

        Raises:
            FailedPreconditionError: The set was not read to its end yet.
        """
        if self._report is None:
            raise FailedPreconditionError("The training set was not read to its end yet.", repair="Read it first.")
        return self._report

    def ipc(self) -> Iterator[bytes]:
        """Return the set as an Arrow IPC stream in parts, for a reader of your own."""
        for part in self._parts:
            self.rows += part.count
            if part.rows:
                yield part.rows
            if part.report:
                self._report = json.loads(part.report)

    def batches(self) -> pa.RecordBatchReader:
        """Return the set as Arrow batches, as they arrive."""
        return from_parts(self.ipc())

    def to_arrow(self) -> pa.Table:
        """Return the set as an Arrow table."""
        table = self.batches().read_all()
        for _ in self.ipc():  # the report follows the last batch
            pass
        return table


def training_requests(ask: pb.TrainingAsk, spine: Any) -> Iterator[bytes]:
    """Return the messages that ask for a training set.

    Args:
        ask: What to read.
        spine: Column -> list, anything with ``__arrow_c_stream__``, or the bytes of an Arrow IPC stream, whole or in parts.

    Raises:
        InvalidArgumentError: The spine is nothing of that kind.
    """
    yield pb.TrainingRequest(ask=ask).SerializeToString()
    for part in _spine_parts(spine):
        yield pb.TrainingRequest(spine=part).SerializeToString()


def _spine_parts(spine: Any) -> Iterable[bytes]:
    if isinstance(spine, bytes):
        return (spine[at : at + (1 << 20)] for at in range(0, len(spine), 1 << 20))
    if isinstance(spine, Mapping) or hasattr(spine, "__arrow_c_stream__"):
        import pyarrow as pa

        columns = pa.table(dict(spine)) if isinstance(spine, Mapping) else spine
        reader = pa.RecordBatchReader.from_stream(columns)
        return (part for part, _ in to_parts(reader.schema, reader))
    if isinstance(spine, Iterable) and not isinstance(spine, str):
        return spine
    raise InvalidArgumentError(f"A spine is a table, not {type(spine).__name__}.", place="$.spine")
