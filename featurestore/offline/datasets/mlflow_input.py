"""A saved dataset as MLflow knows datasets: what `mlflow.log_input` records, and what `mlflow.data.get_source` finds again.

Imported only where MLflow is installed: by `Dataset.to_mlflow`, and by MLflow itself through the entry point ``mlflow.dataset_source``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlflow.data.dataset import Dataset as MlflowDataset
from mlflow.data.dataset_source import DatasetSource
from mlflow.types.schema import Array, ColSpec, DataType, Object, Property, Schema

from featurestore.errors import InvalidArgumentError
from featurestore.offline.datasets.saved import Dataset, load_dataset
from featurestore.types import DType, from_arrow

SOURCE_TYPE = "featurestore"
_TYPES = {
    "bool": DataType.boolean,
    "int8": DataType.integer,
    "int16": DataType.integer,
    "int32": DataType.integer,
    "int64": DataType.long,
    "float32": DataType.float,
    "float64": DataType.double,
    "binary": DataType.binary,
    "timestamp": DataType.datetime,
    "date": DataType.datetime,
}


class SavedDatasetSource(DatasetSource):  # type: ignore[misc]  # MLflow is not typed
    """Where a saved dataset lies, and what it was made from.

    Args:
        facts: As JSON: `folder`, `name`, `digest`, `plan`, `revision`, `commit`, and `sources` (view version -> version of its log).
    """

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts

    @classmethod
    def of(cls, dataset: Dataset) -> SavedDatasetSource:
        """Return the source of a dataset."""
        manifest = dataset.manifest
        return cls(
            {
                "folder": str(dataset.directory.parent.resolve()),
                "name": dataset.name,
                "digest": manifest.digest,
                "plan": manifest.plan,
                "revision": manifest.revision,
                "commit": manifest.code.commit if manifest.code else None,
                "sources": {source.view: source.version for source in manifest.sources},
            }
        )

    @staticmethod
    def _get_source_type() -> str:
        return SOURCE_TYPE

    def load(self) -> Dataset:
        """Return the dataset; raises NotFoundError where it is not on this machine."""
        return load_dataset(self.facts["name"], Path(self.facts["folder"]))

    @staticmethod
    def _can_resolve(raw_source: Any) -> bool:
        return isinstance(raw_source, Dataset)

    @classmethod
    def _resolve(cls, raw_source: Any) -> SavedDatasetSource:
        return cls.of(raw_source)

    def to_dict(self) -> dict[str, Any]:
        """Return the facts."""
        return self.facts

    @classmethod
    def from_dict(cls, source_dict: dict[Any, Any]) -> SavedDatasetSource:
        """Return the source with these facts."""
        return cls(source_dict)


class SavedDataset(MlflowDataset):  # type: ignore[misc]  # MLflow is not typed
    """A saved dataset as an input of a run.

    Args:
        dataset: The dataset.
        targets: The column that a model predicts, or None.

    Raises:
        InvalidArgumentError: There is no such column.
    """

    def __init__(self, dataset: Dataset, *, targets: str | None = None) -> None:
        self.dataset = dataset
        self.targets = targets
        self._schema = Schema([ColSpec(_spec(field.type), field.name) for field in dataset.schema()])
        if targets is not None and targets not in self._schema.input_names():
            raise InvalidArgumentError(f"Dataset '{dataset.name}' has no column '{targets}'.", place="targets")
        super().__init__(SavedDatasetSource.of(dataset), name=dataset.name)

    def _compute_digest(self) -> str:
        return self.dataset.manifest.digest

    @property
    def schema(self) -> Schema:
        """Its columns in MLflow's types."""
        return self._schema

    @property
    def profile(self) -> dict[str, Any]:
        """Rows, the digest of the spine, the features by their references, and how they were read."""
        manifest = self.dataset.manifest
        return {
            "num_rows": manifest.rows,
            "spine_digest": manifest.spine_digest,
            "features": {feature.name: feature.ref for feature in manifest.features},
            "targets": self.targets,
            "knowledge": manifest.knowledge,
            "seed": manifest.seed,
            "consumer": manifest.consumer,
            "saved_at": manifest.saved_at,
        }

    def to_dict(self) -> dict[str, str]:
        """Return what MLflow records, as text."""
        recorded: dict[str, str] = super().to_dict()
        schema = json.dumps({"mlflow_colspec": self.schema.to_dict()})
        return recorded | {"schema": schema, "profile": json.dumps(self.profile)}


def _spec(arrow_type: Any) -> Any:
    """Return MLflow's type for an Arrow type; what it has no name for is text there."""
    try:
        return _spec_of(from_arrow(arrow_type))
    except InvalidArgumentError:
        return DataType.string


def _spec_of(dtype: DType) -> Any:
    if dtype.family in {"list", "vector"}:
        return Array(_spec_of(dtype.element))
    if dtype.family == "struct":
        return Object([Property(name, _spec_of(field), required=False) for name, field in dtype.fields])
    return _TYPES.get(dtype.name, DataType.string)
