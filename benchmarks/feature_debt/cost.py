"""What an evaluation costs: 30 features, 300,000 rows, boosted trees, and a budget of a quarter of an hour on two cores."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from lineage.evaluation.data import read_data
from lineage.evaluation.folds import design_for
from lineage.evaluation.running import Drop, Evaluation, evaluate
from lineage.evaluation.training import EstimatorTrainer

ROWS = 300_000
MINUTES = 15.0
CORES = 2
EPSILON = 0.0005
NEEDED, SHADOWS, IDLE = 10, 5, 15  # features that count, noisy echoes of some of these, and noise


def columns(rows: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return thirty features of which ten count, and a label of two classes."""
    needed = rng.normal(size=(NEEDED, rows))
    shadows = needed[:SHADOWS] + rng.normal(size=(SHADOWS, rows))
    score = 0.5 * needed.sum(axis=0) + 0.4 * needed[0] * needed[1] - 0.5
    named = {f"needed{k}": column for k, column in enumerate(needed)}
    named |= {f"shadow{k}": column for k, column in enumerate(shadows)}
    named |= {f"idle{k}": rng.normal(size=rows) for k in range(IDLE)}
    return named | {"y": rng.random(rows) < 1 / (1 + np.exp(-score))}


def measure(rows: int, seed: int, *, minutes: float = MINUTES) -> dict[str, Any]:
    """Evaluate every feature within a budget; return what it took, and what was said of whom."""
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(CORES):
        path = Path(folder) / "rows.parquet"
        pq.write_table(pa.table(columns(rows, np.random.default_rng(seed))), path)
        wall, used = time.perf_counter(), _cpu()
        data = read_data(str(path), label="y")
        trainer = EstimatorTrainer("bench:boosted", boosted, data)
        drops = tuple(Drop(name, (name,)) for name in data.features)
        asked = Evaluation(
            "m@1", data, trainer, drops, design_for(data), Path(folder), epsilon=EPSILON, budget=minutes * 60
        )
        found = evaluate(asked, now=lambda: 0, say=lambda line: print(line, file=sys.stderr, flush=True))
        wall, used = time.perf_counter() - wall, _cpu() - used
    useless = {j.name for j in found.judgements if j.worth in ("NEGLIGIBLE", "HARMFUL")}
    material = {j.name for j in found.judgements if j.worth == "MATERIAL"}
    return {
        "rows": rows,
        "features": len(data.features),
        "fits": found.fits,
        "wall minutes": wall / 60,
        "CPU minutes over two cores": used / 60 / CORES,
        "NEGLIGIBLE": len(useless),
        "MATERIAL": len(material),
        "UNDETERMINED": len(drops) - len(useless) - len(material),
        "wrong": sum(name.startswith("needed") for name in useless)
        + sum(not name.startswith("needed") for name in material),
    }


def boosted(random_state: int = 0) -> HistGradientBoostingClassifier:
    """Return the boosted trees that scikit-learn makes by itself: a hundred of 31 leaves."""
    return HistGradientBoostingClassifier(random_state=random_state, early_stopping=False)


def holds(found: dict[str, Any]) -> bool:
    """Say whether it stayed within its minutes: by the clock, or by what two cores spent where others use them, too."""
    minutes = min(found["wall minutes"], found["CPU minutes over two cores"])
    return minutes <= MINUTES and found["wrong"] == 0 and not found["UNDETERMINED"]


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
