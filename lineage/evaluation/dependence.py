"""Which features say the same: dependence of columns of any type, the groups it makes, and what a column is determined by.

Dependence of two columns is between 0 and 1: the rank correlation of numbers (Spearman), the bias-corrected V of categories (Bergsma,
*A bias-correction for Cramer's V*, 2013), and the correlation ratio of a number among categories. It says nothing about causes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lineage.evaluation.data import Data

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLE = 3000  # rows that are looked at
STRONG = 0.7  # columns of a group depend on each other so strongly, on average
DETERMINED = 0.95  # share of a column's variance that others explain on rows they were not fitted on
FEWEST = 100  # rows, of which a share that others explain can be said
_MOST_DETERMINING = 3
_PARTS = 4
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
    """

    columns: tuple[str, ...]
    strength: NDArray[Any]
    clusters: tuple[tuple[str, ...], ...]
    determined: tuple[Determined, ...]
    constant: tuple[str, ...]
    empty: Mapping[str, float]

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
    )


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
    missed = min(
        (_missed(fit, given, target, part) for fit in (_straight, _one_tree)), key=lambda errors: float(errors.sum())
    )
    if _WORTH_TREES <= 1 - missed.sum() / total.sum() < DETERMINED:
        missed = min(missed, _missed(_trees, given, target, part), key=lambda errors: float(errors.sum()))
    share = 1 - missed.sum() / total.sum()
    influence = missed - (1 - share) * total
    error = float(np.sqrt((influence**2).sum()) / total.sum())
    return float(share), float(share - 1.645 * error)


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


def _straight(given: NDArray[Any], target: NDArray[Any], asked: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    def design(values: NDArray[Any]) -> NDArray[Any]:
        return np.column_stack([np.ones(len(values)), np.nan_to_num(values, nan=0.0), np.isnan(values)])

    return np.asarray(design(asked) @ np.linalg.lstsq(design(given), target, rcond=None)[0])


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
        if not others or explained(values[:, place], values[:, others])[1] < DETERMINED:
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
    target = column[known]
    residual = target - design @ np.linalg.lstsq(design, target, rcond=None)[0]
    return float(1 - residual.var() / max(target.var(), 1e-300))


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
