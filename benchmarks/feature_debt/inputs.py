"""Debts among inputs with known truth: removable groups, what suffices of a bundle, legacy pairs, blocks of correlated columns."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ledger import EVALUATION, Ledger, code_of
from sklearn.linear_model import Ridge
from sklearn.metrics import adjusted_rand_score

from lineage.evaluation.data import Data, read_data
from lineage.evaluation.dependence import dependence_of
from lineage.evaluation.folds import design_for
from lineage.evaluation.removal import removable
from lineage.evaluation.running import Drop, Evaluation
from lineage.evaluation.succession import succession
from lineage.evaluation.training import EstimatorTrainer

DECIDES = ("removal", "smallest", "dependence", "succession", "intervals", "losses", "folds", "fits", "training")
EPSILON = 0.02
DAY = 86_400_000_000


def rows(folder: Path, **columns: object) -> Data:
    """Write columns as a dataset and read it as an evaluation does."""
    path = folder / "rows.parquet"
    pq.write_table(pa.table(columns), path)
    return read_data(str(path), label="y", time="at" if "at" in columns else "")


def removal(rng: np.random.Generator, *, bundle: bool = False) -> tuple[bool, bool, bool]:
    """Return of one model: whether a group was called removable, whether its joint gain is below epsilon, and whether both copies went.

    Ten features: three needed, two small ones that only count together, two pairs of copies (one needed, one not), one idle.
    """
    size = 6000
    needed, small, copied, idle = (
        rng.normal(size=(3, size)),
        rng.normal(size=(2, size)),
        rng.normal(size=size),
        rng.normal(size=size),
    )
    names = {f"needed{k}": column for k, column in enumerate(needed)} | {
        f"small{k}": column for k, column in enumerate(small)
    }
    names |= {
        "copy_a": copied,
        "copy_b": 3 * copied - 1,
        "idle_a": idle,
        "idle_b": idle * 2,
        "noise": rng.normal(size=size),
    }
    weight = {"needed0": 0.6, "needed1": 0.4, "needed2": 0.3, "small0": 0.11, "small1": 0.11}
    target = sum(weight[name] * names[name] for name in weight) + 0.35 * copied + rng.normal(size=size)
    with tempfile.TemporaryDirectory() as folder:
        data = rows(Path(folder), **names, y=target)
        candidates = [name for name in data.features if not bundle or name.startswith(("small", "copy", "noise"))]
        drops = tuple(Drop(name, (name,)) for name in candidates)
        trainer = EstimatorTrainer("bench:Ridge", lambda: Ridge(alpha=1e-3), data)
        asked = Evaluation("m@1", data, trainer, drops, design_for(data), Path(folder), epsilon=EPSILON)
        found = removable(asked, now=lambda: 0)
    gone = {drop.name for drop in found.proposed}
    joint = sum(weight.get(name, 0) ** 2 for name in gone) + (0.35**2 if {"copy_a", "copy_b"} <= gone else 0)
    both = {"copy_a", "copy_b"} <= gone or {"idle_a", "idle_b"} <= gone
    return found.removable, bool(joint < EPSILON), found.removable and both


LEGACY_PLANTS = ("rescaled", "noisy", "monotone")
LEGACY_DECOYS = ("trend", "partly missing", "related", "unrelated", "seasonal")


def legacy(kind: str, rng: np.random.Generator) -> bool:
    """Return whether a pair of columns is taken for an older and a newer of the same, missing nowhere."""
    size = 3000
    newer = rng.normal(size=size)
    day = np.arange(size) // 20
    trend = day / 5
    season = 8 * np.sin(day / 150 * 2 * np.pi)
    older = {
        "rescaled": 1.8 * newer + 32,
        "noisy": newer + np.sqrt(0.02) * rng.normal(size=size),
        "monotone": np.sinh(newer / 2) + 0.02 * rng.normal(size=size),
        "trend": trend + rng.normal(size=size),
        "partly missing": newer * 2,
        "related": newer + np.sqrt(0.15) * rng.normal(size=size),
        "unrelated": rng.normal(size=size),
        "seasonal": season + rng.normal(size=size),
    }[kind]
    if kind in ("trend", "seasonal"):
        newer = (trend if kind == "trend" else season) + rng.normal(size=size)
    if kind == "partly missing":
        newer = np.where(rng.random(size) < 0.02, np.nan, newer)
    with tempfile.TemporaryDirectory() as folder:
        at = pa.array(day * DAY, pa.timestamp("us", "UTC"))
        columns = {"older": older, "newer": pa.array(newer, from_pandas=True), "y": rng.normal(size=size)}
        found = succession(rows(Path(folder), **columns, at=at), "older", "newer")
    return bool(found.redundant and found.complete)


def blocks(rng: np.random.Generator) -> float:
    """Return the adjusted Rand index of the groups that are found among blocks of correlated columns, categories among them."""
    size = 3000
    truth, columns = [], {}
    for block, members in enumerate((1, 1, 2, 3, 4)):
        shared = rng.normal(size=size)
        for member in range(members):
            column = np.sqrt(0.9) * shared + np.sqrt(0.1) * rng.normal(size=size)
            columns[f"b{block}_{member}"] = np.exp(column) if member == 1 else column
            truth.append(block)
    letters = rng.integers(0, 6, size)
    columns |= {
        "carrier": np.array(list("ABCDEF"))[letters],
        "name": np.array([f"airline {k}" for k in range(6)])[letters],
    }
    truth += [9, 9]
    with tempfile.TemporaryDirectory() as folder:
        found = dependence_of(rows(Path(folder), **columns, y=rng.normal(size=size)))
    label = {name: place for place, group in enumerate(found.clusters) for name in group}
    return float(adjusted_rand_score(truth, [label.get(name, 100 + place) for place, name in enumerate(columns)]))


def ledger(seed: int, folder: Path | None) -> Ledger:
    """Return where results on inputs are kept."""
    return Ledger(seed, folder, code_of((*(EVALUATION / f"{name}.py" for name in DECIDES), Path(__file__))))


def measure(runs: int, kept: Ledger) -> dict[str, float]:
    """Return the scores of all of them over some runs."""
    gone = kept.results("removable", runs, removal)
    part = kept.results("bundle", runs, partial(removal, bundle=True))
    kinds = [
        (kind, flagged)
        for kind in LEGACY_PLANTS + LEGACY_DECOYS
        for flagged in kept.results(f"legacy, {kind}", runs, partial(legacy, kind))
    ]
    told = [kind for kind, flagged in kinds if flagged]
    right = sum(kind in LEGACY_PLANTS for kind in told)
    indices = kept.results("clusters", max(2, runs // 4), blocks)
    return {
        "runs": runs,
        "removable: share of groups called so": np.mean([called for called, _, _ in gone]).item(),
        "removable: joint gain really below epsilon": np.mean([below for called, below, _ in gone if called]).item(),
        "removable: both of two copies": float(sum(both for _, _, both in (*gone, *part))),
        "what is left of a bundle suffices on fresh rows": np.mean(
            [below for called, below, _ in part if called]
        ).item(),
        "legacy: precision": right / max(len(told), 1),
        "legacy: recall": right / sum(kind in LEGACY_PLANTS for kind, _ in kinds),
        "correlated: least adjusted Rand index": min(indices),
        "correlated: mean adjusted Rand index": float(np.mean(indices)),
    }


LIMITS = {
    "removable: joint gain really below epsilon": 0.95,
    "what is left of a bundle suffices on fresh rows": 0.95,
    "legacy: precision": 0.95,
    "legacy: recall": 0.9,
    "correlated: mean adjusted Rand index": 0.9,
}


def holds(found: dict[str, float]) -> bool:
    """Say whether every score is within its limit."""
    return all(found[name] >= limit for name, limit in LIMITS.items()) and found["removable: both of two copies"] == 0
