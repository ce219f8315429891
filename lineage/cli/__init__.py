"""The `lineage` command: answers on standard output, notes on standard error.

Exit codes: 0 done, 1 the answer is no, 2 usage, 3 a registry that is not as published, 4 not found, 5 not allowed, 6 unavailable,
130 interrupted. What answers is imported where it is needed, so that `--help` is quick.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Mapping, Sequence

import typer

from lineage.cli.start import Part, program, run
from lineage.errors import (
    CorruptRegistryError,
    InvalidPolicyError,
    InvalidQuestionError,
    LineageError,
    NotAllowedError,
    NotFoundError,
    UnavailableError,
)

EXIT_CODES: Mapping[type[LineageError], int] = {
    InvalidQuestionError: 2,
    CorruptRegistryError: 3,
    InvalidPolicyError: 3,
    NotFoundError: 4,
    NotAllowedError: 5,
    UnavailableError: 6,
}

PARTS = (
    Part("lineage.cli.reading:app", ("consumers", "impact", "cells", "usage")),
    Part(
        "lineage.cli.walking:app",
        ("upstream", "downstream", "path", "export", "select", "changes", "log", "cycles"),
    ),
    Part("lineage.cli.checking:app", ("check", "explain")),
    Part("lineage.cli.declaring:app", ("declare", "diff")),
    Part("lineage.cli.scanning:app", ("scan",)),
    Part("lineage.cli.evaluating:app", ("evaluate", "removable", "holdout", "cost")),
    Part("lineage.cli.reporting:app", ("debt",)),
    Part("lineage.cli.importing:app", (), group="import"),
)


def commands(arguments: Sequence[str] = ()) -> typer.Typer:
    """Return the program with what a command line needs of it; without one, all of it."""
    return program("lineage", "Who reads every feature, and what breaks when it changes.", PARTS, arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: Without the program's name; None is what the process was started with.

    Raises:
        SystemExit: Always, with the exit code.
    """
    if arguments is None:
        gc.disable()  # one answer, then the process ends: what it makes has no cycles worth looking for
        arguments = sys.argv[1:]
    try:
        run(commands(arguments), arguments)
    except LineageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 1))
    except KeyboardInterrupt:
        sys.exit(130)
