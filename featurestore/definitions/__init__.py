"""What a user writes in features.py: frozen dataclasses that say what features mean, and do no I/O."""

from featurestore.definitions.consumer import Consumer, Dashboard, Job, Model, Person, Service
from featurestore.definitions.entity import Entity
from featurestore.definitions.expectation import (
    Expectation,
    Fresh,
    InRange,
    Matches,
    NoShift,
    NotNull,
    OneOf,
    RowCount,
    RowCountNear,
    Unique,
)
from featurestore.definitions.feature import Feature
from featurestore.definitions.on_demand import OnDemandFeatureView
from featurestore.definitions.service import FeatureService
from featurestore.definitions.source import (
    ArrowSource,
    CSVSource,
    DeltaSource,
    ParquetSource,
    PostgresSource,
    PushSource,
    Source,
    SQLSource,
)
from featurestore.definitions.view import FeatureSelection, FeatureView, ViewAlias
from featurestore.definitions.window import Aggregation

Definition = Entity | FeatureView | OnDemandFeatureView | FeatureService | Consumer

__all__ = [
    "Aggregation",
    "ArrowSource",
    "CSVSource",
    "Consumer",
    "Dashboard",
    "Definition",
    "DeltaSource",
    "Entity",
    "Expectation",
    "Feature",
    "FeatureSelection",
    "FeatureService",
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
    "Source",
    "Unique",
    "ViewAlias",
]
