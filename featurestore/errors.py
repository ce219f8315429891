"""Every error this package raises on purpose.

    FeatureStoreError
    ├── NotFoundError (KeyError)            a name that is not there; says the nearest one
    ├── InvalidArgumentError (ValueError)   a request that cannot be right: key type, missing key, ragged columns
    │   └── QuarantinedError                rows that break an expectation: none was accepted, all are in quarantine
    ├── DefinitionError (ValueError)        features.py says something impossible
    │   └── ConfigError                     featurestore.toml does
    ├── FailedPreconditionError             right request, wrong state: a version that was never filled
    │   ├── ErasedError                     rows of an erased entity, or a file that an erasure has rewritten
    │   └── StaleSchemaError                the caller's schema of a read plan is out of date: fetch it again
    ├── ConflictError                       somebody committed in between: plan again
    ├── UnauthenticatedError                no principal, and this server wants one
    ├── AccessDeniedError (PermissionError) known principal, not allowed
    ├── UnavailableError (ConnectionError)  no server, no writer, or no answer in time
    │   ├── DeadlineExceededError
    │   └── ResourceExhaustedError          refused quickly because of load or size
    └── CorruptionError                     bytes on disk are not what was written; says file and offset

The serving layer maps these to gRPC and HTTP codes, the CLI to exit codes; nothing here knows of either.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FeatureStoreError(Exception):
    """An error with its facts: what happened, where, and how to repair it.

    Args:
        message: What was asked and what there is, in one or two sentences.
        place: Where in the request or file, e.g. ``$.keys.origin[3]``; None when there is no finer place.
        repair: What to do about it; None when nothing but the message can be said.

    >>> str(FeatureStoreError("No rows.", place="$.keys", repair="Send at least one."))
    'No rows. - at `$.keys`. Send at least one.'
    """

    def __init__(self, message: str, *, place: str | None = None, repair: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.place = place
        self.repair = repair

    def __str__(self) -> str:
        where = f" - at `{self.place}`." if self.place else ""
        return f"{self.message}{where}" + (f" {self.repair}" if self.repair else "")


class NotFoundError(FeatureStoreError, KeyError):
    """A named thing does not exist.

    Attributes:
        kind: What was looked for, e.g. ``feature``.
        name: The name asked for.
        nearest: The closest existing name, or None.
    """

    kind: str = ""
    name: str = ""
    nearest: str | None = None

    @classmethod
    def of(
        cls, kind: str, name: str, available: Iterable[str], *, place: str | None = None, repair: str | None = None
    ) -> NotFoundError:
        """Build the error from the facts: the kind and name asked for, and the names there are.

        >>> str(NotFoundError.of("feature", "weather:tmep", ["weather:temp", "weather:humid"]))
        "No feature 'weather:tmep'. Did you mean 'weather:temp'?"
        """
        names = sorted(available)
        nearest = nearest_name(name, names)
        if nearest:
            hint = f" Did you mean '{nearest}'?"
        elif names:
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            hint = f" There is: {', '.join(names[:8])}{more}."
        else:
            hint = f" There is no {kind} yet."
        error = cls(f"No {kind} '{name}'.{hint}", place=place, repair=repair)
        error.kind, error.name, error.nearest = kind, name, nearest
        return error


class InvalidArgumentError(FeatureStoreError, ValueError):
    """A request that cannot be right as it was sent."""


class QuarantinedError(InvalidArgumentError):
    """Rows that break an expectation of their view: none was accepted; the place is the report on them."""


class DefinitionError(FeatureStoreError, ValueError):
    """A definition that says something impossible, found before anything was changed."""


class ConfigError(DefinitionError):
    """featurestore.toml says something impossible."""


class FailedPreconditionError(FeatureStoreError):
    """A right request in the wrong state, such as a read of a version that was never filled."""


class ErasedError(FailedPreconditionError):
    """Rows of an erased entity are written again, or what is read was rewritten by an erasure; names the receipt."""


class StaleSchemaError(FailedPreconditionError):
    """The caller's schema of a read plan is out of date; clients fetch it again by themselves."""


class ConflictError(FeatureStoreError):
    """Somebody else committed in between; plan again."""


class UnauthenticatedError(FeatureStoreError):
    """The call carries no valid identity and this server wants one."""


class AccessDeniedError(FeatureStoreError, PermissionError):
    """The principal is known and may not do this."""


class UnavailableError(FeatureStoreError, ConnectionError):
    """No server or writer answers."""


class DeadlineExceededError(UnavailableError):
    """The answer would come too late."""


class ResourceExhaustedError(UnavailableError):
    """Refused quickly because of load or size.

    Args:
        message: What was too much.
        place: Where in the request; None when there is no finer place.
        repair: What to do about it.
        retry_after: Seconds after which it may be tried again; None when that would not help, as with a request that is too large.
    """

    def __init__(
        self, message: str, *, place: str | None = None, repair: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, place=place, repair=repair)
        self.retry_after = retry_after


class CorruptionError(FeatureStoreError):
    """Bytes on disk are not what was written; the place is file and offset."""


def nearest_name(name: str, available: Iterable[str]) -> str | None:
    """Return the existing name most like the one asked for, or None when nothing is close.

    >>> nearest_name("wether", ["weather", "plane"])
    'weather'
    """
    matches = difflib.get_close_matches(name, list(available), n=1, cutoff=0.6)
    return matches[0] if matches else None
