"""HTTP/JSON gives the answers and errors of gRPC, with exact values, and is as closed as gRPC is."""

import asyncio
from collections.abc import Iterator
from time import sleep

import httpx
import pytest
from msgspec import structs
from prometheus_client.parser import text_string_to_metric_families

from featurestore.asking import lineage_routes
from featurestore.serving.access import METHODS, ROUTES
from featurestore.serving.grpc_aio import GrpcAioTransport
from featurestore.serving.http import declared_routes, http_app
from featurestore.serving.settings import MAX_REQUEST_BYTES
from featurestore.testing.served import ServedProject

READ = "/v1/get-online-features"


class Http:
    """Calls an application in this process, as a blocking client."""

    def __init__(self, app, headers=None):
        self.app = app
        self.headers = headers

    def request(self, verb, path, **request):
        async def call():
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://127.0.0.1", headers=self.headers
            ) as client:
                return await client.request(verb, path, **request)

        return asyncio.run(call())

    def get(self, path, **request):
        return self.request("GET", path, **request)

    def post(self, path, **request):
        return self.request("POST", path, **request)


def application(served, *, is_ready=True):
    handlers = served.handlers
    return http_app(
        handlers.methods(),
        handlers.guard,
        served.settings,
        metrics=handlers.guard.wrap(handlers.metrics),
        is_ready=lambda: is_ready,
        admit=handlers.guard.wrap(handlers.admit),
        lineage=lineage_routes(served.settings.project, max_bytes=MAX_REQUEST_BYTES),
    )


def http(served, **settings):
    return Http(application(served), **settings)


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[ServedProject]:
    with ServedProject(tmp_path_factory.mktemp("http"), GrpcAioTransport) as project:
        project.fill()
        yield project


@pytest.fixture(scope="module")
def guarded(tmp_path_factory) -> Iterator[ServedProject]:
    with ServedProject(tmp_path_factory.mktemp("guarded"), GrpcAioTransport, auth="required") as project:
        project.fill()
        yield project


def test_read(served):
    answer = http(served).post(READ, json={"service": "delay_model", "keys": {"origin": ["EWR", "JFK", "XXX", "LGA"]}})
    body = answer.json()
    assert answer.status_code == 200
    assert body["features"]["humid"] == [-(2**63), 60, None, None]
    assert body["features"]["note"][0] == "Schnee \N{SNOWFLAKE}"
    assert body["statuses"]["temp"] == ["NULL", "PRESENT", "NOT_FOUND", "EXPIRED"]
    assert [time is None for time in body["event_times"]["temp"]] == [False, False, True, True]
    assert body["time"].endswith("Z")
    assert body["position"] >= 3


def test_read_with_request_data(served):
    asked = {"features": ["heat:feels"], "keys": {"origin": ["JFK", "JFK"]}, "request": {"bump": [0.5, "Infinity"]}}
    assert http(served).post(READ, json=asked).json()["features"] == {"feels": [41.0, "Infinity"]}


def test_write_schema_status_and_clock(served):
    client = http(served)
    columns = client.post("/v1/write-schema", json={"view": "activity"}).json()
    assert columns["view"] == "activity@v1"
    assert {c["column"]: c["dtype"] for c in columns["columns"]} == {
        "user_id": "int64",
        "event_timestamp": "timestamp",
        "score": "float64",
    }
    rows = {"user_id": [2**62 + 1], "event_timestamp": ["2024-01-01T00:00:00Z"], "score": [0.1]}
    assert client.post("/v1/write", json={"view": "activity", "rows": rows}).json()["accepted"] == 1
    assert client.post("/v1/write", json={"view": "activity", "rows": rows}).json()["repeated"] == 1
    asked = {"features": ["activity:score"], "keys": {"user_id": [2**62 + 1, 2**62]}}
    assert client.post(READ, json=asked).json()["features"] == {"score": [0.1, None]}
    schema = client.post("/v1/schema", json={"features": ["activity:score"]}).json()
    assert schema["keys"] == [{"entity": "user", "columns": [{"column": "user_id", "dtype": "int64"}]}]
    assert client.get("/v1/status").json()["project"] == "suite"
    assert client.post("/v1/clock", json={"time": "2024-01-01"}).status_code == 409
    for time in (2**63, "tomorrow"):
        refused = client.post("/v1/clock", json={"time": time})
        assert (refused.status_code, refused.json()["error"]["place"]) == (400, "$.time")


@pytest.mark.parametrize(
    ("asked", "code", "says"),
    [
        ({"service": "delay_modle", "keys": {}}, 404, "Did you mean 'delay_model'?"),
        ({"features": ["activity:score"], "keys": {"user_id": [1, 1001.7]}}, 400, "$.keys.user_id[1]"),
        ({"features": ["activity:score"], "keys": {"user_id": [True]}}, 400, "Expected int64, got bool"),
        ({"features": ["activity:score"], "keys": {"user_id": [None]}}, 400, "is null"),
        ({"features": ["activity:score"], "keys": {"user": [1]}}, 400, "You sent 'user'."),
        ({"features": ["activity:score"], "keys": {"user_id": [2**63]}}, 400, "$.keys.user_id[0]"),
        ({"features": ["activity:score"], "keys": {"user_id": 1}}, 400, "$.keys"),
        ({"features": ["activity:score"], "key": {}}, 400, "No field 'key' in the request. Did you mean 'keys'?"),
        ({"features": ["idle:nothing"], "keys": {"origin": ["JFK"]}}, 409, "featurestore write idle@v1"),
        ({"features": ["activity:score"], "keys": {"user_id": [1] * 1001}}, 429, "at most 1000"),
    ],
)
def test_what_cannot_be_answered_says_the_same_as_over_grpc(served, asked, code, says):
    answer = http(served).post(READ, json=asked)
    assert answer.status_code == code
    assert says in answer.json()["error"]["message"]


def test_errors_carry_their_facts(served):
    error = http(served).post(READ, json={"features": ["wether:temp"], "keys": {}}).json()["error"]
    assert (error["code"], error["nearest"]) == ("NOT_FOUND", "weather")


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"{", 400), (b"[]", 400), (b"\xff", 400), (b"{" * 5000, 400), (b" " * (MAX_REQUEST_BYTES + 1), 429)],
)
def test_bodies_that_are_no_request(served, body, code):
    answer = http(served).post(READ, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == code


def test_a_page_of_another_origin_cannot_call(served):
    """A form can send text without asking the browser; and a name that was bound to this address is not ours."""
    client = http(served)
    assert client.post(READ, content=b"{}", headers={"content-type": "text/plain"}).status_code == 400
    assert client.get("/v1/status", headers={"host": "evil.example"}).status_code == 400
    assert "access-control-allow-origin" not in client.get("/v1/status", headers={"origin": "http://x"}).headers


def test_health_and_description(served):
    client = http(served)
    assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
    assert set(client.get("/openapi.json").json()["paths"]) == {
        *(route.partition(" ")[2] for route in ROUTES),
        "/metrics",
        "/healthz",
        "/readyz",
    }
    assert Http(application(served, is_ready=False)).get("/readyz").status_code == 503


def test_every_route_declares_its_permission_and_answers_nobody_without_a_token(guarded):
    app = application(guarded)
    routes = declared_routes(app)
    assert routes == {method for method in METHODS if " " in method}
    client = Http(app)
    bodies = {
        "/v1/schema": {"service": "x"},
        READ: {"service": "x"},
        "/v1/write-schema": {"view": "x"},
        "/v1/write": {"view": "x", "rows": {}},
        "/v1/clock": {"time": 1},
        "/v1/status": None,
    }
    for route in routes:
        verb, _, path = route.partition(" ")
        answer = client.request(verb, path, json=bodies.get(path))
        assert (answer.status_code == 401) == (METHODS[route] != "public"), route


def test_metrics_say_who_read_what_how_fast_and_what_was_found(served):
    """In the text that Prometheus reads, for the whole server."""
    client = http(served)
    keys = {"origin": ["JFK", "LGA", "EWR", "XXX"]}
    assert client.post(READ, json={"service": "delay_model", "keys": keys}).status_code == 200
    families = {f.name: f for f in text_string_to_metric_families(client.get("/metrics").text)}
    rows = {
        s.labels["state"]: s.value for s in families["featurestore_rows"].samples if s.labels["view"] == "weather@v1"
    }
    assert rows["missing"] >= 1
    assert rows["expired"] >= 1
    assert rows["found"] >= 2
    reads = [s for s in families["featurestore_read_seconds"].samples if s.name.endswith("_count")]
    assert any(s.labels["service"] == "delay_model" and s.value >= 1 for s in reads)
    codes = {(s.labels["method"], s.labels["code"]) for s in families["featurestore_calls"].samples}
    assert ("GetOnlineFeatures", "OK") in codes


def test_every_warning_is_a_header_of_its_own(served):
    rpc = "/featurestore.v1.FeatureStore/GetOnlineFeatures"
    methods = dict(served.handlers.methods())
    answer = methods[rpc]
    methods[rpc] = lambda call, body: structs.replace(
        answer(call, body), trailers=(("fs-warning", "a"), ("fs-warning", "b"))
    )
    app = http_app(methods, served.handlers.guard, served.settings, metrics=methods[rpc], is_ready=lambda: True)
    found = Http(app).post(READ, json={"features": ["weather:temp"], "keys": {"origin": ["JFK"]}})
    assert found.headers.get_list("fs-warning") == ["a", "b"]


def test_tokens_consumers_and_warnings(guarded):
    token = guarded.token("svc", "reader")
    client = http(guarded, headers={"authorization": f"Bearer {token}"})
    answer = client.post(READ, json={"features": ["watched:seen"], "keys": {"origin": ["JFK"]}})
    assert answer.json()["features"] == {"seen": [True]}
    assert "watched@v1:seen" in answer.headers["fs-warning"]
    refused = client.post(READ, json={"features": ["guarded:secret"], "keys": {"origin": ["JFK"]}})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "PERMISSION_DENIED")
    named = client.post(
        READ,
        json={"features": ["weather:temp"], "keys": {"origin": ["JFK"]}},
        headers={"featurestore-consumer": "stranger@1"},
    )
    assert "featurestore token bind svc stranger@1" in named.json()["error"]["message"]


def test_a_route_that_is_not_there_is_told_like_every_other_error(served):
    unknown = http(served).post("/v1/get-online-feature", json={})
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "NOT_FOUND"
    assert unknown.json()["error"]["nearest"] == "POST /v1/get-online-features"
    verb = http(served).request("DELETE", "/v1/write")
    assert verb.status_code == 405
    assert verb.json()["error"]["code"] == "UNIMPLEMENTED"
    assert verb.headers["allow"] == "POST"
    far = http(served).request("GET", "/zzzzzzzzzzzzzzzzzzzzzzzz")
    assert far.json() == {"error": {"code": "NOT_FOUND", "message": "No route GET /zzzzzzzzzzzzzzzzzzzzzzzz."}}


def test_the_questions_of_lineage_are_routes_for_who_may_read(served):
    """They answer about the project that is served."""
    client = http(served)
    answer = client.get("/lineage/upstream", params={"ref": "weather@v1:temp"})
    assert answer.status_code == 200
    assert {node["kind"] for node in answer.json()["nodes"]} >= {"view", "column", "source"}
    missing = client.get("/lineage/upstream", params={"ref": "wether@v1:temp"})
    assert (missing.status_code, "Did you mean" in missing.json()["error"]) == (404, True)


def test_events_of_openlineage_are_taken_from_who_may_write(guarded):
    event = {"eventTime": "2026-05-01T00:00:00Z", "job": {"namespace": "etl", "name": "x"}, "inputs": [], "outputs": []}
    for role, status in (("reader", 403), ("writer:weather", 403), ("writer", 200)):
        token = guarded.token(f"openlineage-{role.replace(':', '-')}", role)
        client = http(guarded, headers={"authorization": f"Bearer {token}"})
        answer = client.request("POST", "/lineage/openlineage", json=event)
        assert answer.status_code == status, answer.text
    assert (answer.json()["events"], answer.json()["skipped"]) == (1, [])
    page = client.request("POST", "/lineage/openlineage", content=b"[]", headers={"content-type": "text/plain"})
    assert page.status_code == 400


def test_questions_of_lineage_take_turns_and_more_than_a_few_are_refused(served):
    app = application(served)
    route = next(route for route in app.routes if route.path == "/lineage/upstream")
    there, most = [], []
    answers = route.dependant.call

    def watched(*args, **named):
        there.append(1)
        most.append(len(there))
        sleep(0.01)
        try:
            return answers(*args, **named)
        finally:
            there.pop()

    route.dependant.call = watched

    async def ask():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            asked = [client.get("/lineage/upstream", params={"ref": "weather@v1:temp"}) for _ in range(12)]
            return [answer.status_code for answer in await asyncio.gather(*asked)]

    statuses = asyncio.run(ask())
    assert (statuses.count(200), statuses.count(429)) == (5, 7)
    assert set(most) == {1}
    assert Http(app).get("/lineage/upstream", params={"ref": "weather@v1:temp"}).status_code == 200
