"""Paired losses, kept as sums: all that a verdict rests on, and no row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST = 1024  # independent groups beyond this number are put together: groups of independent groups are independent


@dataclass(frozen=True, slots=True)
class PairedLosses:
    """Differences of losses (without the feature minus with it) of the same rows, summed.

    Attributes:
        fold_rows: int64 ``(folds,)``: rows that each fold was tested on.
        fold_trained: int64 ``(folds,)``: rows that each fold was trained on.
        fold_differences: float64 ``(folds,)``: sum of the differences of each fold.
        cluster_rows: float64 ``(clusters,)``: rows of each group of dependent rows, the repeats averaged.
        cluster_differences: float64 ``(clusters,)``: sum of the differences of each group, the repeats averaged.
        cluster_squares: float64 ``(clusters,)``: sum of their squares.
        loss_with: Mean loss with the feature.
        loss_without: Mean loss without it.
    """

    fold_rows: NDArray[Any]
    fold_trained: NDArray[Any]
    fold_differences: NDArray[Any]
    cluster_rows: NDArray[Any]
    cluster_differences: NDArray[Any]
    cluster_squares: NDArray[Any]
    loss_with: float
    loss_without: float

    @property
    def rows(self) -> int:
        """How many rows were tested, each counted once."""
        return round(float(self.cluster_rows.sum()))

    def arrays(self, prefix: str) -> dict[str, Any]:
        """Return the fields by name, each name after a prefix."""
        return {f"{prefix}/{field.name}": getattr(self, field.name) for field in fields(self)}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Any], prefix: str) -> PairedLosses:
        """Build it from what `arrays` returned.

        Raises:
            KeyError: A field is not there.
        """
        found: dict[str, Any] = {field.name: arrays[f"{prefix}/{field.name}"] for field in fields(cls)}
        scalars = {name: float(value) for name, value in found.items() if name.startswith("loss_")}
        return cls(**{**found, **scalars})


@dataclass(frozen=True, slots=True)
class TestedFold:
    """One fold, tested with and without.

    Attributes:
        test: int64 ``(rows,)``: numbers of the rows that were tested.
        trained: How many rows were trained on.
        loss_with: float64 ``(rows,)``.
        loss_without: float64 ``(rows,)``.
    """

    __test__ = False  # no test case, in spite of its name

    test: NDArray[Any]
    trained: int
    loss_with: NDArray[Any]
    loss_without: NDArray[Any]


def paired(
    folds: Sequence[TestedFold], clusters: NDArray[Any], *, repeats: int = 1, among: NDArray[Any] | None = None
) -> PairedLosses | None:
    """Sum the differences of folds.

    Args:
        folds: Every tested fold of every repeat.
        clusters: int64 ``(all rows,)``: the group of dependent rows of each row, from 0.
        repeats: How often each row was tested.
        among: bool ``(all rows,)``: only these rows count, a slice; None is all.

    Returns:
        The sums; None when no row counts.
    """
    import numpy as np

    size = int(clusters.max()) + 1 if len(clusters) else 0
    counts, sums, squares = np.zeros(size), np.zeros(size), np.zeros(size)
    rows, trained, differences = [], [], []
    total_with = total_without = 0.0
    for fold in folds:
        kept = slice(None) if among is None else among[fold.test]
        cluster, with_it, without = clusters[fold.test][kept], fold.loss_with[kept], fold.loss_without[kept]
        if not len(cluster):
            continue
        difference = without - with_it
        counts += np.bincount(cluster, minlength=size)
        sums += np.bincount(cluster, difference, minlength=size)
        squares += np.bincount(cluster, difference * difference, minlength=size)
        rows.append(len(cluster))
        trained.append(fold.trained)
        differences.append(float(difference.sum()))
        total_with += float(with_it.sum())
        total_without += float(without.sum())
    if not rows:
        return None
    seen = counts > 0
    return PairedLosses(
        fold_rows=np.array(rows, np.int64),
        fold_trained=np.array(trained, np.int64),
        fold_differences=np.array(differences),
        cluster_rows=counts[seen] / repeats,
        cluster_differences=sums[seen] / repeats,
        cluster_squares=squares[seen] / repeats,
        loss_with=total_with / sum(rows),
        loss_without=total_without / sum(rows),
    )


def grouped_clusters(keys: NDArray[Any], *, seed: int = 0) -> NDArray[Any]:
    """Return the group of each row as numbers from 0, at most `LARGEST`: more are put together at random.

    Args:
        keys: ``(rows,)``: what dependent rows have in common.
        seed: Of the random order.

    >>> import numpy as np
    >>> grouped_clusters(np.array(["b", "a", "b"])).tolist()
    [1, 0, 1]
    """
    import numpy as np

    distinct, numbers = np.unique(keys, return_inverse=True)
    if len(distinct) <= LARGEST:
        return numbers.astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(distinct)) % LARGEST
    return order[numbers].astype(np.int64)
