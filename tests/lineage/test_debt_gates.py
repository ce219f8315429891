"""Gates of FeatureDebtBench: error rates of the verdicts over fixed seeds, small enough for every run of the tests."""

import sys
from pathlib import Path

import numpy as np
import pytest

BENCH = Path(__file__).parents[2] / "benchmarks" / "feature_debt"
GATE_SEED = 424_242
RUNS = 60


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(BENCH))
    try:
        import cases
        import inputs
        import ledger
        import reports
        import run
        import structure
    finally:
        sys.path.remove(str(BENCH))
    return type(
        "Bench",
        (),
        {"cases": cases, "inputs": inputs, "ledger": ledger, "reports": reports, "run": run, "structure": structure},
    )


@pytest.mark.parametrize("place", [0, 2, 6, 7, 8, 9])
def test_hardly_ever_negligible_at_epsilon_itself(bench, place):
    rate = bench.run.false_negligible(place, runs=RUNS, ledger=bench.ledger.Ledger(GATE_SEED))
    assert rate.holds, rate


def test_the_design_keeps_its_promise_of_power(bench):
    rate = bench.run.power((0.9, 0.0), runs=RUNS, ledger=bench.ledger.Ledger(GATE_SEED))
    assert rate.holds, rate


def test_few_claims_of_a_whole_report_are_wrong_and_the_usual_rules_remove_what_is_needed(bench):
    found = bench.run.whole_reports(0.9, runs=6, ledger=bench.ledger.Ledger(GATE_SEED))
    assert found["false discoveries"] <= 0.05 + 2 * found["false discoveries, standard error"]
    assert found["ours: removes what is needed"] == 0


def test_the_checker_sees_a_rule_that_is_too_quick(bench):
    """Clustered rows taken as independent are wrong too often, and the bench says so."""
    assert not bench.run.row_errors_alone(0, runs=RUNS, ledger=bench.ledger.Ledger(GATE_SEED)).holds


def test_a_rate_over_its_limit_does_not_hold(bench):
    assert not bench.run.Rate("x", 9, 60, 0.05).holds
    assert bench.run.Rate("x", 3, 60, 0.05).holds
    assert not bench.run.Rate("x", 40, 60, 0.8, at_most=False).holds


def test_the_truth_of_the_linear_case_is_its_formula(bench):
    """With 400,000 rows the measured gain is ``beta^2 (1 - R^2)``."""
    rng = np.random.default_rng(5)
    features = bench.cases.correlated(400_000, 6, 0.9, rng)
    share = bench.cases.unique_share(6, 0.9)
    residual = features[:, 0] - features[:, 1:] @ np.linalg.lstsq(features[:, 1:], features[:, 0], rcond=None)[0]
    assert residual.var() == pytest.approx(share, rel=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_a_group_called_removable_is_and_never_holds_both_of_two_copies(bench, seed):
    called, below, both = bench.inputs.removal(np.random.default_rng([GATE_SEED, seed]))
    assert below or not called
    assert not both


def test_legacy_pairs_are_told_from_decoys(bench):
    rng = np.random.default_rng(GATE_SEED)
    kinds = bench.inputs.LEGACY_PLANTS + bench.inputs.LEGACY_DECOYS
    assert {kind for kind in kinds if bench.inputs.legacy(kind, rng)} == set(bench.inputs.LEGACY_PLANTS)


def test_blocks_with_categories_among_them_are_found(bench):
    assert bench.inputs.blocks(np.random.default_rng(GATE_SEED)) >= 0.9


def test_results_are_kept_and_a_stopped_run_goes_on(bench, tmp_path):
    calls = []
    ledger = bench.ledger.Ledger(GATE_SEED, tmp_path, bench.ledger.code_of([Path(__file__)]))

    def one(rng):
        calls.append(1)
        return float(rng.normal())

    first = ledger.results("a case", 3, one)
    (kept,) = tmp_path.iterdir()
    with kept.open("a") as file:
        file.write('{"run": 3, "sa')  # cut short by a kill
    assert ledger.results("a case", 5, one)[:3] == first
    assert len(calls) == 5
    assert bench.ledger.Ledger(GATE_SEED).results("a case", 5, one) == ledger.results("a case", 5, one)
    assert bench.ledger.Ledger(GATE_SEED, tmp_path).results("a case", 1, one) == first[:1]
    assert len(calls) == 11, "another source of the results does not share them"


def test_bundles_loops_and_cascades_are_told_exactly(bench):
    found = bench.structure.scores(
        [bench.structure.compared(np.random.default_rng([GATE_SEED, run])) for run in range(3)]
    )
    assert all(value > 0 for name, value in found.items() if name.endswith("planted"))
    assert {value for name, value in found.items() if not name.endswith("planted")} == {1.0}


def test_the_structural_scores_see_what_is_wrong_and_what_is_missing(bench):
    said = {"bundled": [1, 2, 1, 1], "loops": [1, 1, 2, 1], "cascades": [1, 1, 1, 1]}
    found = bench.structure.scores([said])
    assert (found["bundled: precision"], found["loops: recall"], found["cascades: recall"]) == (0.5, 0.5, 1.0)
