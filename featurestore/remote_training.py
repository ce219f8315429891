"""A training set that a server makes: what is sent for it, and what arrives, without pyarrow until Arrow is asked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from featurestore.errors import FailedPreconditionError, InvalidArgumentError
from featurestore.ipc import from_parts, to_parts
from featurestore.v1 import serving_pb2 as pb

if TYPE_CHECKING:
    import pyarrow as pa

_T = TypeVar("_T")


class RemoteTrainingSet:
    """The spine with features, as a stream that is read once.

    Args:
        parts: What the server sends.

    Attributes:
        rows: How many rows have arrived.
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


class AsyncRemoteTrainingSet:
    """The same for an event loop: threads wait for what arrives, and the loop is free for others.

    Args:
        training: The set.
    """

    def __init__(self, training: RemoteTrainingSet) -> None:
        self._training = training

    @property
    def rows(self) -> int:
        """How many rows have arrived."""
        return self._training.rows

    @property
    def report(self) -> dict[str, Any]:
        """What became of the spine's rows; see RemoteTrainingSet."""
        return self._training.report

    async def ipc(self) -> AsyncIterator[bytes]:
        """Return the set as an Arrow IPC stream in parts, for a reader of your own."""
        async for part in _later(self._training.ipc()):
            yield part

    async def batches(self) -> AsyncIterator[pa.RecordBatch]:
        """Return the set as Arrow batches, as they arrive."""
        async for batch in _later(await asyncio.to_thread(self._training.batches)):
            yield batch
        async for _ in self.ipc():  # the report follows the last batch
            pass

    async def to_arrow(self) -> pa.Table:
        """Return the set as an Arrow table."""
        return await asyncio.to_thread(self._training.to_arrow)


async def _later(items: Iterable[_T]) -> AsyncIterator[_T]:
    """Return what a thread waits for."""
    rest = iter(items)
    while (item := await asyncio.to_thread(next, rest, None)) is not None:
        yield item


def training_requests(
    features: str | Sequence[str],
    spine: Any,
    *,
    timestamp: str,
    knowledge: str,
    position: int,
    full_feature_names: bool,
) -> Iterator[bytes]:
    """Return the messages that ask for a training set.

    Args:
        features: As for `Client.get_historical_features`, likewise below.
        spine: Column -> list, anything with ``__arrow_c_stream__``, or the bytes of an Arrow IPC stream, whole or in parts.
        timestamp: The spine's time column.
        knowledge: ``as_known``, ``latest`` or ``as_served``.
        position: For ``as_served``.
        full_feature_names: Name outputs ``view__feature``.

    Raises:
        InvalidArgumentError: The spine is nothing of that kind.
    """
    ask = pb.TrainingAsk(
        timestamp=timestamp, knowledge=knowledge, position=position, full_feature_names=full_feature_names
    )
    if isinstance(features, str):
        ask.service = features
    else:
        ask.features.extend(features)
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
