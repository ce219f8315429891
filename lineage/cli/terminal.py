"""What the commands share: their options, and how they open a project and write an answer."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from lineage.consumers import Transitive
    from lineage.project import Lineage
    from lineage.usage import Coverage

NO = 1  # the exit code of an answer that is no


class Format(StrEnum):
    """How an answer is written."""

    table = "table"
    json = "json"


class Severity(StrEnum):
    """How much a finding matters."""

    info = "info"
    low = "low"
    medium = "medium"
    high = "high"


Project = Annotated[
    Path | None, typer.Option("--project", help="Project folder; default: FEATURESTORE_PROJECT, or here and above.")
]
AsOf = Annotated[str | None, typer.Option("--as-of", help="A revision, an ISO time, or how long ago (7d).")]
Since = Annotated[str | None, typer.Option("--since", help="Only usage since an ISO time, or how long ago (30d).")]
Depth = Annotated[
    int | None, typer.Option("--depth", min=1, help="Greatest number of edges to follow; default: no limit.")
]
Output = Annotated[Format, typer.Option("--format", help="How the answer is written.")]


def complete_object(incomplete: str) -> list[str]:
    """Return the objects of the project whose names begin so; nothing where there is no project."""
    from lineage.errors import LineageError
    from lineage.objects import completions
    from lineage.project import Lineage

    try:
        return completions(Lineage().graph(), incomplete)
    except LineageError:
        return []


Object = Annotated[
    str,
    typer.Argument(
        metavar="OBJECT",
        help="weather, weather@v1:temp, delay_model@3, source:weather, ...",
        autocompletion=complete_object,
    ),
]
MinimumDays = Annotated[
    float | None,
    typer.Option(
        "--minimum-days", min=0, help="Days before a declaration may be called never read; default: lineage.toml's."
    ),
]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer in both forms.

    Attributes:
        payload: What JSON holds beside the envelope.
        text: What a person reads.
        coverage: Whether all reads were counted; None when the answer does not rest on usage.
        others: Other objects of the name that was asked for.
        no: Whether the answer is no.
    """

    payload: Mapping[str, Any]
    text: str
    coverage: Coverage | None = None
    truncated: bool = False
    others: tuple[str, ...] = ()
    no: bool = False


def open_project(project: Path | None, as_of: str | None) -> Lineage:
    """Open the project that was named, or the one here or above."""
    from lineage.project import Lineage

    return Lineage(project, as_of=as_of)


def print_answer(command: str, answer: Answer, output: Format, started: float) -> None:
    """Write an answer to standard output, and what limits it to standard error."""
    from lineage.printing import document

    if output is Format.json:
        payload = {**answer.payload, "others": answer.others}
        taken = elapsed(started)
        print(document(command, payload, elapsed_ms=taken, coverage=answer.coverage, truncated=answer.truncated))
        return
    if answer.text:
        print(answer.text)
    if answer.others:
        note(f"note: there is also {', '.join(answer.others)}")
    if answer.truncated:
        note("note: cut off at --depth; there is more")
    if answer.coverage is not None and not answer.coverage.complete:
        note(f"note: usage is {answer.coverage}")


def transitive_table(found: tuple[Transitive, ...]) -> str:
    """Return readers that are reached through what is made from an object, with the way."""
    from lineage.printing import table

    rows = [[t.reader, t.owner or "-", " -> ".join(str(edge.downstream) for edge in t.path)] for t in found]
    return table(["READER", "OWNER", "WAY"], rows)


def fields_of(record: Any) -> dict[str, Any]:
    """Return the fields of a record by name, their values as they are."""
    from dataclasses import fields

    return {field.name: getattr(record, field.name) for field in fields(record)}


def elapsed(started: float) -> float:
    """Return the milliseconds since an instant of `time.perf_counter`."""
    return (time.perf_counter() - started) * 1000


def note(text: str) -> None:
    """Write a line to standard error."""
    print(text, file=sys.stderr)
