"""Features computed at read from other features and request data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from featurestore.definitions.checks import check_name, check_unique
from featurestore.definitions.feature import Feature
from featurestore.definitions.view import Access, FeatureSelection, Selectable
from featurestore.errors import DefinitionError
from featurestore.types import DType


@dataclass(frozen=True)
class OnDemandFeatureView(Selectable):
    """Features computed at read, the same way in training and serving.

    Args:
        name: Name of the view.
        features: Each with an `expression`, in SQL, over the names of the inputs and of the request.
        inputs: Views, selections or references (``"weather:temp"``) whose features the expressions may name.
        request: Name -> type of the values that come with a request, or as columns of the spine.
        access: As in FeatureView.
        owner: Who answers for it.
        description: One sentence for people.
        tags: Free labels.

    Raises:
        DefinitionError: A feature without an expression or with expectations, or a name given twice.
    """

    name: str
    features: Sequence[Feature]
    inputs: Sequence[Selectable | FeatureSelection | str] = ()
    request: Mapping[str, str | DType] = field(default_factory=dict)
    access: Access = "observe"
    owner: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name("View", self.name)
        check_unique("Feature", self.feature_names, self.name)
        for feature in self.features:
            if not feature.expression:
                raise DefinitionError(f"Feature '{self.name}:{feature.name}' has no expression.")
            if feature.expect:
                raise DefinitionError(
                    f"Feature '{self.name}:{feature.name}' expects something, and no rows of it are ever accepted.",
                    repair="Expect it of the inputs.",
                )
        for column, dtype in self.request.items():
            check_name("Request column", column)
            DType.of(dtype)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features in order."""
        return tuple(feature.name for feature in self.features)
