"""Calls that a worker hands to the writer process, as bytes over its Unix socket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from featurestore.client import texts
from featurestore.errors import UnavailableError
from featurestore.flow.remote import SERVICE, socket_path
from featurestore.serving.access import rpc_of
from featurestore.serving.call import Call, Reply

_OPTIONS = (("grpc.min_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000))
_LONGEST = 30.0  # seconds for callers that gave no deadline


class WriterForwarder:
    """A handler that lets the writer process answer; make it inside the event loop.

    Args:
        store_directory: The project's ``store`` folder, where the writer's socket is.
    """

    def __init__(self, store_directory: Path) -> None:
        self._channel = grpc.aio.insecure_channel(f"unix:{socket_path(store_directory)}", options=_OPTIONS)
        self._methods: dict[str, Any] = {
            name: self._channel.unary_unary(f"/{SERVICE}/{name}") for name in ("Write", "AdvanceClock")
        }

    async def __call__(self, call: Call, body: bytes) -> Reply:
        """Return the writer's answer to ``Write`` or ``AdvanceClock``, errors included.

        Raises:
            UnavailableError: The writer does not answer; whether it did the work is not known.
        """
        ask = self._methods[rpc_of(call.method)]
        try:
            return Reply(await ask(body, timeout=_LONGEST if call.remaining is None else call.remaining))
        except grpc.aio.AioRpcError as error:
            facts = texts(error.trailing_metadata())
            trailers = tuple((name, value) for name, value in facts.items() if name.startswith("fs-"))
            if not trailers and error.code() is grpc.StatusCode.UNAVAILABLE:
                raise UnavailableError("The writer does not answer.", repair="Try again in a moment.") from error
            return Reply(code=error.code().name, message=error.details() or "", trailers=trailers)

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()
