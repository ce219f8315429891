"""One named, typed column of a view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from featurestore.definitions.checks import check_name
from featurestore.definitions.expectation import Expectation, check_expectations
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
        expect: What must hold of its values before rows are accepted; no part of the meaning.

    Raises:
        DefinitionError: A bad name, an unknown type, with the nearest one, or an expectation that says nothing of the type.

    >>> Feature("temp", "float64", unit="degF").dtype_name
    'float64'
    """

    name: str
    dtype: str | DType
    unit: str = ""
    description: str = ""
    column: str | None = None
    expression: str | None = None
    expect: Sequence[Expectation] = ()

    def __post_init__(self) -> None:
        check_name("Feature", self.name)
        check_expectations(self.expect, self.name, DType.of(self.dtype))

    @property
    def dtype_name(self) -> str:
        """The name of its type."""
        return DType.of(self.dtype).name
