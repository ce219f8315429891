"""What a user writes in features.py: frozen dataclasses that say what features mean, and do no I/O."""

from featurestore.definitions.consumer import Consumer, Dashboard, Job, Model, Person, Service
from featurestore.definitions.entity import Entity
from featurestore.definitions.feature import Feature
from featurestore.definitions.on_demand import OnDemandFeatureView
from featurestore.definitions.service import FeatureService
from featurestore.definitions.source import ParquetSource, PushSource, Source, SQLSource
from featurestore.definitions.view import FeatureSelection, FeatureView, ViewAlias
from featurestore.definitions.window import Aggregation

Definition = Entity | FeatureView | OnDemandFeatureView | FeatureService | Consumer

__all__ = [
    "Aggregation",
    "Consumer",
    "Dashboard",
    "Definition",
    "Entity",
    "Feature",
    "FeatureSelection",
    "FeatureService",
    "FeatureView",
    "Job",
    "Model",
    "OnDemandFeatureView",
    "ParquetSource",
    "Person",
    "PushSource",
    "SQLSource",
    "Service",
    "Source",
    "ViewAlias",
]
