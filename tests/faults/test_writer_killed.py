"""A writer killed at any moment: what it acknowledged is there, whole, and offline exactly once."""

import multiprocessing
import random
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from featurestore.refs import ViewRef
from featurestore.rows import SEQ
from featurestore.testing.projects import ScratchProject

sys.path.insert(0, str(Path(__file__).parent))
from writer_process import NOW, READINGS, SENSORS, write_batches, write_together

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["featurestore.testing.projects", "featurestore.offline.delta", "pandas"]
)  # imported once, before any store is open


def kill_while_it_writes(write, folder, first, delay):
    """Run the writer until it acknowledged something, kill it after a delay, and return the batches it acknowledged."""
    said, saying = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=write, args=(str(folder), first, saying))
    process.start()
    saying.close()
    acknowledged = [said.recv_bytes()]
    time.sleep(delay)
    process.kill()
    with suppress(EOFError):
        while True:
            acknowledged.append(said.recv_bytes())
    process.join()
    return [int.from_bytes(batch, "big") for batch in acknowledged]


def check(folder, acknowledged, *, fold):
    with ScratchProject(folder, READINGS, now=NOW) as project:
        answer = project.read(["readings:batch", "readings:copy"], [(sensor,) for sensor in range(SENSORS)]).to_rows()
        newest = {row["batch"] for row in answer}
        assert len(newest) == 1, "a write is visible as a whole or not at all"
        assert newest.pop() >= max(acknowledged)
        assert [row["copy"] for row in answer] == [
            f"batch {row['batch']} of sensor {i}" for i, row in enumerate(answer)
        ]
        if not fold:
            return
        project.writer.fold()
        stored = project.table(ViewRef("readings")).read(["batch", "sensor", "copy", SEQ]).to_pylist()
        assert len({row[SEQ] for row in stored}) == len(stored)
        assert len({(row["batch"], row["sensor"]) for row in stored}) == len(stored)
        assert {(batch, sensor) for batch in acknowledged for sensor in range(SENSORS)} <= {
            (row["batch"], row["sensor"]) for row in stored
        }
        assert all(row["copy"] == f"batch {row['batch']} of sensor {row['sensor']}" for row in stored)


def kills(write, folder, number, seed):
    chance = random.Random(seed)
    acknowledged = []
    for _ in range(number):
        first = max(acknowledged, default=0) + 1000  # past those that may be there unacknowledged
        acknowledged += kill_while_it_writes(write, folder, first, chance.uniform(0, 0.15))
        check(folder, acknowledged, fold=chance.random() < 0.3)
    check(folder, acknowledged, fold=True)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("write", [write_batches, write_together])
def test_nothing_acknowledged_is_lost(tmp_path, write, seed):
    kills(write, tmp_path, 4, seed)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(100, 110))
@pytest.mark.parametrize("write", [write_batches, write_together])
def test_nothing_acknowledged_is_lost_in_many_kills(tmp_path, write, seed):
    kills(write, tmp_path, 20, seed)
