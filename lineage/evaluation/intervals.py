"""How sure a gain is: two errors of one mean, of which the wider decides.

*This model, new rows*: a cluster bootstrap of the paired differences, studentised (Efron, Tibshirani, *An introduction to the
bootstrap*, 1993, chapter 12). *This procedure, a new training set*: the corrected resampled variance (Nadeau, Bengio, *Inference for
the generalization error*, Machine Learning 52, 2003), since folds share training rows.

A small gain also has a small spread, so a sample in which the gain looks small looks surer than it is. Near the optimum of a model the
variance of the differences is proportional to their mean: ``4 x loss`` times it for squared errors, twice for log losses (the variance
of a log likelihood ratio is twice its mean). A claim "below epsilon" therefore uses at least the error that a gain of epsilon would have,
unless the differences are far too small for such a gain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from lineage.evaluation.losses import PairedLosses

if TYPE_CHECKING:
    from numpy.typing import NDArray

DRAWS = 2000
FEWEST_CLUSTERS = 20  # below, neither error means anything
_COUNTED = 10  # so many draws beyond a value give its probability; further out the tail is that of a normal scaled to meet them
_SEED = 20_130_101
_FAR = 10  # differences of a mean square so many times too small are not those of the gain in question
_NOTHING = 1e-9  # a difference below this part of the loss is rounding


@dataclass(frozen=True, slots=True)
class Gain:
    """What a feature brings: the loss it saves, with its error.

    Attributes:
        mean: Mean loss without the feature, minus that with it.
        rows: Rows it was measured on.
        clusters: Groups of dependent rows.
        row_error: Standard error for new rows.
        procedure_error: Standard error for a new training set.
        degrees: Degrees of freedom of the latter.
        draws: float64 ``(draws,)``: studentised bootstrap draws, sorted.
        spread: Squared standard error per unit of gain, were the gain the true one; 0 where the loss is of no known kind.
        implied: The gain that differences of this size go with; 0 where the loss is of no known kind.
    """

    mean: float
    rows: int
    clusters: int
    row_error: float
    procedure_error: float
    degrees: float
    draws: NDArray[Any]
    spread: float = 0.0
    implied: float = 0.0

    @property
    def error(self) -> float:
        """The larger of the two standard errors."""
        return max(self.row_error, self.procedure_error)

    def upper(self, alpha: float = 0.05) -> float:
        """Return the bound that the gain is below with probability ``1 - alpha``."""
        import numpy as np
        from scipy.special import stdtrit

        student = float(stdtrit(self.degrees, 1 - alpha))
        of_rows = self.mean - float(np.quantile(self.draws, alpha)) * self.row_error
        return max(of_rows, self.mean + student * self.procedure_error, self._upper_by_spread(student))

    def _upper_by_spread(self, student: float) -> float:
        """Return the least gain so large that one with its own spread would hardly be measured as this one."""
        part = student * student * self.spread / 4
        if self.mean + part <= 0:
            return -math.inf
        return min(self.mean + 2 * part + 2 * math.sqrt(part * (self.mean + part)), _FAR * self.implied)

    def error_at(self, epsilon: float) -> float:
        """Return the standard error that a true gain of `epsilon` would have; 0 where that is not known, or plainly not so."""
        if epsilon > _FAR * self.implied:
            return 0.0
        return math.sqrt(self.spread * max(epsilon, 0.0))

    def lower(self, alpha: float = 0.05) -> float:
        """Return the bound that the gain is above with probability ``1 - alpha``."""
        import numpy as np
        from scipy.special import stdtrit

        of_rows = self.mean - float(np.quantile(self.draws, 1 - alpha)) * self.row_error
        return min(of_rows, self.mean - float(stdtrit(self.degrees, 1 - alpha)) * self.procedure_error)

    def p_below(self, epsilon: float) -> float:
        """Return the probability of a gain as small as this one, were it `epsilon` in truth."""
        distance = self.mean - epsilon
        procedure_error = max(self.procedure_error, self.error_at(epsilon))
        return max(_tail(self.draws, distance, self.row_error), _student(self.degrees, distance, procedure_error))

    def p_above(self, epsilon: float) -> float:
        """Return the probability of a gain as large as this one, were it `epsilon` in truth."""
        distance = epsilon - self.mean
        of_rows = _tail(-self.draws[::-1], distance, self.row_error)
        return max(of_rows, _student(self.degrees, distance, self.procedure_error))

    def rows_to_decide(self, epsilon: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
        """Return about how many rows would decide, were the gain what was measured; infinite when it is `epsilon` itself."""
        from scipy.special import ndtri, stdtrit

        null_error = max(self.error, self.error_at(epsilon)) if self.mean < epsilon else self.error
        needed = float(stdtrit(self.degrees, 1 - alpha)) * null_error + float(ndtri(power)) * self.error
        distance = abs(epsilon - self.mean)
        return math.inf if distance == 0 else self.rows * (needed / distance) ** 2


def gain_of(losses: PairedLosses, *, metric: str = "", floor: float = 0.0) -> Gain:
    """Estimate a gain from paired losses.

    Args:
        losses: Their sums.
        metric: ``squared_error`` or ``log_loss``; any other has no known spread.
        floor: The least standard error: the noise of another seed. 0 is none.
    """
    rows = float(losses.cluster_rows.sum())
    mean = float(losses.cluster_differences.sum()) / rows
    row_error = max(_row_error(losses, mean), floor)
    procedure_error, degrees = _procedure_error(losses, row_error)
    return Gain(
        mean=mean,
        rows=round(rows),
        clusters=len(losses.cluster_rows),
        row_error=row_error,
        procedure_error=max(procedure_error, floor),
        degrees=degrees,
        draws=_studentised(losses, mean),
        spread=_spread(losses, mean, row_error, metric),
        implied=_implied(losses, metric),
    )


def _spread(losses: PairedLosses, mean: float, row_error: float, metric: str) -> float:
    """Return the squared error per unit of gain: that of the loss, widened as these clusters and folds widen it.

    Where no loss of any row changes there is no gain to have a spread: the model does not see the feature.
    """
    if float(losses.cluster_squares.sum()) <= (_NOTHING * losses.loss_with) ** 2 * float(losses.cluster_rows.sum()):
        return 0.0
    rows = float(losses.cluster_rows.sum())
    variance = float(losses.cluster_squares.sum()) / rows - mean * mean
    dependence = max(1.0, row_error**2 * rows / variance) if variance > 0 else 1.0
    return _per_row(losses, metric) / rows * dependence * max(1.0, _correction(losses))


def _per_row(losses: PairedLosses, metric: str) -> float:
    """Return the variance of a row's difference per unit of gain."""
    return {"squared_error": 4 * losses.loss_with, "log_loss": 2.0}.get(metric, 0.0)


def _implied(losses: PairedLosses, metric: str) -> float:
    """Return the gain whose differences have the mean square that was measured."""
    per_row = _per_row(losses, metric)
    return float(losses.cluster_squares.sum() / losses.cluster_rows.sum()) / per_row if per_row else 0.0


def _correction(losses: PairedLosses) -> float:
    """Return how much more variance folds that share training rows have than their rows alone."""
    folds = len(losses.fold_rows)
    ratio = float(losses.fold_rows.mean() / losses.fold_trained.mean())
    shares = float(losses.cluster_rows.sum()) / float(losses.fold_rows.mean())
    return (1 / folds + ratio) * shares


def _row_error(losses: PairedLosses, mean: float) -> float:
    """Return the linearised standard error of a mean over clusters of different sizes."""
    residual = losses.cluster_differences - mean * losses.cluster_rows
    size = len(residual)
    return math.sqrt(float(residual @ residual) * size / max(size - 1, 1)) / float(losses.cluster_rows.sum())


def _procedure_error(losses: PairedLosses, row_error: float) -> tuple[float, float]:
    """Return the corrected resampled standard error and its degrees of freedom.

    One fold alone says nothing of other training sets: there the error of its rows is widened by the same ratio.
    """
    means = losses.fold_differences / losses.fold_rows
    folds = len(means)
    ratio = float(losses.fold_rows.mean() / losses.fold_trained.mean())
    if folds == 1:
        return row_error * math.sqrt(1 + ratio), math.inf
    return math.sqrt((1 / folds + ratio) * float(means.var(ddof=1))), folds - 1


@lru_cache(maxsize=8)
def _resamples(clusters: int) -> NDArray[Any]:
    """Return how often each cluster is in each draw: float64 ``(DRAWS, clusters)``, the same for every gain."""
    import numpy as np

    drawn = np.random.default_rng(_SEED).multinomial(clusters, np.full(clusters, 1 / clusters), size=DRAWS)
    return drawn.astype(np.float64)


def _studentised(losses: PairedLosses, mean: float) -> NDArray[Any]:
    """Return the draws of ``(mean of draw - mean) / error of draw``, sorted; zeros when nothing differs."""
    import numpy as np

    rows, sums = losses.cluster_rows, losses.cluster_differences
    parts = np.column_stack([rows, sums, sums * sums, sums * rows, rows * rows])
    of_rows, of_sums, squares, crossed, sizes = (_resamples(len(rows)) @ parts).T
    means = of_sums / of_rows
    variance = np.maximum(squares - 2 * means * crossed + means * means * sizes, 0)
    errors = np.sqrt(variance * len(rows) / max(len(rows) - 1, 1)) / of_rows
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = np.where(errors > 0, (means - mean) / errors, np.sign(means - mean) * 1e6)
    return np.sort(drawn)


def _tail(draws: NDArray[Any], distance: float, error: float) -> float:
    """Return the probability of a studentised distance or less; beyond the counted draws that of a normal scaled to meet them."""
    import numpy as np

    if error == 0:
        return 0.0 if distance < 0 else 1.0
    value = distance / error
    below = int(np.searchsorted(draws, value, side="right"))
    if below >= _COUNTED:
        return (below + 1) / (len(draws) + 1)
    anchor = float(draws[_COUNTED - 1])
    from scipy.special import ndtr, ndtri

    share = (_COUNTED + 1) / (len(draws) + 1)
    if anchor >= 0:
        return share
    return float(ndtr(value * float(ndtri(share)) / anchor))


def _student(degrees: float, distance: float, error: float) -> float:
    from scipy.special import ndtr, stdtr

    if error == 0:
        return 0.0 if distance < 0 else 1.0
    value = distance / error
    return float(ndtr(value) if math.isinf(degrees) else stdtr(degrees, value))
