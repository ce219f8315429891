"""A writer for a process of its own: every second batch breaks an expectation; says each number once it knows what became of it."""

import itertools
from multiprocessing.connection import Connection
from pathlib import Path

import pyarrow as pa

from featurestore import Entity, Feature, FeatureView, InRange, PushSource
from featurestore.errors import QuarantinedError
from featurestore.refs import ViewRef
from featurestore.testing.projects import ScratchProject

READINGS = FeatureView(
    "readings",
    Entity("sensor", {"sensor": "int64"}),
    PushSource("readings", "at"),
    features=[Feature("value", "int64", expect=[InRange(0)])],
)
SENSORS = 5
NOW = 10**15


def batch_rows(batch: int) -> pa.Table:
    """One row for each sensor; odd batches are negative, and the last row alone says so."""
    value = -batch if batch % 2 else batch
    return pa.table(
        {
            "at": pa.array([batch] * SENSORS, pa.timestamp("us", "UTC")),
            "sensor": list(range(SENSORS)),
            "value": [batch] * (SENSORS - 1) + [value],
        }
    )


def write_batches(folder: str, first: int, said: Connection) -> None:
    """Write batch after batch until killed."""
    with ScratchProject(Path(folder), READINGS, now=NOW) as project:
        for batch in itertools.count(first):
            held = False
            try:
                project.writer.write(ViewRef("readings"), batch_rows(batch))
            except QuarantinedError:
                held = True
            assert held == bool(batch % 2)
            said.send_bytes(batch.to_bytes(8, "big"))
            if batch % 7 == 0:
                project.writer.fold()
