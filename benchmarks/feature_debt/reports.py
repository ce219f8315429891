"""Whole reports, by the product and by the rules that people use instead."""

from __future__ import annotations

from typing import Any

import numpy as np
from cases import EPSILON, FOLDS, correlated, unique_share
from learners import compare, ols_losses, plain_folds, single_rows
from scipy.stats import ttest_rel

from lineage.evaluation.intervals import gain_of
from lineage.evaluation.verdicts import Measured, Worth, judge

RATIOS = (0.0, 0.0, 0.0, 0.0, 0.25, 0.25, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0)
RULES = ("ours", "unused for 90 days", "permutation importance < epsilon", "t-test not significant", "VIF > 10")


def report(rows: int, rho: float, rng: np.random.Generator) -> dict[str, Any]:
    """Draw one model of twelve features, a third of them worthless.

    Returns:
        ``removed``: rule -> the numbers of the features it would remove; ``material``: those that the product says are needed.
    """
    width = len(RATIOS)
    beta = np.sqrt(np.array(RATIOS) * EPSILON / unique_share(width, rho))
    features = correlated(rows, width, rho, rng)
    target = features @ beta + rng.normal(size=rows)
    folds = plain_folds(rows, FOLDS, 5, rng)
    full, *without = ols_losses(features, target, folds, [[j] for j in range(width)])
    clusters = single_rows(rows)
    measured = [
        Measured(str(j), gain_of(compare(full, without[j], folds, clusters), metric="squared_error"))
        for j in range(width)
    ]
    judgements = judge(measured, EPSILON)
    useless = (Worth.NEGLIGIBLE, Worth.HARMFUL)
    removed = {
        "ours": {j for j, judgement in enumerate(judgements) if judgement.worth in useless},
        "unused for 90 days": _unused(width, rng),
        "permutation importance < epsilon": _permuted(features, target, rng),
        "t-test not significant": {j for j in range(width) if ttest_rel(without[j][0], full[0]).pvalue > 0.05},
        "VIF > 10": {j for j in range(width) if np.linalg.inv(np.corrcoef(features.T))[j, j] > 10},
    }
    return {
        "removed": {rule: sorted(numbers) for rule, numbers in removed.items()},
        "material": [j for j, judgement in enumerate(judgements) if judgement.worth is Worth.MATERIAL],
    }


def _unused(width: int, rng: np.random.Generator) -> set[int]:
    """A third of the features belong to a job that runs once in four months; whether it reads says nothing of what they are worth."""
    cadence = np.where(rng.random(width) < 1 / 3, 120, 1)
    return {j for j in range(width) if rng.random() * cadence[j] > 90}


def _permuted(features: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> set[int]:
    half = len(target) // 2
    design = np.column_stack([np.ones(len(target)), features])
    weights = np.linalg.lstsq(design[:half], target[:half], rcond=None)[0]
    test, truth = design[half:], target[half:]
    loss = ((truth - test @ weights) ** 2).mean()
    found = set()
    for j in range(features.shape[1]):
        shuffled = test.copy()
        shuffled[:, j + 1] = rng.permutation(shuffled[:, j + 1])
        if ((truth - shuffled @ weights) ** 2).mean() - loss < EPSILON:
            found.add(j)
    return found
