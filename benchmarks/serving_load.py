"""A server under more reads than it can answer: how many answers a second come in time at 1, 2 and 5 times what it can do at most.

Run ``python benchmarks/serving_load.py``, on a quiet machine; each transport that is installed is loaded by itself. Callers come at a
steady rate and do not wait for each other, each with a second of patience; whoever is told to come again does so once, after that time.
Reads have 1,000 keys, so that one process can ask for more than another can answer. Beside it: rows a second that one process writes
durably, alone and many at once.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from pathlib import Path

import grpc
import grpc.aio
from online_servers import our_server

from featurestore import Entity, Feature, FeatureStore, FeatureView, PushSource
from featurestore.client import SERVICE, Client, ReadShape, pack_write, texts
from featurestore.serving.native import is_installed
from featurestore.v1 import serving_pb2 as pb

KEYS, PATIENCE, SECONDS = 1000, 1.0, 10.0
NAMES = [f"f{i}" for i in range(10)]
USERS = FeatureView(
    "users", Entity("user", {"user": "int64"}), PushSource("users"), [Feature(name, "float64") for name in NAMES]
)
READ, WRITE = f"/{SERVICE}/GetOnlineFeatures", f"/{SERVICE}/Write"


def rows(first: int, count: int, at: int) -> dict[str, list[float]]:
    return {
        "user": list(range(first, first + count)),
        "event_timestamp": [at] * count,
        **{name: [float(i) for i in range(count)] for name in NAMES},
    }


async def ask(call: grpc.aio.UnaryUnaryMultiCallable, body: bytes) -> str:
    """Ask once, and again if told when; return the code, ``OK`` only within the time there was."""
    end = time.monotonic() + PATIENCE
    for _ in range(2):
        try:
            await call(body, timeout=max(0.0, end - time.monotonic()))
        except grpc.aio.AioRpcError as error:
            pause = int(texts(error.trailing_metadata()).get("fs-retry-after-ms", 0)) / 1000
            if not pause or time.monotonic() + pause >= end:
                return error.code().name
            await asyncio.sleep(pause)
        else:
            return "OK"
    return "RESOURCE_EXHAUSTED"


async def peak(channel: grpc.aio.Channel, body: bytes) -> float:
    """Return the answers a second that 16 callers get who each wait for theirs."""
    call, end, answers = channel.unary_unary(READ), time.monotonic() + SECONDS, 0

    async def again() -> None:
        nonlocal answers
        while time.monotonic() < end:
            code = await ask(call, body)
            answers += code == "OK"

    await asyncio.gather(*(again() for _ in range(16)))
    return answers / SECONDS


async def offered(channel: grpc.aio.Channel, body: bytes, rate: float) -> Counter[str]:
    """Let so many callers a second come, and count how they fared."""
    call, began, tasks = channel.unary_unary(READ), time.monotonic(), []
    for i in range(int(rate * SECONDS)):
        await asyncio.sleep(max(0.0, began + i / rate - time.monotonic()))
        tasks.append(asyncio.ensure_future(ask(call, body)))
    return Counter(await asyncio.gather(*tasks))


async def overload(port: int, body: bytes) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        most = await peak(channel, body)
        print(f"peak: {most:.0f} reads of {KEYS} keys a second")
        for times in (1, 2, 5):
            codes = await offered(channel, body, times * most)
            print(f"{times} x: goodput {codes['OK'] / SECONDS / most:.0%} of peak, {dict(codes)}")
            print(f"after it: {await peak(channel, body) / most:.0%} of peak")


async def writing(port: int, schema: pb.WriteSchema) -> None:
    """Write for a while with so many writers at once, so many rows each time."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(WRITE)
        at = int(time.time() * 1e6) - 10**9
        for writers, count in ((1, 1), (64, 1), (1, 100), (64, 100)):
            end, written = time.monotonic() + SECONDS / 2, 0

            async def write(number: int, count: int = count, end: float = end) -> None:
                nonlocal written, at
                while time.monotonic() < end:
                    at += 1
                    columns = rows(number * count, count, at)
                    await call(pack_write(schema, "users", columns, b""), timeout=60)
                    written += count

            await asyncio.gather(*(write(number) for number in range(writers)))
            print(f"{writers} writers, {count} rows each time: {written / (SECONDS / 2):.0f} durable rows a second")


def main(transport: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "featurestore.toml").write_text('[project]\nname = "load"\n[serving]\nstream_port = 0\n')
        with FeatureStore(folder) as store:
            store.apply([USERS])
        serving = our_server(folder, folder / "log", transport=transport)
        with serving as ports, Client(f"127.0.0.1:{ports.grpc}", timeout=60) as client:
            client.write("users", rows(0, KEYS, int(time.time() * 1e6) - 10**10))
            client.get_online_features([f"users:{name}" for name in NAMES], {"user": [1]})
            with grpc.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel:
                asked = pb.SchemaRequest(features=[f"users:{name}" for name in NAMES]).SerializeToString()
                schema = pb.Schema.FromString(channel.unary_unary(f"/{SERVICE}/GetSchema")(asked))
                wanted = pb.WriteSchemaRequest(view="users").SerializeToString()
                columns = pb.WriteSchema.FromString(channel.unary_unary(f"/{SERVICE}/GetWriteSchema")(wanted))
            body = ReadShape.of(schema).pack({"user": list(range(KEYS))}, {})
            asyncio.run(overload(ports.grpc, body))
            asyncio.run(writing(ports.grpc, columns))


if __name__ == "__main__":
    for transport in ("grpc_aio", *(("native",) if is_installed() else ())):
        print(transport)
        main(transport)
