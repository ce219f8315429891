"""The smallest part of a few features that suffices, exactly: what must stay hits every group that cannot go.

A group that cannot go cannot go together with more, so the features that stay must contain one of each such group. The smallest set that
hits all groups known so far is tried; where the rest cannot go either, it holds a new group, cut down as far as possible. What passes
first is a smallest answer (the implicit hitting set method: Moreno-Centeno, Karp, Operations Research 61, 2013).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations

MOST = 10  # features: their sets are looked through one by one
MOST_ANSWERS = 8  # sets of one size that are shown as near-ties


@dataclass
class Search:
    """The search for the largest set that can go.

    Attributes:
        names: The features.
        cost: Says what it costs that a set goes.
        limit: A set can go when its cost is at most this.
        groups: Sets that cannot go, as small as is known: of two copies, one must stay.
        answers: The largest sets that can go, with their costs.
    """

    names: Sequence[str]
    cost: Callable[[frozenset[str]], float]
    limit: float
    groups: list[frozenset[str]] = field(default_factory=list)
    answers: dict[frozenset[str], float] = field(default_factory=dict)

    def run(self, *, more: Callable[[], bool] = lambda: True) -> None:
        """Fill `answers`; it is empty where nothing can go.

        Args:
            more: Says whether there is time for another trial.
        """
        for name in self.names:
            if more() and not self._can_go(frozenset({name})):
                self.groups.append(frozenset({name}))
        tried: set[frozenset[str]] = set()
        while more() and len(self.answers) < MOST_ANSWERS:
            gone = next((gone for gone in self._largest() if gone not in tried), None)
            if not gone or (self.answers and len(gone) < len(next(iter(self.answers)))):
                return
            tried.add(gone)
            if self._can_go(gone):
                self.answers[gone] = self.cost(gone)
            else:
                self.groups.append(self._cut_down(gone))

    def _largest(self) -> Iterator[frozenset[str]]:
        """Yield the sets that hold no group that cannot go, the largest first."""
        every = frozenset(self.names)
        for stay in range(len(self.names) + 1):
            for kept in combinations(self.names, stay):
                gone = every - set(kept)
                if not any(group <= gone for group in self.groups):
                    yield gone

    def _can_go(self, gone: frozenset[str]) -> bool:
        return any(gone <= answer for answer in self.answers) or self.cost(gone) <= self.limit

    def _cut_down(self, group: frozenset[str]) -> frozenset[str]:
        """Return a part of a group that still cannot go, and of which every smaller one can."""
        for name in sorted(group):
            smaller = group - {name}
            if smaller and not self._can_go(smaller):
                group = smaller
        return group
