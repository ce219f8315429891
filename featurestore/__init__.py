"""A feature store with dependency lineage: a read is a plan over a snapshot; the plan knows what it is made from, and who asked."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featurestore.definitions import (
        Aggregation,
        ArrowSource,
        CSVSource,
        Dashboard,
        DeltaSource,
        Entity,
        Feature,
        FeatureService,
        FeatureView,
        Fresh,
        InRange,
        Job,
        Matches,
        Model,
        NoShift,
        NotNull,
        OnDemandFeatureView,
        OneOf,
        ParquetSource,
        Person,
        PostgresSource,
        PushSource,
        RowCount,
        RowCountNear,
        Service,
        SQLSource,
        Unique,
    )
    from featurestore.errors import FeatureStoreError
    from featurestore.refs import FeatureRef
    from featurestore.store import FeatureStore

__version__ = "0.1.0"

_HOMES = {
    "featurestore.definitions": (
        "Aggregation", "ArrowSource", "CSVSource", "Dashboard", "DeltaSource", "Entity", "Feature", "FeatureService",
        "FeatureView", "Fresh", "InRange", "Job", "Matches", "Model", "NoShift", "NotNull", "OnDemandFeatureView",
        "OneOf", "ParquetSource", "Person", "PostgresSource", "PushSource", "RowCount", "RowCountNear", "SQLSource",
        "Service", "Unique",
    ),
    "featurestore.errors": ("FeatureStoreError",),
    "featurestore.refs": ("FeatureRef",),
    "featurestore.store": ("FeatureStore",),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Aggregation",
    "ArrowSource",
    "CSVSource",
    "Dashboard",
    "DeltaSource",
    "Entity",
    "Feature",
    "FeatureRef",
    "FeatureService",
    "FeatureStore",
    "FeatureStoreError",
    "FeatureView",
    "Fresh",
    "InRange",
    "Job",
    "Matches",
    "Model",
    "NoShift",
    "NotNull",
    "OnDemandFeatureView",
    "OneOf",
    "ParquetSource",
    "Person",
    "PostgresSource",
    "PushSource",
    "RowCount",
    "RowCountNear",
    "SQLSource",
    "Service",
    "Unique",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that ``featurestore --help`` imports nothing heavy."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'featurestore' has no attribute {name!r}")
    home = _HOME_OF[name]
    try:
        return getattr(import_module(home), name)
    except ModuleNotFoundError as error:
        if error.name != home:
            raise
        raise ImportError(f"{name} is not in the client alone: pip install featurestore") from error
