"""Features of one entity from one source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from featurestore.definitions.checks import check_apart, check_kind, check_name, check_unique, duration_micros
from featurestore.definitions.entity import Entity
from featurestore.definitions.expectation import Expectation, check_expectations
from featurestore.definitions.feature import Feature
from featurestore.definitions.source import Source
from featurestore.definitions.window import Aggregation
from featurestore.errors import DefinitionError, NotFoundError
from featurestore.types import DType

Access = Literal["observe", "warn", "enforce"]


class Selectable(ABC):
    """What a service can select from: a whole view, or some of its features."""

    name: str

    @property
    @abstractmethod
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features in order."""

    def __getitem__(self, names: Sequence[str]) -> FeatureSelection:
        """Select features by name, as in ``weather[["temp", "precip"]]``."""
        _check_features(self.name, names, self.feature_names)
        return FeatureSelection(self.name, tuple(names))

    def alias(self, name: str, *, join_keys: Mapping[str, str]) -> ViewAlias:
        """Read this view for another role of its entity.

        Args:
            name: Name of the role; it prefixes the output names of its features.
            join_keys: Join key of the entity -> column of the spine or request that holds it.

        >>> from featurestore import ParquetSource
        >>> weather = FeatureView("weather", Entity("origin", {"origin": "string"}), features=[Feature("temp", "float64")],
        ...     source=ParquetSource("weather", "weather.parquet", event_timestamp="observed_at"))
        >>> weather.alias("dest_weather", join_keys={"origin": "dest"}).view
        'weather'
        """
        return ViewAlias(self.name, name, dict(join_keys), self.feature_names)


@dataclass(frozen=True)
class FeatureSelection:
    """Some features of a view, or of a view under an alias."""

    view: str
    names: tuple[str, ...]
    alias: ViewAlias | None = None


@dataclass(frozen=True)
class ViewAlias:
    """A view read for another role of its entity."""

    view: str
    name: str
    join_keys: Mapping[str, str]
    feature_names: tuple[str, ...]

    def __post_init__(self) -> None:
        check_name("Alias", self.name)

    def __getitem__(self, names: Sequence[str]) -> FeatureSelection:
        """Select features by name."""
        _check_features(self.view, names, self.feature_names)
        return FeatureSelection(self.view, tuple(names), self)


@dataclass(frozen=True)
class FeatureView(Selectable):
    """Features of one entity from one source: columns as they are, or aggregates over a window of events.

    Args:
        name: Name of the view.
        entity: What the features are about.
        source: Where the rows come from.
        features: Columns (Feature), or aggregates (Aggregation); all of one kind.
        ttl: How long a row counts after its event time, both ends included; None is for ever. A windowed view has none.
        event_key: Columns, each with its type, that tell two events of one entity and instant apart; a windowed view whose
            events can be equal needs it.
        backfilled_until: Rows with an event time up to this instant count as known at that time, whatever `created_timestamp` says.
        access: What happens to a read that no manifest declares: ``observe`` counts it, ``warn`` tells the caller, ``enforce`` refuses it.
        owner: Who answers for it.
        description: One sentence for people.
        tags: Free labels.
        schedule: How often the source is pulled, for people and later for runners.
        expect: What must hold of its rows before they are accepted; no part of the meaning.
        columns: Columns of the source, each with its type, that filters of aggregates (`where`) read besides the aggregated ones.

    Raises:
        DefinitionError: No features, mixed kinds, a name given twice, a feature named like a join key, a bad duration, or an
            expectation that says nothing of a view.
    """

    name: str
    entity: Entity
    source: Source
    features: Sequence[Feature | Aggregation]
    ttl: timedelta | None = None
    event_key: Mapping[str, str | DType] = field(default_factory=dict)
    backfilled_until: datetime | None = None
    access: Access = "observe"
    owner: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    schedule: str = ""
    expect: Sequence[Expectation] = ()
    columns: Mapping[str, str | DType] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name("View", self.name)
        check_kind(
            f"The entity of '{self.name}'", self.entity, Entity, 'Entity("user", join_keys={"user_id": "int64"})'
        )
        check_kind(
            f"The source of '{self.name}'", self.source, Source, 'ParquetSource("name", "data/file.parquet", ...)'
        )
        if not self.features:
            raise DefinitionError(f"View '{self.name}' has no features.")
        for feature in self.features:
            check_kind(f"A feature of '{self.name}'", feature, (Feature, Aggregation), 'Feature("temp", "float64")')
        if len({isinstance(feature, Aggregation) for feature in self.features}) > 1:
            raise DefinitionError(
                f"View '{self.name}' mixes columns and aggregations.",
                repair="Make two views: their rows mean different things.",
            )
        check_unique("Feature", self.feature_names, self.name)
        for name in self.feature_names:
            if name in self.entity.join_keys:
                raise DefinitionError(f"Feature '{name}' has the name of a join key.", place=self.name)
        self._check_columns()
        check_expectations(self.expect, self.name, None)
        duration_micros(self.ttl, f"The ttl of '{self.name}'")
        if self.is_windowed and self.ttl:
            raise DefinitionError(
                f"Windowed view '{self.name}' has a ttl.", repair="The window says how long an event counts."
            )
        if self.access not in ("observe", "warn", "enforce"):
            raise DefinitionError(f"Access '{self.access}' of '{self.name}' is not observe, warn or enforce.")

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features in order."""
        return tuple(f.feature_name if isinstance(f, Aggregation) else f.name for f in self.features)

    def _check_columns(self) -> None:
        """Refuse rows with two columns of one name, or one column of two types."""
        for column, dtype in self.event_key.items():
            check_name("Event key column", column)
            if DType.of(dtype).is_nested or DType.of(dtype).lane == "doubles":
                raise DefinitionError(f"Event key '{column}' of '{self.name}' is {dtype}: a key is one exact value.")
        if self.columns and not self.is_windowed:
            raise DefinitionError(f"View '{self.name}' has columns for filters, and no aggregates.")
        for column in self.columns:
            check_name("Column", column)
        columns = {(f.column, DType.of(f.dtype)) for f in self.features if isinstance(f, Aggregation)}
        columns |= {(column, DType.of(dtype)) for column, dtype in self.columns.items()}
        names = [name for name, _ in columns] or list(self.feature_names)
        columns_of_rows = (*self.entity.join_keys, *self.event_key, *names)
        check_unique("Column", columns_of_rows, self.name)
        check_apart("Column", columns_of_rows, self.name)
        for name in columns_of_rows:
            if name.startswith("__"):
                raise DefinitionError(f"'{name}' is not allowed: names with two underscores are the store's own.")

    @property
    def is_windowed(self) -> bool:
        """Whether its features are aggregates over a window."""
        return isinstance(self.features[0], Aggregation)


def _check_features(view: str, names: Sequence[str], available: Sequence[str]) -> None:
    """Refuse a feature that the view does not have; raises NotFoundError with the nearest name."""
    for name in names:
        if name not in available:
            raise NotFoundError.of("feature", f"{view}:{name}", [f"{view}:{known}" for known in available])
