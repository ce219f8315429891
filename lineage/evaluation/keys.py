"""Which keys a model predicts for, and which another is trained on: models that share none act on nothing they share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lineage.errors import NotFoundError
from lineage.evaluation.cost import offline_files
from lineage.evaluation.data import located
from lineage.registry import Consumer, ViewVersion
from lineage.state import State

if TYPE_CHECKING:
    from pyarrow import Table


def predicted_keys(state: State, view: ViewVersion) -> Table | None:
    """Return the distinct keys of a view's offline rows as text; None where it has none."""
    return _distinct(offline_files(state, view), view.join_keys)


def trained_keys(state: State, manifest: Consumer, join_keys: Sequence[str]) -> Table | None:
    """Return the distinct keys of the dataset that a model is trained on; None where it has no dataset, or one without these columns."""
    if not manifest.dataset:
        return None
    try:
        return _distinct([located(manifest.dataset, state.path.parent.parent).path], join_keys)
    except NotFoundError:
        return None


def shared_keys(one: Table, other: Table) -> int:
    """Return how many keys two tables of distinct keys have in common."""
    shared: int = one.join(other, keys=one.column_names, join_type="inner").num_rows
    return shared


def _distinct(paths: Sequence[Path], join_keys: Sequence[str]) -> Table | None:
    """Return the distinct keys of Parquet files, one file at a time; None where a file has no such columns, or there is no row."""
    import pyarrow as pa

    parts = list(_parts(paths, join_keys))
    if not parts or any(part is None for part in parts):
        return None
    found = pa.concat_tables([part for part in parts if part is not None])
    distinct: Table = found.group_by(list(join_keys)).aggregate([])
    return distinct if distinct.num_rows else None


def _parts(paths: Sequence[Path], join_keys: Sequence[str]) -> Iterator[Table | None]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in paths:
        file = pq.ParquetFile(path)
        if not join_keys or not set(join_keys) <= set(file.schema_arrow.names):
            yield None
            continue
        keys = file.read(columns=list(join_keys)).select(list(join_keys))
        text = pa.table({name: keys[name].cast(pa.string()) for name in join_keys})
        yield text.group_by(list(join_keys)).aggregate([])
