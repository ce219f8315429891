"""Spans of calls, for whoever has OpenTelemetry set up; where nobody has, handlers are left as they are and cost nothing more.

The core needs no package: the extra ``telemetry`` is OpenTelemetry's API, and an application or ``opentelemetry-instrument`` brings
the rest. A span is the child of the caller's, named by the header ``traceparent`` (https://www.w3.org/TR/trace-context); what it says of
the call follows https://opentelemetry.io/docs/specs/semconv/rpc/grpc. No key, no value and no token is in it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from inspect import iscoroutinefunction
from typing import Any

from msgspec import structs

from featurestore.serving.call import Call, Handler, Reply, StreamHandler

HEADERS = ("traceparent", "tracestate")
_FAULTS = {
    "UNKNOWN",
    "DEADLINE_EXCEEDED",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
}  # the server's, not the caller's


class Tracing:
    """Makes spans of calls; `tracing` returns one where there is somebody to take them."""

    def __init__(self) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = trace.get_tracer("featurestore")
        self._propagator = TraceContextTextMapPropagator()
        self._within = trace.set_span_in_context
        self._current = trace.get_current_span
        self._server, self._internal = trace.SpanKind.SERVER, trace.SpanKind.INTERNAL
        self._error = trace.StatusCode.ERROR

    def headers(self, span: Any = None) -> dict[str, str]:
        """Return the metadata by which another process makes its span a child of one, by default of the one in progress, if any is."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, None if span is None else self._within(span))
        return carrier

    def wrap(self, handle: Handler) -> Handler:
        """Return a handler whose calls are spans."""

        def answer(call: Call, body: bytes) -> Reply:
            with self._span(call) as span:
                reply: Any = handle(call, body)
                self._note(span, reply)
            return reply  # type: ignore[no-any-return]  # a handler that is no coroutine function returns a reply

        async def answer_later(call: Call, body: bytes) -> Reply:
            with self._span(call) as span:
                reply: Any = await handle(call, body)  # type: ignore[misc]  # likewise the other way
                self._note(span, reply)
            return reply  # type: ignore[no-any-return]

        return answer_later if iscoroutinefunction(handle) else answer

    def wrap_stream(self, handle: StreamHandler) -> StreamHandler:
        """Return a handler of streams, each of which is a span."""

        async def answer(call: Call, bodies: AsyncIterator[bytes]) -> AsyncIterator[Reply]:
            span = self._tracer.start_span(**self._facts(call))
            try:
                # A generator has no context of its own: what it calls learns of the span by the call.
                inside = structs.replace(call, metadata={**call.metadata, **self.headers(span)})
                replies: Any = handle(inside, bodies)
                async with aclosing(replies):
                    async for reply in replies:
                        self._note(span, reply)
                        yield reply
            finally:
                span.end()

        return answer

    def _span(self, call: Call) -> Any:
        return self._tracer.start_as_current_span(**self._facts(call))

    def _facts(self, call: Call) -> dict[str, Any]:
        outside = not self._current().get_span_context().is_valid
        parent = (
            self._propagator.extract(call.metadata) if outside else None
        )  # within a span of ours that is the parent
        kind, attributes = self._server if outside else self._internal, _attributes(call.method)
        return {"name": call.method.lstrip("/"), "context": parent, "kind": kind, "attributes": attributes}

    def _note(self, span: Any, reply: Reply) -> None:
        if reply.code != "OK":
            span.set_attribute("rpc.response.status_code", reply.code)
            if reply.code in _FAULTS:
                span.set_status(self._error, reply.code)


def tracing() -> Tracing | None:
    """Return what makes spans in this process, or None when OpenTelemetry is not installed or nobody has set it up.

    Whoever sets it up has imported it by now, or names a provider for it to load.
    """
    if "opentelemetry" not in sys.modules and "OTEL_PYTHON_TRACER_PROVIDER" not in os.environ:
        return None
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    provider = trace.get_tracer_provider()
    return None if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider) else Tracing()


def _attributes(method: str) -> dict[str, str]:
    """Return what a span says of a method: of a gRPC path, or of a route such as ``POST /v1/write``."""
    if method.startswith("/"):
        service, _, name = method[1:].rpartition("/")
        return {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
    verb, _, path = method.partition(" ")
    return {"http.request.method": verb, "http.route": path}


def headers_of(call: Call, by: Tracing | None) -> tuple[tuple[str, str], ...]:
    """Return the metadata that ties work in another process to a call: of the span in progress, or what the caller sent."""
    inside = by.headers() if by is not None else {}
    return tuple(inside.items()) or tuple((name, call.metadata[name]) for name in HEADERS if name in call.metadata)
