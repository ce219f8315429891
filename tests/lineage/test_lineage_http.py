"""The routes answer what the command answers, say errors with a status, and ask for permission first."""

import asyncio
import json

import httpx
import pytest
from fastapi import FastAPI, HTTPException

from lineage.cli import main
from lineage.http import router

JSON_TYPE = {"content-type": "application/json"}


class Caller:
    """Asks an application in this process."""

    def __init__(self, ask, authorize):
        self._app = FastAPI()
        self._app.include_router(router(lambda: ask, authorize=authorize), prefix="/lineage")

    def get(self, path):
        return self.request("GET", path)

    def request(self, verb, path, **body):
        async def call():
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                return await client.request(verb, path, **body)

        return asyncio.run(call())


def client_of(ask, authorize=lambda: None):
    return Caller(ask, authorize)


@pytest.mark.parametrize(
    ("path", "command"),
    [
        ("consumers?ref=weather@v1:temp", ["consumers", "weather@v1:temp"]),
        ("upstream?ref=weather@v1:temp", ["upstream", "weather@v1:temp"]),
        ("downstream?ref=plane@v1:seats&depth=2", ["downstream", "plane@v1:seats", "--depth", "2"]),
        ("path?start=source:planes&end=gate_board", ["path", "source:planes", "gate_board"]),
        ("impact?ref=plane@v1:seats", ["impact", "plane@v1:seats"]),
        ("usage?ref=delay_model@1", ["usage", "delay_model@1"]),
        ("check?select=LN1", ["check", "--select", "LN1", "--all"]),
        ("cells?ref=weather@v1", ["cells", "weather@v1"]),
        ("graph", ["export"]),
    ],
)
def test_a_route_answers_like_the_command(project, ask, capsys, path, command):
    project.read("weather@v1:temp")
    project.read("comfort@v1:heat")
    client = client_of(ask)
    response = client.get(f"/lineage/{path}")
    assert response.status_code == 200
    assert response.json()["elapsed_ms"] > 0
    with pytest.raises(SystemExit):
        main([*command, "--project", str(project.folder), "--as-of", "2026-06-01", "--format", "json"])
    said, asked = response.json(), json.loads(capsys.readouterr().out)
    ignored = {"elapsed_ms", "others", "failing"}
    assert {k: v for k, v in said.items() if k not in ignored} == {k: v for k, v in asked.items() if k not in ignored}


def test_errors_have_a_status_and_say_the_nearest_name(project, ask):
    client = client_of(ask)
    response = client.get("/lineage/upstream?ref=wether@v1")
    assert (response.status_code, response.json()["error"]) == (
        404,
        "No object 'wether@v1'. Did you mean 'weather@v1'?",
    )
    assert client.get("/lineage/impact?ref=weather&change=rename").status_code == 400
    assert client.get("/lineage/graph?form=svg").status_code == 422


def test_every_route_asks_for_permission(project, ask):
    def refuse():
        raise HTTPException(403)

    client = client_of(ask, refuse)
    routes = [(verb, route.path) for route in router(lambda: ask, authorize=refuse).routes for verb in route.methods]
    assert len(routes) == 13
    for verb, path in routes:
        asked = f"/lineage{path}?ref=weather&start=a&end=b&selection=c"
        assert client.request(verb, asked).status_code == 403


def test_the_graph_is_drawn(project, ask):
    client = client_of(ask)
    assert client.get("/lineage/graph?form=mermaid").text.startswith("flowchart LR")
    assert client.get("/lineage/graph?form=dot").text.startswith("digraph lineage")


def test_events_are_taken_in_and_what_is_none_is_told(project, ask):
    event = {
        "eventTime": "2026-05-01T00:00:00Z",
        "job": {"namespace": "etl", "name": "copy"},
        "run": {"runId": "0"},
        "inputs": [{"namespace": "db", "name": "raw"}],
        "outputs": [{"namespace": "file", "name": "/lake/data/weather.parquet"}],
    }
    client = client_of(ask)
    answer = client.request("POST", "/lineage/openlineage", json=[event, {}]).json()
    assert (answer["events"], answer["new"], [place for place, _ in answer["skipped"]]) == (1, 1, [2])
    assert "source:db/raw" in {
        node["object"] for node in client.get("/lineage/upstream?ref=weather@v1").json()["nodes"]
    }
    for body in ({"content": b"{}"}, {"content": b"{", "headers": {"content-type": "application/json"}}):
        assert client.request("POST", "/lineage/openlineage", **body).status_code == 400


def test_text_that_is_no_unicode_is_skipped_and_the_rest_is_taken(project, ask):
    good = {"eventTime": "2026-05-01T00:00:00Z", "job": {"namespace": "etl", "name": "copy"}}
    bad = {"eventTime": "2026-05-01T00:00:00Z", "job": {"namespace": "etl", "name": "\ud800"}}
    body = json.dumps([bad, good, {"eventTime": "\ud800"}]).encode()
    answer = client_of(ask).request("POST", "/lineage/openlineage", content=body, headers=JSON_TYPE)
    assert answer.status_code == 200
    assert (answer.json()["events"], [place for place, _ in answer.json()["skipped"]]) == (1, [1, 3])


def test_what_is_nested_without_end_is_a_question_that_cannot_be_answered(project, ask):
    client = client_of(ask)
    deep = client.request("POST", "/lineage/openlineage", content=b"[" * 100_000, headers=JSON_TYPE)
    assert deep.status_code == 400
    for opening in ("(", "not "):
        answer = client.get(f"/lineage/select?selection={opening * 3000}")
        assert (answer.status_code, "nested" in answer.json()["error"]) == (400, True)
    assert client.get(f"/lineage/select?selection={'(' * 40}weather@v1{')' * 40}").status_code == 200


def test_manifests_are_not_declared_over_http(project, ask):
    event = {
        "eventTime": "2026-05-01T00:00:00Z",
        "job": {
            "namespace": "featurestore://flights",
            "name": "read/board",
            "facets": {
                "featurestore_lineage": {
                    "object": ["consumer", "board@1"],
                    "edges": [[["feature", "weather@v1:temp"], ["consumer", "board@1"], "reads_declared"]],
                }
            },
        },
    }
    answer = client_of(ask).request("POST", "/lineage/openlineage", json=[event]).json()
    assert (answer["events"], len(answer["skipped"])) == (0, 1)
    assert "declared" in answer["skipped"][0][1]
    assert ask.take_events([event], origin="file").edges == 1


@pytest.mark.parametrize("path", ["check?select=LN430", "check?select=LN", "explain/LN430-01", "explain/L"])
def test_statistics_of_rows_are_left_to_the_command(project, ask, path):
    answer = client_of(ask).get(f"/lineage/{path}")
    assert answer.status_code == 400
    assert "Run `lineage " in answer.json()["error"]


def test_statistics_that_the_project_selects_are_left_to_the_command(project, ask):
    (project.folder / "lineage.toml").write_text('select = ["LN4"]\n')
    client = client_of(ask)
    assert client.get("/lineage/check").status_code == 400
    assert client.get("/lineage/check?select=LN1").status_code == 200
    assert client.get("/lineage/explain/nothing").status_code == 404
