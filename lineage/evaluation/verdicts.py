"""The four verdicts on a gain, over a whole report with its multiplicity.

A claim is only made when its opposite is rejected (one-sided equivalence). "Not significant" is UNDETERMINED, never NEGLIGIBLE.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from lineage.evaluation.intervals import FEWEST_CLUSTERS, Gain

ALPHA = 0.05


class Worth(StrEnum):
    """What can be said of a feature's gain."""

    HARMFUL = "HARMFUL"
    NEGLIGIBLE = "NEGLIGIBLE"
    MATERIAL = "MATERIAL"
    UNDETERMINED = "UNDETERMINED"


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of one feature or group.

    Attributes:
        name: Of the feature or group.
        gain: Over all rows; None when nothing could be measured.
        slices: Name of a declared slice -> the gain on its rows.
        screened: Whether one fold alone was looked at: then it may be MATERIAL, and never NEGLIGIBLE.
        problem: Why nothing can be said; empty when it can.
    """

    name: str
    gain: Gain | None
    slices: Mapping[str, Gain] = field(default_factory=dict)
    screened: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on one feature or group.

    Attributes:
        worth: The verdict, with the false discovery rate of the whole report held.
        reason: Why, in one sentence.
        upper: The gain is below this with 95 %; NaN when nothing was measured.
        lower: The gain is above this with 95 %.
        p_negligible: Of the claim that the gain is below epsilon, on all rows and every slice, on its own.
        p_material: Of the claim that it is above, on all rows or a slice, on its own.
        q_negligible: The former, by Benjamini and Yekutieli over the report.
        q_material: The latter, likewise.
        deletion: The former by Holm: at most 0.05 for a list of deletions.
        rows_to_decide: About how many rows would decide; infinite when none do, 0 when it is decided.
    """

    name: str
    worth: Worth
    reason: str
    mean: float
    lower: float
    upper: float
    p_negligible: float
    p_material: float
    q_negligible: float
    q_material: float
    deletion: float
    rows_to_decide: float

    def document(self) -> dict[str, Any]:
        """Return it as JSON values; what is not known is null."""
        return {name: _known(getattr(self, name)) for name in self.__slots__}


def _known(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)


def judge(measured: Sequence[Measured], epsilon: float, *, alpha: float = ALPHA) -> tuple[Judgement, ...]:
    """Judge a whole report.

    Args:
        measured: Every feature and group that was looked at, also those that were only screened: all of them are the family.
        epsilon: A gain below this is not worth its cost. It was declared before looking.
        alpha: False discovery rate of the report.
    """
    below = [_p_negligible(one, epsilon) for one in measured]
    above = [_p_material(one, epsilon) for one in measured]
    harmful = benjamini_yekutieli(
        [1.0 if _silent(one) or one.screened else _gain(one).p_below(0.0) for one in measured]
    )
    q_below, q_above, deletions = benjamini_yekutieli(below), benjamini_yekutieli(above), holm(below)
    return tuple(
        _judgement(
            one, epsilon, alpha, (below[k], above[k], q_below[k], q_above[k], deletions[k], harmful[k]), len(below)
        )
        for k, one in enumerate(measured)
    )


def benjamini_yekutieli(p: Sequence[float]) -> list[float]:
    """Return p values adjusted for the false discovery rate under any dependence (Benjamini, Yekutieli, 2001).

    >>> [round(q, 4) for q in benjamini_yekutieli([0.01, 0.04])]
    [0.03, 0.06]
    """
    size = len(p)
    constant = sum(1 / k for k in range(1, size + 1))
    order = sorted(range(size), key=lambda k: -p[k])
    adjusted, least = [1.0] * size, 1.0
    for rank, place in zip(range(size, 0, -1), order, strict=True):
        least = min(least, p[place] * size * constant / rank)
        adjusted[place] = least
    return adjusted


def holm(p: Sequence[float]) -> list[float]:
    """Return p values adjusted so that one wrong claim among all is improbable (Holm, 1979).

    >>> [round(q, 4) for q in holm([0.01, 0.04])]
    [0.02, 0.04]
    """
    size = len(p)
    adjusted, most = [1.0] * size, 0.0
    for rank, place in enumerate(sorted(range(size), key=lambda k: p[k])):
        most = max(most, min(1.0, p[place] * (size - rank)))
        adjusted[place] = most
    return adjusted


def _silent(one: Measured) -> bool:
    return bool(one.problem) or one.gain is None or one.gain.clusters < FEWEST_CLUSTERS


def _gain(one: Measured) -> Gain:
    assert one.gain is not None
    return one.gain


def _p_negligible(one: Measured, epsilon: float) -> float:
    """All rows and every declared slice must be below epsilon: the largest p value is that of the intersection-union test."""
    if _silent(one) or one.screened:
        return 1.0
    small = [gain for gain in one.slices.values() if gain.clusters < FEWEST_CLUSTERS]
    return 1.0 if small else max(gain.p_below(epsilon) for gain in (_gain(one), *one.slices.values()))


def _p_material(one: Measured, epsilon: float) -> float:
    """All rows, or any slice: Bonferroni over them."""
    if _silent(one):
        return 1.0
    gains = [_gain(one), *(gain for gain in one.slices.values() if gain.clusters >= FEWEST_CLUSTERS)]
    return min(1.0, len(gains) * min(gain.p_above(epsilon) for gain in gains))


def _judgement(
    one: Measured, epsilon: float, alpha: float, p: tuple[float, float, float, float, float, float], family: int
) -> Judgement:
    below, above, q_below, q_above, deletion, q_harmful = p
    if _silent(one):
        worth, reason, needed = Worth.UNDETERMINED, _silence(one), math.inf
    elif q_below <= alpha:
        worth = Worth.HARMFUL if q_harmful <= alpha else Worth.NEGLIGIBLE
        reason, needed = _said(one, epsilon), 0.0
    elif q_above <= alpha:
        worth, reason, needed = Worth.MATERIAL, _where(one, epsilon), 0.0
    else:
        worth = Worth.UNDETERMINED
        reason, needed = _undecided(one, epsilon, alpha / sum(1 / k for k in range(1, family + 1)))
    gain = None if _silent(one) else _gain(one)
    return Judgement(
        name=one.name,
        worth=worth,
        reason=reason,
        mean=gain.mean if gain else math.nan,
        lower=gain.lower() if gain else math.nan,
        upper=gain.upper() if gain else math.nan,
        p_negligible=below,
        p_material=above,
        q_negligible=q_below,
        q_material=q_above,
        deletion=deletion,
        rows_to_decide=needed,
    )


def _silence(one: Measured) -> str:
    if one.problem:
        return one.problem
    if one.gain is None:
        return "nothing was measured"
    return f"only {one.gain.clusters} independent groups of rows; at least {FEWEST_CLUSTERS} are needed"


def _said(one: Measured, epsilon: float) -> str:
    gain = _gain(one)
    if gain.spread == 0 and gain.error < 1e-9 * epsilon:
        return "no loss of any row changes without it"
    slices = f", on each of {len(one.slices)} slices too" if one.slices else ""
    return f"the gain is below {epsilon:.3g} at 95 %{slices}"


def _where(one: Measured, epsilon: float) -> str:
    gain = _gain(one)
    best = max(one.slices, key=lambda name: one.slices[name].lower(), default="")
    if best and gain.lower() <= epsilon < one.slices[best].lower():
        return f"it is needed where {best}: there the gain is {one.slices[best].mean:.3g}, at least {one.slices[best].lower():.3g}"
    return f"the gain is above {epsilon:.3g} at 95 %"


def _undecided(one: Measured, epsilon: float, alpha: float) -> tuple[str, float]:
    """Say what would decide: the hardest of all rows and the slices that are not below epsilon yet."""
    if one.screened:
        return "only screened: the budget was spent before it was confirmed", math.inf
    gains = {"all rows": _gain(one), **{f"rows where {name}": gain for name, gain in one.slices.items()}}
    if few := [name for name, gain in gains.items() if gain.clusters < FEWEST_CLUSTERS]:
        return f"{few[0]}: too few independent groups", math.inf
    where, gain = max(gains.items(), key=lambda item: item[1].p_below(epsilon))
    needed = gain.rows_to_decide(epsilon, alpha=alpha)
    if math.isinf(needed) or needed > 1e4 * max(gain.rows, 1):
        return f"the gain on {where} is about epsilon itself; more rows will hardly decide", math.inf
    smallest = gain.upper(alpha)
    return (
        f"{where}: about {needed:,.0f} rows would decide (there are {gain.rows:,}), or an epsilon above {smallest:.3g}",
        needed,
    )
