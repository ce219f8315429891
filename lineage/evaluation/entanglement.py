"""Entanglement: changing anything changes everything. How much predictions move when one feature changes a little.

Both models are retrained on all features, one with the feature changed on every row. A new seed alone also moves predictions; that is
taken away (churn: Milani Fard, Cormier, Canini, Gupta, *Launch and iterate: reducing prediction churn*, 2016).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lineage.evaluation.folds import Fold, clusters_of, folds_of
from lineage.evaluation.intervals import FEWEST_CLUSTERS, gain_of
from lineage.evaluation.losses import TestedFold, paired
from lineage.evaluation.running import Evaluation
from lineage.evaluation.training import EstimatorTrainer, TrainingError

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUDGE = 0.1  # of a feature's standard deviation


@dataclass(frozen=True, slots=True)
class Churn:
    """How much the predictions of a model move with one feature.

    Attributes:
        feature: The column that was changed, by noise of a tenth of its standard deviation.
        moved: Mean absolute change of the predictions: of the probability, or in standard deviations of the label.
        seed: The same between two seeds, nothing changed.
        excess: The former minus the latter.
        lower: The excess is above this with 95 %.
        upper: It is below this with 95 %.
        decisions: Share of rows whose most probable class changed; 0 for numbers.
        problem: Why nothing can be said; empty when it can.
    """

    feature: str
    moved: float = 0.0
    seed: float = 0.0
    excess: float = 0.0
    lower: float = 0.0
    upper: float = 0.0
    decisions: float = 0.0
    problem: str = ""

    @property
    def entangled(self) -> bool | None:
        """Whether the feature moves predictions more than a seed does; None when that cannot be said."""
        if self.problem or self.lower <= 0 < self.upper:
            return None
        return self.lower > 0


def churn(
    asked: Evaluation, features: Sequence[str] = (), *, say: Callable[[str], None] = lambda _: None
) -> tuple[Churn, ...]:
    """Measure the churn of each feature on one fold.

    Args:
        asked: What to train: an estimator.
        features: Columns to change; empty is every feature.
        say: Gets a line per feature.
    """
    names = tuple(features) or asked.data.features
    trainer = asked.trainer
    if problem := asked.data.problem():
        return tuple(Churn(name, problem=problem) for name in names)
    if not isinstance(trainer, EstimatorTrainer):
        return tuple(
            Churn(name, problem="a train function cannot be given changed features; use an estimator") for name in names
        )
    fold = folds_of(asked.data, replace(asked.design, repeats=1))[-1]
    try:
        before, reseeded = trainer.predictions(fold, {}), trainer.predictions(_seed(fold), {})
        return tuple(_churn(asked, trainer, fold, (before, reseeded), name, say) for name in names)
    except TrainingError as error:
        return tuple(Churn(name, problem=str(error)) for name in names)


def _seed(fold: Fold) -> Fold:
    return replace(fold, seed=fold.seed + 7919)


def _churn(
    asked: Evaluation,
    trainer: EstimatorTrainer,
    fold: Fold,
    known: tuple[NDArray[Any], NDArray[Any]],
    name: str,
    say: Callable[[str], None],
) -> Churn:
    import numpy as np

    before, reseeded = known
    column = asked.data.matrix([name])[:, 0]
    noise = np.random.default_rng(asked.design.seed).normal(size=len(column)) * NUDGE * np.nanstd(column)
    after = trainer.predictions(fold, {name: column + noise})
    unit = 1.0 if asked.data.classes is not None else float(asked.data.target().std())
    moved, seed = _moved(before, after) / unit, _moved(before, reseeded) / unit
    losses = paired([TestedFold(fold.test, len(fold.train), seed, moved)], clusters_of(asked.data, asked.design))
    assert losses is not None
    found = gain_of(losses)
    if found.clusters < FEWEST_CLUSTERS:
        return Churn(name, problem=f"only {found.clusters} independent groups of rows")
    flipped = 0.0 if before.ndim == 1 else float((before.argmax(axis=1) != after.argmax(axis=1)).mean())
    say(f"{name}: predictions move by {moved.mean():.3g}, by {seed.mean():.3g} with another seed")
    return Churn(name, float(moved.mean()), float(seed.mean()), found.mean, found.lower(), found.upper(), flipped)


def _moved(before: NDArray[Any], after: NDArray[Any]) -> NDArray[Any]:
    """Return how far each prediction moved: of probabilities, half the sum over classes."""
    import numpy as np

    difference = np.abs(after - before)
    return np.asarray(difference if difference.ndim == 1 else difference.sum(axis=1) / 2)
