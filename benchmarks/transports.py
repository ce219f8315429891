"""Transports side by side: the same project and handlers by each, and a C++ server over LMDB as the limit of gRPC in C++.

One C program loads all of them (load_frames.c). It goes round 256 requests with random keys, so that none is hot, and every call must be
answered with a message: a status without one is a failure that ends the benchmark.
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import grpc
import lmdb
import numpy as np
from load import Load
from measuring import Claim, Effort, in_turn
from processes import HOST, free_port, serving
from projects import SERVICE, make_project, write_rows
from tables import KEY, ONLINE, VIEW, newest

from featurestore.client import SERVICE as OUR_SERVICE
from featurestore.client import ReadShape
from featurestore.decoding import decode
from featurestore.serving.native import is_installed
from featurestore.v1 import serving_pb2 as pb

HERE = Path(__file__).parent
READ, SCHEMA = f"/{OUR_SERVICE}/GetOnlineFeatures", f"/{OUR_SERVICE}/GetSchema"
REQUESTS, KEYS = 256, 10
STREAMS = {1: (1, 1), 32: (8, 4)}  # at once: connections, streams of each
CPP = "C++ gRPC over LMDB"
NAMES = {
    "native": "native",
    "native-bare": "native, access and metrics off",
    "native-echo": "native, echo",
    "grpc_aio": "grpc.aio",
    "grpc_aio-echo": "grpc.aio, echo",
    "threads": "grpcio, threads",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """The requests, as a file for the generator, and what is needed to check an answer."""

    file: Path
    bodies: Sequence[bytes]
    schema: pb.Schema


def measure(effort: Effort) -> list[Claim]:
    """Measure reads of 10 keys, one at a time and 32 at once; without a compiler or the native transport there is nothing to say."""
    generator, compiler = shutil.which("gcc"), shutil.which("g++")
    if generator is None or not is_installed():
        print("transports: skipped, gcc or the native transport is missing", file=sys.stderr)
        return []
    entities, seconds = (2_000, 0.2) if effort.small else (1_000_000, 1.0)
    with TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch)
        load = _compiled(folder, [generator, "-O2"], "load_frames.c", ())
        project = filled_project(folder, entities)
        ports = {kind: stack.enter_context(_server(folder, project, kind)) for kind in NAMES if "echo" not in kind}
        asked = _requests(folder, ports["grpc_aio"], entities)
        for port in ports.values():  # a plan is known to a server once its schema was asked for
            _call(port, SCHEMA, pb.SchemaRequest(service=SERVICE).SerializeToString())
        expected = _call(ports["grpc_aio"], READ, asked.bodies[0])
        for kind, port in ports.items():
            _demand_same(asked.schema, expected, _call(port, READ, asked.bodies[0]), kind)
        sample = folder / "sample"
        sample.write_bytes(expected)
        ports |= {kind: stack.enter_context(_server(folder, project, kind, sample)) for kind in NAMES if "echo" in kind}
        contenders = {NAMES[kind]: ports[kind] for kind in NAMES}
        if compiler is not None and (flags := _grpc_flags()):
            binary = _compiled(folder, [compiler, "-O2"], "lmdb_server.cc", flags)
            contenders[CPP] = stack.enter_context(_cpp_server(folder, binary, ports["native"], asked.schema, entities))
        return list(_claims(load, asked.file, contenders, seconds, effort))


def _claims(load: Path, file: Path, contenders: Mapping[str, int], seconds: float, effort: Effort) -> Iterator[Claim]:
    for streams, (connections, each) in STREAMS.items():
        loads: dict[str, Callable[[], Load]] = {}
        for who, port in contenders.items():
            first = _run(load, port, connections, each, 2000, file)
            loads[who] = partial(_run, load, port, connections, each, max(500, int(first.rate * seconds)), file)
        runs = in_turn(loads, effort.rounds)
        remarks = {
            who: f"p50 {median(run.p50 for run in done):.3f} ms, p99 {median(run.p99 for run in done):.3f} ms"
            for who, done in runs.items()
        }
        rates = {who: [run.rate for run in done] for who, done in runs.items()}
        yield Claim(
            f"Transports, {KEYS} keys x {len(ONLINE.dtypes)} features, {streams} at once", "req/s", rates, remarks
        )


def _run(load: Path, port: int, connections: int, streams: int, requests: int, file: Path) -> Load:
    command = [load, str(port), str(connections), str(streams), str(requests), file]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command} failed:\n{done.stdout}{done.stderr}")
    said = json.loads(done.stdout)
    return Load(said["answered"] / said["seconds"], said["p50_us"] / 1000, said["p99_us"] / 1000)


def _compiled(folder: Path, compiler: Sequence[str], source: str, flags: Sequence[str]) -> Path:
    binary = folder / Path(source).stem
    subprocess.run([*compiler, "-o", binary, HERE / source, *flags], check=True)
    return binary


def _grpc_flags() -> Sequence[str]:
    """Return what a C++ server is linked with; nothing where gRPC or LMDB for C++ is missing."""
    if shutil.which("pkg-config") is None:
        return ()
    done = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "grpc++", "lmdb"], capture_output=True, text=True, check=False
    )
    return done.stdout.split()


def filled_project(folder: Path, entities: int) -> Path:
    """Make a project with that many entities in its online store, and return its folder."""
    project = folder / "project"
    file = write_rows(newest(entities, now=time.time_ns() // 1000), folder / "newest.parquet")
    with make_project(project, file, ONLINE.dtypes, created=False) as store:
        store.ingest(VIEW)
        store.materialize()
    return project


@contextmanager
def _server(folder: Path, project: Path, kind: str, sample: Path | None = None) -> Iterator[int]:
    port = free_port()
    command = [
        sys.executable,
        HERE / "transport_server.py",
        kind,
        project,
        f"{HOST}:{port}",
        *([sample] if sample else []),
    ]
    with serving(command, port=port, log=folder / f"{kind}.log"):
        yield port


@contextmanager
def _cpp_server(folder: Path, binary: Path, port_of_ours: int, schema: pb.Schema, entities: int) -> Iterator[int]:
    """Run the C++ server on the rows that ours answers with, by the keys as they are sent."""
    at, shape = folder / "lmdb", ReadShape.of(schema)
    with lmdb.open(str(at), map_size=64 << 30, sync=False) as environment:
        for start in range(0, entities, 1000):
            keys = list(range(start, min(start + 1000, entities)))
            answer = pb.ReadResponse.FromString(_call(port_of_ours, READ, shape.pack({KEY: keys}, {})))
            with environment.begin(write=True) as transaction:
                for key, row in zip(keys, answer.views[0].rows, strict=True):
                    transaction.put(struct.pack("<q", key), pb.ViewRows(rows=[row]).SerializeToString())
    port = free_port()
    with serving([binary, str(port), at], port=port, log=folder / "cpp.log"):
        yield port


def _requests(folder: Path, port: int, entities: int) -> Asked:
    """Write requests with random keys, of which one in twenty is not there on average."""
    asked = pb.SchemaRequest(service=SERVICE).SerializeToString()
    schema = pb.Schema.FromString(_call(port, SCHEMA, asked))
    shape, random = ReadShape.of(schema), np.random.default_rng(5)
    keys = random.integers(0, round(entities / 0.95), (REQUESTS, KEYS)).tolist()
    bodies = [shape.pack({KEY: row}, {}) for row in keys]
    file = folder / "requests"
    head = _header_block(READ)
    with file.open("wb") as out:
        for body in bodies:
            message = b"\0" + struct.pack(">I", len(body)) + body
            out.write(struct.pack(">I", len(head)) + head + struct.pack(">I", len(message)) + message)
    return Asked(file, bodies, schema)


def _header_block(path: str) -> bytes:
    """Return the headers of a call, each written out (RFC 7541, literals that are not indexed)."""
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": HOST}
    fields |= {"content-type": "application/grpc", "te": "trailers", "user-agent": "load/1"}
    return b"".join(b"\0" + bytes([len(n)]) + n.encode() + bytes([len(v)]) + v.encode() for n, v in fields.items())


def _demand_same(schema: pb.Schema, expected: bytes, answer: bytes, who: str) -> None:
    if decode(schema, answer).to_dict() != decode(schema, expected).to_dict():
        raise RuntimeError(f"{who} answers something else.")


def _call(port: int, method: str, request: bytes) -> bytes:
    with grpc.insecure_channel(f"{HOST}:{port}") as channel:
        answer: bytes = channel.unary_unary(method)(request, timeout=60, wait_for_ready=True)
        return answer
