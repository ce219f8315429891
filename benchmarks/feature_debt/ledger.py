"""What every single run said, kept as soon as it is there: a long benchmark that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
EVALUATION = HERE.parents[1] / "lineage" / "evaluation"
FINDINGS = HERE.parents[1] / "lineage" / "findings"
VERDICTS = tuple(EVALUATION / f"{name}.py" for name in ("intervals", "losses", "verdicts"))


@dataclass(frozen=True)
class Ledger:
    """Results of seeded runs, one line each.

    Attributes:
        seed: Run `k` draws from a generator seeded by `(seed, k)`.
        folder: Where results are kept; None keeps none.
        code: A digest of the code that the results depend on: once it changes, earlier results do not count.
    """

    seed: int
    folder: Path | None = None
    code: str = ""

    def results(self, name: str, runs: int, one: Callable[[np.random.Generator], Any]) -> list[Any]:
        """Return what each run says, as JSON values; only those not known yet are run."""
        path = self._path(name)
        known = _read(path)
        for run in range(runs):
            if run not in known:
                known[run] = one(np.random.default_rng([self.seed, run]))
                _append(path, {"run": run, "said": known[run]})
        return [known[run] for run in range(runs)]

    def _path(self, name: str) -> Path | None:
        if self.folder is None:
            return None
        short = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
        return self.folder / f"{short}.seed{self.seed}.{self.code}.jsonl"


def code_of(sources: Iterable[Path]) -> str:
    """Return a digest of some source files, as they are now."""
    text = b"".join(path.read_bytes() for path in sorted(sources))
    return hashlib.sha256(text).hexdigest()[:8]


def _read(path: Path | None) -> dict[int, Any]:
    """Return the whole lines; one that a kill cut short does not count, and is taken away."""
    if path is None or not path.exists():
        return {}
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    return {entry["run"]: entry["said"] for entry in map(json.loads, whole.splitlines())}


def _append(path: Path | None, entry: dict[str, Any]) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(entry) + "\n")
