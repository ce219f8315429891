"""One form for what every kind of model says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

SCHEMA_VERSION = 1


def artefact(kind: str, inputs: Sequence[str], used: Iterable[int]) -> dict[str, Any]:
    """Return what a model uses.

    Args:
        kind: Its format, such as ``lightgbm``.
        inputs: Names of its inputs, in order; empty when it has none.
        used: Places of the inputs that have weight.

    >>> artefact("lightgbm", ["temp", "humid"], {1})["used"]
    ['humid']
    """
    if not inputs:
        return opaque(kind, "its inputs have no names")
    places = sorted({place for place in used if 0 <= place < len(inputs)})
    return {
        "schema_version": SCHEMA_VERSION,
        "format": kind,
        "inputs": list(inputs),
        "used": [inputs[place] for place in places],
        "opaque": "",
    }


def opaque(kind: str, reason: str, inputs: Sequence[str] = ()) -> dict[str, Any]:
    """Return that it cannot be said what a model uses, and why."""
    return {"schema_version": SCHEMA_VERSION, "format": kind, "inputs": list(inputs), "used": [], "opaque": reason}
