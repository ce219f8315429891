"""A call as handlers see it: no transport's types, so that every transport serves the same functions."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import lru_cache

import msgspec


class Call(msgspec.Struct, frozen=True, gc=False):
    """What came with a request besides its bytes.

    Args:
        method: What is called, as in `access.METHODS`: ``/featurestore.v1.FeatureStore/Write``, or ``POST /v1/write``.
        metadata: Headers by lower-case name; of a repeated one, the last.
        peer: Host of the caller, without its port.
        certificate: Who the client certificate of the connection was made out to; empty without one.
        deadline: Instant of `monotonic_micros` by which the answer must be there; None when the caller waits for ever.
    """

    method: str
    metadata: Mapping[str, str] = {}
    peer: str = ""
    deadline: int | None = None
    certificate: str = ""

    @property
    def client(self) -> str:
        """Who calls, as usage records it: host and program, ``10.0.0.7/grpc-python``.

        >>> Call("", {"user-agent": "grpc-python/1.85.1 grpc-c/51.0.0 (linux)"}, "10.0.0.7").client
        '10.0.0.7/grpc-python'
        """
        return _client(self.peer, self.metadata.get("user-agent", ""))

    @property
    def remaining(self) -> float | None:
        """Seconds until the deadline, negative after it; None without one."""
        return None if self.deadline is None else (self.deadline - monotonic_micros()) / 1e6


@lru_cache(maxsize=4096)
def _client(peer: str, agent: str) -> str:
    return f"{peer}/{agent.partition('/')[0][:64]}"


class Reply(msgspec.Struct, frozen=True, gc=False):
    """The answer to a call.

    Args:
        body: The serialized answer; empty unless `code` is OK.
        code: A gRPC status code by name.
        message: What went wrong, for people; empty for OK.
        trailers: Metadata that follows the answer; names lower-case, values printable ASCII.
    """

    body: bytes = b""
    code: str = "OK"
    message: str = ""
    trailers: tuple[tuple[str, str], ...] = ()


Handler = Callable[[Call, bytes], Reply | Awaitable[Reply]]
"""A unary handler; one that must wait returns an awaitable."""

StreamHandler = Callable[[Call, AsyncIterator[bytes]], AsyncIterator[Reply]]
"""A handler of streams: requests come as they are sent, replies go as they are made; one that is not OK is the last."""


def monotonic_micros() -> int:
    """Return the instant of the monotonic clock in microseconds; only differences mean anything."""
    return time.monotonic_ns() // 1000
