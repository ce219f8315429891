"""Online read: real servers, one process each, asked for the same keys in turn.

The peers are a server of the same transport that answers ready bytes of the same size (an echo: the limit of the transport) and Feast's
two servers, on Redis where it is installed. Before anything is timed, every server's answer is compared with the data.

Ours is there with both transports, where the native one is installed. A generator posts one request again and again, so its keys are hot
in the caches of all contenders alike.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import pyarrow as pa
from feast_peer import Ask, feast_repository
from load import GrpcEndpoint, HttpEndpoint, Load, grpc_generator, http_generator, steady_grpc, steady_http
from measuring import Claim, Effort, in_turn
from online_servers import Ports, echo_server, feast_online_store, feast_servers, our_server
from processes import HOST
from projects import SERVICE, make_project, write_rows
from tables import KEY, ONLINE, VIEW, keys_to_read, newest

from featurestore.client import SERVICE as OUR_SERVICE
from featurestore.client import ReadShape
from featurestore.decoding import decode
from featurestore.serving.native import is_installed
from featurestore.v1 import serving_pb2 as pb

OURS, ECHO, FEAST = "featurestore, gRPC", "echo by grpcio, same bytes", "Feast, gRPC"
NATIVE = "featurestore, native gRPC"
OURS_HTTP, FEAST_HTTP = "featurestore, HTTP", "Feast, HTTP"

FEATURES = tuple(ONLINE.dtypes)
KEY_COUNTS = (1, 10, 100)
STREAMS = (1, 32)

Answer = dict[str, list[Any]]


@dataclass(frozen=True, slots=True)
class Question:
    """Some keys, and what the data says of them; every server must agree."""

    keys: list[int]
    expected: Answer

    @classmethod
    def of(cls, rows: pa.Table, keys: list[int]) -> Question:
        """Look the keys up in the data; a key that is not there has nulls."""
        place = {key: n for n, key in enumerate(rows[KEY].to_pylist())}
        columns = {name: rows[name].to_pylist() for name in FEATURES}
        found = [place.get(key) for key in keys]
        return cls(keys, {name: [None if n is None else c[n] for n in found] for name, c in columns.items()})

    def demand(self, answer: Answer, who: str) -> None:
        """Refuse to time a server that answers something else."""
        for name, expected in self.expected.items():
            if answer[name] != expected:
                raise RuntimeError(f"{who} answers {answer[name]} for {name} of {self.keys}, not {expected}.")


def measure(effort: Effort) -> list[Claim]:
    """Measure reads of 1, 10 and 100 keys, one at a time and 32 at once."""
    entities, seconds = (2_000, 0.2) if effort.small else (100_000, 1.0)
    rows = newest(entities, now=time.time_ns() // 1000)
    with TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch)
        file = write_rows(rows, folder / "newest.parquet")
        online = stack.enter_context(feast_online_store(folder))
        feast = stack.enter_context(feast_repository(folder, file, ONLINE.dtypes, created=False, online=online))
        feast("materialize")
        ours = stack.enter_context(_filled_server(folder / "project", file, "grpc_aio"))
        native = stack.enter_context(_filled_server(folder / "native", file, "native")) if is_installed() else None
        theirs = stack.enter_context(feast_servers(folder / "feast", folder / "feast_serve"))
        questions = [Question.of(rows, keys_to_read(count, entities)) for count in KEY_COUNTS]
        asked = [_our_grpc(ours, question) for question in questions]
        echo = stack.enter_context(
            echo_server(folder, {_name(q): e.answer for q, e in zip(questions, asked, strict=True)})
        )
        claims = []
        for question, endpoint in zip(questions, asked, strict=True):
            over_grpc = {
                **({} if native is None else {NATIVE: _our_grpc(native, question)}),
                OURS: endpoint,
                ECHO: GrpcEndpoint(echo, f"/echo/{_name(question)}", endpoint.request, endpoint.answer),
                FEAST: _feast_grpc(theirs, question, feast),
            }
            over_http = {OURS_HTTP: _our_http(ours, question), FEAST_HTTP: _feast_http(theirs, question)}
            claims += _claims(len(question.keys), over_grpc, over_http, seconds, effort, online["type"])
        return claims


def _claims(
    count: int,
    over_grpc: Mapping[str, GrpcEndpoint],
    over_http: Mapping[str, HttpEndpoint],
    seconds: float,
    effort: Effort,
    store: str,
) -> Iterator[Claim]:
    for streams in STREAMS:
        loads: dict[str, Callable[[], Load]] = {
            who: steady_grpc(endpoint, streams, seconds) for who, endpoint in over_grpc.items()
        }
        if http_generator():
            loads |= {who: steady_http(e, streams, _http_seconds(count)) for who, e in over_http.items()}
        runs = in_turn(loads, effort.rounds)
        by = " and ".join(filter(None, (grpc_generator(), http_generator())))
        what = f"{count} keys x {len(FEATURES)} features, {streams} at once (Feast on {store}; load by {by})"
        yield _claim(f"Online read over gRPC, {what}", {who: runs[who] for who in runs if who != OURS_HTTP})
        if over_http.keys() <= runs.keys():
            yield _claim(f"Online read over HTTP, {what}", {who: runs[who] for who in over_http})


def _claim(name: str, runs: Mapping[str, list[Load]]) -> Claim:
    remarks = {
        who: f"p50 {median(run.p50 for run in done):.3f} ms, p99 {median(run.p99 for run in done):.3f} ms"
        for who, done in runs.items()
    }
    return Claim(name, "req/s", {who: [run.rate for run in done] for who, done in runs.items()}, remarks)


def _http_seconds(count: int) -> int:
    """Give the slowest server time for some hundreds of answers."""
    return 2 if count >= 100 else 1


@contextmanager
def _filled_server(project: Path, file: Path, transport: str) -> Iterator[Ports]:
    """Run a server of a project of its own: a store has one writer."""
    with make_project(project, file, ONLINE.dtypes, created=False) as store:
        store.ingest(VIEW)
        store.materialize()
    with our_server(project, project.with_suffix(".log"), transport=transport) as ports:
        yield ports


def _name(question: Question) -> str:
    return f"{len(question.keys)}_keys"


def _our_grpc(ports: Ports, question: Question) -> GrpcEndpoint:
    asked = pb.SchemaRequest(service=SERVICE).SerializeToString()
    schema = pb.Schema.FromString(_call(ports.grpc, f"/{OUR_SERVICE}/GetSchema", asked))
    request = ReadShape.of(schema).pack({KEY: question.keys}, {})
    endpoint = _endpoint(ports.grpc, f"/{OUR_SERVICE}/GetOnlineFeatures", request)
    question.demand(decode(schema, endpoint.answer).to_dict(), OURS)
    return endpoint


def _feast_grpc(ports: Ports, question: Question, feast: Ask) -> GrpcEndpoint:
    request = bytes.fromhex(feast("request", keys=question.keys))
    endpoint = _endpoint(ports.grpc, "/GrpcFeatureServer/GetOnlineFeatures", request)
    question.demand(feast("answer", message=endpoint.answer.hex()), FEAST)
    return endpoint


def _our_http(ports: Ports, question: Question) -> HttpEndpoint:
    body = {"service": SERVICE, "keys": {KEY: question.keys}}
    endpoint = HttpEndpoint(ports.http, "/v1/get-online-features", json.dumps(body).encode())
    question.demand(_post(endpoint)["features"], OURS_HTTP)
    return endpoint


def _feast_http(ports: Ports, question: Question) -> HttpEndpoint:
    body = {"features": [f"{VIEW}:{name}" for name in FEATURES], "entities": {KEY: question.keys}}
    endpoint = HttpEndpoint(ports.http, "/get-online-features", json.dumps(body).encode())
    answer = _post(endpoint)
    columns = zip(answer["metadata"]["feature_names"], answer["results"], strict=True)
    question.demand({name: column["values"] for name, column in columns}, FEAST_HTTP)
    return endpoint


def _endpoint(port: int, method: str, request: bytes) -> GrpcEndpoint:
    return GrpcEndpoint(port, method, request, _call(port, method, request))


def _call(port: int, method: str, request: bytes) -> bytes:
    """Call a method with a real client; a status other than OK is an error."""
    with grpc.insecure_channel(f"{HOST}:{port}") as channel:
        answer: bytes = channel.unary_unary(method)(request, timeout=60, wait_for_ready=True)
        return answer


def _post(endpoint: HttpEndpoint) -> Any:
    url = f"http://{HOST}:{endpoint.port}{endpoint.path}"
    request = urllib.request.Request(url, endpoint.body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)
