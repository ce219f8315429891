"""An erasure killed at any moment: after the next start it is done as a whole or was never begun, and nobody else lost a row."""

import multiprocessing
import random
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from featurestore.flow.erase import Places, prove
from featurestore.flow.erased import erasures_of
from featurestore.offline.datasets import load_dataset
from featurestore.refs import ViewRef
from featurestore.subject import Subject

sys.path.insert(0, str(Path(__file__).parent))
from erase_process import ERASED, KEY, NOW, USERS, acts, erase, fill, opened

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["erase_preload"])
SUBJECT = Subject.of("user", [("user_id", "int64")], KEY)
OTHERS = [user for user in range(USERS) if user != ERASED]


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("filled")
    fill(folder)
    return folder


def kill_while_it_erases(folder, delay):
    """Start an erasure, kill it after a delay, and say whether it was done before."""
    said, saying = PROCESSES.Pipe()
    process = PROCESSES.Process(target=erase, args=(str(folder), saying))
    process.start()
    saying.close()
    assert said.recv_bytes() == b"ready"
    said.send_bytes(b"go")
    done = said.poll(delay)
    process.kill()
    process.join()
    with suppress(EOFError, OSError):
        return done or (said.poll(0) and said.recv_bytes() == b"done")
    return done


def check(folder, *, done):
    """Look at everything after the next start; returns whether the user was erased."""
    erasures = erasures_of(folder)
    begun = erasures.journal() is not None
    with opened(folder) as project:
        assert erasures.journal() is None
        receipts = erasures.receipts()
        assert len(receipts) == 1 if done or begun else len(receipts) <= 1
        gone = bool(receipts)
        project.writer.fold()
        users = OTHERS if gone else range(USERS)
        table = project.table(ViewRef("acts")).read().to_pylist()
        wanted = [
            (user, score) for at in (1, 2, 3, NOW * 2) for user, score in enumerate(acts(at)["score"].to_pylist())
        ]
        assert sorted((row["user_id"], row["score"]) for row in table) == sorted(w for w in wanted if w[0] in users)
        assert all(row["note"] == f"score {row['score']}" for row in table)
        bought = project.table(ViewRef("buys")).read().to_pylist()
        assert len(bought) == 4 * 2 * len(users)
        assert {row["user_id"] for row in bought} == set(users)
        answer = project.read(["acts:score", "acts:note"], [(user,) for user in range(USERS)]).to_rows()
        shown = [300 + user if user in users else None for user in range(USERS)]
        assert [row["score"] for row in answer] == shown
        assert [row["note"] for row in answer] == [score and f"score {score}" for score in shown]
        sums = project.read(["buys:sum_amount_1d"], [(user, 1) for user in range(USERS)]).to_rows()
        assert [row["sum_amount_1d"] or 0 for row in sums] == [
            4 * (user * 10 + 1) if user in users else 0 for user in range(USERS)
        ]
        dataset = load_dataset("kept", folder / "datasets")
        assert dataset.verify().rows == len(dataset.spine()) == len(users)
        places = Places(folder, project.writer._store, project.table, project.snapshot)
        assert bool(prove(places, SUBJECT).rows) is not gone
        if gone:
            receipt = receipts[0]
            assert receipt.proof.rows == ()
            assert (receipt.counts["offline acts@v1"], receipt.counts["offline buys@v1"]) == (4, 8)
            assert (receipt.counts["parked"], receipt.datasets) == (1, {"kept": 1})
            project.now = NOW * 3
            project.writer.release()
            assert project.read(["acts:score"], [(ERASED,)]).to_rows()[0]["score"] is None
        return gone


def took(filled, folder):
    """How long an erasure takes here, in seconds; the project is erased afterwards."""
    shutil.copytree(filled, folder)
    with opened(folder) as project:
        start = time.monotonic()
        project.writer.erase("user", KEY, principal="me", reason="asked", now=NOW)
        return time.monotonic() - start


def kills(filled, folder, number, seed):
    chance = random.Random(seed)
    whole = took(filled, folder / "whole")
    assert check(folder / "whole", done=True)
    outcomes = set()
    for kill in range(number):
        copy = folder / str(kill)
        shutil.copytree(filled, copy)
        for _ in range(chance.choice((1, 1, 2))):  # what goes on with it may be killed as well
            if erasures_of(copy).receipts():
                break
            done = kill_while_it_erases(copy, chance.uniform(0, 1.2 * whole))
        outcomes.add(check(copy, done=done))
        shutil.rmtree(copy)
    return outcomes


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(3))
def test_an_erasure_is_whole_or_was_never_begun(filled, tmp_path, seed):
    kills(filled, tmp_path, 20, seed)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(100, 110))
def test_an_erasure_is_whole_or_was_never_begun_in_many_kills(filled, tmp_path, seed):
    assert kills(filled, tmp_path, 60, seed) == {False, True}
