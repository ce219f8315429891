"""An evaluation: fits on one plan of folds, screened when the budget asks for it, kept one by one so that a killed run goes on."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lineage.evaluation.data import Data
from lineage.evaluation.fits import Fits
from lineage.evaluation.folds import Design, Fold, clusters_of, folds_of
from lineage.evaluation.intervals import gain_of
from lineage.evaluation.losses import PairedLosses, TestedFold, paired
from lineage.evaluation.record import ALL_ROWS, Record, save_record
from lineage.evaluation.training import Trainer, TrainingError
from lineage.evaluation.verdicts import Judgement, Measured, judge

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEFAULT_SHARE = 0.01  # of what the model gains over a constant, where nobody declares an epsilon
MOST_REPEATS = 5
CLEARLY = 0.001  # a screened gain above epsilon with this probability of error is not confirmed
_SAME = 1e-6  # two runs of one seed may differ by rounding, as sums of threads do
_PACKAGES = ("numpy", "scipy", "scikit-learn", "pyarrow")


@dataclass(frozen=True, slots=True)
class Drop:
    """One feature, or a group of them, to train without."""

    name: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation is asked to do.

    Attributes:
        model: Key of the model.
        data: The rows.
        trainer: What trains.
        drops: What to train without.
        design: How rows are split; the repeats follow from the budget.
        folder: ``store/evaluations`` of the project.
        epsilon: A gain below this is not worth its cost; None is `DEFAULT_SHARE` of the gain of the whole model over a constant.
        epsilon_from: Who declared it.
        slices: Columns whose values are slices: a feature is only negligible when it is on each of them.
        budget: Seconds for all fits.
        stage: What the records are called when they are confirmed.
    """

    model: str
    data: Data
    trainer: Trainer
    drops: tuple[Drop, ...]
    design: Design
    folder: Path
    epsilon: float | None = None
    epsilon_from: str = "default"
    slices: tuple[str, ...] = ()
    budget: float = 900.0
    stage: str = "confirmed"


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What an evaluation found.

    Attributes:
        records: One per feature or group, in the order asked for.
        judgements: Their verdicts as one report.
        epsilon: What was judged against; NaN when it could not be set.
        fits: Trainings of this run.
        reused: Trainings that an earlier, interrupted run had done.
        seconds: How long this run's trainings took.
        notes: What is worth knowing beside.
    """

    records: tuple[Record, ...]
    judgements: tuple[Judgement, ...]
    epsilon: float
    fits: int
    reused: int
    seconds: float
    notes: tuple[str, ...]


def evaluate(asked: Evaluation, *, now: Callable[[], int], say: Callable[[str], None] = lambda _: None) -> Evaluated:
    """Retrain a model without each of some features, and judge what each brings.

    Args:
        asked: What to do.
        now: Says now, in microseconds since 1970 UTC.
        say: Gets a line on the plan, and one whenever a feature is done.
    """
    run = _Run(asked, now(), say)
    if problem := asked.data.problem() or run.slice_problem():
        return run.nothing(problem)
    try:
        run.probe()
        run.measure()
    except TrainingError as error:
        return run.nothing(str(error))
    return run.result()


def measured_of(record: Record) -> Measured:
    """Return a record as a verdict needs it."""
    gains = {name: gain_of(losses, metric=record.metric, floor=record.noise) for name, losses in record.losses.items()}
    return Measured(
        name=record.name,
        gain=gains.pop(ALL_ROWS, None),
        slices=gains,
        screened=record.stage == "screened",
        problem=record.problem,
    )


def judge_records(records: Sequence[Record], epsilon: float) -> tuple[Judgement, ...]:
    """Judge records as one report: all of one model on one dataset."""
    return judge([measured_of(record) for record in records], epsilon)


@dataclass
class Preparation:
    """What comes before any feature is looked at: whether the trainer can be trusted, and the epsilon.

    Attributes:
        asked: What to do.
        started_at: Microseconds since 1970 UTC.
        say: Gets lines for a person.
        noise: By how much another seed alone changes the loss.
        epsilon: What is judged against; NaN before `probe`.
        whole_gain: What the whole model gains over a constant; 0 before `probe`.
        notes: What is worth knowing beside.
    """

    asked: Evaluation
    started_at: int
    say: Callable[[str], None]
    noise: float = 0.0
    epsilon: float = float("nan")
    whole_gain: float = 0.0
    notes: list[str] = field(default_factory=list)

    @cached_property
    def fits(self) -> Fits:
        """The fits of this run."""
        return Fits(self.asked.data, self.asked.trainer, self.asked.design, self.asked.folder / "fits")

    def probe(self) -> None:
        """Train the whole model on the last fold: how long it takes, whether it is deterministic, what another seed makes."""
        folds = folds_of(self.asked.data, replace(self.asked.design, repeats=1))
        if not folds:
            raise TrainingError(
                f"no row is later than another by '{self.asked.data.time}', so there is no split forward in time"
            )
        fold = folds[-1]
        full = self.fits.losses(self.asked.data.features, fold)
        again = self.fits.losses(self.asked.data.features, fold, take="again")
        if abs(float((again - full).mean())) > _SAME * max(abs(float(full.mean())), 1e-12):
            raise TrainingError(
                f"the trainer {self.asked.trainer.name} is not deterministic: with one seed its loss was {float(full.mean()):.6g} "
                f"and {float(again.mean()):.6g}; let the factory take random_state or seed"
            )
        other = self.fits.losses(self.asked.data.features, replace(fold, seed=fold.seed + 7919))
        self.noise = abs(float((other - full).mean()))
        self._set_epsilon(full, fold)

    def _set_epsilon(self, full: NDArray[Any], fold: Fold) -> None:
        """Take the declared epsilon, or a share of what the whole model gains over a constant: both before any feature is looked at."""
        gained = _constant_loss(self.asked.data, fold) - float(full.mean())
        self.whole_gain = gained
        if gained <= 0:
            self.notes.append(f"the model is no better than a constant (its loss is {float(full.mean()):.4g})")
        if self.asked.epsilon is not None:
            self.epsilon = self.asked.epsilon
            return
        if gained <= 0:
            raise TrainingError(
                "the model is no better than a constant, so no epsilon follows from it; give one with --epsilon"
            )
        self.epsilon = DEFAULT_SHARE * gained
        self.say(
            f"epsilon is {self.epsilon:.3g}: {DEFAULT_SHARE:.0%} of what the model gains over a constant, since none is declared"
        )

    def empty(self, drop: Drop) -> Record:
        """Return the record of what is trained without something, its losses still to come."""
        data = self.asked.data
        return Record(
            model=self.asked.model,
            dropped=tuple(sorted(drop.columns)),
            features=tuple(sorted(data.features)),
            refs=dict(data.refs),
            dataset=data.name,
            digest=data.digest,
            dataset_saved_at=data.saved_at,
            label=data.label,
            metric=self.asked.trainer.metric,
            trainer=self.asked.trainer.name,
            parameters=self._parameters(),
            design=asdict(self.asked.design),
            environment=_environment(),
            created_at=self.started_at,
            epsilon=0.0 if self.epsilon != self.epsilon else self.epsilon,
            epsilon_from=self.asked.epsilon_from,
            whole_gain=self.whole_gain,
            stage=self.asked.stage,
        )

    def _parameters(self) -> Mapping[str, Any]:
        try:
            return self.fits.parameters
        except TrainingError:
            return {}


@dataclass
class _Run(Preparation):
    """One evaluation under way."""

    unfinished: bool = False
    records: dict[str, Record] = field(default_factory=dict)

    def measure(self) -> None:
        """Screen where the budget does not allow to confirm everything, then confirm, the least useful first."""
        drops: Sequence[Drop] = self.asked.drops
        one = self.fits.seconds_each
        self._say_plan(one, self.asked.design.folds)
        if (1 + len(drops)) * self.asked.design.folds * one > self.asked.budget - self.fits.seconds:
            drops = self._screened(drops)
            one = self.fits.seconds_each
        design = self._affordable(one, 1 + len(drops))
        folds = folds_of(self.asked.data, design)
        for place, drop in enumerate(drops):
            if self.fits.seconds + one * len(folds) > self.asked.budget and self.fits.seconds > 0:
                self._leave(drops[place:])
                break
            self._record(drop, self.fits.pairs(drop.columns, folds), design)
            eta = one * len(folds) * (len(drops) - place - 1)
            self.say(
                f"{place + 1}/{len(drops)} {drop.name} ({self.fits.made} fits, {self.fits.seconds:.0f} s, about {eta:.0f} s to go)"
            )

    def _leave(self, drops: Sequence[Drop]) -> None:
        names = ", ".join(drop.name for drop in drops)
        self.unfinished = True
        self.notes.append(
            f"the budget of {self.asked.budget / 60:.3g} minutes is spent; not confirmed: {names}; run it again to go on"
        )

    def _affordable(self, one: float, sides: int) -> Design:
        """Return the design that the budget allows. Time alone decides, before the first confirmation: no result does."""
        design = self.asked.design
        left = self.asked.budget - self.fits.seconds
        if design.kind == "forward":
            fits = sides * design.folds * one <= left
            return design if fits else replace(design, folds=min(design.folds, Design.folds))
        if one <= 0:
            return design
        return replace(design, repeats=max(design.repeats, min(MOST_REPEATS, int(left / (one * sides * design.folds)))))

    def _say_plan(self, one: float, folds: int) -> None:
        count = len(self.asked.drops)
        full = (1 + count) * folds
        self.say(
            f"{count} to train without, {folds} {self.asked.design.kind} folds: {full} fits of about {one:.2g} s, {full * one:.0f} s; "
            f"the budget is {self.asked.budget:.0f} s"
        )

    def _screened(self, drops: Sequence[Drop]) -> list[Drop]:
        """Train without each on one fold; return those not clearly material, the smallest gain first."""
        design = replace(self.asked.design, repeats=1)
        fold = folds_of(self.asked.data, design)[-1:]
        found: list[tuple[float, Drop]] = []
        for drop in drops:
            if self.fits.seconds > self.asked.budget:
                self._leave(drops[len(self.records) :])
                break
            record = self._record(drop, self.fits.pairs(drop.columns, fold), design, stage="screened")
            measured = measured_of(record)
            sure = [
                gain
                for gain in (measured.gain, *measured.slices.values())
                if gain and gain.p_above(self.epsilon) < CLEARLY
            ]
            if measured.gain and not sure:
                found.append((measured.gain.mean, drop))
        kept = [drop for _, drop in sorted(found, key=lambda pair: pair[0])]
        self.say(
            f"screened {len(self.records)} on one fold: {len(self.records) - len(kept)} clearly worth more than epsilon"
        )
        return kept

    def _record(self, drop: Drop, folds: Sequence[TestedFold], design: Design, *, stage: str = "") -> Record:
        repeats = design.repeats if len(folds) > 1 else 1
        losses = {name: found for name, among in self._slices.items() if (found := self._paired(folds, repeats, among))}
        record = replace(
            self.empty(drop),
            design=asdict(design),
            stage=stage or self.asked.stage,
            noise=self.noise / len(folds) ** 0.5,
            losses=losses,
            fits=len(folds) * 2,
            seconds=self.fits.seconds,
        )
        self.records[drop.name] = record
        save_record(self.asked.folder, record)
        return record

    def _paired(self, folds: Sequence[TestedFold], repeats: int, among: NDArray[Any] | None) -> PairedLosses | None:
        return paired(folds, self._clusters, repeats=repeats, among=among)

    @cached_property
    def _clusters(self) -> NDArray[Any]:
        return clusters_of(self.asked.data, self.asked.design)

    @cached_property
    def _slices(self) -> dict[str, NDArray[Any] | None]:
        found: dict[str, NDArray[Any] | None] = {ALL_ROWS: None}
        for column in self.asked.slices:
            values = self.asked.data.table[column]
            for value in sorted(values.drop_null().unique().to_pylist()):
                import numpy as np
                import pyarrow.compute as pc

                found[f"{column}={value}"] = np.asarray(
                    pc.fill_null(pc.equal(values, value), False).to_numpy(zero_copy_only=False)
                )
        return found

    def slice_problem(self) -> str:
        """Return why the slices cannot be made; empty when they can."""
        for column in self.asked.slices:
            if column not in self.asked.data.table.column_names:
                return f"there is no column '{column}' to slice by"
            if (count := len(self.asked.data.table[column].unique())) > 50:
                return f"'{column}' has {count} values; a slice is declared by a column of at most 50"
        return ""

    def nothing(self, problem: str) -> Evaluated:
        """Return that nothing can be said, with the reason on every record."""
        for drop in self.asked.drops:
            self.records[drop.name] = replace(self.empty(drop), problem=problem)
            save_record(self.asked.folder, self.records[drop.name])
        self.notes.append(problem)
        return self.result()

    def result(self) -> Evaluated:
        """Judge all that was measured as one report; what was not reached is UNDETERMINED."""
        for drop in self.asked.drops:
            if drop.name not in self.records:
                self.records[drop.name] = replace(
                    self.empty(drop), problem="the budget was spent before it was looked at"
                )
        records = tuple(self.records[drop.name] for drop in self.asked.drops)
        if not self.unfinished:
            self.fits.forget()
        if self.noise > self.epsilon:
            self.notes.append(
                f"another seed alone changes the loss by {self.noise:.3g}, more than epsilon: more folds or repeats are needed"
            )
        if self.asked.data.unlabelled:
            self.notes.append(f"{self.asked.data.unlabelled} rows without a label were left out")
        judgements = judge_records(records, self.epsilon)
        return Evaluated(
            records, judgements, self.epsilon, self.fits.made, self.fits.reused, self.fits.seconds, tuple(self.notes)
        )


def _constant_loss(data: Data, fold: Fold) -> float:
    """Return the loss of what would be said without any feature: the frequencies of the classes, or the mean."""
    import numpy as np

    target = data.target()
    train, test = target[fold.train], target[fold.test]
    if data.classes is None:
        return float(((test - train.mean()) ** 2).mean())
    share = np.bincount(train, minlength=len(data.classes)) / len(train)
    return float(-np.log(np.clip(share[test], 1e-7, 1)).mean())


def _environment() -> dict[str, str]:
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
