"""Load on a server: the same generator for every server of one protocol, and every answer accounted for.

gRPC is loaded by h2load, which posts a ready frame; it does not read `grpc-status`, so an endpoint is called with a real client first and
every run must bring exactly the bytes of that answer. HTTP is loaded by wrk. Without h2load, an asyncio grpcio client is used for all.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc.aio
from processes import HOST

STREAMS_PER_CONNECTION = 4


@dataclass(frozen=True, slots=True)
class Load:
    """What a server did in one run: answers a second, and how long they took, in milliseconds."""

    rate: float
    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class GrpcEndpoint:
    """A unary method and one request: serialized, with the serialized answer that a real client got."""

    port: int
    method: str
    request: bytes
    answer: bytes


@dataclass(frozen=True, slots=True)
class HttpEndpoint:
    """A path that takes a JSON body."""

    port: int
    path: str
    body: bytes


def grpc_generator() -> str:
    """Say what loads gRPC servers here."""
    return "h2load" if shutil.which("h2load") else "asyncio grpcio client"


def http_generator() -> str | None:
    """Say what loads HTTP servers here; None when nothing does."""
    return "wrk" if shutil.which("wrk") else None


def steady_grpc(endpoint: GrpcEndpoint, streams: int, seconds: float) -> Callable[[], Load]:
    """Return a load of about so many seconds: as many requests as a first run says the server answers in them."""
    run = _h2load if grpc_generator() == "h2load" else _grpcio
    first = run(endpoint, streams, 100 + 10 * streams)
    requests = max(4 * streams, int(first.rate * seconds))
    return lambda: run(endpoint, streams, requests)


def steady_http(endpoint: HttpEndpoint, streams: int, seconds: int) -> Callable[[], Load]:
    """Return a load of so many seconds."""
    return lambda: _wrk(endpoint, streams, seconds)


def _h2load(endpoint: GrpcEndpoint, streams: int, requests: int) -> Load:
    connections = max(1, streams // STREAMS_PER_CONNECTION)
    with TemporaryDirectory() as scratch:
        frame, log = Path(scratch) / "frame", Path(scratch) / "log"
        frame.write_bytes(b"\0" + len(endpoint.request).to_bytes(4, "big") + endpoint.request)
        shape = ["-n", requests, "-c", connections, "-m", streams // connections, "-t", 1]
        headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        url = f"http://{HOST}:{endpoint.port}{endpoint.method}"
        said = _output(["h2load", *map(str, shape), "-d", str(frame), f"--log-file={log}", *headers, url])
        _demand_all_answered(said, requests, 5 + len(endpoint.answer))
        took = sorted(int(line.split()[2]) / 1000 for line in log.read_text().splitlines())
    return Load(_found(r"([\d.]+) req/s", said), *_percentiles(took))


def _demand_all_answered(said: str, requests: int, answer_bytes: int) -> None:
    wanted = {
        r"(\d+) succeeded": requests,
        r"(\d+) 2xx": requests,
        r"\((\d+)\) data": requests * answer_bytes,
    }
    for pattern, expected in wanted.items():
        if _found(pattern, said) != expected:
            raise RuntimeError(f"h2load expected {expected} as {pattern}:\n{said}")


def _wrk(endpoint: HttpEndpoint, streams: int, seconds: int) -> Load:
    with TemporaryDirectory() as scratch:
        body = Path(scratch) / "body.json"
        body.write_bytes(endpoint.body)
        script = Path(__file__).parent / "wrk.lua"
        url = f"http://{HOST}:{endpoint.port}{endpoint.path}"
        shape = ["-t", "1", "-c", str(streams), "-d", f"{seconds}s", "--timeout", "10s"]
        said = _output(["wrk", *shape, "-s", str(script), url], BODY=str(body))
    result = json.loads(said.splitlines()[-1])
    if result["failed"]:
        raise RuntimeError(f"{result['failed']} of {result['requests']} requests to {url} failed.")
    return Load(result["requests"] / result["seconds"], result["p50_ms"], result["p99_ms"])


def _grpcio(endpoint: GrpcEndpoint, streams: int, requests: int) -> Load:
    return asyncio.run(_grpcio_streams(endpoint, streams, requests))


async def _grpcio_streams(endpoint: GrpcEndpoint, streams: int, requests: int) -> Load:
    took: list[float] = []
    async with grpc.aio.insecure_channel(f"{HOST}:{endpoint.port}") as channel:
        call = channel.unary_unary(endpoint.method)
        await call(endpoint.request, wait_for_ready=True)

        async def ask(count: int) -> None:
            for _ in range(count):
                begun = time.perf_counter()
                answer = await call(endpoint.request)
                took.append((time.perf_counter() - begun) * 1000)
                if len(answer) != len(endpoint.answer):
                    raise RuntimeError(f"{endpoint.method} answered {len(answer)} bytes, not {len(endpoint.answer)}.")

        begun = time.perf_counter()
        await asyncio.gather(*(ask(requests // streams) for _ in range(streams)))
        return Load(len(took) / (time.perf_counter() - begun), *_percentiles(sorted(took)))


def _percentiles(took: list[float]) -> tuple[float, float]:
    return took[len(took) // 2], took[len(took) * 99 // 100]


def _output(command: list[str], **variables: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **variables})
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def _found(pattern: str, said: str) -> float:
    match = re.search(pattern, said)
    if match is None:
        raise RuntimeError(f"No {pattern} in what was said:\n{said}")
    return float(match[1])
