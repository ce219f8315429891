"""Calls that a worker hands to another process of the server, as bytes over its Unix socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from featurestore.client import texts
from featurestore.errors import UnavailableError
from featurestore.flow.sockets import socket_path
from featurestore.serving.access import rpc_of
from featurestore.serving.call import Call, Reply
from featurestore.serving.settings import MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES
from featurestore.serving.tracing import Tracing, headers_of

_OPTIONS = (
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", max(MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES)),
)
_GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)  # grpc cancels what a server that stops has not read
_LONGEST = 30.0  # seconds for callers of one answer that gave no deadline


class Forwarder:
    """Handlers that let another process answer; make it inside the event loop.

    While that process is replaced, calls wait for its successor, as long as their callers do.

    Args:
        store_directory: The project's ``store`` folder, where the process's socket is.
        name: Of the process, such as ``writer``.
        service: The service that it answers.
        methods: Its unary methods.
        streams: Its methods of streams.
        tracing: Ties what that process does to the span in progress.
    """

    def __init__(
        self,
        store_directory: Path,
        name: str,
        service: str,
        *,
        methods: Sequence[str] = (),
        streams: Sequence[str] = (),
        tracing: Tracing | None = None,
    ) -> None:
        self._tracing = tracing
        self._name = name
        self._channel = grpc.aio.insecure_channel(f"unix:{socket_path(store_directory, name)}", options=_OPTIONS)
        self._methods: dict[str, Any] = {rpc: self._channel.unary_unary(f"/{service}/{rpc}") for rpc in methods}
        self._streams: dict[str, Any] = {rpc: self._channel.stream_stream(f"/{service}/{rpc}") for rpc in streams}

    async def __call__(self, call: Call, body: bytes) -> Reply:
        """Return the answer to a unary call, errors included.

        Raises:
            UnavailableError: The process does not answer; whether it did the work is not known.
        """
        ask = self._methods[rpc_of(call.method)]
        try:
            timeout = _LONGEST if call.remaining is None else call.remaining
            metadata = headers_of(call, self._tracing)
            return Reply(await ask(body, timeout=timeout, metadata=metadata, wait_for_ready=True))
        except grpc.aio.AioRpcError as error:
            return self._refused(error)

    async def stream(self, call: Call, bodies: AsyncIterator[bytes]) -> AsyncIterator[Reply]:
        """Pass a stream on in both directions, at the pace of the slower side; an error is the last reply.

        Raises:
            UnavailableError: The process does not answer.
        """
        ask = self._streams[rpc_of(call.method)](
            bodies, timeout=call.remaining, metadata=headers_of(call, self._tracing), wait_for_ready=True
        )
        try:
            async for body in ask:
                yield Reply(body)
        except grpc.aio.AioRpcError as error:
            yield self._refused(error)
        finally:
            ask.cancel()  # if the caller went away; a call that has ended takes no notice

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    def _refused(self, error: grpc.aio.AioRpcError) -> Reply:
        facts = texts(error.trailing_metadata())
        trailers = tuple((name, value) for name, value in facts.items() if name.startswith("fs-"))
        if not trailers and error.code() in _GONE:
            raise UnavailableError(f"The {self._name} does not answer.", repair="Try again in a moment.") from error
        return Reply(code=error.code().name, message=error.details() or "", trailers=trailers)
