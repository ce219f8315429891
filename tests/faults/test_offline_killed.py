"""Ingest, fold, compaction and materialize killed at any moment, and a disk that is full: nothing acknowledged is lost, nothing is torn."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from offline_process import VIEW, fill_the_disk, ingest
from writer_process import NOW, READINGS, SENSORS, batch_rows

from featurestore.offline.data_files import DRAFT
from featurestore.rows import SEQ
from featurestore.testing.projects import ScratchProject

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["__main__", "featurestore.testing.projects", "featurestore.offline.delta", "pandas"]
)  # imported once, before any store is open

BATCH_SECONDS = 0.06  # about what one batch takes, and what comes with it


@pytest.fixture(scope="module")
def nursery():
    """A process with everything imported, which forks those that are killed."""
    program = Path(__file__).parent / "offline_process.py"
    with subprocess.Popen(
        [sys.executable, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        yield process
        process.stdin.close()


def kill_while_it_works(nursery, folder, first, buckets, delay):
    """Run a process until it acknowledged something, kill it after a delay; return the greatest batch ingested, and online."""
    print(folder, first, buckets, file=nursery.stdin, flush=True)
    done = {"process": 0, "ingested": 0, "online": 0}

    def hear():
        what, _, number = nursery.stdout.readline().strip().partition(" ")
        done[what] = int(number or 0)
        return what

    while not (done["ingested"] and done["process"]):
        assert hear() != "end"
    time.sleep(delay)
    os.kill(done["process"], signal.SIGKILL)
    while hear() != "end":
        pass
    return done


def check(folder, ingested, online):
    """Everything acknowledged is there once and whole, offline and online; return the greatest batch that is offline."""
    with ScratchProject(folder, READINGS, now=NOW) as project:
        project.writer.fold()
        stored = project.table(VIEW).read(["batch", "sensor", "copy", SEQ]).to_pylist()
        assert len({row[SEQ] for row in stored}) == len(stored)
        assert all(row["copy"] == f"batch {row['batch']} of sensor {row['sensor']}" for row in stored)
        newest = max(row["batch"] for row in stored)
        assert sorted((row["batch"], row["sensor"]) for row in stored) == [
            (batch, sensor) for batch in range(1, newest + 1) for sensor in range(SENSORS)
        ]
        assert newest >= ingested
        if online:
            answer = project.read(["readings:batch", "readings:copy"], [(n,) for n in range(SENSORS)]).to_rows()
            assert [row["copy"] for row in answer] == [
                f"batch {row['batch']} of sensor {n}" for n, row in enumerate(answer)
            ]
            assert min(row["batch"] for row in answer) >= online
        return newest


def finish(folder, newest):
    """A materialize makes online what is offline, and a vacuum leaves nothing but live files."""
    with ScratchProject(folder, READINGS, now=NOW) as project:
        project.writer.materialize(VIEW)
        answer = project.read(["readings:batch"], [(n,) for n in range(SENSORS)]).to_dict()
        assert answer["batch"] == [newest] * SENSORS
        table = project.table(VIEW)
        for path in table.directory.rglob("*"):
            os.utime(path, (0, 0))
        table.vacuum(older_than=timedelta(0))
        assert {file.path for file in table.files()} == set(table.directory.glob("[br]*/*"))
        assert len(table.read()) == newest * SENSORS


def kills(nursery, folder, number, seed):
    chance = random.Random(seed)
    newest = online = 0
    for _ in range(number):
        delay = chance.uniform(0, 4 * BATCH_SECONDS)
        done = kill_while_it_works(nursery, folder, newest + 1, chance.choice([1, 2, 4]), delay)
        online = max(online, done["online"])
        newest = check(folder, done["ingested"], online)
    finish(folder, newest)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(4))
def test_nothing_acknowledged_is_lost_and_nothing_is_torn(nursery, tmp_path, seed):
    kills(nursery, tmp_path, 25, seed)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(100, 120))
def test_nothing_acknowledged_is_lost_in_many_kills(nursery, tmp_path, seed):
    kills(nursery, tmp_path, 50, seed)


@pytest.mark.parametrize("limit", [0, 600, 1500, 2200])
def test_a_full_disk_is_a_clear_error_and_the_table_is_as_it_was(tmp_path, limit):
    with ScratchProject(tmp_path, READINGS, now=NOW) as project:
        for batch in (1, 2):
            ingest(project, batch)
    said, saying = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=fill_the_disk, args=(str(tmp_path), limit, saying))
    process.start()
    saying.close()
    ended = {name: (kind, text) for name, kind, text in (said.recv() for _ in range(4))}
    process.join()
    refused = {name for name, (kind, _) in ended.items() if kind == "ResourceExhaustedError"}
    assert refused | {name for name, (kind, _) in ended.items() if kind == "done"} == set(ended), ended
    assert "load" in refused or limit > 1500
    assert all("Make room on the disk" in ended[name][1] for name in refused)
    with ScratchProject(tmp_path, READINGS, now=NOW) as project:
        table = project.table(VIEW)
        batches = {row["batch"] for row in table.read(["batch"]).to_pylist()}
        assert batches == {1, 2} | ({900} if {"load", "append"} - refused else set())
        assert not list(table.directory.rglob(f"*{DRAFT}"))
        ingest(project, 3)
        assert table.compact().buckets
        project.writer.materialize(VIEW)
        assert project.read(["readings:batch"], [(0,)]).to_dict()["batch"][0] >= 3


@pytest.mark.parametrize("fault", ["lost", "doubled", "torn"])
def test_the_check_sees_what_is_lost_doubled_or_torn(tmp_path, fault):
    with ScratchProject(tmp_path, READINGS, now=NOW) as project:
        ingest(project, 1)
        ingest(project, 2)
        table = project.table(VIEW)
        if fault == "doubled":
            table.load(table.read().slice(0, 1))
        if fault == "torn":
            torn = batch_rows(3).set_column(3, "copy", pa.array(["batch 2 of sensor 0"] * SENSORS))
            table.load(table.schema.canonical(torn).rows.append_column(SEQ, pa.array(range(100, 100 + SENSORS))))
    with pytest.raises(AssertionError):
        check(tmp_path, 3 if fault == "lost" else 2, 0)
