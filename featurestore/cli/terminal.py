"""What the commands share: their options, and how they open a project and write an answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore.errors import InvalidArgumentError, NotFoundError, nearest_name

if TYPE_CHECKING:
    from featurestore.store import FeatureStore

SCHEMA_VERSION = 1


class Format(StrEnum):
    """How an answer is written."""

    table = "table"
    json = "json"


Project = Annotated[
    Path | None, typer.Option("--project", help="Project folder; default: FEATURESTORE_PROJECT, or here and above.")
]
Output = Annotated[Format, typer.Option("--format", help="How the answer is written.")]
View = Annotated[str, typer.Argument(help="weather, or weather@v1 for a version.")]
Views = Annotated[list[str] | None, typer.Argument(help="Views; default: every view that has a source.")]
Features = Annotated[list[str], typer.Argument(help="A feature service, or references such as weather@v1:temp.")]
FullNames = Annotated[bool, typer.Option("--full-feature-names", help="Name outputs view__feature.")]
Consumer = Annotated[str | None, typer.Option(help="What you run, e.g. delay_model@1.")]


def open_store(project: Path | None, consumer: str | None = None) -> FeatureStore:
    """Open a project; a consumer that nobody declared is noted, for a typo looks the same."""
    from featurestore.config import find_project
    from featurestore.store import FeatureStore

    store = FeatureStore(project or find_project(), consumer=consumer)
    if consumer and consumer not in (known := store.snapshot().document.consumers):
        near = nearest_name(consumer, known)
        hint = f" Did you mean '{near}'?" if near else ""
        say(f"note: no consumer '{consumer}' is registered; what it reads counts as undeclared.{hint}")
    return store


def one_of(what: str, given: str, allowed: Sequence[str]) -> Any:
    """Return the given word; raises InvalidArgumentError when it is not one of those allowed."""
    if given not in allowed:
        raise InvalidArgumentError(f"{what} is {' or '.join(allowed)}, not '{given}'.", place=f"--{what}")
    return given


def column_values(
    pairs: Iterable[str] | None, types: Mapping[str, Any], *, place: str = "--key"
) -> dict[str, list[Any]]:
    """Return the values of ``column=value`` words by column, in the types that the columns have."""
    columns: dict[str, list[Any]] = {}
    for number, pair in enumerate(pairs or ()):
        name, equals, text = pair.partition("=")
        if not equals:
            raise InvalidArgumentError(f"'{pair}' is not column=value.", place=f"{place}[{number}]")
        if name not in types:
            raise NotFoundError.of("key or request column", name, types)
        columns.setdefault(name, []).append(_value(types[name].name, text, pair))
    return columns


def _value(dtype: str, text: str, pair: str) -> Any:
    """Read a command-line value as its declared type."""
    from datetime import date, datetime
    from decimal import Decimal

    readers: dict[str, Any] = {
        "string": str,
        "binary": str.encode,
        "bool": lambda t: {"true": True, "false": False}[t.lower()],
        "date": date.fromisoformat,
        "timestamp": datetime.fromisoformat,
        "float32": float,
        "float64": float,
    }
    try:
        return readers.get(dtype, Decimal if dtype.startswith("decimal") else int)(text)
    except (ValueError, KeyError, ArithmeticError) as error:
        raise InvalidArgumentError(f"'{text}' is not {dtype}.", place=pair) from error


def pulled_views(store: FeatureStore) -> list[str]:
    """Return the versions that have a source to pull, retired ones left out."""
    versions = ((ref, record) for ref, record in store.snapshot().view_versions() if record.status != "retired")
    return [str(ref) for ref, record in versions if record.source is not None and record.source.kind != "push"]


def say(text: str) -> None:
    """Write a line to standard error."""
    print(text, file=sys.stderr, flush=True)


def print_json(document: Mapping[str, Any]) -> None:
    """Write a document to standard output, with the version of its schema."""
    print(json.dumps({"schema_version": SCHEMA_VERSION, **document}, indent=2, default=_json_value))


def _json_value(value: Any) -> str:
    """Write a scalar that JSON lacks: an instant or a day in ISO form, a decimal or bytes as text."""
    from datetime import date
    from decimal import Decimal

    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal | Path):
        return str(value)
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    raise TypeError(f"{type(value).__name__} has no JSON form")


def print_rows(headers: Sequence[str], rows: Iterable[Sequence[Any]], output: Format, *, command: str) -> None:
    """Write rows as a table, or as JSON under the lower-case headers."""
    found = [list(row) for row in rows]
    if output is Format.json:
        names = [header.lower().replace(" ", "_") for header in headers]
        print_json({"command": command, "rows": [dict(zip(names, row, strict=True)) for row in found]})
    else:
        from lineage.printing import table

        print(table(headers, found) if found else "nothing")
