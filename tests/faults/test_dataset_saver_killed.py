"""A process killed while it saves, or out of space: a dataset is there whole or not at all, and what is left is swept away."""

import multiprocessing
import random
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from featurestore.offline.datasets import load_dataset, save_dataset

sys.path.insert(0, str(Path(__file__).parent))
from dataset_process import save_many, save_on_a_full_disk, training_set

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["featurestore.testing.projects", "featurestore.offline.datasets", "duckdb", "pandas"])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of a project, and a training set of it."""
    folder = tmp_path_factory.mktemp("project")
    return folder, training_set(folder)


def kill_while_it_saves(made, datasets, first, delay):
    """Run the saver until it saved something, kill it after a delay, and return the numbers it acknowledged."""
    said, saying = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=save_many, args=(made, str(datasets), first, saying))
    process.start()
    saying.close()
    saved = [said.recv_bytes()]
    time.sleep(delay)
    process.kill()
    with suppress(EOFError):
        while True:
            saved.append(said.recv_bytes())
    process.join()
    return {int.from_bytes(number, "big") for number in saved}


def check(datasets, saved):
    there = {path.name for path in datasets.iterdir() if not path.name.startswith(".")}
    assert {f"d{number}" for number in saved} <= there
    for name in there:
        load_dataset(name, datasets).check()
        load_dataset(name, datasets).spine()


def kills(made, number, seed):
    folder, training = made
    datasets = folder / f"datasets_{seed}"
    chance = random.Random(seed)
    saved, left = set(), 0
    for _ in range(number):
        saved |= kill_while_it_saves(training, datasets, max(saved, default=0) + 2, chance.uniform(0, 0.3))
        left += sum(path.name.startswith(".") for path in datasets.iterdir())
    check(datasets, saved)
    save_dataset("last", training, datasets, now=1).verify()
    assert not [path for path in datasets.iterdir() if path.name.startswith(".")]
    return left


@pytest.mark.timeout(600)
def test_a_dataset_is_whole_or_not_there(made):
    kills(made, 10, seed=100)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(5))
def test_a_dataset_is_whole_or_not_there_in_many_kills(made, seed):
    assert kills(made, 20, seed) > 0, "some kills hit the middle of a save"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("limit", [0, 1500, 3000])
def test_a_full_disk_is_said_and_leaves_nothing(made, tmp_path, limit):
    said, saying = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=save_on_a_full_disk, args=(made[1], str(tmp_path / "datasets"), limit, saying))
    process.start()
    saying.close()
    error, left = said.recv()
    process.join()
    assert ("was not saved" in error, "Free space" in error, left) == (True, True, [])
