"""Fits, each kept by itself: a run that is killed, or out of its budget, goes on from them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lineage.evaluation.data import Data
from lineage.evaluation.folds import Design, Fold
from lineage.evaluation.losses import TestedFold
from lineage.evaluation.training import Trainer

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass
class Fits:
    """The fits of a model on folds of its rows, those of an earlier run reused.

    Attributes:
        data: The rows.
        trainer: What trains.
        design: How rows are split: it names the folds.
        folder: Where fits are kept.
        made: How many this run trained.
        reused: How many an earlier run had.
        seconds: How long this run's took.
    """

    data: Data
    trainer: Trainer
    design: Design
    folder: Path
    made: int = 0
    reused: int = 0
    seconds: float = 0.0
    _used: dict[Path, float] = field(default_factory=dict)

    @cached_property
    def parameters(self) -> Mapping[str, Any]:
        """What the trainer trains with."""
        return self.trainer.parameters

    @property
    def seconds_each(self) -> float:
        """How long a fit takes: in this run, or in the one that was interrupted; 0 before any."""
        if self.made:
            return self.seconds / self.made
        return max(self._used.values(), default=0.0)

    def pairs(self, columns: Sequence[str], folds: Sequence[Fold]) -> list[TestedFold]:
        """Return the losses of folds with everything, and without some columns."""
        everything = self.data.features
        without = tuple(name for name in everything if name not in columns)
        return [
            TestedFold(fold.test, len(fold.train), self.losses(everything, fold), self.losses(without, fold))
            for fold in folds
        ]

    def losses(self, features: Sequence[str], fold: Fold, *, take: str = "") -> NDArray[Any]:
        """Return the losses of a fit: those that were kept, or those of a training that is then kept.

        Raises:
            TrainingError: The trainer failed.
        """
        path = self.folder / f"{self._key(features, fold, take)}.npz"
        if path.is_file():
            losses, taken = _read(path)
            self.reused += path not in self._used
            self._used.setdefault(path, taken)
            return losses
        begun = time.perf_counter()
        losses = self.trainer.losses(features, fold)
        taken = time.perf_counter() - begun
        self.made += 1
        self.seconds += taken
        _write(path, losses, taken)
        self._used[path] = taken
        return losses

    def forget(self) -> None:
        """Delete the fits of this run: what they said is in records."""
        for path in self._used:
            path.unlink(missing_ok=True)

    def _key(self, features: Sequence[str], fold: Fold, take: str) -> str:
        """Hash all that decides the losses, in the order the trainer sees it."""
        design = self.design
        splits = (design.kind, design.folds, design.seed, fold.name, fold.seed, self.data.time, self.data.group)
        size = (len(fold.train), len(fold.test), self.data.table.num_rows)
        text = json.dumps(
            [self.data.digest, self.data.label, size, self.trainer.name, self.parameters, features, splits, take]
        )
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def _write(path: Path, losses: NDArray[Any], seconds: float) -> None:
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, losses=losses, seconds=np.float64(seconds))
    part.replace(path)


def _read(path: Path) -> tuple[NDArray[Any], float]:
    import numpy as np

    with np.load(path, allow_pickle=False) as kept:
        return kept["losses"], float(kept["seconds"])
