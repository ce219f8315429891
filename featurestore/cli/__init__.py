"""The `featurestore` command: data on standard output, progress and errors on standard error.

Exit codes: 0 done, 1 the answer is no, 2 usage, 3 definition or config invalid, 4 not found, 5 not allowed, 6 unavailable or timed out,
130 interrupted. What does the work is imported where it is needed, so that `--help` is quick.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import typer

from featurestore.cli.terminal import say
from featurestore.errors import (
    AccessDeniedError,
    ConflictError,
    CorruptionError,
    DefinitionError,
    FailedPreconditionError,
    FeatureStoreError,
    InvalidArgumentError,
    NotFoundError,
    QuarantinedError,
    UnauthenticatedError,
    UnavailableError,
)
from lineage.cli.start import Part, program, run

TRACEBACK = "FEATURESTORE_TRACEBACK"
EXIT_CODES: tuple[tuple[type[FeatureStoreError], int], ...] = (
    (DefinitionError, 3),
    (QuarantinedError, 1),
    (InvalidArgumentError, 2),
    (NotFoundError, 4),
    (AccessDeniedError, 5),
    (UnauthenticatedError, 5),
    (UnavailableError, 6),
    (CorruptionError, 6),
    (FailedPreconditionError, 1),
    (ConflictError, 1),
)

PARTS = (
    Part(
        "featurestore.cli.definitions:app",
        ("init", "demo", "plan", "apply", "promote", "deprecate", "retire", "log", "list", "show", "search"),
    ),
    Part("featurestore.cli.rows:app", ("ingest", "write", "materialize", "compact", "erase", "replay")),
    Part("featurestore.cli.quality:app", ("revisions", "profile")),
    Part("featurestore.cli.reading:app", ("get", "training-set")),
    Part("featurestore.cli.serving:app", ("serve", "doctor")),
    Part("featurestore.cli.top:app", ("top",)),
    Part("featurestore.cli.datasets:app", (), group="datasets"),
    Part("featurestore.cli.quality:quarantine", (), group="quarantine"),
    Part("featurestore.cli.tokens:app", (), group="token"),
)


def commands(arguments: Sequence[str] = ()) -> typer.Typer:
    """Return the program with what a command line needs of it; without one, all of it."""
    summary = "A feature store that knows who reads what. Start with `featurestore demo`, or `featurestore init`."
    return program("featurestore", summary, PARTS, arguments)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; expected errors are printed with their repair, never as a traceback."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        run(commands(given), given)
        code = 0
    except FeatureStoreError as error:
        say(f"error: {error}".replace("full_feature_names=True", "--full-feature-names"))
        code = exit_code(error)
    except KeyboardInterrupt:
        code = 130
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else 0
    except BrokenPipeError:
        code = 0
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        say(f"error: {_unexpected(error)}")
        code = 1
    sys.exit(code)


def exit_code(error: FeatureStoreError) -> int:
    """Return the exit code of an error.

    >>> exit_code(NotFoundError("No view 'x'."))
    4
    """
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), 1)


def _unexpected(error: Exception) -> FeatureStoreError:
    """Say what nobody foresaw: in a line of the user's file, if one is to blame, else as a defect."""
    frames = traceback.extract_tb(error.__traceback__)
    roots = (Path(__file__).parent.parent, Path(typer.__file__).parent.parent, Path(os.__file__).parent)
    own = [
        f for f in frames if f.filename.endswith(".py") and not any(Path(f.filename).is_relative_to(r) for r in roots)
    ]
    said = f"{type(error).__name__}: {error}".rstrip(".")
    if own:
        return FeatureStoreError(f"{said}.", place=f"{own[-1].filename}:{own[-1].lineno}")
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else None
    return FeatureStoreError(
        f"{said}.", place=place, repair=f"This was not foreseen; {TRACEBACK}=1 shows the traceback."
    )
