"""Who reads and writes, and what each declares: the manifests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import ClassVar

from featurestore.definitions.checks import check_name
from featurestore.definitions.service import FeatureService
from featurestore.definitions.view import FeatureSelection, FeatureView, Selectable
from featurestore.errors import DefinitionError

Reads = FeatureService | Selectable | FeatureSelection | str


@dataclass(frozen=True)
class Consumer:
    """Something that reads features, and its manifest: what it declares that it reads and writes.

    Args:
        name: Name of the consumer.
        reads: Services, views, selections, or references; ``"delay_model"`` may name a service.
        writes: Views it writes, such as its predictions.
        owner: Who answers for it.
        environment: Where it runs; empty means everywhere.
        cadence: How often it reads; None means at any time.
        expires_at: After this instant the declaration no longer counts; None is never.
        description: One sentence for people.
        tags: Free labels.

    Raises:
        DefinitionError: A bad name.
    """

    kind: ClassVar[str] = "service"

    name: str
    reads: Sequence[Reads] = ()
    writes: Sequence[FeatureView | str] = ()
    owner: str = ""
    environment: str = ""
    cadence: timedelta | None = None
    expires_at: datetime | None = None
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name("Consumer", self.name)

    @property
    def key(self) -> str:
        """How it is named when it reads: its name, or for a model ``name@version``."""
        return self.name


@dataclass(frozen=True)
class Service(Consumer):
    """A running service that reads features."""


@dataclass(frozen=True)
class Job(Consumer):
    """A batch job that reads features."""

    kind: ClassVar[str] = "job"


@dataclass(frozen=True)
class Dashboard(Consumer):
    """A dashboard that reads features."""

    kind: ClassVar[str] = "dashboard"


@dataclass(frozen=True)
class Person(Consumer):
    """A person who reads features by hand."""

    kind: ClassVar[str] = "person"


@dataclass(frozen=True)
class Model(Consumer):
    """One version of a model, with what it was trained on.

    Args:
        version: Version of the model, e.g. ``"3"``.
        dataset: Name of the saved dataset it was trained on.
        label: Column of the spine that it predicts.
        metrics: Name -> value, as measured when it was trained.

    >>> Model("delay_model", version="3", reads=["delay_model"]).key
    'delay_model@3'
    """

    kind: ClassVar[str] = "model"

    version: str = "1"
    dataset: str | None = None
    label: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name("Model", self.name)
        if not self.version or not str(self.version).replace(".", "").replace("-", "").isalnum():
            raise DefinitionError(f"Model version {self.version!r} is not letters, digits, dots and dashes.")

    @property
    def key(self) -> str:
        """How it is named when it reads: ``name@version``."""
        return f"{self.name}@{self.version}"
