"""The one table from our errors to gRPC and HTTP codes, and how an error travels: its text, and its facts as trailers."""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any
from urllib.parse import quote

from google.protobuf.message import DecodeError

from featurestore.errors import (
    AccessDeniedError,
    ConflictError,
    CorruptionError,
    DeadlineExceededError,
    DefinitionError,
    ErasedError,
    FailedPreconditionError,
    FeatureStoreError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    StaleSchemaError,
    UnauthenticatedError,
    UnavailableError,
)
from featurestore.serving.admission import Admission
from featurestore.serving.call import Call, Handler, Reply, StreamHandler
from featurestore.serving.tracing import Tracing

LOG = logging.getLogger(__name__)
MAX_TEXT = 2048  # characters of a message or fact: all metadata of a reply must stay below 8 KiB


@dataclass(frozen=True, slots=True)
class Status:
    """How an error is told: the gRPC code by name, and the HTTP code."""

    grpc: str
    http: int


OK = Status("OK", 200)
INTERNAL = Status("INTERNAL", 500)
UNIMPLEMENTED = Status("UNIMPLEMENTED", 404)
STATUS_OF: dict[type[FeatureStoreError], Status] = {
    NotFoundError: Status("NOT_FOUND", 404),
    InvalidArgumentError: Status("INVALID_ARGUMENT", 400),
    DefinitionError: Status("INVALID_ARGUMENT", 400),
    StaleSchemaError: Status("FAILED_PRECONDITION", 409),
    ErasedError: Status("FAILED_PRECONDITION", 409),
    FailedPreconditionError: Status("FAILED_PRECONDITION", 409),
    ConflictError: Status("ABORTED", 409),
    UnauthenticatedError: Status("UNAUTHENTICATED", 401),
    AccessDeniedError: Status("PERMISSION_DENIED", 403),
    DeadlineExceededError: Status("DEADLINE_EXCEEDED", 504),
    ResourceExhaustedError: Status("RESOURCE_EXHAUSTED", 429),
    UnavailableError: Status("UNAVAILABLE", 503),
    CorruptionError: Status("DATA_LOSS", 500),
}
HTTP_OF = {status.grpc: status.http for status in (*STATUS_OF.values(), OK, INTERNAL, UNIMPLEMENTED)}


def status_of(error: FeatureStoreError) -> Status:
    """Return the codes of an error: those of its class, or of the nearest class above it.

    >>> status_of(NotFoundError("No view 'x'."))
    Status(grpc='NOT_FOUND', http=404)
    """
    return next((STATUS_OF[kind] for kind in type(error).__mro__ if kind in STATUS_OF), INTERNAL)


def error_reply(error: FeatureStoreError) -> Reply:
    """Return the reply that carries an error; its class and facts travel as ``fs-*`` trailers, percent-encoded.

    >>> error_reply(NotFoundError.of("view", "wether", ["weather"])).trailers
    (('fs-error', 'NotFoundError'), ('fs-nearest', 'weather'))
    """
    facts = {
        "fs-error": _public_name(error),
        "fs-place": error.place,
        "fs-nearest": getattr(error, "nearest", None),
        "fs-repair": error.repair,
        "fs-retry-after-ms": _retry_after(error),
    }
    trailers = tuple((name, ascii_safe(fact)) for name, fact in facts.items() if fact)
    return Reply(code=status_of(error).grpc, message=_clipped(str(error)), trailers=trailers)


class Guard:
    """Turns what handlers raise into replies; the one place that catches what nobody foresaw, and counts it.

    Args:
        count: Is told of every call and how it was answered.
        tracing: Makes spans of calls; None makes none.

    >>> Guard().wrap(lambda call, body: Reply(b"1"))(Call(""), b"")
    Reply(body=b'1', code='OK', message='', trailers=())
    """

    def __init__(
        self, count: Callable[[Call, Reply], None] = lambda _call, _reply: None, tracing: Tracing | None = None
    ) -> None:
        self._unforeseen = 0
        self._tracing = tracing
        self._count = count

    @property
    def unforeseen(self) -> int:
        """How many failures nobody foresaw since the process began."""
        return self._unforeseen

    def wrap(self, handle: Callable[[Call, bytes], Any]) -> Handler:
        """Return a handler that always replies; whether it must be awaited is decided here, once."""

        def answer(call: Call, body: bytes) -> Reply:
            try:
                reply: Reply = handle(call, body)
            except Exception as error:  # noqa: BLE001  # a caller gets a reply, whatever happened
                reply = self._reply(call, error)
            self._count(call, reply)
            return reply

        async def answer_later(call: Call, body: bytes) -> Reply:
            try:
                reply: Reply = await handle(call, body)
            except Exception as error:  # noqa: BLE001  # likewise
                reply = self._reply(call, error)
            self._count(call, reply)
            return reply

        guarded = answer_later if iscoroutinefunction(handle) else answer
        return guarded if self._tracing is None else self._tracing.wrap(guarded)

    def wrap_stream(self, handle: StreamHandler) -> StreamHandler:
        """Return a handler of streams that always ends with a reply: what was raised is the last one."""

        async def answer(call: Call, bodies: AsyncIterator[bytes]) -> AsyncIterator[Reply]:
            try:
                async for reply in handle(call, bodies):
                    yield reply
            except Exception as error:  # noqa: BLE001  # a caller gets a reply, whatever happened
                yield self._reply(call, error)

        return answer if self._tracing is None else self._tracing.wrap_stream(answer)

    def _reply(self, call: Call, error: Exception) -> Reply:
        if isinstance(error, FeatureStoreError):
            return error_reply(error)
        if isinstance(error, DecodeError):
            return error_reply(InvalidArgumentError(f"The request is not the message that {call.method} takes."))
        return self._unforeseen_reply(call, error)

    def _unforeseen_reply(self, call: Call, error: Exception) -> Reply:
        """Log an unexpected error once, with its traceback; the caller learns only an id by which the log line is found."""
        self._unforeseen += 1
        identity = secrets.token_hex(6)
        LOG.error("internal error %s in %s", identity, call.method, exc_info=error)
        return Reply(code=INTERNAL.grpc, message=f"Internal error {identity}. The server's log says more.")


class Refusals:
    """The replies of calls that were not taken on; those of a moment are one, since making it takes as long as a read.

    Args:
        admission: Says what there is to say.
    """

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._said: tuple[float, int] | None = None
        self._reply = Reply()

    def reply(self) -> Reply:
        """Return the reply of a call that was not taken on just now."""
        says = self._admission.says
        if says != self._said:
            self._said, self._reply = says, error_reply(self._admission.refusal())
        return self._reply


def _retry_after(error: FeatureStoreError) -> str | None:
    seconds = getattr(error, "retry_after", None)
    return None if seconds is None else str(math.ceil(1000 * seconds))


def ascii_safe(text: str) -> str:
    """Return a text as printable ASCII, percent-encoded where it must be.

    >>> ascii_safe("$.keys.Zürich[3]")
    '$.keys.Z%C3%BCrich[3]'
    """
    return quote(_clipped(text), safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~")


def _clipped(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 3]}..."


def _public_name(error: FeatureStoreError) -> str:
    """Return the name of the error's class, or of the nearest public one above it: what a client can build again."""
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == FeatureStoreError.__module__)
