"""Every error lineage raises on purpose.

    LineageError
    ├── NotFoundError (KeyError)           a name that is not there; says the nearest one
    │   └── MissingRegistryError           no project, or a project in which nothing was applied yet
    ├── InvalidQuestionError (ValueError)  a question that cannot be answered as asked
    ├── CorruptRegistryError               a registry file that is not what the contract says
    │   └── NewerSchemaError               written by a newer version than this one reads
    ├── InvalidPolicyError                 a lineage.toml or a baseline that is not as described
    ├── NotAllowedError (PermissionError)  the registry may not be read by this user
    └── UnavailableError (ConnectionError) the registry cannot be read now, such as when it is locked

The facts stay as attributes; the command line maps the classes to exit codes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


class LineageError(Exception):
    """An error of lineage with its message and how to repair it.

    Args:
        message: What was asked and what there is.
        repair: What to do about it; empty when nothing but the message can be said.

    >>> str(LineageError("Nothing was applied.", repair="Run `featurestore apply`."))
    'Nothing was applied. Run `featurestore apply`.'
    """

    def __init__(self, message: str, *, repair: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.repair = repair

    def __str__(self) -> str:
        return f"{self.message} {self.repair}".strip()


class NotFoundError(LineageError, KeyError):
    """A named thing does not exist.

    Attributes:
        kind: What was looked for, e.g. ``object``.
        name: The name asked for.
        nearest: The closest existing name, or None.
    """

    kind: str = ""
    name: str = ""
    nearest: str | None = None

    @classmethod
    def of(cls, kind: str, name: str, available: Iterable[str]) -> NotFoundError:
        """Build the error from the kind and name asked for, and the names there are.

        >>> str(NotFoundError.of("object", "wether@v1", ["weather@v1", "plane@v1"]))
        "No object 'wether@v1'. Did you mean 'weather@v1'?"
        """
        import difflib

        names = sorted(set(available))
        nearest = next(iter(difflib.get_close_matches(name, names, n=1, cutoff=0.5)), None)
        if nearest:
            hint = f"Did you mean '{nearest}'?"
        elif names:
            hint = f"There is: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}."
        else:
            hint = f"There is no {kind} yet."
        error = cls(f"No {kind} '{name}'.", repair=hint)
        error.kind, error.name, error.nearest = kind, name, nearest
        return error


class MissingRegistryError(NotFoundError):
    """There is no registry file where one was looked for.

    Attributes:
        path: The file or folder looked for.
    """

    def __init__(self, message: str, *, path: Path | None = None, repair: str = "") -> None:
        super().__init__(message, repair=repair)
        self.path = path


class InvalidQuestionError(LineageError, ValueError):
    """A question that cannot be answered as it was asked."""


class CorruptRegistryError(LineageError):
    """A registry file that is not what the contract says.

    Attributes:
        path: The file.
    """

    def __init__(self, message: str, *, path: Path, repair: str = "") -> None:
        super().__init__(message, repair=repair)
        self.path = path


class NewerSchemaError(CorruptRegistryError):
    """A registry document of a newer schema than this version reads.

    Attributes:
        found: Schema version of the document.
        supported: Greatest schema version this code reads.
    """

    def __init__(self, *, path: Path, found: int, supported: int) -> None:
        super().__init__(
            f"The registry '{path}' has schema version {found}; this lineage reads up to {supported}.",
            path=path,
            repair="Upgrade the featurestore package here.",
        )
        self.found = found
        self.supported = supported


class InvalidPolicyError(LineageError):
    """What a project sets for its findings is not as described.

    Attributes:
        path: The file.
    """

    def __init__(self, message: str, *, path: Path, repair: str = "") -> None:
        super().__init__(message, repair=repair)
        self.path = path


class NotAllowedError(LineageError, PermissionError):
    """The registry is there and this user may not read it."""


class UnavailableError(LineageError, ConnectionError):
    """The registry is there and cannot be read now."""
