"""The handler of reads alone: request bytes to reply bytes in one process, beside what LMDB itself takes for the same rows.

Requests rotate over 256 bodies with random keys, one key in twenty is not there, and the view has a ttl.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import lmdb
import numpy as np
from measuring import Claim, Effort, in_turn, seconds_of
from projects import SERVICE
from tables import KEY, ONLINE
from transport_server import READ, handlers_of
from transports import SCHEMA, filled_project

from featurestore.client import ReadShape
from featurestore.config import load_settings
from featurestore.decoding import decode
from featurestore.keys import encode_key
from featurestore.online.lmdb import open_lmdb
from featurestore.serving.call import Call, Handler
from featurestore.serving.settings import ServeSettings, serve_settings
from featurestore.types import DType
from featurestore.v1 import serving_pb2 as pb

OURS, BARE, LMDB = "handler", "handler, access, metrics and usage off", "LMDB gets alone"
BODIES = 256
METADATA = {"featurestore-consumer": "model@1", "user-agent": "grpc-python/1.85.1"}


def measure(effort: Effort) -> list[Claim]:
    """Measure reads of 1, 10 and 100 keys."""
    entities, calls = (2_000, 200) if effort.small else (1_000_000, 5_000)
    with TemporaryDirectory() as scratch, ExitStack() as stack:
        project = filled_project(Path(scratch), entities)
        settings = serve_settings(load_settings(project))
        handlers = {
            OURS: handlers_of(stack, settings, bare=False),
            BARE: handlers_of(stack, settings, bare=True),
        }
        asked = pb.SchemaRequest(service=SERVICE).SerializeToString()
        schemas = [pb.Schema.FromString(_answer(each[SCHEMA], SCHEMA, asked)) for each in handlers.values()]
        shape = ReadShape.of(schemas[0])
        gets = Gets(settings, Path(scratch) / "copy")
        claims = []
        for count in (1, 10, 100):
            keys = _keys(count, entities)
            bodies = [shape.pack({KEY: each}, {}) for each in keys]
            _demand_same(shape.schema, {who: each[READ] for who, each in handlers.items()}, bodies[0])
            works: dict[str, Callable[[], object]] = {
                who: partial(_call_all, each[READ], list(islice(cycle(bodies), calls)))
                for who, each in handlers.items()
            }
            works[LMDB] = partial(gets.read_all, list(islice(cycle(gets.encoded(keys)), calls)))
            runs = in_turn({who: partial(seconds_of, work) for who, work in works.items()}, effort.rounds + 1)
            each = {
                who: [seconds / calls for seconds in done[1:]] for who, done in runs.items()
            }  # the first one warms up
            remarks = {who: f"{1e6 * median(done):.2f} us" for who, done in each.items()}
            claims.append(
                Claim(f"Handler alone, {count} keys x {len(ONLINE.dtypes)} features, ttl", "s", each, remarks)
            )
        return claims


def _keys(count: int, entities: int) -> Sequence[Sequence[int]]:
    random = np.random.default_rng(count)
    return [random.integers(0, round(entities / 0.95), count).tolist() for _ in range(BODIES)]


def _answer(handle: Handler, method: str, body: bytes) -> bytes:
    reply = handle(Call(method, METADATA, "127.0.0.1"), body)
    assert reply.code == "OK", reply
    return reply.body


def _call_all(handle: Handler, bodies: Sequence[bytes]) -> None:
    for body in bodies:
        handle(Call(READ, METADATA, "127.0.0.1"), body)


def _demand_same(schema: pb.Schema, handlers: Mapping[str, Handler], body: bytes) -> None:
    answers = [decode(schema, _answer(handle, READ, body)).to_dict() for handle in handlers.values()]
    if any(answer != answers[0] for answer in answers):
        raise RuntimeError(f"The handlers answer differently: {answers}.")


class Gets:
    """The least that a read can be: a transaction, a get for each row, and their bytes in one piece; over a copy of the rows."""

    def __init__(self, settings: ServeSettings, folder: Path) -> None:
        self._environment = lmdb.open(str(folder), map_size=64 << 30, sync=False)
        store = open_lmdb(settings.store_dir / "online", readonly=True)
        with store.read() as snapshot, self._environment.begin(write=True, buffers=True) as copy:
            for key, row in snapshot.scan("rows", b"", b"\xff" * 8):
                copy.put(key, row, append=True)
                self._prefix = key[:4]
        store.close()

    def encoded(self, keys: Sequence[Sequence[int]]) -> Sequence[Sequence[bytes]]:
        dtype = [DType("int64")]
        return [[self._prefix + encode_key([key], dtype) for key in each] for each in keys]

    def read_all(self, reads: Sequence[Sequence[bytes]]) -> None:
        begin = self._environment.begin
        for keys in reads:
            transaction = begin()
            b"".join(filter(None, map(transaction.get, keys)))
            transaction.abort()


if __name__ == "__main__":
    begun = time.perf_counter()
    for claim in measure(Effort(rounds=3, small=False)):
        print(claim.name, dict(claim.remarks))
    print(f"{time.perf_counter() - begun:.0f} s")
