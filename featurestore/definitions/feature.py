"""One named, typed column of a view."""

from __future__ import annotations

from dataclasses import dataclass

from featurestore.definitions.checks import check_name
from featurestore.types import DType


@dataclass(frozen=True)
class Feature:
    """One named, typed column of a view.

    Args:
        name: Name of the feature.
        dtype: Its type, e.g. ``"float64"`` or ``featurestore.types.Float64``.
        unit: Unit of the values, e.g. ``"degF"`` or ``"1"``; part of the meaning.
        description: One sentence for people.
        column: Column of the source that holds it; None means the one with its name.
        expression: For an OnDemandFeatureView: the SQL scalar expression that computes it; None elsewhere.

    Raises:
        DefinitionError: A bad name or an unknown type, with the nearest one.

    >>> Feature("temp", "float64", unit="degF").dtype_name
    'float64'
    """

    name: str
    dtype: str | DType
    unit: str = ""
    description: str = ""
    column: str | None = None
    expression: str | None = None

    def __post_init__(self) -> None:
        check_name("Feature", self.name)
        DType.of(self.dtype)

    @property
    def dtype_name(self) -> str:
        """The name of its type."""
        return DType.of(self.dtype).name
