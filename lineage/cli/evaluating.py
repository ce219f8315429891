"""Evaluation of features: retraining without each of them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lineage.cli.terminal import NO, Answer, Format, Output, Project, note, open_project, print_answer

if TYPE_CHECKING:
    from lineage.evaluation.cost import TimeCost
    from lineage.evaluation.holdout import Holdout
    from lineage.evaluation.removal import Removal
    from lineage.evaluation.replaying import ReplayedCosts
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
    yield_cores()
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
    yield_cores()
    from lineage.evaluation.removal import removable as run

    asked = _Asked(dataset, label, estimator, train, epsilon, budget, time_column, group, folds, leave_out, seed)
    lineage = open_project(project, None)
    found = run(asked.evaluation(lineage, model, drop or (), ()), now=lineage.now, say=note)
    payload, text = _removal(found, lineage.state(), asked.key)
    print_answer("removable", Answer(payload, text, no=not found.removable), output, started)
    if not found.removable:
        raise typer.Exit(NO)


@app.command()
def holdout(
    acts: Annotated[
        str, typer.Argument(metavar="ACTS", help="The model whose decisions were left to chance for some.")
    ],
    reads: Annotated[
        str, typer.Argument(metavar="READS", help="The model that reads the outcomes; it may be the same.")
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Parquet or CSV: one row per unit.")],
    *,
    treated: Annotated[str, typer.Option("--treated", help="Column: whether the model decided for the unit.")],
    outcome: Annotated[list[str], typer.Option("--outcome", help="Column of what READS reads of it; may be repeated.")],
    randomised_by: Annotated[str, typer.Option("--randomised-by", help="Who or what chose the units at random.")],
    unit: Annotated[str, typer.Option("--unit", help="Column of what was randomised, if several rows share it.")] = "",
    share: Annotated[
        float | None, typer.Option("--share", min=0, max=1, help="Of the units that should be treated, to be checked.")
    ] = None,
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """Whether one model's decisions change what another reads, by a randomised holdout. `lineage debt` says it from then on.

    The exit code is 1 when an effect is shown. Without chance in the choice of the units the answer means nothing.
    """
    started = time.perf_counter()
    from lineage.evaluation.asking import model_name
    from lineage.evaluation.holdout import Holdout, effects_of, read_arms, save_holdout
    from lineage.evaluation.record import FOLDER

    lineage = open_project(project, None)
    snapshot = lineage.state().snapshot
    acting, reading = model_name(snapshot, acts), model_name(snapshot, reads)
    arms = read_arms(file, treated=treated, outcomes=outcome, unit=unit)
    effects = effects_of(arms, share=share)
    found = Holdout(acting, reading, randomised_by, str(file), arms.digest, lineage.now(), effects)
    save_holdout(lineage.project / FOLDER, found)
    shows = any(effect.affects for effect in effects)
    print_answer("holdout", Answer(found.document(), _holdout_text(found), no=shows), output, started)
    if shows:
        raise typer.Exit(NO)


def _holdout_text(found: Holdout) -> str:
    from lineage.printing import table

    rows = [
        [
            e.outcome,
            "UNDETERMINED" if e.problem else "AFFECTED" if e.affects else "NOT SHOWN",
            shown(e.difference),
            f"{shown(e.lower)} .. {shown(e.upper)}",
            shown(e.p),
            f"{e.treated:,} / {e.control:,}",
            e.problem,
        ]
        for e in found.effects
    ]
    head = ["OUTCOME", "VERDICT", "DIFFERENCE", "95 % BOUNDS", "P", "TREATED / OTHERS", "PROBLEM"]
    return f"{found.acts} acts, {found.reads} reads; arms made by {found.randomised_by}\n{table(head, rows)}"


@app.command()
def cost(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model with its version, e.g. delay_model@1.")],
    *,
    server: Annotated[
        str, typer.Option("--server", help="A running server, e.g. http://localhost:8080: reads are replayed.")
    ] = "",
    token: Annotated[
        str, typer.Option("--token", envvar="FEATURESTORE_TOKEN", help="Who reads; the reads count as usage.")
    ] = "",
    rounds: Annotated[int, typer.Option("--rounds", min=20, help="Pairs of reads per feature.")] = 200,
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """What each feature of a model costs, and each of its views as a whole: bytes, storing it again, reading it, who is asked.

    Measured by replay, with and without in pairs of random order. `lineage debt` shows it from then on.
    """
    started = time.perf_counter()
    from lineage.evaluation.asking import manifest_of
    from lineage.evaluation.record import FOLDER
    from lineage.evaluation.replaying import replay_costs, save_costs

    lineage = open_project(project, None)
    state = lineage.state()
    manifest = manifest_of(state.snapshot, model)
    found = replay_costs(
        state, manifest, now=lineage.now(), server=server.rstrip("/"), token=token, rounds=rounds, say=note
    )
    save_costs(lineage.project / FOLDER, found)
    for line in found.notes:
        note(f"note: {line}")
    print_answer("cost", Answer(*_cost_answer(found, state)), output, started)


def _cost_answer(found: ReplayedCosts, state: State) -> tuple[dict[str, Any], str]:
    from lineage.evaluation.cost import cost_of
    from lineage.printing import table

    costs = {name: cost_of(state, name) for name in found.costs if ":" in name}
    bytes_of = {c.feature: c.bytes for c in costs.values()}
    bytes_of |= {name.partition(":")[0]: c.view_bytes for name, c in costs.items()}
    rows = [
        [
            name if name in costs else f"{name}, whole",
            f"{bytes_of.get(name, 0):,}",
            took(one.stored),
            took(one.read),
            str(costs[name].readers) if name in costs else "",
            ", ".join(costs[name].owners) if name in costs else "",
        ]
        for name, one in sorted(found.costs.items())
    ]
    text = table(["COST OF", "BYTES", "STORED AGAIN, ms", "READ, ms", "READERS", "OWNERS UPSTREAM"], rows)
    return {**found.document(), "features": list(costs.values())}, text


def took(cost: TimeCost | None) -> str:
    """Return a cost in milliseconds with its bounds; a dash where it was not measured."""
    if cost is None:
        return "-"
    return f"{cost.median_us / 1000:.3g} ({cost.low_us / 1000:.3g} .. {cost.high_us / 1000:.3g})"


def yield_cores() -> None:
    """Let threads of a training that wait for each other sleep: where others use the cores, spinning takes several times as long.

    It must be called before what trains is imported; who has set one of these variables keeps it.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")  # a power of two of clock cycles; the least there is


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
