"""A writer of windows killed at any moment: no block is torn, tiles say what their pages hold, and nothing acknowledged is missing."""

import random
import shutil
import sys
from pathlib import Path

import pytest

from featurestore.refs import ViewRef
from featurestore.testing.projects import ScratchProject

sys.path.insert(0, str(Path(__file__).parent))
from test_writer_killed import kill_while_it_writes
from windowed_process import NOW, SENSORS, SIGNALS, write_signals

NAMES = [f"signals:{name}" for name in ("count", "sum", "max", "all")]
KEYS = [(sensor,) for sensor in range(SENSORS)]


def check(folder, acknowledged):
    """What is made of tiles agrees with every event that the pages hold, for each sensor alike."""
    with ScratchProject(folder, SIGNALS, now=NOW) as project:
        answer = project.read(NAMES, KEYS).to_rows()
        for row in answer:
            assert set(acknowledged) <= set(row["all"])
            assert (row["count"], row["sum"], row["max"]) == (len(set(row["all"])), sum(row["all"]), max(row["all"]))
        assert all(row == answer[0] for row in answer), "a write is visible as a whole or not at all"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(2))
def test_windows_of_a_killed_writer_are_whole(tmp_path, seed):
    chance, acknowledged = random.Random(seed), []
    for _ in range(4):
        first = max(acknowledged, default=0) + 1000  # past those that may be there unacknowledged
        acknowledged += kill_while_it_writes(write_signals, tmp_path, first, chance.uniform(0, 0.2))
        check(tmp_path, acknowledged)
    with ScratchProject(tmp_path, SIGNALS, now=NOW) as project:
        before = project.read_bytes(NAMES, KEYS)
        project.writer.fold()
    shutil.rmtree(tmp_path / "online")
    with ScratchProject(tmp_path, SIGNALS, now=NOW) as project:
        project.writer.materialize(ViewRef("signals"))
        assert project.read_bytes(NAMES, KEYS) == before
