"""Evaluation records: a model with and without a feature, kept as the sums its verdict rests on.

A record is two files under ``store/evaluations``: JSON with what was done, and NPZ with the paired losses as sums. No row is kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lineage.errors import CorruptRegistryError
from lineage.evaluation.documents import save_document
from lineage.evaluation.losses import PairedLosses

FOLDER = Path("store") / "evaluations"
SCHEMA_VERSION = 1
ALL_ROWS = "all"


@dataclass(frozen=True, slots=True)
class Record:
    """One comparison of a model with itself, some features less.

    Attributes:
        model: Key of the model, e.g. ``delay_model@1``.
        dropped: What the variant was trained without: columns of the dataset, sorted.
        features: What the model itself was trained on, sorted.
        refs: Column -> feature reference, where known.
        dataset: Name or path of the rows.
        digest: Hash of the rows.
        dataset_saved_at: Microseconds since 1970 UTC; 0 when unknown.
        label: What is predicted.
        metric: ``log_loss`` or ``squared_error``.
        trainer: Import path of the estimator or function; for an imported record where it came from.
        parameters: What it was trained with.
        design: Kind, folds, repeats and seed of the splits.
        environment: Versions of what trained it.
        created_at: Microseconds since 1970 UTC.
        epsilon: A gain below this is not worth its cost; declared before looking.
        epsilon_from: Who declared it.
        whole_gain: What the whole model gains over a constant, on one fold; 0 when unknown.
        stage: ``confirmed``, ``screened`` (one fold alone), ``group`` (confirmed on rows that did not choose the group) or ``imported``.
        noise: Standard error that another seed alone makes.
        problem: Why nothing can be said; empty when there are losses.
        losses: Name of a slice, `ALL_ROWS` first -> its paired losses; empty with a problem.
        fits: How many trainings it took.
        seconds: How long these took.
    """

    model: str
    dropped: tuple[str, ...]
    features: tuple[str, ...]
    dataset: str
    digest: str
    label: str
    metric: str
    trainer: str
    created_at: int
    refs: Mapping[str, str] = field(default_factory=dict)
    dataset_saved_at: int = 0
    parameters: Mapping[str, Any] = field(default_factory=dict)
    design: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    epsilon: float = 0.0
    epsilon_from: str = ""
    whole_gain: float = 0.0
    stage: str = "confirmed"
    noise: float = 0.0
    problem: str = ""
    losses: Mapping[str, PairedLosses] = field(default_factory=dict)
    fits: int = 0
    seconds: float = 0.0

    @property
    def id(self) -> str:
        """A stable identity: a hash of what was compared, on what, how and when."""
        parts = (self.model, self.dropped, self.features, self.digest, self.trainer, self.stage, self.created_at)
        return hashlib.sha256(json.dumps(parts, default=list).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """What was dropped, for people."""
        return " + ".join(self.dropped)

    @property
    def dropped_refs(self) -> frozenset[str]:
        """What was dropped as feature references; a column without one stands for itself."""
        return frozenset(self.refs.get(column, column) for column in self.dropped)

    @property
    def feature_refs(self) -> frozenset[str]:
        """What the model was trained on as feature references."""
        return frozenset(self.refs.get(column, column) for column in self.features)


def save_record(folder: Path, record: Record) -> Path:
    """Write a record; the JSON comes last, so that one that is there is whole.

    Args:
        folder: ``store/evaluations`` of the project.
        record: What to keep.
    """
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record.id}.json"
    arrays: dict[str, Any] = {}
    for name, losses in record.losses.items():
        arrays.update(losses.arrays(name))
    if arrays:
        part = path.with_suffix(".npz.part")
        with part.open("wb") as file:
            np.savez_compressed(file, **arrays)
        part.replace(path.with_suffix(".npz"))
    document = {"schema_version": SCHEMA_VERSION, "slices": list(record.losses), **asdict_without_losses(record)}
    return save_document(path, document)


def asdict_without_losses(record: Record) -> dict[str, Any]:
    """Return what was done as JSON values, without the sums."""
    from dataclasses import replace

    document = asdict(replace(record, losses={}))
    del document["losses"]
    return {"id": record.id, **document}


def read_records(folder: Path, *, model: str = "", until: int | None = None) -> tuple[Record, ...]:
    """Read every record, the oldest first.

    Args:
        folder: ``store/evaluations`` of the project; none when there is no such folder.
        model: Only of this model; empty is all.
        until: Only those made by then, in microseconds since 1970 UTC; None is all.

    Raises:
        CorruptRegistryError: A record is damaged or of a newer schema.
    """
    found = (record for record in map(_read, sorted(folder.glob("*.json"))) if not model or record.model == model)
    return tuple(
        sorted((r for r in found if until is None or r.created_at <= until), key=lambda r: (r.created_at, r.id))
    )


def _read(path: Path) -> Record:
    try:
        document = json.loads(path.read_text("utf-8"))
        if document.pop("schema_version") > SCHEMA_VERSION:
            raise CorruptRegistryError(
                f"The record '{path}' is of a newer version.", path=path, repair="Upgrade lineage."
            )
        slices = document.pop("slices")
        del document["id"]
        document["dropped"], document["features"] = tuple(document["dropped"]), tuple(document["features"])
        return Record(**document, losses=dict(_losses(path.with_suffix(".npz"), slices)))
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CorruptRegistryError(f"The record '{path}' is damaged: {error}.", path=path) from error


def _losses(path: Path, slices: list[str]) -> Iterator[tuple[str, PairedLosses]]:
    if not slices:
        return
    import numpy as np

    with np.load(path, allow_pickle=False) as arrays:
        kept = {name: arrays[name] for name in arrays.files}
    for name in slices:
        yield name, PairedLosses.of_arrays(kept, name)


def newest(records: tuple[Record, ...]) -> dict[tuple[str, tuple[str, ...]], Record]:
    """Return the newest record of each model and what it was trained without, the newest last; a confirmed one before a screened one."""
    found: dict[tuple[str, tuple[str, ...]], Record] = {}
    for record in sorted(records, key=lambda r: (r.created_at, r.stage != "screened")):
        found.pop((record.model, record.dropped), None)  # a key that is there would keep its old place
        found[record.model, record.dropped] = record
    return found
