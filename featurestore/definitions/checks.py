"""The checks that every definition makes when it is built, so that a mistake is found on its own line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from types import UnionType

from featurestore.errors import DefinitionError
from featurestore.refs import NAME
from featurestore.types import MICROSECOND


def check_name(kind: str, name: object) -> None:
    """Refuse a name that could not be quoted, parsed or a file name; raises DefinitionError."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise DefinitionError(
            f"{kind} name {name!r} is not allowed.",
            repair="Use letters, digits and underscores, not starting with a digit, at most 128.",
        )


def check_unique(kind: str, names: Iterable[str], place: str) -> None:
    """Refuse a name that is given twice; raises DefinitionError."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DefinitionError(f"{kind} '{twice[0]}' is given twice.", place=place)


def check_apart(kind: str, names: Iterable[str], place: str) -> None:
    """Refuse columns of one table whose names differ in case alone, which SQL and the Delta log take for one; raises DefinitionError.

    >>> check_apart("Column", ["temp", "Temp"], "weather")
    Traceback (most recent call last):
    featurestore.errors.DefinitionError: Columns 'temp' and 'Temp' differ in case alone. - at `weather`. Rename one.
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise DefinitionError(
                f"{kind}s '{other}' and '{name}' differ in case alone.", place=place, repair="Rename one."
            )


def check_kind(what: str, value: object, kind: type | UnionType | tuple[type, ...], example: str) -> None:
    """Refuse a value of another class than a definition takes; raises DefinitionError.

    >>> check_kind("The ttl of 'weather'", 7, timedelta, "timedelta(hours=4)")
    Traceback (most recent call last):
    featurestore.errors.DefinitionError: The ttl of 'weather' cannot be 7. Write it like timedelta(hours=4).
    """
    if not isinstance(value, kind):
        raise DefinitionError(f"{what} cannot be {value!r:.60}.", repair=f"Write it like {example}.")


def duration_micros(value: timedelta | None, what: str) -> int | None:
    """Return a positive duration in microseconds, None for none; raises DefinitionError for zero, less, or no duration."""
    if value is None:
        return None
    check_kind(what, value, timedelta, "timedelta(hours=4)")
    micros = value // MICROSECOND
    if micros <= 0:
        raise DefinitionError(f"{what} must be longer than zero, got {value}.", repair="Leave it out for no limit.")
    return micros
