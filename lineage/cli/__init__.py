"""The `lineage` command: answers on standard output, notes on standard error.

Exit codes: 0 done, 1 the answer is no, 2 usage, 3 a registry that is not as published, 4 not found, 5 not allowed, 6 unavailable,
130 interrupted. What answers is imported where it is needed, so that `--help` is quick.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Mapping

import typer

from lineage.cli import checking, declaring, evaluating, feast, importing, reading, reporting, scanning, walking
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

app = typer.Typer(
    name="lineage",
    help="Who reads every feature, and what breaks when it changes.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for part in (reading, walking, checking, declaring, scanning, evaluating, reporting):
    app.add_typer(part.app)
importing.app.add_typer(feast.app)
app.add_typer(importing.app, name="import")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: Without the program's name; None is what the process was started with.

    Raises:
        SystemExit: Always, with the exit code.
    """
    if arguments is None:
        gc.disable()  # one answer, then the process ends: what it makes has no cycles worth looking for
    try:
        app(arguments)
    except LineageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 1))
    except KeyboardInterrupt:
        sys.exit(130)
