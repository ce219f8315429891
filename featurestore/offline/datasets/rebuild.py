"""Making a dataset again, from the frozen plan and the listed files alone, and saying where it differs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.errors import CorruptionError, FailedPreconditionError
from featurestore.offline.datasets.digest import TableDigest, differs, shown, type_name
from featurestore.offline.datasets.environment import library_versions
from featurestore.offline.datasets.manifest import ErasedRows, Manifest
from featurestore.offline.datasets.saved import Dataset
from featurestore.offline.engines import ENGINES, engine_of
from featurestore.offline.erased_files import erased_error
from featurestore.offline.point_in_time import Knowledge
from featurestore.offline.table import OfflineTable
from featurestore.offline.training_stream import TrainingStream
from featurestore.planning import ReadPlan
from featurestore.refs import ViewRef
from featurestore.rows import RowSchema


@dataclass(frozen=True, slots=True)
class ColumnDifference:
    """A column of a rebuild that is not what was saved.

    Attributes:
        column: Its name.
        rows: In how many rows it differs.
        first: The first of them, from 0.
        saved: The saved value there.
        rebuilt: The rebuilt value there.
    """

    column: str
    rows: int
    first: int
    saved: Any
    rebuilt: Any

    def __add__(self, later: ColumnDifference) -> ColumnDifference:
        """Return the difference of both stretches of rows together."""
        return replace(self, rows=self.rows + later.rows)

    def __str__(self) -> str:
        return f"'{self.column}' in {self.rows} rows, first in row {self.first}: {self.saved!r} was saved, {self.rebuilt!r} rebuilt"


@dataclass(frozen=True, slots=True)
class Rebuild:
    """What came of making a dataset again.

    Attributes:
        name: The dataset.
        rows: Its rows.
        columns: Column -> digest of its rebuilt values.
        differences: The columns that differ from what was saved; none where the dataset is reproduced.
        engine: The engine that joined this time.
        libraries: Library -> (version at the save, version now), where they differ.
        erased: What erasures took out before: it is proven of what remains alone.
    """

    name: str
    rows: int
    columns: dict[str, str]
    differences: tuple[ColumnDifference, ...]
    engine: str
    libraries: dict[str, tuple[str, str]]
    erased: tuple[ErasedRows, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether every column is what was saved."""
        return not self.differences

    def __str__(self) -> str:
        return (
            "; ".join(map(str, self.differences)) if self.differences else f"all {len(self.columns)} columns are equal"
        )


def rebuild_dataset(dataset: Dataset, *, engine: str | None = None) -> Rebuild:
    """Make a dataset again and compare it with its file, column by column; see `Dataset.rebuild`."""
    manifest = dataset.manifest
    plan = manifest.read_plan()
    dataset.check()
    name = engine or (manifest.engine if manifest.engine in ENGINES else next(iter(ENGINES)))
    stream = TrainingStream(
        plan,
        dataset.spine_batches(),
        timestamp=manifest.timestamp,
        tables=_pinned_tables(dataset, plan),
        engine=engine_of(name),
        knowledge=_knowledge(manifest),
        position=manifest.position,
    )
    columns, differences = _compared(dataset, stream)
    now = library_versions()
    return Rebuild(
        name=manifest.name,
        rows=manifest.rows,
        columns=columns,
        differences=tuple(differences[name] for name in manifest.columns if name in differences),
        engine=name,
        libraries={
            library: (then, now.get(library, "none"))
            for library, then in manifest.libraries.items()
            if then != now.get(library, "none")
        },
        erased=manifest.erased,
    )


def _pinned_tables(dataset: Dataset, plan: ReadPlan) -> Callable[[ViewRef], OfflineTable]:
    """Return view version -> a table of the listed files and no others; every file is looked for first."""
    sources = {source.version_name: source for source in dataset.manifest.sources}
    records = {f"{view.ref.view}@v{view.ref.version}": view.record for view in plan.views}
    tables = {}
    for view, record in records.items():
        if view not in sources:
            raise CorruptionError(
                f"The manifest of dataset '{dataset.name}' lists no files of {view}.", place=str(dataset.directory)
            )
        source = sources[view]
        state = source.state(dataset.store)
        for file in state.files:
            if not file.path.is_file():
                raise erased_error(file.path) or CorruptionError(
                    f"Dataset '{dataset.name}' was made from a file of {view} that is gone.",
                    place=str(file.path),
                    repair="Restore it from a backup.",
                )
        tables[view] = OfflineTable(dataset.store / source.folder, RowSchema.of(record), state=state)
    return lambda ref: tables[f"{ref.view}@v{ref.version}"]


def _knowledge(manifest: Manifest) -> Knowledge:
    match manifest.knowledge:
        case "as_known" | "latest" | "as_served":
            return manifest.knowledge
    raise FailedPreconditionError(
        f"Dataset '{manifest.name}' was read with knowledge '{manifest.knowledge}', which is not known here."
    )


def _compared(dataset: Dataset, stream: TrainingStream) -> tuple[dict[str, str], dict[str, ColumnDifference]]:
    """Return column -> digest of what is rebuilt, and column -> difference; saved and rebuilt rows are read side by side."""
    digest, differences, at = TableDigest(), dict[str, ColumnDifference](), 0
    digest.update(stream.schema.empty_table())
    saved = dataset.batches()
    waiting = dataset.schema().empty_table()
    for part in stream.parts():
        digest.update(part.table)
        while len(waiting) < len(part):
            waiting = pa.concat_tables([waiting, pa.Table.from_batches([next(saved)])])
        for name in part.table.column_names:
            found = _difference(name, waiting[name].slice(0, len(part)), part.table[name], at)
            if found is not None:
                differences[name] = differences[name] + found if name in differences else found
        waiting, at = waiting.slice(len(part)), at + len(part)
        del part  # before the next one is made
    return digest.finish()[1], differences


def _difference(name: str, saved: pa.ChunkedArray, rebuilt: pa.ChunkedArray, at: int) -> ColumnDifference | None:
    """Compare a column from row `at` on."""
    types = type_name(saved.type), type_name(rebuilt.type)
    if types[0] != types[1]:
        return ColumnDifference(name, len(saved), at, *types)
    where = np.flatnonzero(differs(saved, rebuilt))
    if not len(where):
        return None
    first = int(where[0])
    return ColumnDifference(name, len(where), at + first, shown(saved[first]), shown(rebuilt[first]))
