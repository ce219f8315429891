"""A saved dataset as an evaluation reads it: a Parquet file, a label, features, and what rows depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lineage.errors import InvalidQuestionError, NotFoundError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pyarrow import DataType, Table

FEWEST_ROWS = 200
DATASETS = Path("store") / "datasets"


@dataclass(frozen=True, slots=True)
class Data:
    """Rows to train and test on.

    Attributes:
        name: Of the dataset, or the path of the file.
        digest: SHA-256 of the file, or the digest that the store gave the dataset.
        saved_at: Microseconds since 1970 UTC; 0 when unknown.
        table: The rows whose label is known.
        label: Column of what is predicted.
        features: Columns that are trained on.
        unlabelled: How many rows were left out because their label is null.
        time: Column of the time of a row; empty when rows have none.
        group: Column of what rows have in common; empty when they are independent.
        refs: Column -> the feature reference it holds, where the store made the dataset.
        missing_with_label: Feature -> correlation of its being null with the label's, over all rows; only where both ever are.
    """

    name: str
    digest: str
    saved_at: int
    table: Table
    label: str
    features: tuple[str, ...]
    unlabelled: int = 0
    time: str = ""
    group: str = ""
    refs: Mapping[str, str] = field(default_factory=dict)
    missing_with_label: Mapping[str, float] = field(default_factory=dict)

    def matrix(self, names: Sequence[str]) -> NDArray[Any]:
        """Return features as float64 ``(rows, features)``: null is NaN, text its place in the sorted values."""
        import numpy as np

        columns = [as_numbers(self.table[name]) for name in names]
        return np.column_stack(columns) if columns else np.zeros((self.table.num_rows, 0))

    @property
    def classes(self) -> tuple[Any, ...] | None:
        """The classes of the label, sorted; None when it is a number to be estimated."""
        import pyarrow as pa

        kind = self.table.schema.field(self.label).type
        if not (pa.types.is_boolean(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            found = self.table[self.label].unique().to_pylist()
            if not pa.types.is_integer(kind) or len(found) > 2:
                return None
            return tuple(sorted(found))
        return tuple(sorted(self.table[self.label].unique().to_pylist()))

    def target(self) -> NDArray[Any]:
        """Return the label: the number of the class as int64, or the value as float64."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        values = self.table[self.label]
        classes = self.classes
        if classes is None:
            return np.asarray(values.to_numpy(), np.float64)
        return np.asarray(pc.index_in(values, pa.array(classes, values.type)), np.int64)

    def problem(self) -> str:
        """Return why nothing can be learnt from it; empty when something can."""
        import numpy as np

        rows = self.table.num_rows
        if rows < FEWEST_ROWS:
            return f"too little data: {rows} rows have a label; at least {FEWEST_ROWS} are needed"
        if not self.features:
            return "there is no feature beside the label"
        classes = self.classes
        if classes is not None and len(classes) < 2:
            return f"the label '{self.label}' has one class alone: {classes[0]!r}"
        target = self.target()
        if classes is None and not np.isfinite(target).all():
            return f"the label '{self.label}' is not finite in {int((~np.isfinite(target)).sum())} rows"
        return f"the label '{self.label}' is constant" if target.min() == target.max() else ""


def as_numbers(column: Any) -> NDArray[Any]:
    """Return a column as float64: null is NaN, a time its microseconds, text its place in the sorted values.

    Raises:
        InvalidQuestionError: It is nested, so no estimator takes it as one column.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    kind: DataType = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_nested(kind):
        raise InvalidQuestionError(f"A column of {kind} is no single feature.", repair="Leave it out with --features.")
    if pa.types.is_temporal(kind):
        column = (
            column.cast(pa.timestamp("us")).cast(pa.int64())
            if not pa.types.is_duration(kind)
            else column.cast(pa.int64())
        )
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind):
        order = {value: float(place) for place, value in enumerate(sorted(pc.unique(column.drop_null()).to_pylist()))}
        return np.array([order.get(value, np.nan) for value in column.to_pylist()])
    return np.asarray(pc.cast(column, pa.float64(), safe=False).to_numpy(), np.float64)


def read_data(
    name: str,
    *,
    label: str,
    project: Path | None = None,
    features: Sequence[str] = (),
    time: str = "",
    group: str = "",
    leave_out: Sequence[str] = (),
) -> Data:
    """Read a dataset.

    Args:
        name: A Parquet file, or the name of a dataset that was saved in the project.
        label: Column of what is predicted.
        project: The project folder; None looks for files alone.
        features: Columns to train on; empty is what the store joined, or every column of a file beside label, time and group.
        time: Column of the time of a row; empty takes the only column of a timestamp type, if there is one.
        group: Column of what dependent rows have in common, e.g. a customer.
        leave_out: Columns that are no features.

    Raises:
        NotFoundError: There is no such dataset or column.
        InvalidQuestionError: The file is no Parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = located(name, project)
    try:
        table = pq.read_table(file.path)
    except pa.ArrowInvalid as error:
        raise InvalidQuestionError(f"'{file.path}' is no Parquet file: {error}.") from error
    for column in filter(None, (label, time, group, *features, *leave_out)):
        if column not in table.column_names:
            raise NotFoundError.of("column", column, table.column_names)
    time = time or _time_of(table, file, label)
    beside = {label, time, group, *leave_out}
    labelled = table.filter(table[label].is_valid())
    chosen = tuple(column for column in (features or tuple(file.refs) or table.column_names) if column not in beside)
    return Data(
        name=name,
        digest=file.digest or _file_digest(file.path),
        saved_at=file.saved_at,
        table=labelled,
        label=label,
        features=chosen,
        unlabelled=table.num_rows - labelled.num_rows,
        time=time,
        group=group,
        refs=file.refs,
        missing_with_label=_missing_with(table, label, chosen),
    )


def _missing_with(table: Table, label: str, features: Sequence[str]) -> dict[str, float]:
    import numpy as np

    absent = np.asarray(table[label].is_null())
    if not absent.any():
        return {}
    masks = {name: np.asarray(table[name].is_null()) for name in features if table[name].null_count}
    return {name: mask_correlation(mask, absent) for name, mask in masks.items()}


def mask_correlation(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Return the correlation of two masks, bool ``(rows,)``; 0 where one is the same in every row."""
    import numpy as np

    spread = float(one.std() * other.std())
    return float((np.mean(one & other) - one.mean() * other.mean()) / spread) if spread else 0.0


@dataclass(frozen=True, slots=True)
class Located:
    """Where the rows of a dataset are, and what its manifest says of them."""

    path: Path
    digest: str = ""
    saved_at: int = 0
    timestamp: str = ""
    refs: Mapping[str, str] = field(default_factory=dict)


def located(name: str, project: Path | None) -> Located:
    """Find a Parquet file, or a dataset that the store saved, with what its manifest says."""
    if Path(name).suffix == ".parquet" or project is None:
        if not Path(name).is_file():
            raise NotFoundError(f"There is no file '{name}'.")
        return Located(Path(name), saved_at=int(Path(name).stat().st_mtime * 1e6))
    folder = project / DATASETS / name
    if not (folder / "manifest.json").is_file():
        raise NotFoundError.of(
            "dataset", name, (path.parent.name for path in (project / DATASETS).glob("*/manifest.json"))
        )
    manifest: Mapping[str, Any] = json.loads((folder / "manifest.json").read_text("utf-8"))
    return Located(
        path=folder / str(manifest.get("data") or "data.parquet"),
        digest=str(manifest.get("digest") or ""),
        saved_at=int(manifest.get("saved_at") or 0),
        timestamp=str(manifest.get("timestamp") or ""),
        refs={str(feature["name"]): str(feature["ref"]) for feature in manifest.get("features", ())},
    )


def _time_of(table: Table, file: Located, label: str) -> str:
    """Return the column of the time: what the manifest says, or the only column of a timestamp type."""
    import pyarrow as pa

    if file.timestamp in table.column_names:
        return file.timestamp
    stamps = [c for c in table.column_names if pa.types.is_timestamp(table.schema.field(c).type) and c != label]
    return stamps[0] if len(stamps) == 1 else ""


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
