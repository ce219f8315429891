"""Generated models with planted debts and decoys, whose true gains are known: in closed form, or by integrating over many rows.

Each case draws a dataset and returns what the product says of it. `psi` is the true gain; the epsilon of a case is chosen, so that a
ratio of 1 is the boundary: there a claim "below epsilon" is wrong, and at most 5 % of the runs may make it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from learners import compare, estimator_losses, grouped_folds, logistic_losses, ols_losses, plain_folds, single_rows

from lineage.evaluation.intervals import Gain, gain_of
from lineage.evaluation.losses import grouped_clusters
from lineage.evaluation.verdicts import Judgement, Measured, judge

EPSILON = 0.02
FOLDS = 5


@dataclass(frozen=True)
class Case:
    """One way to make data.

    Attributes:
        name: What it is.
        ratio: True gain over epsilon: 1 and above, a claim "negligible" is wrong.
        draw: Makes a dataset of a seeded generator, and returns the judgement of the planted feature alone.
        baselines: Whether the other rules are tried on it, too.
    """

    name: str
    ratio: float
    draw: Callable[[np.random.Generator], Judgement]


def correlated(rows: int, width: int, rho: float, rng: np.random.Generator) -> np.ndarray:
    """Return Gaussian features, all pairs of which have one correlation."""
    shared = rng.normal(size=(rows, 1))
    return np.sqrt(rho) * shared + np.sqrt(1 - rho) * rng.normal(size=(rows, width))


def unique_share(width: int, rho: float) -> float:
    """Return the share of a feature's variance that the others do not explain: ``1 - R^2``."""
    cov = (1 - rho) * np.eye(width) + rho
    return float(1 / np.linalg.inv(cov)[0, 0])


def judged(gain: Gain, slices: dict[str, Gain] | None = None, epsilon: float = EPSILON) -> Judgement:
    """Return the judgement of one feature alone."""
    return judge([Measured("planted", gain, slices or {})], epsilon)[0]


def linear(rows: int, rho: float, ratio: float, *, width: int = 6, repeats: int = 5) -> Case:
    """Linear Gaussian, squared loss: ``psi = beta^2 (1 - R^2)``."""
    beta = np.ones(width)
    beta[0] = np.sqrt(ratio * EPSILON / unique_share(width, rho))

    def draw(rng: np.random.Generator) -> Judgement:
        features = correlated(rows, width, rho, rng)
        target = features @ beta + rng.normal(size=rows)
        folds = plain_folds(rows, FOLDS, repeats, rng)
        full, without = ols_losses(features, target, folds, [[0]])
        return judged(gain_of(compare(full, without, folds, single_rows(rows)), metric="squared_error"))

    return Case(f"linear, correlation {rho}, {rows} rows", ratio, draw)


@lru_cache(maxsize=16)
def logistic_truth(coefficient: float, rho: float, width: int) -> float:
    """Return the gain of the first feature in log loss, over 400,000 rows on which both models are fitted and measured."""
    rng = np.random.default_rng(77)
    features = correlated(400_000, width, rho, rng)
    chance = 1 / (1 + np.exp(-(coefficient * features[:, 0] + 0.7 * features[:, 1:].sum(axis=1))))
    target = (rng.random(len(chance)) < chance).astype(float)
    folds = plain_folds(len(target), 2, 1, rng)
    full, without = logistic_losses(features, target, folds, [[0]])
    return float((without[0] - full[0]).mean())


def logistic(rows: int, rho: float, ratio: float) -> Case:
    """Logistic, log loss: the truth is integrated over many rows, and epsilon set from it."""
    width, coefficient = 4, 0.35
    epsilon = logistic_truth(coefficient, rho, width) / ratio

    def draw(rng: np.random.Generator) -> Judgement:
        features = correlated(rows, width, rho, rng)
        chance = 1 / (1 + np.exp(-(coefficient * features[:, 0] + 0.7 * features[:, 1:].sum(axis=1))))
        target = (rng.random(rows) < chance).astype(float)
        folds = plain_folds(rows, FOLDS, 1, rng)
        full, without = logistic_losses(features, target, folds, [[0]])
        return judged(gain_of(compare(full, without, folds, single_rows(rows)), metric="log_loss"), epsilon=epsilon)

    return Case(f"logistic, correlation {rho}, {rows} rows", ratio, draw)


def duplicates(rows: int, ratio: float) -> Case:
    """Two copies of one feature, dropped together: each alone brings nothing, the pair what one of them would."""
    beta = np.sqrt(ratio * EPSILON)

    def draw(rng: np.random.Generator) -> Judgement:
        features = correlated(rows, 5, 0.3, rng)
        own = rng.normal(size=rows)
        features = np.column_stack([own, own + 1e-3 * rng.normal(size=rows), features])
        target = beta * own + features[:, 2:].sum(axis=1) + rng.normal(size=rows)
        folds = plain_folds(rows, FOLDS, 5, rng)
        full, without = ols_losses(features, target, folds, [[0, 1]])
        return judged(gain_of(compare(full, without, folds, single_rows(rows)), metric="squared_error"))

    return Case(f"both copies of a duplicate, {rows} rows", ratio, draw)


def exclusive_or(rows: int, ratio: float) -> Case:
    """A feature without any marginal correlation: it only counts together with another one."""
    beta = np.sqrt(ratio * EPSILON)

    def draw(rng: np.random.Generator) -> Judgement:
        signs = rng.choice([-1.0, 1.0], size=(rows, 2))
        others = rng.normal(size=(rows, 3))
        features = np.column_stack([signs, signs[:, 0] * signs[:, 1], others])
        target = beta * features[:, 2] + others.sum(axis=1) + rng.normal(size=rows)
        folds = plain_folds(rows, FOLDS, 5, rng)
        full, without = ols_losses(features, target, folds, [[0, 2]])
        return judged(gain_of(compare(full, without, folds, single_rows(rows)), metric="squared_error"))

    return Case(f"exclusive or, {rows} rows", ratio, draw)


def slice_only(rows: int, ratio: float) -> Case:
    """A feature that only counts on a tenth of the rows, a declared slice; over all rows its gain is a tenth."""
    beta = np.sqrt(ratio * EPSILON)

    def draw(rng: np.random.Generator) -> Judgement:
        features = rng.normal(size=(rows, 4))
        inside = (rng.random(rows) < 0.1).astype(float)
        design = np.column_stack([features[:, 0], inside, features[:, 0] * inside, features[:, 1:]])
        target = beta * design[:, 2] + features[:, 1:].sum(axis=1) + rng.normal(size=rows)
        folds = plain_folds(rows, FOLDS, 5, rng)
        full, without = ols_losses(design, target, folds, [[0, 2]])
        clusters = single_rows(rows)
        overall = gain_of(compare(full, without, folds, clusters), metric="squared_error")
        slices = {
            f"inside={value}": gain_of(compare(full, without, folds, clusters, inside == value), metric="squared_error")
            for value in (0, 1)
        }
        return judged(overall, slices)

    return Case(f"only on a slice, {rows} rows", ratio, draw)


def clustered(entities: int, ratio: float, *, rows_each: int = 10, by_cluster: bool = True) -> Case:
    """Rows of an entity share the feature and a part of the noise, so they say less than as many independent rows."""
    beta = np.sqrt(ratio * EPSILON)
    noise = 0.7

    def draw(rng: np.random.Generator) -> Judgement:
        entity = np.repeat(np.arange(entities), rows_each)
        own = rng.normal(size=entities)[entity]
        others = rng.normal(size=(len(entity), 3))
        shared = np.sqrt(noise) * rng.normal(size=entities)[entity]
        target = beta * own + others.sum(axis=1) + shared + np.sqrt(1 - noise) * rng.normal(size=len(entity))
        features = np.column_stack([own, others])
        folds = grouped_folds(entity, FOLDS, 5, rng) if by_cluster else plain_folds(len(entity), FOLDS, 5, rng)
        full, without = ols_losses(features, target, folds, [[0]])
        clusters = grouped_clusters(entity) if by_cluster else single_rows(len(entity))
        return judged(gain_of(compare(full, without, folds, clusters), metric="squared_error"))

    kind = "clustered rows" if by_cluster else "clustered rows, taken as independent"
    return Case(f"{kind}, {entities} entities", ratio, draw)


def boosted(rows: int, *, binary: bool) -> Case:
    """Boosted trees with a pair that only counts together; the truth is that of the procedure itself, over 40 training sets."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    kind = HistGradientBoostingClassifier if binary else HistGradientBoostingRegressor

    def make():
        return kind(max_iter=30, max_leaf_nodes=8, learning_rate=0.2, random_state=0, early_stopping=False)

    def data(size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        features = correlated(size, 4, 0.5, rng)
        score = features[:, 1] + 0.6 * np.sign(features[:, 0] * features[:, 2])
        if binary:
            return features, (rng.random(size) < 1 / (1 + np.exp(-score))).astype(int)
        return features, score + rng.normal(size=size)

    @lru_cache(maxsize=1)
    def truth() -> float:
        rng = np.random.default_rng(99)
        found = []
        for _ in range(40):
            features, target = data(rows * (FOLDS - 1) // FOLDS + 20_000, rng)
            of = np.zeros((1, len(target)), int)
            of[0, -20_000:] = 1
            full, without = _one_fold(make, features, target, of[0], binary=binary)
            found.append(float((without - full).mean()))
        return float(np.mean(found))

    def draw(rng: np.random.Generator) -> Judgement:
        features, target = data(rows, rng)
        folds = plain_folds(rows, FOLDS, 1, rng)
        full, without = estimator_losses(make, features, target, folds, [[0]], binary=binary)
        metric = "log_loss" if binary else "squared_error"
        return judged(gain_of(compare(full, without, folds, single_rows(rows)), metric=metric), epsilon=truth())

    return Case(f"boosted trees, {'classes' if binary else 'numbers'}, {rows} rows", 1.0, draw)


def _one_fold(make, features, target, of, *, binary):
    found = []
    for keep in (slice(None), slice(1, None)):
        model = make().fit(features[of == 0][:, keep], target[of == 0])
        if binary:
            chance = np.clip(model.predict_proba(features[of == 1][:, keep])[:, 1], 1e-7, 1 - 1e-7)
            found.append(-np.where(target[of == 1] > 0, np.log(chance), np.log1p(-chance)))
        else:
            found.append((target[of == 1] - model.predict(features[of == 1][:, keep])) ** 2)
    return found


BOUNDARY: Sequence[Callable[[], Case]] = (
    lambda: linear(1000, 0.0, 1.0),
    lambda: linear(4000, 0.5, 1.0),
    lambda: linear(1000, 0.9, 1.0),
    lambda: linear(4000, 0.9, 1.1),
    lambda: linear(4000, 0.99, 1.0),
    lambda: logistic(3000, 0.5, 1.0),
    lambda: duplicates(3000, 1.0),
    lambda: exclusive_or(3000, 1.0),
    lambda: slice_only(5000, 1.0),
    lambda: clustered(400, 1.0),
)


def designed(rho: float, ratio: float, *, repeats: int = 5, width: int = 6) -> tuple[Case, int]:
    """Return a linear case of as many rows as the design asks for to decide with a power of 0.8, and that number."""
    from scipy.special import ndtri, stdtrit

    folds = FOLDS * repeats
    widened = FOLDS * (1 / folds + 1 / (FOLDS - 1))
    student, power = float(stdtrit(folds - 1, 0.95)), float(ndtri(0.8))
    needed = student * np.sqrt(4 * EPSILON * widened) + power * np.sqrt(4 * ratio * EPSILON * widened)
    rows = int(np.ceil((needed / (EPSILON * (1 - ratio))) ** 2))
    return linear(rows, rho, ratio, width=width, repeats=repeats), rows
