"""Trainers: an estimator or a function by its import path, trained on some features and asked about other rows."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lineage.errors import InvalidQuestionError
from lineage.evaluation.data import Data
from lineage.evaluation.folds import Fold

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SMALLEST = 1e-7  # a probability is never taken as less, so that one row cannot decide
_ROUNDING = 1e-3  # probabilities may miss their bounds and their sum by so much
# What a trainer of somebody else may raise; anything else is a fault of ours or an interrupt.
TRAINER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    NameError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


class TrainingError(Exception):
    """A trainer failed, or gave no usable prediction; the message says how."""


class Trainer(Protocol):
    """Trains on a fold without some features, and says its loss on each tested row."""

    @property
    def name(self) -> str:
        """The import path."""

    @property
    def metric(self) -> str:
        """``log_loss`` or ``squared_error``."""

    @property
    def parameters(self) -> dict[str, Any]:
        """What it trains with, as JSON values: another value is another experiment."""

    def losses(self, features: Sequence[str], fold: Fold) -> NDArray[Any]:
        """Return float64 ``(tested rows,)``.

        Raises:
            TrainingError: It failed.
        """


def imported(path: str, folder: Path | None = None) -> Callable[..., Any]:
    """Return what an import path ``module:name`` names; the module may lie in the folder.

    Raises:
        InvalidQuestionError: There is no such module or name.
    """
    module, _, name = path.partition(":")
    if not (module and name):
        raise InvalidQuestionError(f"'{path}' is no import path.", repair="Write module:name.")
    place = str(folder or Path.cwd())
    if place not in sys.path:
        sys.path.insert(0, place)
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InvalidQuestionError(f"Cannot import '{path}': {error}.") from error
    if not callable(found):
        raise InvalidQuestionError(f"'{path}' cannot be called.", repair="Name a class or a function.")
    return found  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class EstimatorTrainer:
    """A scikit-learn-like estimator.

    Attributes:
        name: The import path of the factory, for the record.
        factory: Makes an untrained estimator; it gets ``random_state`` or ``seed`` where it takes one.
        data: What to train on.
    """

    name: str
    factory: Callable[..., Any]
    data: Data
    _kept: dict[str, Any] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """``log_loss`` for classes, ``squared_error`` for numbers."""
        return "squared_error" if self.data.classes is None else "log_loss"

    @property
    def parameters(self) -> dict[str, Any]:
        """The estimator's class and parameters, and a hash of the source of what makes it.

        Raises:
            TrainingError: The factory fails.
        """
        try:
            model = self.factory(**_seeded(self.factory, 0))
            found = model.get_params() if hasattr(model, "get_params") else {}
        except TRAINER_ERRORS as error:
            raise TrainingError(
                f"the trainer {self.name} failed: {type(error).__name__}: {_first_line(error)}"
            ) from error
        named = {
            name: value if isinstance(value, int | float | str | None) else repr(value) for name, value in found.items()
        }
        return {"class": type(model).__qualname__, **_source_of(self.factory), **named}

    def losses(self, features: Sequence[str], fold: Fold) -> NDArray[Any]:
        """Return the loss of each tested row after training on some features."""
        answer, classes = self._answer(self._values(features), fold)
        return _losses(answer, self._target()[fold.test], len(self.data.classes or ()), classes, self.name)

    def predictions(self, fold: Fold, changed: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the predictions of the whole model for tested rows, some features changed on both sides.

        Args:
            fold: The split, with its seed.
            changed: Feature -> float64 ``(all rows,)`` in its place.

        Returns:
            float64 ``(tested rows,)`` for numbers, ``(tested rows, classes)`` for classes.

        Raises:
            TrainingError: The trainer failed.
        """
        values = self._values(self.data.features)
        for name, column in changed.items():
            values[:, self.data.features.index(name)] = column
        return self._answer(values, fold)[0]

    def _answer(self, values: NDArray[Any], fold: Fold) -> tuple[NDArray[Any], Any]:
        import numpy as np

        try:
            model = self.factory(**_seeded(self.factory, fold.seed))
            model.fit(values[fold.train], self._target()[fold.train])
            asked = model.predict if self.data.classes is None else model.predict_proba
            answer = np.asarray(asked(values[fold.test]), np.float64)
        except TRAINER_ERRORS as error:
            raise TrainingError(
                f"the trainer {self.name} failed: {type(error).__name__}: {_first_line(error)}"
            ) from error
        return answer, getattr(model, "classes_", None)

    def _target(self) -> NDArray[Any]:
        import numpy as np

        if "" not in self._kept:
            self._kept[""] = self.data.target()
        return np.asarray(self._kept[""])

    def _values(self, features: Sequence[str]) -> NDArray[Any]:
        import numpy as np

        for name in features:
            if name not in self._kept:
                self._kept[name] = self.data.matrix([name])[:, 0]
        if not features:
            return np.zeros((self.data.table.num_rows, 1))  # nothing is left: a constant stands for it
        return np.column_stack([self._kept[name] for name in features])


@dataclass(frozen=True, slots=True)
class FunctionTrainer:
    """A function ``(train, test, label=..., seed=...) -> predictions`` over Arrow tables.

    Attributes:
        name: Its import path.
        function: Gets the rows to train on with the label and those to test without; returns a value per tested row, or
            probabilities ``(rows,)`` of the second class or ``(rows, classes)``.
        data: What to train on.
    """

    name: str
    function: Callable[..., Any]
    data: Data

    @property
    def metric(self) -> str:
        """``log_loss`` for classes, ``squared_error`` for numbers."""
        return "squared_error" if self.data.classes is None else "log_loss"

    @property
    def parameters(self) -> dict[str, Any]:
        """A hash of the function's source."""
        return _source_of(self.function)

    def losses(self, features: Sequence[str], fold: Fold) -> NDArray[Any]:
        """Return the loss of each tested row after training on some features."""
        beside = [name for name in (self.data.time, self.data.group) if name]
        train = self.data.table.select([*features, *beside, self.data.label]).take(fold.train)
        test = self.data.table.select([*features, *beside]).take(fold.test)
        try:
            answer = self.function(train, test, label=self.data.label, seed=fold.seed)
        except TRAINER_ERRORS as error:
            raise TrainingError(
                f"the trainer {self.name} failed: {type(error).__name__}: {_first_line(error)}"
            ) from error
        return _losses(answer, self.data.target()[fold.test], len(self.data.classes or ()), None, self.name)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]


def _seeded(factory: Callable[..., Any], seed: int) -> dict[str, int]:
    try:
        known = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return {}
    return next(({name: seed} for name in ("random_state", "seed") if name in known), {})


def _source_of(made: Callable[..., Any]) -> dict[str, str]:
    """Return a hash of the source of a function or class: edited, it is another experiment; nothing where it has no source."""
    try:
        source = inspect.getsource(made)
    except (OSError, TypeError):
        return {}
    return {"source_sha256": hashlib.sha256(source.encode()).hexdigest()}


def _losses(answer: Any, target: NDArray[Any], classes: int, order: Any, name: str) -> NDArray[Any]:
    """Return squared errors, or log losses with probabilities kept away from 0 and 1."""
    import numpy as np

    rows = np.arange(len(target))
    predicted = _predicted(answer, len(target), name)
    if not classes:
        if predicted.size != len(target):
            raise TrainingError(f"the trainer {name} gave {predicted.size // len(target)} numbers for a row, not one")
        return np.asarray((target - predicted.reshape(len(target))) ** 2, np.float64)
    known = np.arange(classes) if order is None else np.asarray(order, np.int64)
    full = np.zeros((len(target), classes))
    full[:, known] = _probabilities(predicted, len(known), name)
    return np.asarray(-np.log(np.clip(full[rows, target], _SMALLEST, 1.0)), np.float64)


def _predicted(answer: Any, rows: int, name: str) -> NDArray[Any]:
    """Return finite float64 ``(rows,)`` or ``(rows, more)``."""
    import numpy as np

    try:
        predicted = np.asarray(answer, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise TrainingError(f"the trainer {name} predicted what is no number: {_first_line(error)}") from error
    if predicted.ndim not in (1, 2) or len(predicted) != rows:
        raise TrainingError(f"the trainer {name} gave predictions of shape {predicted.shape} for {rows} rows")
    if not np.isfinite(predicted).all():
        raise TrainingError(
            f"the trainer {name} predicted NaN or infinity for {int((~np.isfinite(predicted)).sum())} numbers"
        )
    return predicted


def _probabilities(predicted: NDArray[Any], classes: int, name: str) -> NDArray[Any]:
    """Return float64 ``(rows, classes)``, whose rows sum to 1; ``(rows,)`` are those of the second of two classes."""
    import numpy as np

    if predicted.ndim == 1 and classes == 2:
        predicted = np.column_stack([1 - predicted, predicted])
    if predicted.ndim == 1 or predicted.shape[1] != classes:
        raise TrainingError(
            f"the trainer {name} gave predictions of shape {predicted.shape}, no probabilities of {classes} classes"
        )
    if predicted.min(initial=0) < -_ROUNDING or predicted.max(initial=0) > 1 + _ROUNDING:
        raise TrainingError(
            f"the trainer {name} gave {predicted.min():g} to {predicted.max():g}; probabilities are from 0 to 1"
        )
    if (np.abs(predicted.sum(axis=1) - 1) > _ROUNDING).any():
        raise TrainingError(f"the trainer {name} gave probabilities that do not sum to 1")
    return predicted
