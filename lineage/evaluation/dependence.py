"""Which features say the same: dependence of columns of any type, the groups it makes, and what a column is determined by.

Dependence of two columns is between 0 and 1: the rank correlation of numbers (Spearman), the bias-corrected V of categories (Bergsma,
*A bias-correction for Cramer's V*, 2013), and the correlation ratio of a number among categories. It says nothing about causes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lineage.evaluation.data import Data, mask_correlation

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLE = 3000  # rows that are looked at
STRONG = 0.7  # columns of a group depend on each other so strongly, on average
DETERMINED = 0.95  # share of a column's variance that others explain on rows they were not fitted on
SAME_NULLS = 0.9  # correlation of being null, from which on columns are null together
_FEWEST_NULLS = 10  # of the sample, so that something can be said of them
FEWEST = 100  # rows, of which a share that others explain can be said
_MOST_DETERMINING = 3
_PARTS = 4
_NOTHING = 1e-6  # of the variance: a linear fit that misses no more leaves nothing to a tree
_RIDGE = 1e-10  # per row of scaled columns, so that columns which determine each other can be solved for
_ANYWHERE_NEAR = 0.75  # explained on one split: columns that others determine reach far more
_WORTH_TREES = 0.92  # below, boosted trees will hardly explain nearly everything


@dataclass(frozen=True, slots=True)
class Determined:
    """A column that others determine.

    Attributes:
        column: The column.
        by: As few others as suffice.
        share: Share of its variance, or of its ranks', that they explain on rows they were not fitted on.
        lower: The share is above this with 95 %.
    """

    column: str
    by: tuple[str, ...]
    share: float
    lower: float


@dataclass(frozen=True, slots=True)
class Dependence:
    """What columns have to do with each other.

    Attributes:
        columns: Their names.
        strength: float64 ``(columns, columns)``: 0 is none, 1 is complete.
        clusters: Groups of two and more.
        determined: Columns that others determine.
        constant: Columns of one value alone.
        empty: Column -> share of nulls, of those with at least 99 %.
        null_together: Groups of columns that are null in the same rows.
    """

    columns: tuple[str, ...]
    strength: NDArray[Any]
    clusters: tuple[tuple[str, ...], ...]
    determined: tuple[Determined, ...]
    constant: tuple[str, ...]
    empty: Mapping[str, float]
    null_together: tuple[tuple[str, ...], ...] = ()

    def between(self, one: str, other: str) -> float:
        """Return how strongly two columns depend on each other."""
        return float(self.strength[self.columns.index(one), self.columns.index(other)])


def dependence_of(data: Data, *, threshold: float = STRONG, seed: int = 0) -> Dependence:
    """Measure the dependence of all features of a dataset.

    Args:
        data: The rows; a sample of `SAMPLE` is looked at.
        threshold: Average dependence within a group.
        seed: Of the sample.
    """
    import numpy as np

    names = data.features
    values, kinds = _columns(data, names, seed)
    nulls = np.isnan(values).mean(axis=0)
    varies = np.array([len(np.unique(column[~np.isnan(column)])) > 1 for column in values.T], bool)
    strength = np.eye(len(names))
    for i in range(len(names)):
        for j in range(i):
            if varies[i] and varies[j]:
                strength[i, j] = strength[j, i] = pair_strength(values[:, i], values[:, j], kinds[i], kinds[j])
    live = [place for place in range(len(names)) if varies[place]]
    determined = _determined(names, values, live)
    return Dependence(
        columns=tuple(names),
        strength=strength,
        clusters=_joined(names, strength, live, threshold, determined),
        determined=determined,
        constant=tuple(
            name for name, moves, share in zip(names, varies, nulls, strict=True) if not moves and share < 1
        ),
        empty={name: float(share) for name, share in zip(names, nulls, strict=True) if share >= 0.99},
        null_together=_null_together(names, np.isnan(values)),
    )


def _null_together(names: Sequence[str], null: NDArray[Any]) -> tuple[tuple[str, ...], ...]:
    """Return groups of columns whose nulls are in the same rows, but for a few; each belongs to the first that it is like."""
    groups: list[list[int]] = []
    for place in range(len(names)):
        if null[:, place].sum() < _FEWEST_NULLS:
            continue
        like = (g for g in groups if mask_correlation(null[:, g[0]], null[:, place]) >= SAME_NULLS)
        found = next(like, None)
        if found is None:
            groups.append([place])
        else:
            found.append(place)
    return tuple(tuple(names[place] for place in group) for group in groups if len(group) > 1)


def _columns(data: Data, names: Sequence[str], seed: int) -> tuple[NDArray[Any], list[bool]]:
    """Return a sample of the columns as numbers, and which of them are categories."""
    import numpy as np
    import pyarrow as pa

    chosen = np.sort(np.random.default_rng(seed).permutation(data.table.num_rows)[:SAMPLE])
    schema = data.table.schema
    kinds = [
        not (pa.types.is_integer(k) or pa.types.is_floating(k) or pa.types.is_temporal(k) or pa.types.is_decimal(k))
        for k in (schema.field(name).type for name in names)
    ]
    return replace(data, table=data.table.take(chosen)).matrix(names), kinds


@dataclass(frozen=True, slots=True)
class Hindsight:
    """A sign that a feature is known only once the outcome is.

    Attributes:
        column: The feature.
        sign: ``missing with the label`` or ``says the label``.
        strength: Correlation of being null; or the lower bound of the share of the label that it explains by itself.
    """

    column: str
    sign: str
    strength: float


def hindsight(data: Data, *, seed: int = 0) -> tuple[Hindsight, ...]:
    """Look for features that are known only after the fact: the first sign of each.

    A feature that is missing where the outcome is missing became known with it. One that says nearly all of the label by itself is too
    good to be known before. A time later than the row's is no sign: it may be a plan.

    Args:
        data: The rows; of the second sign a sample of `SAMPLE` is looked at.
        seed: Of the sample.
    """
    found = {name: Hindsight(name, "missing with the label", value) for name, value in data.missing_with_label.items()}
    signs = {name: one for name, one in found.items() if one.strength >= SAME_NULLS}
    signs |= {one.column: one for one in _telling(data, seed) if one.column not in signs}
    return tuple(signs[name] for name in data.features if name in signs)


def _telling(data: Data, seed: int) -> list[Hindsight]:
    import numpy as np

    chosen = np.sort(np.random.default_rng(seed).permutation(data.table.num_rows)[:SAMPLE])
    sample = replace(data, table=data.table.take(chosen))
    if sample.problem() or len(sample.classes or ()) > 2:
        return []
    label = sample.target().astype(np.float64)
    values = sample.matrix(data.features)
    found = []
    for place, name in enumerate(data.features):
        known = ~np.isnan(values[:, place])
        if (
            known.sum() >= FEWEST
            and np.ptp(values[known, place])
            and not _far_off(label[known], values[known, place : place + 1])
        ):
            found.append(
                Hindsight(name, "says the label", explained(label[known], values[known, place : place + 1])[1])
            )
    return [one for one in found if one.strength >= DETERMINED]


def pair_strength(x: NDArray[Any], y: NDArray[Any], x_is_category: bool, y_is_category: bool) -> float:  # noqa: FBT001 - two facts of two columns
    """Return the dependence of two columns on the rows where neither is null; 0 where there are fewer than 20."""
    import numpy as np

    both = ~(np.isnan(x) | np.isnan(y))
    if both.sum() < 20:
        return 0.0
    x, y = x[both], y[both]
    if x_is_category and y_is_category:
        return _cramer(x, y)
    if x_is_category or y_is_category:
        return _ratio(x, y) if x_is_category else _ratio(y, x)
    return _spearman(x, y)


def _spearman(x: NDArray[Any], y: NDArray[Any]) -> float:
    import numpy as np
    from scipy.stats import rankdata

    ranks = np.column_stack([rankdata(x), rankdata(y)])
    spread = ranks.std(axis=0)
    if not spread.all():
        return 0.0
    return float(abs(((ranks - ranks.mean(axis=0)) / spread).prod(axis=1).mean()))


def _cramer(x: NDArray[Any], y: NDArray[Any]) -> float:
    import numpy as np

    _, rows = np.unique(x, return_inverse=True)
    _, columns = np.unique(y, return_inverse=True)
    counts = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(counts, (rows, columns), 1)
    size, (height, width) = len(x), counts.shape
    if min(height, width) < 2:
        return 0.0
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / size
    phi = max(0.0, ((counts - expected) ** 2 / expected).sum() / size - (height - 1) * (width - 1) / (size - 1))
    most = min(height - (height - 1) ** 2 / (size - 1), width - (width - 1) ** 2 / (size - 1)) - 1
    return float(min(1.0, (phi / most) ** 0.5)) if most > 0 else 0.0


def _ratio(category: NDArray[Any], value: NDArray[Any]) -> float:
    """Return the correlation ratio of ranks, corrected for the number of categories (epsilon squared)."""
    import numpy as np
    from scipy.stats import rankdata

    ranks = rankdata(value)
    _, group = np.unique(category, return_inverse=True)
    counts = np.bincount(group)
    means = np.bincount(group, ranks) / counts
    total = ((ranks - ranks.mean()) ** 2).sum()
    within = ((ranks - means[group]) ** 2).sum()
    free = len(ranks) - len(counts)
    if total == 0 or free <= 0:
        return 0.0
    return float(max(0.0, 1 - within / free / (total / (len(ranks) - 1))) ** 0.5)


def explained(column: NDArray[Any], others: NDArray[Any], *, seed: int = 0) -> tuple[float, float]:
    """Return the share of a column that others explain on rows they were not fitted on, and its lower 95 % bound.

    The better of a linear fit and a tree, and of boosted trees where that comes near, each cross-fitted over parts of the rows; rows where
    the column is null do not count. Of fewer than `FEWEST` rows, and of a constant, nothing is explained.

    Args:
        column: float64 ``(rows,)``.
        others: float64 ``(rows, others)``; NaN is null.
        seed: Of the parts.
    """
    import numpy as np

    known = ~np.isnan(column)
    target, given = column[known], others[known]
    total = (target - target.mean()) ** 2
    if len(target) < FEWEST or total.sum() == 0:
        return 0.0, 0.0
    part = np.random.default_rng(seed).permutation(len(target)) % _PARTS
    missed = _missed_straight(given, target, part)
    if missed.sum() > _NOTHING * total.sum():
        missed = min(missed, _missed(_one_tree, given, target, part), key=lambda errors: float(errors.sum()))
    if _WORTH_TREES <= 1 - missed.sum() / total.sum() < DETERMINED:
        missed = min(missed, _missed(_trees, given, target, part), key=lambda errors: float(errors.sum()))
    share = 1 - missed.sum() / total.sum()
    influence = missed - (1 - share) * total
    error = float(np.sqrt((influence**2).sum()) / total.sum())
    return float(share), float(share - 1.645 * error)


def _far_off(column: NDArray[Any], others: NDArray[Any]) -> bool:
    """Say whether neither a linear fit nor one tree, on one split, comes anywhere near: then a closer look is not worth its time."""
    import numpy as np

    known = np.flatnonzero(~np.isnan(column))
    target, given = column[known], others[known]
    if len(target) < FEWEST:
        return False
    part = np.random.default_rng(0).permutation(len(target)) % _PARTS
    train, test = part != 0, part == 0
    spread = float(((target[test] - target[train].mean()) ** 2).sum())
    straight = float(_missed_straight(given, target, part)[test].sum())
    limit = (1 - _ANYWHERE_NEAR) * spread
    return (
        straight > limit
        and float(((target[test] - _one_tree(given[train], target[train], given[test])) ** 2).sum()) > limit
    )


def _missed(
    fit: Callable[[NDArray[Any], NDArray[Any], NDArray[Any]], NDArray[Any]],
    given: NDArray[Any],
    target: NDArray[Any],
    part: NDArray[Any],
) -> NDArray[Any]:
    """Return the squared errors of a way to fit, each row predicted from the other parts."""
    import numpy as np

    missed = np.empty(len(target))
    for number in range(_PARTS):
        train, test = part != number, part == number
        missed[test] = (target[test] - fit(given[train], target[train], given[test])) ** 2
    return missed


def _missed_straight(given: NDArray[Any], target: NDArray[Any], part: NDArray[Any]) -> NDArray[Any]:
    """Return the squared errors of a linear fit, as `_missed`: the sums of a part, taken from those of all rows, leave the other parts'."""
    import numpy as np

    design = np.column_stack([np.ones(len(target)), _scaled(np.nan_to_num(given, nan=0.0)), _scaled(np.isnan(given))])
    y = _scaled(target[:, None])[:, 0]
    rows = [np.flatnonzero(part == number) for number in range(_PARTS)]
    grams = [design[test].T @ design[test] for test in rows]
    sides = [design[test].T @ y[test] for test in rows]
    missed = np.empty(len(target))
    for test, gram, side in zip(rows, grams, sides, strict=True):
        rest = sum(grams) - gram + _RIDGE * len(target) * np.eye(len(gram))
        missed[test] = (y[test] - design[test] @ np.linalg.solve(rest, sum(sides) - side)) ** 2
    return np.asarray(missed * target.var())


def _scaled(columns: NDArray[Any]) -> NDArray[Any]:
    """Return columns with mean 0 and variance 1; zeros where one is constant."""
    import numpy as np

    values = columns - columns.mean(axis=0)
    return np.asarray(values / np.where(values.std(axis=0) > 0, values.std(axis=0), 1.0))


def _one_tree(given: NDArray[Any], target: NDArray[Any], asked: NDArray[Any]) -> NDArray[Any]:
    import numpy as np
    from sklearn.tree import DecisionTreeRegressor

    return np.asarray(DecisionTreeRegressor(min_samples_leaf=5, random_state=0).fit(given, target).predict(asked))


def _trees(given: NDArray[Any], target: NDArray[Any], asked: NDArray[Any]) -> NDArray[Any]:
    import numpy as np
    from sklearn.ensemble import HistGradientBoostingRegressor

    model = HistGradientBoostingRegressor(max_iter=80, learning_rate=0.2, random_state=0, early_stopping=False)
    return np.asarray(model.fit(given, target).predict(asked))


def _determined(names: Sequence[str], values: NDArray[Any], live: Sequence[int]) -> tuple[Determined, ...]:
    """Return the columns that all others determine, each with as few of them as suffice, found one by one."""
    found = []
    for place in live:
        others = [other for other in live if other != place]
        column, given = values[:, place], values[:, others]
        if not others or _far_off(column, given) or explained(column, given)[1] < DETERMINED:
            continue
        chosen: list[int] = []
        while len(chosen) < _MOST_DETERMINING:
            left = [other for other in others if other not in chosen]
            best = max(left, key=lambda other: _quick(values[:, place], values[:, [*chosen, other]]), default=None)
            if best is None:
                break
            chosen.append(best)
            share, lower = explained(values[:, place], values[:, chosen])
            if lower >= DETERMINED:
                by, share, lower = _pruned(values, place, chosen, (share, lower))
                found.append(Determined(names[place], tuple(names[other] for other in by), share, lower))
                break
    return tuple(found)


def _pruned(
    values: NDArray[Any], place: int, chosen: list[int], explains: tuple[float, float]
) -> tuple[list[int], float, float]:
    """Take away what was chosen on the way and is not needed at the end."""
    for other in list(chosen):
        fewer = [kept for kept in chosen if kept != other]
        if fewer and (found := explained(values[:, place], values[:, fewer]))[1] >= DETERMINED:
            chosen, explains = fewer, found
    return chosen, *explains


def _quick(column: NDArray[Any], others: NDArray[Any]) -> float:
    """Return the share that a quadratic in the others explains: enough to order candidates."""
    import numpy as np

    known = ~np.isnan(column)
    given = np.nan_to_num(others[known], nan=0.0)
    given = (given - given.mean(axis=0)) / np.maximum(given.std(axis=0), 1e-12)
    width = given.shape[1]
    crossed = [given[:, i] * given[:, j] for i in range(width) for j in range(i + 1)]
    design = np.column_stack([np.ones(len(given)), given, *crossed])
    target = _scaled(column[known][:, None])[:, 0]
    gram = design.T @ design + _RIDGE * len(target) * np.eye(design.shape[1])
    return float(1 - (target - design @ np.linalg.solve(gram, design.T @ target)).var())


def _joined(
    names: Sequence[str],
    strength: NDArray[Any],
    live: Sequence[int],
    threshold: float,
    determined: Sequence[Determined],
) -> tuple[tuple[str, ...], ...]:
    """Return groups by average linkage, those joined of which one determines a column of the other."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    group = {name: name for name in names}
    if len(live) > 1:
        distance = 1 - strength[live][:, live]
        labels = fcluster(linkage(squareform(distance, checks=False), "average"), 1 - threshold, "distance")
        first: dict[int, str] = {}
        for place, label in zip(live, labels, strict=True):
            group[names[place]] = first.setdefault(int(label), names[place])
    for one in determined:
        for other in one.by:
            old, new = group[other], group[one.column]
            group = {name: new if of == old else of for name, of in group.items()}
    members: dict[str, list[str]] = {}
    for name in names:
        members.setdefault(group[name], []).append(name)
    return tuple(tuple(found) for found in members.values() if len(found) > 1)
