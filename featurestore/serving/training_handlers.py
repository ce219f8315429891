"""Training reads for remote callers: the spine comes and the training set goes as Arrow IPC streams, in parts, at the caller's pace."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

from featurestore.errors import ResourceExhaustedError
from featurestore.flow.sockets import TRAINING_SERVICE
from featurestore.ipc import batches_of, from_parts, to_parts
from featurestore.offline.training_stream import SpineBatches
from featurestore.planning import plan_read
from featurestore.serving.call import Call, Reply, StreamHandler
from featurestore.serving.status import Guard
from featurestore.store import FeatureStore
from featurestore.v1 import serving_pb2 as pb

MAX_READS = 2  # at once: each takes a core
MAX_WAITING = 16


class TrainingHandlers:
    """The handlers of the process that reads training sets.

    Args:
        store: The project, whose offline tables are read.
    """

    def __init__(self, store: FeatureStore) -> None:
        self.guard = Guard()
        self._store = store
        self._threads = ThreadPoolExecutor(MAX_READS, thread_name_prefix="training")
        self._reading = 0

    def streams(self) -> Mapping[str, StreamHandler]:
        """Return the handlers of streams by method path."""
        return {f"/{TRAINING_SERVICE}/GetHistoricalFeatures": self.guard.wrap_stream(self.get_historical_features)}

    async def get_historical_features(self, _: Call, bodies: AsyncIterator[bytes]) -> AsyncIterator[Reply]:
        """Join features onto a spine; a caller that reads slowly is waited for, and nothing is made ahead of it."""
        if self._reading >= MAX_READS + MAX_WAITING:
            raise ResourceExhaustedError(f"{self._reading} training reads are waiting.", repair="Try again later.")
        self._reading += 1
        try:
            first = pb.TrainingRequest.FromString(await anext(bodies, b""))
            parts = self._parts(first.ask, _received(first.spine, bodies, asyncio.get_running_loop()))
            while part := await self._on_thread(parts):
                yield Reply(part.SerializeToString())
        finally:
            self._reading -= 1

    def close(self) -> None:
        """Wait for reads that are running."""
        self._threads.shutdown()

    async def _on_thread(self, parts: Iterator[pb.TrainingPart]) -> pb.TrainingPart | None:
        return await asyncio.get_running_loop().run_in_executor(self._threads, next, parts, None)

    def _parts(self, ask: pb.TrainingAsk, spine: Iterator[bytes]) -> Iterator[pb.TrainingPart]:
        """Read the training set, one batch after the other, as parts of an Arrow IPC stream."""
        plan = plan_read(
            self._store.snapshot(ask.revision or None),
            ask.service or list(ask.features),
            full_feature_names=ask.full_feature_names,
        )
        received = from_parts(spine)
        stream = self._store.stream_plan(
            plan,
            SpineBatches(received.schema, batches_of(received), None),
            timestamp=ask.timestamp or "event_timestamp",
            knowledge=ask.knowledge or "as_known",
            position=ask.position if ask.knowledge == "as_served" else None,
        )
        for part, rows in to_parts(stream.schema, stream):
            yield pb.TrainingPart(rows=part, count=rows)
        yield pb.TrainingPart(report=json.dumps(asdict(stream.report)))


def _received(first: bytes, bodies: AsyncIterator[bytes], loop: asyncio.AbstractEventLoop) -> Iterator[bytes]:
    """Return the spine's bytes to a thread that reads while the event loop receives."""

    async def receive() -> bytes | None:
        return await anext(bodies, None)

    yield first
    while (body := asyncio.run_coroutine_threadsafe(receive(), loop).result()) is not None:
        yield pb.TrainingRequest.FromString(body).spine
