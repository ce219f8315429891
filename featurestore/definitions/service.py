"""A named selection of features, such as all that one model reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from featurestore.definitions.checks import check_name
from featurestore.definitions.view import FeatureSelection, Selectable, ViewAlias
from featurestore.errors import DefinitionError


@dataclass(frozen=True)
class FeatureService:
    """A named selection of features; applying it freezes every reference to a version.

    Args:
        name: Name of the service.
        features: Views, selections (``weather[["temp"]]``), aliases, or references (``"weather@v1:temp"``).
        owner: Who answers for it.
        description: One sentence for people.
        tags: Free labels.
    """

    name: str
    features: Sequence[Selectable | FeatureSelection | ViewAlias | str]
    owner: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name("Service", self.name)
        if not self.features:
            raise DefinitionError(f"Service '{self.name}' selects no features.")
