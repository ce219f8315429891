"""Closed-form and quick learners: thousands of retrainings a minute, so that error rates can be counted."""

from __future__ import annotations

import numpy as np

from lineage.evaluation.losses import PairedLosses, TestedFold, grouped_clusters, paired


def plain_folds(rows: int, folds: int, repeats: int, rng: np.random.Generator) -> np.ndarray:
    """Return the fold of each row in each repeat: ``(repeats, rows)``."""
    return np.stack([rng.permutation(rows) % folds for _ in range(repeats)])


def grouped_folds(groups: np.ndarray, folds: int, repeats: int, rng: np.random.Generator) -> np.ndarray:
    """Return the fold of each row in each repeat; rows of a group are in one fold."""
    size = int(groups.max()) + 1
    return np.stack([(rng.permutation(size) % folds)[groups] for _ in range(repeats)])


def ols_losses(
    features: np.ndarray, y: np.ndarray, fold_of: np.ndarray, drops: list[list[int]]
) -> list[list[np.ndarray]]:
    """Return squared losses per row: for each drop (the first entry drops nothing), one array per repeat.

    Every training set is a sum of the Gram matrices of the other folds, so one pass over the rows serves all retrainings.
    """
    rows, width = features.shape
    design = np.column_stack([np.ones(rows), features])
    keeps = [np.array([0, *(1 + j for j in range(width) if j not in drop)]) for drop in [[], *drops]]
    losses = [[np.empty(rows) for _ in fold_of] for _ in keeps]
    for repeat, of in enumerate(fold_of):
        folds = [np.flatnonzero(of == number) for number in range(of.max() + 1)]
        grams = [design[test].T @ design[test] for test in folds]
        sides = [design[test].T @ y[test] for test in folds]
        gram, side = sum(grams), sum(sides)
        for test, own, own_side in zip(folds, grams, sides, strict=True):
            rest, rest_side = gram - own, side - own_side
            weights = np.zeros((width + 1, len(keeps)))
            for place, keep in enumerate(keeps):
                weights[keep, place] = np.linalg.solve(
                    rest[np.ix_(keep, keep)] + 1e-9 * np.eye(len(keep)), rest_side[keep]
                )
            residual = y[test][:, None] - design[test] @ weights
            for place in range(len(keeps)):
                losses[place][repeat][test] = residual[:, place] ** 2
    return losses


def logistic_losses(
    features: np.ndarray, y: np.ndarray, fold_of: np.ndarray, drops: list[list[int]]
) -> list[list[np.ndarray]]:
    """Return log losses per row of logistic regression by Newton's method, as `ols_losses`."""
    rows, width = features.shape
    design = np.column_stack([np.ones(rows), features])
    losses: list[list[np.ndarray]] = []
    for drop in [[], *drops]:
        kept = design[:, [0, *(1 + j for j in range(width) if j not in drop)]]
        found = [np.empty(rows) for _ in fold_of]
        for repeat, of in enumerate(fold_of):
            for number in range(of.max() + 1):
                train, test = of != number, of == number
                score = kept[test] @ _newton(kept[train], y[train])
                found[repeat][test] = np.logaddexp(0, np.where(y[test] > 0, -score, score))
        losses.append(found)
    return losses


def _newton(design: np.ndarray, y: np.ndarray, steps: int = 6) -> np.ndarray:
    weights = np.zeros(design.shape[1])
    for _ in range(steps):
        chance = 1 / (1 + np.exp(-design @ weights))
        curvature = (design * (chance * (1 - chance))[:, None]).T @ design + 1e-9 * np.eye(design.shape[1])
        weights = weights + np.linalg.solve(curvature, design.T @ (y - chance))
    return weights


def estimator_losses(
    make, features: np.ndarray, y: np.ndarray, fold_of: np.ndarray, drops: list[list[int]], *, binary: bool
):
    """Return losses per row of any scikit-learn-like estimator, as `ols_losses`."""
    losses = []
    for drop in [[], *drops]:
        kept = features[:, [j for j in range(features.shape[1]) if j not in drop]]
        found = [np.empty(len(y)) for _ in fold_of]
        for repeat, of in enumerate(fold_of):
            for number in range(of.max() + 1):
                train, test = of != number, of == number
                model = make().fit(kept[train], y[train])
                if binary:
                    chance = np.clip(model.predict_proba(kept[test])[:, 1], 1e-7, 1 - 1e-7)
                    found[repeat][test] = -np.where(y[test] > 0, np.log(chance), np.log1p(-chance))
                else:
                    found[repeat][test] = (y[test] - model.predict(kept[test])) ** 2
        losses.append(found)
    return losses


def compare(
    with_it: list[np.ndarray],
    without: list[np.ndarray],
    fold_of: np.ndarray,
    clusters: np.ndarray,
    among: np.ndarray | None = None,
) -> PairedLosses:
    """Return the paired sums of one drop, by the product's own code."""
    tested = []
    for repeat, of in enumerate(fold_of):
        for number in range(of.max() + 1):
            test = np.flatnonzero(of == number)
            trained = len(of) - len(test)
            tested.append(TestedFold(test, trained, with_it[repeat][test], without[repeat][test]))
    found = paired(tested, clusters, repeats=len(fold_of), among=among)
    assert found is not None
    return found


def single_rows(rows: int) -> np.ndarray:
    """Return the clusters of independent rows."""
    return grouped_clusters(np.arange(rows))
