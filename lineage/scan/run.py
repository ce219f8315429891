"""One run of a scan: how far it may go, which calls are being followed, and what each function gave back."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from lineage.scan.values import Constant, Instance, Value

DEEPEST = 5  # calls inside calls
STEPS = 20_000  # statements and calls of one file, functions it calls included
UNROLLED = 256  # elements of a loop that are run one by one


class TooInvolvedError(Exception):
    """A file takes more steps than a scan gives it."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A call that is being followed.

    Attributes:
        given: Identity of what its arguments go back to.
        instance: The object whose method it is; None without.
    """

    file: str
    node: ast.AST
    routine: int
    given: frozenset[int]
    instance: Instance | None


@dataclass(slots=True)
class Flow:
    """What the function that is being run gave back so far."""

    returned: list[Value] = field(default_factory=list)
    yielded: list[Value] = field(default_factory=list)


class Run:
    """What the parts of the interpreter share while they run one file.

    Attributes:
        called: Functions that code calls, by their keys.
        cut: Functions with a call that was too deep to be followed.
    """

    def __init__(self) -> None:
        self.called: set[int] = set()
        self.cut: set[int] = set()
        self._stack: list[Frame] = []
        self._flows: list[Flow] = [Flow()]
        self._unrolled = 0
        self._steps = 0

    def _begin(self) -> None:
        """Start anew, whatever the file before left when it was given up."""
        self._steps, self._unrolled = 0, 0
        self._stack, self._flows = [], [Flow()]

    def _step(self) -> None:
        self._steps += 1
        if self._steps > STEPS:
            raise TooInvolvedError

    def _truth(self, value: Value) -> bool | None:
        """Inside a loop over known elements a condition that is known picks the elements."""
        if len(value) == 1 and isinstance(value[0], Constant) and isinstance(value[0].value, bool):
            return value[0].value
        return None
