"""A writer for a process of its own: writes numbered batches and says each number once it was acknowledged."""

import itertools
from multiprocessing.connection import Connection
from pathlib import Path

import pyarrow as pa

from featurestore import Entity, Feature, FeatureView, PushSource
from featurestore.refs import ViewRef
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
