"""Writers for a process of their own: they write numbered batches and say each number once it was acknowledged."""

import asyncio
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import pyarrow as pa

from featurestore import Entity, Feature, FeatureView, PushSource
from featurestore.flow.write import Write
from featurestore.refs import ViewRef
from featurestore.serving.call import Call
from featurestore.serving.metrics import MetricsFile
from featurestore.serving.write_queue import WriteQueue
from featurestore.testing.projects import ScratchProject

READINGS = FeatureView(
    "readings",
    Entity("sensor", {"sensor": "int64"}),
    PushSource("readings", "at"),
    features=[Feature("batch", "int64"), Feature("copy", "string")],
)
SENSORS = 5
NOW = 10**15


def batch_rows(batch: int) -> pa.Table:
    """One row for each sensor; the text says the batch again, so that a torn row would show."""
    return pa.table(
        {
            "at": pa.array([batch] * SENSORS, pa.timestamp("us", "UTC")),
            "sensor": list(range(SENSORS)),
            "batch": [batch] * SENSORS,
            "copy": [f"batch {batch} of sensor {sensor}" for sensor in range(SENSORS)],
        }
    )


def write_batches(folder: str, first: int, acknowledged: Connection) -> None:
    """Write batch after batch, each acknowledged by its number; folds come in between. Runs until it is killed."""
    with ScratchProject(Path(folder), READINGS, now=NOW) as project:
        for batch in itertools.count(first):
            project.writer.write(ViewRef("readings"), batch_rows(batch))
            acknowledged.send_bytes(batch.to_bytes(8, "big"))
            if batch % 7 == 0:
                project.writer.fold()


def write_together(folder: str, first: int, acknowledged: Connection) -> None:
    """Write many batches at once, by themselves and in streams, through the queue; fold and materialize beside them until killed."""
    with ScratchProject(Path(folder), READINGS, now=NOW) as project:
        threading.Thread(target=_work_beside, args=(project,), daemon=True).start()
        asyncio.run(_write_all(project, itertools.count(first), acknowledged))


def _work_beside(project: ScratchProject) -> None:
    ref = ViewRef("readings")
    while True:
        if project.writer.fold() and project.table(ref).exists:
            project.writer.materialize(ref, full=True)


async def _write_all(project: ScratchProject, numbers: "itertools.count[int]", acknowledged: Connection) -> None:
    queue = WriteQueue(project.writer.write_all, ThreadPoolExecutor(1), MetricsFile(project.root / "metrics"))

    def decode(body: bytes) -> Write:
        return Write(ViewRef("readings"), batch_rows(int.from_bytes(body, "big")))

    async def alone() -> None:
        while True:
            batch = next(numbers).to_bytes(8, "big")
            await queue.write(Call(""), batch, decode)
            acknowledged.send_bytes(batch)

    async def streaming() -> None:
        sent = []

        async def parts():
            while True:
                sent.append(next(numbers).to_bytes(8, "big"))
                yield sent[-1]

        answered = itertools.count()
        async for _ in queue.write_stream(Call(""), parts(), decode):
            acknowledged.send_bytes(sent[next(answered)])

    await asyncio.gather(*(alone() for _ in range(8)), streaming())
