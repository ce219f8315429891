"""What can go together: a group is proposed on one part of the rows, and one test on the other part decides.

That each of some features brings little says nothing of all of them: of two copies either may go, and never both. The group is found by
backward elimination on the first part; the second part had no say in it, so one test at the plain level is honest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from lineage.evaluation.data import Data, as_numbers
from lineage.evaluation.fits import Fits
from lineage.evaluation.folds import Design, Fold, clusters_of, forward_parts
from lineage.evaluation.intervals import Gain, gain_of
from lineage.evaluation.losses import paired
from lineage.evaluation.record import ALL_ROWS, Record, save_record
from lineage.evaluation.running import Drop, Evaluation, Preparation, judge_records
from lineage.evaluation.smallest import MOST, Search
from lineage.evaluation.training import TrainingError
from lineage.evaluation.verdicts import Judgement

if TYPE_CHECKING:
    from numpy.typing import NDArray

TESTED = 0.5  # of the rows are kept from the search
_SAME = 0.999_999  # columns of a larger rank correlation are copies


@dataclass(frozen=True, slots=True)
class Tie:
    """Features of which the search could as well have taken the others.

    Attributes:
        taken: One, or several joined by `` + ``.
        instead: What could go in their place.
        difference: How much more that would cost.
    """

    taken: str
    instead: str
    difference: float


@dataclass(frozen=True, slots=True)
class Removal:
    """What can go together, and the proof.

    Attributes:
        proposed: The group that the first part proposed, in the order it was found.
        record: The test of the whole group on rows that did not propose it; None when nothing was proposed.
        judgement: Its verdict: the group is removable when it is NEGLIGIBLE or HARMFUL.
        ties: Near-ties on the way: other groups are about as good.
        kept_copies: Copies of proposed features that therefore stay.
        problem: Why nothing was proposed; empty when something was.
        fits: Trainings of this run.
        seconds: How long they took.
    """

    proposed: tuple[Drop, ...]
    record: Record | None
    judgement: Judgement | None
    ties: tuple[Tie, ...]
    kept_copies: tuple[str, ...]
    problem: str
    fits: int
    seconds: float

    @property
    def removable(self) -> bool:
        """Whether the group passed its test."""
        return self.judgement is not None and self.judgement.worth in ("NEGLIGIBLE", "HARMFUL")


def removable(asked: Evaluation, *, now: Callable[[], int], say: Callable[[str], None] = lambda _: None) -> Removal:
    """Find the features that a model can lose together, and prove it.

    Args:
        asked: What to train; `drops` are the candidates.
        now: Says now, in microseconds since 1970 UTC.
        say: Gets a line per step.
    """
    prepared = Preparation(asked, now(), say)
    if problem := asked.data.problem():
        return _nothing(problem, prepared.fits)
    try:
        prepared.probe()
        search, tested = _parts(asked.data, asked.design)
        found, ties, copies = _propose(asked, prepared, search, say)
        if not found:
            return _nothing("no feature could go on the rows of the search", prepared.fits)
        say(f"proposed on {len(search.train) + len(search.test)} rows: {', '.join(drop.name for drop in found)}")
        record = _tested(asked, prepared, found, tested)
    except TrainingError as error:
        return _nothing(str(error), prepared.fits)
    save_record(asked.folder, record)
    judgement = judge_records([record], prepared.epsilon)[0]
    fits = prepared.fits
    fits.forget()
    return Removal(tuple(found), record, judgement, tuple(ties), tuple(copies), "", fits.made, fits.seconds)


def _nothing(problem: str, fits: Fits) -> Removal:
    return Removal((), None, None, (), (), problem, fits.made, fits.seconds)


def _parts(data: Data, design: Design) -> tuple[Fold, list[Fold]]:
    """Return the one split of the search, and the folds of the test: tested rows of the latter are in no row of the former."""
    import numpy as np

    rows = data.table.num_rows
    if design.kind == "forward":
        times = as_numbers(data.table[data.time])
        order, cuts = forward_parts(times, 1 - TESTED, design.folds)
        search = order[: cuts[0]]
        middle = forward_parts(times[search], 0.7, 1)[1][0] if len(search) else 0
        if not middle:
            raise TrainingError(f"the first half of the rows has too few instants of '{data.time}' to search in")
        split = Fold("search", design.seed, search[:middle], search[middle:])
        return split, [
            Fold(f"group.{k}", design.seed, order[:start], order[start:stop])
            for k, (start, stop) in enumerate(pairwise(cuts))
        ]
    units = clusters_of(data, design) if data.group else np.arange(rows)
    random = np.random.default_rng([design.seed, 1])
    part = (random.permutation(int(units.max()) + 1) % (2 * design.folds))[units]
    first = np.flatnonzero(part < design.folds)
    inner = part[first] < design.folds * 0.7
    folds = [
        Fold(f"group.{k}", design.seed, np.flatnonzero(part != k), np.flatnonzero(part == k))
        for k in range(design.folds, 2 * design.folds)
    ]
    return Fold("search", design.seed, first[inner], first[~inner]), folds


def _propose(
    asked: Evaluation, prepared: Preparation, split: Fold, say: Callable[[str], None]
) -> tuple[list[Drop], list[Tie], list[str]]:
    """Return the largest group that can go on the rows of the search, its near-ties, and the copies that therefore stay."""
    copies = copies_of(asked.data, [drop for drop in asked.drops if len(drop.columns) == 1])
    if len(asked.drops) > MOST:
        return _backwards(asked, prepared, split, copies, say)
    return _exactly(asked, prepared, split, copies, say)


def _exactly(
    asked: Evaluation,
    prepared: Preparation,
    split: Fold,
    copies: Mapping[str, frozenset[str]],
    say: Callable[[str], None],
) -> tuple[list[Drop], list[Tie], list[str]]:
    """Search all groups: one of which every larger one costs too much, and never both of two copies."""
    clusters = clusters_of(asked.data, asked.design)
    named = {drop.name: drop for drop in asked.drops}

    @cache
    def cost(gone: frozenset[str]) -> float:
        gain = _gain(prepared, [named[name] for name in sorted(gone)], split, clusters)
        return gain.mean + gain.row_error

    pairs = [frozenset({name, twin}) for name, twins in copies.items() for twin in twins if name < twin]
    search = Search(list(named), cost, prepared.epsilon, pairs)
    search.run(more=lambda: prepared.fits.seconds < asked.budget)
    if not search.answers:
        return [], [], []
    best = min(search.answers, key=lambda gone: (search.answers[gone], sorted(gone)))
    say(f"{len(best)} of {len(named)} could go: {', '.join(sorted(best))} ({prepared.fits.made} fits)")
    others = sorted((of, gone) for gone, of in search.answers.items() if gone != best)
    ties = [Tie(_names(best - gone), _names(gone - best), of - search.answers[best]) for of, gone in others]
    kept = {twin for name in best for twin in copies.get(name, ())}
    return [drop for drop in asked.drops if drop.name in best], ties, sorted(kept)


def _names(features: frozenset[str]) -> str:
    return " + ".join(sorted(features))


def _backwards(
    asked: Evaluation,
    prepared: Preparation,
    split: Fold,
    copies: Mapping[str, frozenset[str]],
    say: Callable[[str], None],
) -> tuple[list[Drop], list[Tie], list[str]]:
    """Take away, again and again, what costs least, as long as the group stays well below epsilon."""
    clusters = clusters_of(asked.data, asked.design)
    gone: list[Drop] = []
    ties: list[Tie] = []
    waiting = list(asked.drops)
    kept: list[str] = []
    while waiting and prepared.fits.seconds < asked.budget:
        tried: list[tuple[float, Gain, Drop]] = []
        for drop in waiting:
            gain = _gain(prepared, [*gone, drop], split, clusters)
            tried.append((gain.mean, gain, drop))
        tried.sort(key=lambda entry: entry[0])
        mean, gain, best = tried[0]
        if mean + gain.row_error > prepared.epsilon:
            break
        if len(tried) > 1 and tried[1][0] - mean < prepared.epsilon / 20:
            ties.append(Tie(best.name, tried[1][2].name, tried[1][0] - mean))
        gone.append(best)
        twins = copies.get(best.name, frozenset())
        kept += [drop.name for drop in waiting if drop.name in twins]
        hopeless = {drop.name for mean, gain, drop in tried if mean - 3 * gain.row_error > prepared.epsilon}
        waiting = [d for d in waiting if d is not best and d.name not in twins and d.name not in hopeless]
        say(f"{len(gone)} could go: {best.name} ({prepared.fits.made} fits, {prepared.fits.seconds:.0f} s)")
    return gone, ties, kept


def _gain(prepared: Preparation, drops: Sequence[Drop], split: Fold, clusters: NDArray[Any]) -> Gain:
    columns = [name for drop in drops for name in drop.columns]
    losses = paired(prepared.fits.pairs(columns, [split]), clusters)
    assert losses is not None
    return gain_of(losses, metric=prepared.asked.trainer.metric)


def _tested(asked: Evaluation, prepared: Preparation, drops: Sequence[Drop], folds: Sequence[Fold]) -> Record:
    """Test the whole group on the rows that did not propose it."""
    columns = tuple(sorted({name for drop in drops for name in drop.columns}))
    losses = paired(prepared.fits.pairs(columns, folds), clusters_of(asked.data, asked.design))
    assert losses is not None
    return replace(
        prepared.empty(Drop("group", columns)),
        stage="group",
        design={**asdict(asked.design), "tested_share": TESTED},
        noise=prepared.noise / len(folds) ** 0.5,
        losses={ALL_ROWS: losses},
        fits=prepared.fits.made,
        seconds=prepared.fits.seconds,
    )


def copies_of(data: Data, drops: Sequence[Drop]) -> dict[str, frozenset[str]]:
    """Return the copies of each feature: equal but for a monotone change of scale, nulls in the same rows."""
    import numpy as np
    from scipy.stats import rankdata

    found: dict[str, frozenset[str]] = {}
    if not drops:
        return found
    values = data.matrix([drop.columns[0] for drop in drops])
    null = np.isnan(values)
    ranks = np.column_stack(
        [rankdata(np.where(hole, -np.inf, column)) for column, hole in zip(values.T, null.T, strict=True)]
    )
    spread = ranks - ranks.mean(axis=0)
    length = np.sqrt((spread**2).sum(axis=0))
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.abs(spread.T @ spread / np.outer(length, length))
    for k, drop in enumerate(drops):
        same = [
            d.name
            for j, d in enumerate(drops)
            if j != k and correlation[k, j] > _SAME and (null[:, j] == null[:, k]).all()
        ]
        found[drop.name] = frozenset(same)
    return found
