"""From what a person asks to what is run: the manifest fills in the dataset, the label and the epsilon."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lineage.errors import InvalidQuestionError, NotFoundError
from lineage.evaluation.data import Data, read_data
from lineage.evaluation.folds import KINDS, design_for
from lineage.evaluation.record import FOLDER
from lineage.evaluation.running import Drop, Evaluation
from lineage.evaluation.training import EstimatorTrainer, FunctionTrainer, Trainer, imported
from lineage.registry import Consumer, Snapshot, feature_in, view_of, without_alias


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of an evaluation; empty texts are filled in from the manifest.

    Attributes:
        model: Key of the model.
        dataset: A saved dataset, or a Parquet file.
        label: Column of what is predicted.
        estimator: ``module:factory``; empty when `train` is given.
        train: ``module:function``.
        drops: Features, views, or groups ``a+b``; empty is every feature by itself.
        slices: Columns whose values are slices.
        epsilon: A gain below this is not worth its cost; None asks the manifest's tag ``epsilon``.
        minutes: For all fits.
        time: Column of the time.
        group: Column of what dependent rows share.
        folds: One of KINDS; empty is by what rows have.
        leave_out: Columns that are no features.
        seed: Of splits and trainers.
    """

    model: str
    dataset: str = ""
    label: str = ""
    estimator: str = ""
    train: str = ""
    drops: tuple[str, ...] = ()
    slices: tuple[str, ...] = ()
    epsilon: float | None = None
    minutes: float = 15.0
    time: str = ""
    group: str = ""
    folds: str = ""
    leave_out: tuple[str, ...] = ()
    seed: int = 0


def evaluation_of(snapshot: Snapshot, project: Path, question: Question) -> Evaluation:
    """Return what is to be run.

    Args:
        snapshot: The registry.
        project: The project folder; estimators are imported from there, too.
        question: What is asked.

    Raises:
        NotFoundError: There is no such model, dataset, column or feature.
        InvalidQuestionError: Something is missing, or contradicts.
    """
    manifest = manifest_of(snapshot, question.model)
    dataset, label = question.dataset or manifest.dataset or "", question.label or manifest.label
    if not dataset or not label:
        missing = "--dataset" if not dataset else "--label"
        raise InvalidQuestionError(f"The manifest of {manifest.key} names no {missing[2:]}.", repair=f"Give {missing}.")
    data = read_data(
        dataset,
        label=label,
        project=project,
        time=question.time,
        group=question.group,
        leave_out=(*question.leave_out, *(name for name in question.slices if name not in _refs(manifest))),
    )
    if question.folds not in ("", *KINDS):
        raise NotFoundError.of("kind of folds", question.folds, KINDS)
    epsilon, source = _epsilon(manifest, question)
    drops = tuple(drop_of(data, text) for text in question.drops) or tuple(
        Drop(name, (name,)) for name in data.features
    )
    return Evaluation(
        model=manifest.key,
        data=data,
        trainer=_trainer(question, data, project),
        drops=drops,
        design=design_for(data, question.folds, seed=question.seed),
        folder=project / FOLDER,
        epsilon=epsilon,
        epsilon_from=source,
        slices=question.slices,
        budget=question.minutes * 60,
    )


def manifest_of(snapshot: Snapshot, model: str) -> Consumer:
    """Return a manifest by its key, or by the name of a model with one version.

    Raises:
        NotFoundError: There is no such model, or it has several versions.
    """
    if model in snapshot.consumers:
        return snapshot.consumers[model]
    versions = [key for key in snapshot.consumers if key.partition("@")[0] == model]
    if len(versions) == 1:
        return snapshot.consumers[versions[0]]
    raise NotFoundError.of("model", model, versions or snapshot.consumers)


def model_name(snapshot: Snapshot, model: str) -> str:
    """Return the name of a model, whatever its version.

    Raises:
        NotFoundError: There is no such model.
    """
    names = {manifest.name for manifest in snapshot.consumers.values() if manifest.kind == "model"}
    name = model.partition("@")[0]
    if name not in names:
        raise NotFoundError.of("model", model, names)
    return name


def _refs(manifest: Consumer) -> frozenset[str]:
    return frozenset(ref.rpartition(":")[2] for ref in manifest.features)


def _epsilon(manifest: Consumer, question: Question) -> tuple[float | None, str]:
    if question.epsilon is not None:
        return question.epsilon, "the command line"
    if text := manifest.tags.get("epsilon"):
        try:
            return float(text), f"the manifest of {manifest.key}"
        except ValueError:
            raise InvalidQuestionError(
                f"The tag epsilon of {manifest.key} is {text!r}.", repair="Write a number."
            ) from None
    return None, "default"


def _trainer(question: Question, data: Data, project: Path) -> Trainer:
    if bool(question.estimator) == bool(question.train):
        raise InvalidQuestionError(
            "Say what trains.", repair="Give --estimator module:factory, or --train module:function."
        )
    if question.estimator:
        return EstimatorTrainer(question.estimator, imported(question.estimator, project), data)
    return FunctionTrainer(question.train, imported(question.train, project), data)


def drop_of(data: Data, text: str) -> Drop:
    """Return the columns that a text means: a column, a feature reference, a view, or several joined by ``+``.

    Raises:
        NotFoundError: It means none.
    """
    columns = tuple(dict.fromkeys(column for part in text.split("+") for column in _columns(data, part.strip())))
    return Drop(text, columns)


def _columns(data: Data, text: str) -> Iterable[str]:
    if text in data.features:
        return (text,)
    refs = {column: without_alias(ref) for column, ref in data.refs.items() if column in data.features}
    named = [
        c for c, ref in refs.items() if text in (ref, feature_in(ref), view_of(ref), view_of(ref).partition("@")[0])
    ]
    if not named:
        raise NotFoundError.of("feature", text, [*data.features, *refs.values()])
    return named
