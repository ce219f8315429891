"""Verdicts over reports: multiplicity, and what a claim needs."""

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from lineage.evaluation.intervals import gain_of
from lineage.evaluation.losses import LARGEST, TestedFold, grouped_clusters, paired
from lineage.evaluation.verdicts import Measured, Worth, benjamini_yekutieli, holm, judge


def gain(differences, *, clusters=None, folds=5, metric="squared_error"):
    order = np.arange(len(differences))
    loss = np.full(len(differences), 0.1)
    tested = [
        TestedFold(part, len(differences) - len(part), loss[part], loss[part] + differences[part])
        for part in (order[order % folds == number] for number in range(folds))
    ]
    return gain_of(paired(tested, grouped_clusters(order if clusters is None else clusters)), metric=metric)


def test_adjusted_p_values_are_those_of_the_literature():
    p = np.random.default_rng(0).uniform(size=40) ** 3
    assert benjamini_yekutieli(p.tolist()) == pytest.approx(false_discovery_control(p, method="by"))
    order = np.argsort(p)
    expected = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(40, 0, -1)))
    assert np.array(holm(p.tolist()))[order] == pytest.approx(expected)
    assert holm([]) == benjamini_yekutieli([]) == []


def test_bounds_and_p_values_agree():
    found = gain(np.random.default_rng(1).normal(0.01, 0.1, 2000), metric="")
    for alpha in (0.01, 0.05, 0.2):
        assert found.p_below(found.upper(alpha)) == pytest.approx(alpha, abs=0.002)
        assert found.p_above(found.lower(alpha)) == pytest.approx(alpha, abs=0.002)


def test_the_wider_error_decides():
    rng = np.random.default_rng(2)
    shared = np.repeat(rng.normal(0, 0.1, 100), 20)
    of_rows, of_groups = gain(shared), gain(shared, clusters=np.repeat(np.arange(100), 20))
    assert of_groups.row_error > 3 * of_rows.row_error
    assert of_groups.upper() > of_rows.upper()
    assert of_groups.error == max(of_groups.row_error, of_groups.procedure_error)


def test_many_groups_are_put_together_and_none_is_lost():
    found = grouped_clusters(np.arange(5000))
    assert len(np.unique(found)) == LARGEST
    assert np.bincount(found).max() <= 5


def test_no_change_of_any_row_is_negligible_and_never_divides_by_zero():
    judgement = judge([Measured("year", gain(np.zeros(400)))], 0.01)[0]
    assert judgement.worth is Worth.NEGLIGIBLE
    assert judgement.reason == "no loss of any row changes without it"


def test_a_screened_gain_is_never_negligible():
    small = gain(np.random.default_rng(3).normal(0, 1e-4, 4000))
    assert judge([Measured("x", small)], 0.05)[0].worth is Worth.NEGLIGIBLE
    assert judge([Measured("x", small, screened=True)], 0.05)[0].worth is Worth.UNDETERMINED


def test_a_worse_model_is_harmful_to_keep_with():
    assert (
        judge([Measured("x", gain(np.random.default_rng(4).normal(-0.05, 0.1, 4000)))], 0.05)[0].worth is Worth.HARMFUL
    )


def test_a_larger_family_asks_for_more():
    rng = np.random.default_rng(5)
    close = gain(rng.normal(0.0, 0.1, 1200), metric="")
    epsilon = close.upper(0.04)
    assert judge([Measured("x", close)], epsilon)[0].worth is Worth.NEGLIGIBLE
    others = [Measured(str(k), gain(rng.normal(1.0, 0.1, 400))) for k in range(10)]
    assert judge([Measured("x", close), *others], epsilon)[0].worth is Worth.UNDETERMINED


def test_a_slice_that_is_too_small_keeps_a_feature_from_being_negligible():
    small = gain(np.random.default_rng(6).normal(0, 1e-4, 4000))
    few = gain(np.random.default_rng(7).normal(0, 1e-4, 15))
    judgement = judge([Measured("x", small, {"airport=JFK": few})], 0.05)[0]
    assert judgement.worth is Worth.UNDETERMINED
    assert "airport=JFK" in judgement.reason
