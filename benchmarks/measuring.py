"""Claims: the same work done by us and by peers in turn, so that what the machine does meanwhile meets all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal, TypeVar

Unit = Literal["s", "MB", "req/s"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is done: rounds to measure, and whether everything is small because only the script is to be tried."""

    rounds: int
    small: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """What was measured, in rounds.

    Attributes:
        name: What was done.
        unit: Of the numbers; fewer seconds and megabytes are better, more requests a second are.
        runs: Contender -> one number for each round; the first one is ours, and the ratios are its.
        remarks: Contender -> what else is to be known of it.
    """

    name: str
    unit: Unit
    runs: Mapping[str, Sequence[float]]
    remarks: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not all(number > 0 for runs in self.runs.values() for number in runs):
            raise RuntimeError(f"{self.name}: something did nothing in its time: {self.runs}")

    def ratios(self, peer: str) -> list[float]:
        """Say round by round how many times better the first contender is than a peer; below 1 it is worse."""
        ours = self.runs[next(iter(self.runs))]
        pairs = zip(ours, self.runs[peer], strict=True)
        return [a / b if self.unit == "req/s" else b / a for a, b in pairs]

    def document(self) -> dict[str, Any]:
        """Return the neutral form."""
        contenders = [
            {"name": name, **spread(runs), "ratio": spread(self.ratios(name)), "remark": self.remarks.get(name, "")}
            for name, runs in self.runs.items()
        ]
        return {"name": self.name, "unit": self.unit, "contenders": contenders}


def spread(numbers: Sequence[float]) -> dict[str, Any]:
    """Return numbers with their median, least and greatest."""
    return {"median": median(numbers), "min": min(numbers), "max": max(numbers), "runs": list(numbers)}


def in_turn(contenders: Mapping[str, Callable[[], _T]], rounds: int) -> dict[str, list[_T]]:
    """Let every contender run once a round, in an order that turns around each time; return what each gave."""
    runs: dict[str, list[_T]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            runs[name].append(contenders[name]())
    return runs


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long some work takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
