"""A writer in a process of its own: writes numbered batches and says each number once it was acknowledged.

usage: writer_process.py FOLDER FIRST_BATCH
"""

import sys
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


def main() -> None:
    batch = int(sys.argv[2])
    with ScratchProject(Path(sys.argv[1]), READINGS, now=NOW) as project:
        while True:
            project.writer.write(ViewRef("readings"), batch_rows(batch))
            print(batch, flush=True)
            batch += 1
            if batch % 7 == 0:
                project.writer.fold()


if __name__ == "__main__":
    main()
