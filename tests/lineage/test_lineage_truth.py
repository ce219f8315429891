"""Structural findings on a generated project with planted debts and decoys: exact, and never wrong where segments are lost."""

import pytest

from benchmarks.lineage_truth import generate, scores, write


@pytest.fixture(scope="module")
def truth():
    return generate(400, 40, 8, seed=7)


def test_every_planted_debt_is_found_and_nothing_else(truth, tmp_path):
    write(truth, tmp_path / "project")
    found = scores(truth, tmp_path / "project")
    assert (found["wrong"], found["missed"], found["complete"]) == ([], [], True)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_with_lost_segments_nothing_is_called_never_read(truth, tmp_path, seed):
    write(truth, tmp_path / "project", lost=0.01, seed=seed)
    found = scores(truth, tmp_path / "project")
    assert not found["complete"]
    assert (found["wrong"], found["falsely_never_read"]) == ([], [])
    assert {code for code, _ in found["missed"]} >= {"LN201"}


def test_the_checker_sees_a_debt_that_was_not_planted(truth, tmp_path):
    """The scores are no formality: one more read is one wrong finding, one that is taken away a missed one."""
    write(truth, tmp_path / "project")
    ghost = ("LN104", "ghost_0 reads v00000@v1")
    truth.debts.remove(ghost)
    try:
        assert scores(truth, tmp_path / "project")["wrong"] == [ghost]
    finally:
        truth.debts.add(ghost)
    truth.debts.add(("LN101", "nobody"))
    try:
        assert scores(truth, tmp_path / "project")["missed"] == [("LN101", "nobody")]
    finally:
        truth.debts.remove(("LN101", "nobody"))
