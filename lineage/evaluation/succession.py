"""Whether a newer feature has taken the place of an older one: how much of it the newer explains, and on which rows it is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lineage.evaluation.data import Data, as_numbers
from lineage.evaluation.dependence import FEWEST, SAMPLE, explained
from lineage.evaluation.folds import clusters_of, design_for
from lineage.instants import day

if TYPE_CHECKING:
    from numpy.typing import NDArray

REDUNDANT = 0.95  # of the older feature, the newer explains at least this share
COVERED = 0.999  # of the rows that have the older one have the newer one, too
_WEEK = 7 * 86_400 * 1_000_000


@dataclass(frozen=True, slots=True)
class Succession:
    """An older column and a newer one on the same rows.

    Attributes:
        share: Share of the older that the newer explains where both are, on rows it was not fitted on.
        lower: It is above this with 95 %.
        within: The same once the mean of each day (or group) is taken away: two trends alone explain each other.
        within_lower: It is above this with 95 %.
        backward: Share of the newer that the older explains.
        coverage: Share of the rows with the older that have the newer.
        measured: Whether enough rows have both, and the older is no constant: else the shares say nothing.
        weekly: First day of a week -> coverage in it; empty where rows have no time.
    """

    share: float
    lower: float
    within: float
    within_lower: float
    backward: float
    coverage: float
    measured: bool
    weekly: Mapping[str, float]

    @property
    def redundant(self) -> bool:
        """Whether the newer explains the older, and not by a common trend alone."""
        return min(self.lower, self.within_lower) >= REDUNDANT

    @property
    def complete(self) -> bool:
        """Whether the newer is there wherever the older is."""
        return self.coverage >= COVERED


def succession(data: Data, older: str, newer: str, *, seed: int = 0) -> Succession:
    """Compare an older column with a newer one.

    Args:
        data: The rows.
        older: What may have been replaced.
        newer: What may have replaced it.
        seed: Of the sample.
    """
    import numpy as np

    old, new = data.matrix([older])[:, 0], data.matrix([newer])[:, 0]
    has_old, both = ~np.isnan(old), ~(np.isnan(old) | np.isnan(new))
    chosen = np.flatnonzero(both)
    chosen = np.sort(np.random.default_rng(seed).permutation(chosen)[:SAMPLE])
    x, y = new[chosen], old[chosen]
    share, lower = explained(y, x[:, None])
    within = (share, lower)
    if data.time or data.group:
        units = clusters_of(data, design_for(data))[chosen]
        within = _within(y, x, units)
    return Succession(
        share=share,
        lower=lower,
        within=within[0],
        within_lower=within[1],
        backward=explained(x, y[:, None])[0],
        coverage=float(both.sum() / max(has_old.sum(), 1)),
        measured=len(y) > FEWEST and bool(np.ptp(y)),  # of which differences are as many less one
        weekly=_weekly(data, has_old, both),
    )


def _within(y: NDArray[Any], x: NDArray[Any], units: NDArray[Any]) -> tuple[float, float]:
    """Return what is explained once the mean of each unit is gone; where units have one row, of differences instead."""
    import numpy as np

    counts = np.bincount(units)
    if np.median(counts[counts > 0]) < 3 or not (y - _means(y, units)).any():
        order = np.argsort(units, kind="stable")
        return explained(np.diff(y[order]), np.diff(x[order])[:, None])
    return explained(y - _means(y, units), (x - _means(x, units))[:, None])


def _means(values: NDArray[Any], units: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    counts = np.maximum(np.bincount(units), 1)
    return np.asarray((np.bincount(units, values) / counts)[units])


def _weekly(data: Data, has_old: NDArray[Any], both: NDArray[Any]) -> dict[str, float]:
    import numpy as np

    if not data.time:
        return {}
    weeks = (as_numbers(data.table[data.time]) // _WEEK).astype(np.int64)
    found = {}
    for week in np.unique(weeks[has_old]):
        rows = has_old & (weeks == week)
        found[day(int(week) * _WEEK)] = float(both[rows].mean())
    return found
