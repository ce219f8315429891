"""Expectations: what must hold of rows before they are accepted. They are no part of a meaning, so a change makes no new version."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar, Literal

from featurestore.definitions.checks import check_kind, duration_micros
from featurestore.errors import DefinitionError, InvalidArgumentError
from featurestore.types import MICROSECOND, DType, from_micros, to_micros, to_wire

Severity = Literal["refuse", "warn"]

_NUMBERS = frozenset({"int8", "int16", "int32", "int64", "float32", "float64", "decimal", "timestamp", "date"})
_CATEGORIES = frozenset({"string", "bool"})
_EVERY: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What must hold of a batch; this class is what all of them share.

    Args:
        severity: ``refuse`` keeps the whole batch out, in quarantine; ``warn`` accepts it and says so.
    """

    severity: Severity = "refuse"

    of_feature: ClassVar[bool] = True
    of_view: ClassVar[bool] = False
    families: ClassVar[frozenset[str]] = _EVERY

    def __post_init__(self) -> None:
        if self.severity not in ("refuse", "warn"):
            raise DefinitionError(f"Severity '{self.severity}' of {self.kind} is not refuse or warn.")

    @property
    def kind(self) -> str:
        """Name of its class."""
        return type(self).__name__

    def check(self, dtype: DType) -> None:
        """Refuse a type of values of which it says nothing; raises DefinitionError."""
        if self.families and dtype.family not in self.families:
            raise DefinitionError(f"{self.kind} says nothing of {dtype} values.")

    def document(self) -> dict[str, Any]:
        """Return the neutral JSON form: its kind, and every argument that is not the default."""
        said = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return {"kind": self.kind, **{name: _plain(value) for name, value in said.items()}}

    def __str__(self) -> str:
        said = {name: value for name, value in self.document().items() if name != "kind"}
        return f"{self.kind}({', '.join(f'{name}={_spelled(name, value)}' for name, value in said.items())})"


@dataclass(frozen=True)
class InRange(Expectation):
    """Every value lies between two bounds; nulls are left out, NaN lies nowhere.

    Args:
        minimum: Least value, taken in the type of the feature; None is no limit.
        maximum: Greatest value.
        include_minimum: Whether the least value itself is allowed.
        include_maximum: Whether the greatest value itself is allowed.

    Raises:
        DefinitionError: No bound, or the bounds leave nothing between them.

    >>> str(InRange(0, 1))
    'InRange(minimum=0, maximum=1)'
    """

    minimum: Any = None
    maximum: Any = None
    include_minimum: bool = True
    include_maximum: bool = True

    families: ClassVar[frozenset[str]] = _NUMBERS

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.minimum is None and self.maximum is None:
            raise DefinitionError("InRange has no bound.", repair="Write it like InRange(0, 1).")

    def check(self, dtype: DType) -> None:
        """Refuse bounds that are not values of the type, and those that nothing lies between."""
        super().check(dtype)
        low, high = (None if bound is None else value_of(bound, dtype) for bound in (self.minimum, self.maximum))
        closed = self.include_minimum and self.include_maximum
        if low is not None and high is not None and (low > high or (low == high and not closed)):
            raise DefinitionError(f"Nothing lies in {self}.")


@dataclass(frozen=True)
class NotNull(Expectation):
    """At most a share of the values is null.

    Args:
        max_share: Greatest share, 0 to 1; 0 allows no null at all.
    """

    max_share: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_share("max_share", self.max_share)


@dataclass(frozen=True)
class OneOf(Expectation):
    """Every value is one of a set; nulls are left out.

    Args:
        values: The values that are allowed, taken in the type of the feature.
    """

    values: Sequence[Any]

    families: ClassVar[frozenset[str]] = _NUMBERS | _CATEGORIES

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.values, str) or not isinstance(self.values, Iterable):
            raise DefinitionError(f"OneOf({self.values!r:.60}) is no set.", repair='Write it like OneOf(["a", "b"]).')
        if not (values := tuple(self.values)):
            raise DefinitionError("OneOf allows no value.")
        object.__setattr__(self, "values", values)

    def check(self, dtype: DType) -> None:
        """Refuse what is not a value of the type."""
        super().check(dtype)
        for value in self.values:
            value_of(value, dtype)


@dataclass(frozen=True)
class Matches(Expectation):
    """Every text as a whole matches a pattern; nulls are left out.

    Args:
        pattern: A regular expression in the syntax of RE2, which has no look-around and no back-references.

    Raises:
        DefinitionError: The pattern cannot be read; says where.
    """

    pattern: str

    families: ClassVar[frozenset[str]] = frozenset({"string"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kind("The pattern of Matches", self.pattern, str, r'Matches(r"[A-Z]{3}")')
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise DefinitionError(f"Matches({self.pattern!r}): {error}.") from error
        import pyarrow as pa
        import pyarrow.compute as pc

        try:
            pc.match_substring_regex(pa.array([""]), self.whole)
        except pa.ArrowInvalid as error:
            raise DefinitionError(f"Matches({self.pattern!r}): {error}.") from error

    @property
    def whole(self) -> str:
        """The pattern of a whole text."""
        return rf"\A(?:{self.pattern})\z"


@dataclass(frozen=True)
class Unique(Expectation):
    """No value comes twice in a batch; of a view: no join key comes twice with one event key and event time. Nulls are left out."""

    of_view: ClassVar[bool] = True
    families: ClassVar[frozenset[str]] = _NUMBERS | _CATEGORIES | {"binary"}


@dataclass(frozen=True)
class NoShift(Expectation):
    """The values are spread as they were: a batch is compared with the profile of a reference.

    Without a dataset or version the reference is the rows before: the newest profile of the view version itself; while there is none,
    nothing can have shifted. Numbers are compared by PSI over ten bins, and by the Kolmogorov-Smirnov distance at the bounds of the
    profile's bins; text and booleans by PSI over the most frequent values.

    Args:
        max_psi: Greatest population stability index; None is no limit. By custom 0.1 is a small shift and 0.25 a great one.
        max_ks: Greatest Kolmogorov-Smirnov distance, 0 to 1; None is no limit. Of numbers alone.
        dataset: Name of a saved dataset that has the feature.
        version: Number of a version of the view that has the feature.
        at: The newest profile of that version that was taken up to this instant (UTC if naive); None is the newest of all.
        min_rows: A batch with fewer values is not compared: by chance alone PSI is about ``9 / rows``.

    Raises:
        DefinitionError: No limit, or two references.
    """

    max_psi: float | None = None
    max_ks: float | None = None
    dataset: str | None = None
    version: int | None = None
    at: datetime | None = None
    min_rows: int = 1000

    families: ClassVar[frozenset[str]] = _NUMBERS | _CATEGORIES

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_psi is None and self.max_ks is None:
            raise DefinitionError("NoShift has no limit.", repair="Write it like NoShift(max_psi=0.25).")
        if self.max_psi is not None and not self.max_psi > 0:
            raise DefinitionError(f"max_psi of NoShift is {self.max_psi}.", repair="Use a number above 0.")
        if self.max_ks is not None:
            _check_share("max_ks", self.max_ks)
        if self.dataset is not None and (self.version is not None or self.at is not None):
            raise DefinitionError("NoShift has two references.", repair="Name a dataset, or a version, not both.")
        if self.at is not None:
            check_kind("at of NoShift", self.at, datetime, "datetime(2026, 5, 1, tzinfo=UTC)")
            object.__setattr__(self, "at", from_micros(to_micros(self.at)))

    def check(self, dtype: DType) -> None:
        """Refuse a distance of values that have no order."""
        super().check(dtype)
        if self.max_ks is not None and dtype.family in _CATEGORIES:
            raise DefinitionError(f"{dtype} values have no Kolmogorov-Smirnov distance.", repair="Use max_psi alone.")


@dataclass(frozen=True)
class Fresh(Expectation):
    """The newest event of a batch is not older than a duration, by the store's clock; a batch without rows says nothing.

    Args:
        within: Greatest age of the newest event.
    """

    within: timedelta

    of_feature: ClassVar[bool] = False
    of_view: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        duration_micros(self.within, "The age of Fresh")


@dataclass(frozen=True)
class RowCount(Expectation):
    """A batch has a number of rows, repeated ones included.

    Args:
        minimum: Fewest rows; None is no limit.
        maximum: Most rows.
    """

    minimum: int | None = None
    maximum: int | None = None

    of_feature: ClassVar[bool] = False
    of_view: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_bounds(self, "RowCount(1, 10_000)")


@dataclass(frozen=True)
class RowCountNear(Expectation):
    """A batch has about as many rows as those before it: their median times a factor; while there is none before, any number will do.

    Args:
        minimum: Least factor, such as 0.5 for half as many; None is no limit.
        maximum: Greatest factor.
        last: How many batches before it count.
    """

    minimum: float | None = None
    maximum: float | None = None
    last: int = 10

    of_feature: ClassVar[bool] = False
    of_view: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_bounds(self, "RowCountNear(0.5, 2.0)")
        if self.last < 1:
            raise DefinitionError(f"RowCountNear compares with the last {self.last} batches.", repair="Use at least 1.")


EXPECTATIONS = {
    kind.__name__: kind for kind in (InRange, NotNull, OneOf, Matches, Unique, NoShift, Fresh, RowCount, RowCountNear)
}


def expectation_of(document: dict[str, Any]) -> Expectation:
    """Return the expectation of a neutral JSON form.

    >>> expectation_of(Fresh(timedelta(hours=3)).document())
    Fresh(severity='refuse', within=datetime.timedelta(seconds=10800))
    """
    said = {name: _READ.get(name, lambda value: value)(value) for name, value in document.items() if name != "kind"}
    return EXPECTATIONS[document["kind"]](**said)


def check_expectations(expect: Sequence[Expectation], place: str, dtype: DType | None) -> None:
    """Refuse expectations that say nothing here.

    Args:
        expect: What is expected.
        place: Of which feature or view, for the error.
        dtype: Type of the feature's values; None for a view.

    Raises:
        DefinitionError: One is no expectation, belongs elsewhere, says nothing of the type, or is given twice.
    """
    if isinstance(expect, Expectation):
        raise DefinitionError(f"expect of '{place}' is not a list.", repair=f"Write it like expect=[{expect}].")
    for i, expectation in enumerate(expect):
        check_kind(f"An expectation of '{place}'", expectation, Expectation, "expect=[InRange(0, 1)]")
        if expectation in expect[:i]:
            raise DefinitionError(f"{expectation} is given twice.", place=place)
        if not (expectation.of_view if dtype is None else expectation.of_feature):
            other = "feature" if dtype is None else "view"
            raise DefinitionError(
                f"{expectation.kind} says nothing of a {'view' if dtype is None else 'feature'}.",
                place=place,
                repair=f"Give it to a {other}.",
            )
        if dtype is not None:
            try:
                expectation.check(dtype)
            except DefinitionError as error:
                error.place = error.place or place
                raise


def value_of(value: Any, dtype: DType) -> Any:
    """Return a bound or an allowed value as a value of a type; raises DefinitionError when it is none.

    >>> value_of("2026-05-01T00:00:00Z", DType("timestamp")).isoformat()
    '2026-05-01T00:00:00+00:00'
    """
    try:
        if dtype.family == "timestamp":
            typed: Any = from_micros(to_micros(value))
        elif dtype.family == "date":
            typed = date.fromisoformat(value) if isinstance(value, str) else value
        elif dtype.family == "decimal":
            typed = Decimal(str(value))
        elif dtype.is_integer and isinstance(value, float) and value.is_integer():
            typed = int(value)
        else:
            typed = float(value) if type(value) is int and dtype.lane == "doubles" else value
        to_wire(dtype, typed)
    except (InvalidArgumentError, ArithmeticError, ValueError, TypeError, AttributeError) as error:
        raise DefinitionError(f"{value!r:.60} is not a {dtype} value.") from error
    if typed != typed or typed in (float("inf"), float("-inf")):  # noqa: PLR0124  # NaN is unlike itself
        raise DefinitionError(f"{value!r} is no bound.", repair="Leave it out for no limit.")
    return typed


def _check_share(name: str, value: float) -> None:
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise DefinitionError(f"{name} is {value!r:.60}.", repair="Use a share from 0 to 1.")


def _check_bounds(expectation: RowCount | RowCountNear, example: str) -> None:
    low, high = expectation.minimum, expectation.maximum
    if low is None and high is None:
        raise DefinitionError(f"{expectation.kind} has no bound.", repair=f"Write it like {example}.")
    for bound in (low, high):
        if bound is not None and (not isinstance(bound, int | float) or not bound >= 0):
            raise DefinitionError(
                f"{expectation.kind} has the bound {bound!r:.60}.", repair=f"Write it like {example}."
            )
    if low is not None and high is not None and low > high:
        raise DefinitionError(f"Nothing lies in {expectation}.")


def _plain(value: Any) -> Any:
    """Return an argument as JSON has it: durations in microseconds, times in ISO form, decimals as text."""
    if isinstance(value, timedelta):
        return value // MICROSECOND
    if isinstance(value, datetime):
        return from_micros(to_micros(value)).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _spelled(name: str, value: Any) -> str:
    return str(value * MICROSECOND) if name == "within" else repr(value)


_READ: dict[str, Callable[[Any], Any]] = {
    "within": lambda value: value * MICROSECOND,
    "at": lambda value: from_micros(to_micros(value)),
    "values": tuple,
}
