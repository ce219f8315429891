"""How far one set of values lies from another: PSI over bins, the Kolmogorov-Smirnov distance, quantiles.

Pure functions over NumPy arrays; nulls are left out by the caller. NaN is a value like any other and sorts above infinity, as in DuckDB.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

BINS = 10
DECILES = tuple(i / BINS for i in range(1, BINS))


@dataclass(frozen=True, slots=True)
class KolmogorovSmirnov:
    """The greatest distance of two empirical distribution functions, and how often chance alone gives one as great.

    Attributes:
        statistic: In [0, 1]; 0 where both say the same.
        p_value: In [0, 1]; small means that chance is a poor explanation. It grows small with the number of rows at any difference:
            bound the statistic, and read the p-value.
    """

    statistic: float
    p_value: float


def psi(reference_counts: npt.ArrayLike, counts: npt.ArrayLike) -> float:
    """Return the population stability index of counts against reference counts over the same bins.

    The sum over the bins of ``(q - p) * ln(q / p)``, p and q being the shares of a bin: the symmetric divergence of Jeffreys (1946),
    named so in credit scoring (Siddiqi, Credit Risk Scorecards, 2006). Half a row is added to each bin (the Krichevsky-Trofimov
    estimate), so that an empty bin gives a finite answer which fades with the number of rows. Under no change it is about
    ``(bins - 1) * (1 / n + 1 / m)`` (Yurdakul, 2018); by custom 0.1 is a small shift and 0.25 a great one.

    Args:
        reference_counts: Rows in each bin of the reference, (bins,), 0 or more.
        counts: Rows in the same bins, (bins,), 0 or more.

    Returns:
        0 or more; 0 where there are fewer than two bins or either side has no rows: nothing can be said to have moved.

    >>> psi([50, 50], [500, 500])
    0.0
    >>> round(psi([900, 100], [100, 900]), 2)
    3.5
    """
    before, after = (np.asarray(side, dtype=np.float64) for side in (reference_counts, counts))
    if before.shape != after.shape or before.ndim != 1:
        raise ValueError(f"PSI of {before.shape} against {after.shape} bins: both sides count the same bins.")
    if before.size < 2 or not before.sum() or not after.sum():
        return 0.0
    p, q = ((side + 0.5) / (side.sum() + 0.5 * side.size) for side in (before, after))
    return float(((q - p) * np.log(q / p)).sum())


def ks(a: Numbers, b: Numbers) -> KolmogorovSmirnov:
    """Return the two-sample Kolmogorov-Smirnov distance of two sorted arrays.

    The statistic is exact, ties included (Smirnov, 1939). The p-value is Kolmogorov's limit distribution at
    ``(sqrt(e) + 0.12 + 0.11 / sqrt(e)) * statistic``, e = n*m/(n+m) (Stephens, 1970): good from about four rows on, and conservative
    where values repeat.

    Args:
        a: Values in ascending order, (n,), no nulls.
        b: Values in ascending order, (m,), no nulls.

    Returns:
        Distance 0 and p-value 1 where either side is empty.

    >>> ks(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0]))
    KolmogorovSmirnov(statistic=0.0, p_value=1.0)
    >>> ks(np.arange(50.0), np.arange(50.0) + 100).statistic
    1.0
    """
    if not a.size or not b.size:
        return KolmogorovSmirnov(0.0, 1.0)
    distance = max(_greatest_lead(a, b), _greatest_lead(b, a))
    root = math.sqrt(a.size * b.size / (a.size + b.size))
    return KolmogorovSmirnov(distance, _kolmogorov((root + 0.12 + 0.11 / root) * distance))


def quantiles(values: Numbers, probabilities: Sequence[float] = DECILES) -> Floats:
    """Return quantiles of a sorted array, with linear interpolation (type 7 of Hyndman and Fan, 1996).

    Args:
        values: Values in ascending order, (n,), no nulls.
        probabilities: Each in [0, 1].

    Returns:
        (len(probabilities),) float64; NaN where there are no values.

    >>> quantiles(np.array([1, 2, 3, 4]), (0.0, 0.5, 1.0)).tolist()
    [1.0, 2.5, 4.0]
    """
    if not values.size:
        return np.full(len(probabilities), np.nan)
    place = np.asarray(probabilities, dtype=np.float64) * (values.size - 1)
    low = np.floor(place).astype(np.int64)
    high = np.minimum(low + 1, values.size - 1)
    below, above = values[low].astype(np.float64), values[high].astype(np.float64)
    with np.errstate(invalid="ignore"):
        between = below + (above - below) * (place - low)
    return np.where((place == low) | (below == above), below, between)


def bin_edges(values: Numbers, bins: int = BINS) -> Floats:
    """Return the inner edges that cut a sorted array into bins of about equal counts: values of it, so that no bin is empty.

    Args:
        values: Values of the reference in ascending order, (n,), no nulls.
        bins: Most bins wanted; values that repeat give fewer.

    Returns:
        Ascending, (at most bins - 1,); k edges make k + 1 bins.

    >>> bin_edges(np.array([0, 0, 0, 0, 1]), bins=4).tolist()
    [0.0]
    """
    places = [-(-i * values.size // bins) - 1 for i in range(1, bins)] if values.size else []
    edges: Floats = np.unique(values[places].astype(np.float64))
    return edges[:-1] if edges.size and edges[-1] == values[-1] else edges


def bin_counts(values: Numbers, edges: Floats) -> Counts:
    """Return how many values fall into each bin; bin i holds ``edges[i - 1] < value <= edges[i]``.

    Args:
        values: Any order, (n,), no nulls.
        edges: Inner edges, ascending, (k,).

    Returns:
        (k + 1,) int64.

    >>> bin_counts(np.array([1.0, 2.0, 9.0]), np.array([2.0])).tolist()
    [2, 1]
    """
    return np.bincount(np.searchsorted(edges, values, side="left"), minlength=edges.size + 1).astype(np.int64)


def _greatest_lead(a: Numbers, b: Numbers) -> float:
    """Return the greatest distance of the two distribution functions at the values of a."""
    ahead = np.searchsorted(a, a, side="right") / a.size
    return float(np.abs(ahead - np.searchsorted(b, a, side="right") / b.size).max())


def _kolmogorov(x: float) -> float:
    """Return P(K > x) of Kolmogorov's distribution; the two series are Kolmogorov's (1933) and its theta-function dual."""
    if x < 0.04:
        return 1.0
    if x < 1.18:
        terms = sum(math.exp(-((2 * k - 1) ** 2) * math.pi**2 / (8 * x * x)) for k in range(1, 4))
        return 1.0 - math.sqrt(2 * math.pi) / x * terms
    return 2 * sum(sign * math.exp(-2 * k * k * x * x) for k, sign in ((1, 1), (2, -1), (3, 1), (4, -1)))
