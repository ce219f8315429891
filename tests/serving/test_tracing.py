"""Spans and logs of a server: a caller's trace goes on in it, and neither a span nor a log line quotes what was asked for."""

import asyncio
import json
import logging
import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from featurestore.errors import InvalidArgumentError
from featurestore.serving.call import Call, Reply
from featurestore.serving.logs import JsonLines, Lines
from featurestore.serving.status import Guard
from featurestore.serving.tracing import Tracing, headers_of, tracing

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
METADATA = {"traceparent": f"00-{TRACE}-{PARENT}-01", "authorization": "Bearer secret"}
READ = Call("/featurestore.v1.FeatureStore/GetOnlineFeatures", METADATA)


@pytest.fixture
def spans(monkeypatch):
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return exporter


def test_without_a_provider_there_are_no_spans(monkeypatch):
    assert tracing() is None
    monkeypatch.delitem(sys.modules, "opentelemetry")
    assert tracing() is None
    monkeypatch.setenv("OTEL_PYTHON_TRACER_PROVIDER", "x")
    monkeypatch.setitem(sys.modules, "opentelemetry", None)  # not installed
    assert tracing() is None
    assert headers_of(READ, None) == (("traceparent", METADATA["traceparent"]),)


def test_a_call_is_a_span_of_the_callers_trace(spans):
    async def later(call, _):
        assert dict(headers_of(call, tracing()))["traceparent"].startswith(f"00-{TRACE}-")
        raise InvalidArgumentError("No key 'JFK'.")

    guard = Guard(tracing=tracing())
    guard.wrap(lambda _call, body: Reply(body))(READ, b"a key")
    asyncio.run(guard.wrap(later)(Call("/s/Write", METADATA), b""))
    guard.wrap(lambda _call, _body: 1 / 0)(Call("GET /metrics"), b"")
    read, write, failed = spans.get_finished_spans()
    assert [span.name for span in (read, write, failed)] == [READ.method[1:], "s/Write", "GET /metrics"]
    assert (read.context.trace_id, read.parent.span_id) == (int(TRACE, 16), int(PARENT, 16))
    assert read.attributes["rpc.method"] == "GetOnlineFeatures"
    assert write.context.trace_id == int(TRACE, 16)
    assert (write.attributes["rpc.response.status_code"], write.status.is_ok) == ("INVALID_ARGUMENT", True)
    assert (failed.parent, failed.status.is_ok, failed.attributes["http.route"]) == (None, False, "/metrics")
    told = "".join(span.to_json() for span in (read, write, failed))
    assert not any(word in told for word in ("secret", "JFK", "a key"))


def test_a_stream_is_one_span_and_what_it_calls_is_inside(spans):
    guard = Guard(tracing=tracing())

    async def bodies():
        yield b"1"
        yield b"2"

    async def echo(call, bodies):
        assert dict(headers_of(call, tracing()))["traceparent"].split("-")[2] != PARENT
        async for body in bodies:
            yield Reply(body)

    async def run():
        return [reply.body async for reply in guard.wrap_stream(echo)(READ, bodies())]

    assert asyncio.run(run()) == [b"1", b"2"]
    with trace.use_span(
        trace.NonRecordingSpan(trace.SpanContext(1, 2, is_remote=False, trace_flags=trace.TraceFlags(1)))
    ):
        guard.wrap(lambda _call, body: Reply(body))(READ, b"")
    stream, inside = spans.get_finished_spans()
    assert stream.parent.span_id == int(PARENT, 16)
    assert inside.parent.span_id == 2
    assert isinstance(tracing(), Tracing)


@pytest.mark.parametrize("lines", [Lines("%(message)s"), JsonLines()])
def test_a_log_line_says_where_an_exception_was_raised_and_not_what_it_quotes(lines):
    def fail(key):
        raise LookupError(f"no {key}")

    try:
        try:
            fail("JFK")
        except LookupError as error:
            raise ValueError("LGA") from error
    except ValueError:
        record = logging.LogRecord("n", logging.ERROR, __file__, 1, "failed in %s", ("Write",), sys.exc_info())
    text = lines.format(record)
    assert "failed in Write" in text
    assert "ValueError" in text
    assert "LookupError" in text
    assert "in fail" in text
    assert "JFK" not in text.replace('fail("JFK")', "").replace('fail(\\"JFK\\")', "")
    assert "LGA" not in text.replace('ValueError("LGA")', "").replace('ValueError(\\"LGA\\")', "")
    if isinstance(lines, JsonLines):
        assert json.loads(text)["level"] == "ERROR"
