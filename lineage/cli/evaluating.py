"""Evaluation of features: retraining without each of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lineage.cli.terminal import NO, Answer, Format, Output, Project, note, open_project, print_answer

if TYPE_CHECKING:
    from lineage.evaluation.removal import Removal
    from lineage.evaluation.running import Evaluated, Evaluation
    from lineage.project import Lineage
    from lineage.state import State

app = typer.Typer()

Dataset = Annotated[
    str | None, typer.Option("--dataset", help="A saved dataset or a Parquet file; default: the manifest's.")
]
Label = Annotated[str | None, typer.Option("--label", help="Column of what is predicted; default: the manifest's.")]
Estimator = Annotated[str | None, typer.Option("--estimator", help="module:factory of a scikit-learn-like estimator.")]
Train = Annotated[
    str | None, typer.Option("--train", help="module:function (train, test, label=, seed=) -> predictions.")
]
Epsilon = Annotated[
    float | None,
    typer.Option("--epsilon", min=0, help="A gain below this is not worth it; default: the manifest's tag epsilon."),
]
Budget = Annotated[float, typer.Option("--budget", min=0, help="Minutes for all fits.")]
TimeColumn = Annotated[str, typer.Option("--time", help="Column of the time of a row: folds go forward in time.")]
Group = Annotated[str, typer.Option("--group", help="Column of what dependent rows share: no group on both sides.")]
Folds = Annotated[str, typer.Option("--folds", help="forward, grouped or plain; default: by what rows have.")]
LeaveOut = Annotated[list[str] | None, typer.Option("--leave-out", help="Columns that are no features.")]
Seed = Annotated[int, typer.Option("--seed", help="Of the splits and trainers.")]


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model with its version, e.g. delay_model@1.")],
    *,
    dataset: Dataset = None,
    label: Label = None,
    estimator: Estimator = None,
    train: Train = None,
    drop: Annotated[
        list[str] | None,
        typer.Option("--drop", help="A feature, a view, or a group a+b; default: every feature by itself."),
    ] = None,
    slices: Annotated[
        list[str] | None, typer.Option("--slices", help="Columns whose values are slices to decide on, too.")
    ] = None,
    churn: Annotated[
        bool, typer.Option("--churn", help="Instead: how much predictions move when each feature changes a little.")
    ] = False,
    epsilon: Epsilon = None,
    budget: Budget = 15.0,
    time_column: TimeColumn = "",
    group: Group = "",
    folds: Folds = "",
    leave_out: LeaveOut = None,
    seed: Seed = 0,
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """What each feature is worth to a model, by retraining without it.

    Both sides get the same folds, seeds and parameters. The records are kept in store/evaluations; a run that was killed goes on.
    """
    started = time.perf_counter()
    from lineage.evaluation.running import evaluate as run

    asked = _Asked(dataset, label, estimator, train, epsilon, budget, time_column, group, folds, leave_out, seed)
    lineage = open_project(project, None)
    evaluation = asked.evaluation(lineage, model, drop or (), slices or ())
    if churn:
        _print_churn(evaluation, output, started)
        return
    found = run(evaluation, now=lineage.now, say=note)
    for line in found.notes:
        note(f"note: {line}")
    print_answer("evaluate", Answer(evaluated_document(found), evaluated_text(found)), output, started)


@app.command()
def removable(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model with its version, e.g. delay_model@1.")],
    *,
    dataset: Dataset = None,
    label: Label = None,
    estimator: Estimator = None,
    train: Train = None,
    drop: Annotated[
        list[str] | None, typer.Option("--drop", help="Only these may go: features, views, groups a+b; default: all.")
    ] = None,
    epsilon: Epsilon = None,
    budget: Budget = 15.0,
    time_column: TimeColumn = "",
    group: Group = "",
    folds: Folds = "",
    leave_out: LeaveOut = None,
    seed: Seed = 0,
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """What a model can lose together: the list, the proof, the saving, who else reads it, and the plan.

    One part of the rows proposes a group, the other tests it once. The exit code is 1 when no group is proved.
    """
    started = time.perf_counter()
    from lineage.evaluation.removal import removable as run

    asked = _Asked(dataset, label, estimator, train, epsilon, budget, time_column, group, folds, leave_out, seed)
    lineage = open_project(project, None)
    found = run(asked.evaluation(lineage, model, drop or (), ()), now=lineage.now, say=note)
    payload, text = _removal(found, lineage.state(), asked.key)
    print_answer("removable", Answer(payload, text, no=not found.removable), output, started)
    if not found.removable:
        raise typer.Exit(NO)


def _print_churn(evaluation: Evaluation, output: Format, started: float) -> None:
    """Measure and write the churn of the features that were asked for."""
    from lineage.evaluation.entanglement import churn as run
    from lineage.printing import table

    found = run(evaluation, [column for drop in evaluation.drops for column in drop.columns], say=note)
    said = {True: "ENTANGLED", False: "CLEARED", None: "UNDETERMINED"}
    rows = [
        [
            c.feature,
            said[c.entangled],
            shown(c.moved),
            shown(c.seed),
            f"{shown(c.lower)} .. {shown(c.upper)}",
            c.problem,
        ]
        for c in sorted(found, key=lambda c: -c.excess)
    ]
    text = table(["CHANGED", "VERDICT", "MOVED", "BY A SEED", "EXCESS, 95 %", "PROBLEM"], rows)
    print_answer("evaluate", Answer({"churn": found}, text), output, started)


def _removal(found: Removal, state: State, model: str) -> tuple[dict[str, Any], str]:
    """Return a removal as JSON values and as text."""
    from lineage.evaluation.plan import removal_plan

    refs = sorted(found.record.dropped_refs) if found.record else []
    plan = removal_plan(state, model, refs)
    document = {
        "removable": found.removable,
        "group": refs,
        "record": found.record.id if found.record else None,
        "judgement": found.judgement.document() if found.judgement else None,
        "ties": found.ties,
        "kept_copies": list(found.kept_copies),
        "problem": found.problem,
        "fits": found.fits,
        "seconds": round(found.seconds, 3),
        "plan": plan,
    }
    if found.judgement is None or found.record is None:
        return document, f"nothing is proposed: {found.problem}"
    judged, epsilon = found.judgement, found.record.epsilon
    lines = [
        f"{'REMOVABLE' if found.removable else judged.worth}: {', '.join(refs)}",
        f"proof: {judged.reason}; gain {shown(judged.mean)}, below {shown(judged.upper)} at 95 %, epsilon {shown(epsilon)}",
        *(f"stays, a copy of what goes: {name}" for name in found.kept_copies),
        *(
            f"near-tie: {tie.instead} could go instead of {tie.taken} (difference {shown(tie.difference)})"
            for tie in found.ties
        ),
        *(f"also read by {', '.join(others)}: {ref}" for ref, others in plan.readers.items()),
        f"saved: {plan.bytes:,} bytes" + (f" and the views {', '.join(plan.views)}" if plan.views else ""),
        *(f"{place}. {step}" for place, step in enumerate(plan.steps, 1)),
        f"{found.fits} fits in {found.seconds:.0f} s",
    ]
    return document, "\n".join(lines)


@dataclass
class _Asked:
    """The options that both commands have; `key` is known once the evaluation is made."""

    dataset: str | None
    label: str | None
    estimator: str | None
    train: str | None
    epsilon: float | None
    minutes: float
    time: str
    group: str
    folds: str
    leave_out: list[str] | None
    seed: int
    key: str = ""

    def evaluation(self, lineage: Lineage, model: str, drops: Sequence[str], slices: Sequence[str]) -> Evaluation:
        """Return what is to be run."""
        from lineage.evaluation.asking import Question, evaluation_of

        question = Question(
            model=model,
            dataset=self.dataset or "",
            label=self.label or "",
            estimator=self.estimator or "",
            train=self.train or "",
            drops=tuple(drops),
            slices=tuple(slices),
            epsilon=self.epsilon,
            minutes=self.minutes,
            time=self.time,
            group=self.group,
            folds=self.folds,
            leave_out=tuple(self.leave_out or ()),
            seed=self.seed,
        )
        asked = evaluation_of(lineage.state().snapshot, lineage.project, question)
        self.key = asked.model
        return asked


def evaluated_document(found: Evaluated) -> dict[str, Any]:
    """Return what was found as JSON values; what is not known is null."""
    from lineage.evaluation.record import asdict_without_losses

    return {
        "epsilon": _number(found.epsilon),
        "fits": found.fits,
        "reused": found.reused,
        "seconds": round(found.seconds, 3),
        "notes": list(found.notes),
        "judgements": [judgement.document() for judgement in found.judgements],
        "records": [asdict_without_losses(record) for record in found.records],
    }


def _number(value: float) -> float | None:
    import math

    return value if math.isfinite(value) else None


def evaluated_text(found: Evaluated) -> str:
    """Return what was found as a person reads it, the most useful feature first."""
    from lineage.printing import table

    ordered = sorted(found.judgements, key=lambda j: (j.worth == "UNDETERMINED", -(_number(j.mean) or 0.0), j.name))
    rows = [[j.name, j.worth, shown(j.mean), f"{shown(j.lower)} .. {shown(j.upper)}", j.reason] for j in ordered]
    last = f"epsilon {shown(found.epsilon)}; {found.fits} fits in {found.seconds:.0f} s, {found.reused} from an earlier run"
    return f"{table(['WITHOUT', 'VERDICT', 'GAIN', '95 % BOUNDS', 'WHY'], rows)}\n{last}"


def shown(value: float) -> str:
    """Return a number to three places; a dash where it is not known."""
    return "-" if _number(value) is None else f"{value:.3g}"
