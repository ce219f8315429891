"""Randomised holdouts: "affects" is said when chance alone cannot have made the difference, and hardly ever otherwise."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import permutation_test
from test_debt_structure import NOW, flagged, models

from lineage.cli import main
from lineage.errors import CorruptRegistryError, InvalidQuestionError, NotFoundError
from lineage.evaluation.holdout import Arms, Holdout, effects_of, read_arms, read_holdouts, save_holdout

RUNS = 200


def drawn(rng, size=120, effect=0.0, outcomes=1, *, noise=None):
    treated = rng.permutation(size) < size // 2
    noise = noise or (lambda: rng.normal(size=size))
    return Arms(treated, {f"f{k}": noise() + effect * treated for k in range(outcomes)}, "ab")


def rate(make, runs=RUNS):
    return sum(any(e.affects for e in effects_of(make(np.random.default_rng([7, run])))) for run in range(runs)) / runs


LIMIT = 0.05 + 2 * (0.05 * 0.95 / RUNS) ** 0.5


@pytest.mark.parametrize("outcomes", [1, 4])
def test_without_an_effect_it_is_hardly_ever_said(outcomes):
    assert rate(lambda rng: drawn(rng, outcomes=outcomes)) <= LIMIT


def test_nor_with_heavy_tails_in_few_units():
    assert rate(lambda rng: drawn(rng, 44, noise=lambda: np.exp(2 * rng.normal(size=44)))) <= LIMIT


def test_nor_where_the_mean_stays_and_the_spread_changes():
    def make(rng):
        treated = rng.permutation(200) < 60
        return Arms(treated, {"f": rng.normal(size=200) * np.where(treated, 4, 1)}, "ab")

    assert rate(make) <= LIMIT


def test_an_effect_of_a_third_of_the_spread_is_mostly_seen():
    assert rate(lambda rng: drawn(rng, 400, effect=0.33), 60) >= 0.8


def test_many_units_go_by_student():
    assert rate(lambda rng: drawn(rng, 12_000), 100) <= 0.05 + 2 * (0.05 * 0.95 / 100) ** 0.5
    assert rate(lambda rng: drawn(rng, 12_000, effect=0.1), 5) == 1.0


def test_the_bounds_hold_the_truth():
    held = [
        e.lower <= 0.4 <= e.upper
        for run in range(300)
        for e in effects_of(drawn(np.random.default_rng([9, run]), 100, effect=0.4))
    ]
    assert np.mean(held) >= 0.95 - 2 * (0.05 * 0.95 / 300) ** 0.5


def test_the_p_value_is_that_of_the_permutation_test():
    rng = np.random.default_rng(3)
    arms = drawn(rng, 60, effect=0.5)

    def studentised(ones, zeros):
        return (ones.mean() - zeros.mean()) / np.sqrt(ones.var(ddof=1) / len(ones) + zeros.var(ddof=1) / len(zeros))

    values = arms.outcomes["f0"]
    expected = permutation_test(
        (values[arms.treated], values[~arms.treated]), studentised, vectorized=False, n_resamples=4000, rng=1
    ).pvalue
    assert effects_of(arms)[0].p == pytest.approx(expected, abs=0.02)


@given(st.integers(0, 10**6), st.floats(-1e6, 1e6), st.floats(1e-3, 1e3))
@settings(max_examples=25)
def test_another_unit_of_measurement_changes_no_answer(seed, shift, scale):
    arms = drawn(np.random.default_rng(seed), 60, effect=0.6)
    other = Arms(arms.treated, {"f0": arms.outcomes["f0"] * scale + shift}, "ab")
    one, two = effects_of(arms)[0], effects_of(other)[0]
    assert two.p == pytest.approx(one.p, abs=2e-3)
    assert two.difference == pytest.approx(one.difference * scale, rel=1e-3, abs=1e-6 * max(1, abs(shift)))


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        (Arms(np.arange(30) < 10, {"f": np.arange(30.0)}, ""), "at least 20"),
        (Arms(np.arange(100) < 50, {"f": np.ones(100)}, ""), "the same for every unit"),
        (Arms(np.arange(100) < 50, {"f": np.where(np.arange(100) < 25, np.nan, np.arange(100.0))}, ""), "is missing"),
    ],
)
def test_bad_input_is_said_and_nothing_is_claimed(arms, said):
    (effect,) = effects_of(arms)
    assert said in effect.problem
    assert not effect.affects


def test_arms_that_chance_did_not_make_are_refused():
    arms = drawn(np.random.default_rng(1), 1000, effect=5)
    assert "is not 90.0%" in effects_of(arms, share=0.9)[0].problem
    assert effects_of(arms, share=0.5)[0].affects


def write(path, **columns):
    (csv.write_csv if path.suffix == ".csv" else pq.write_table)(pa.table(columns), path)
    return path


@pytest.mark.parametrize("name", ["units.csv", "units.parquet"])
def test_rows_of_a_unit_count_as_one(tmp_path, name):
    unit = np.repeat(np.arange(60), 10)
    path = write(tmp_path / name, unit=unit, treated=unit % 2 == 0, f=unit.astype(float))
    arms = read_arms(path, treated="treated", outcomes=["f"], unit="unit")
    assert len(arms.treated) == 60
    assert sorted(arms.outcomes["f"]) == list(range(60))


def test_a_unit_in_both_arms_and_other_faults_are_said(tmp_path):
    path = write(tmp_path / "u.parquet", unit=["a", "a"], treated=[True, False], f=[1.0, 2.0], text=["x", "y"])
    with pytest.raises(InvalidQuestionError, match="both arms"):
        read_arms(path, treated="treated", outcomes=["f"], unit="unit")
    with pytest.raises(InvalidQuestionError, match="no column of numbers"):
        read_arms(path, treated="treated", outcomes=["text"])
    with pytest.raises(InvalidQuestionError, match="treated or not"):
        read_arms(path, treated="f", outcomes=["f"])
    with pytest.raises(NotFoundError, match="treatd"):
        read_arms(path, treated="treatd", outcomes=["f"])


def test_a_holdout_is_kept_and_read_again(tmp_path):
    effects = effects_of(drawn(np.random.default_rng(1), 30))
    kept = Holdout("a", "b", "a coin", "f.csv", "ab", NOW, effects)
    path = save_holdout(tmp_path, kept)
    assert [h.document() for h in read_holdouts(tmp_path)] == [kept.document()]
    assert read_holdouts(tmp_path, until=NOW - 1) == ()
    path.write_text(path.read_text()[:50])
    with pytest.raises(CorruptRegistryError, match="damaged"):
        read_holdouts(tmp_path)


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code or 0, capsys.readouterr()


@pytest.mark.parametrize(("effect", "code"), [(1.0, 1), (0.0, 0)])
def test_debt_says_what_the_holdout_showed(registry, tmp_path, capsys, effect, code):
    registry.commit(models(a="", b=""))
    arms = drawn(np.random.default_rng(2), 300, effect=effect)
    path = write(tmp_path / "u.parquet", chosen=arms.treated, temp=arms.outcomes["f0"])
    asked = ["holdout", "a", "b", path, "--treated", "chosen", "--outcome", "temp", "--randomised-by", "a coin"]
    found = run(capsys, *asked, "--project", registry.folder, "--format", "json")
    assert found[0] == code
    assert json.loads(found[1].out)["effects"][0]["affects"] is bool(code)
    findings = flagged(registry.folder, "LN453", now=2**62)
    assert set(findings) == ({"a acts on what b reads"} if code else set())


def test_an_unknown_model_is_not_found(registry, tmp_path, capsys):
    registry.commit(models(a="", b=""))
    asked = ["holdout", "a", "bee", tmp_path / "u.csv", "--treated", "t", "--outcome", "f", "--randomised-by", "x"]
    assert run(capsys, *asked, "--project", registry.folder)[0] == 4
