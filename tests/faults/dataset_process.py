"""A saver for a process of its own: saves numbered datasets and says each number once it was saved."""

import itertools
import resource
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pyarrow as pa

from featurestore import Entity, Feature, FeatureView, PushSource
from featurestore.errors import ResourceExhaustedError
from featurestore.offline.datasets import save_dataset
from featurestore.offline.training_set import TrainingSet, read_training_set
from featurestore.planning import plan_read
from featurestore.refs import ViewRef
from featurestore.testing.projects import ScratchProject

READINGS = FeatureView(
    "readings",
    Entity("sensor", {"sensor": "int64"}),
    PushSource("readings", "at"),
    features=[Feature("level", "float64"), Feature("note", "string")],
)
ROWS = 20_000
INSTANT = pa.timestamp("us", "UTC")


def training_set(folder: Path) -> TrainingSet:
    """A training set of many rows over a project with a few."""
    with ScratchProject(folder, READINGS, now=10**15) as project:
        times = pa.array([1, 2, 3], INSTANT)
        rows = {"sensor": [0, 1, 2], "at": times, "level": [0.5, 1.5, None], "note": ["a", "b", "c"]}
        project.writer.write(ViewRef("readings"), pa.table(rows))
        project.writer.fold()
        sensors = np.arange(ROWS) % 4
        spine = pa.table({"sensor": sensors, "event_timestamp": pa.array(np.arange(ROWS) % 5, INSTANT)})
        plan = plan_read(project.snapshot, ["readings:level", "readings:note"])
        return read_training_set(plan, spine, tables=project.table, engine="duckdb")


def save_many(made: TrainingSet, datasets: str, first: int, saved: Connection) -> None:
    """Save dataset after dataset, each acknowledged by its number. Runs until it is killed."""
    for number in itertools.count(first):
        save_dataset(f"d{number}", made, Path(datasets), now=number)
        saved.send_bytes(number.to_bytes(8, "big"))


def save_on_a_full_disk(made: TrainingSet, folder: str, limit: int, said: Connection) -> None:
    """Save where no file may have more than `limit` bytes; say the error and what was left, after a save without the limit."""
    datasets = Path(folder)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
    try:
        save_dataset("full", made, datasets, now=1)
        error = "none"
    except ResourceExhaustedError as refused:
        error = str(refused)
    left = sorted(path.name for path in datasets.iterdir()) if datasets.exists() else []
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    save_dataset("full", made, datasets, now=1).check()
    said.send((error, left))
