"""The description of the HTTP side says what the server does: requests made from it get documented answers, and its page loads nothing."""

from html.parser import HTMLParser

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS
from schemathesis.core.failures import FailureGroup
from test_http import Http, application

from featurestore.serving.access import LINEAGE, METHODS, ROUTES
from featurestore.serving.grpc_aio import GrpcAioTransport
from featurestore.serving.openapi import document, page
from featurestore.testing.served import ServedProject

HOST = {"host": "127.0.0.1"}
NAMES = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
)


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    with ServedProject(tmp_path_factory.mktemp("openapi"), GrpcAioTransport) as project:
        project.fill()
        yield application(project)


@pytest.fixture(scope="module")
def described(app):
    return schemathesis.openapi.from_asgi("/openapi.json", app, headers=HOST)


OPERATIONS = [(path, verb) for path, verbs in document()["paths"].items() for verb in verbs]


def compare(operation, mode):
    """Make requests from a description, and compare the answers with it."""

    @hypothesis.settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @hypothesis.given(operation.as_strategy(generation_mode=mode))
    def check(case):
        case.call_and_validate(checks=CHECKS.get_by_names(NAMES), headers=HOST)

    check()


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize(("path", "verb"), OPERATIONS)
def test_what_the_description_allows_and_what_it_forbids_is_answered_as_it_says(described, path, verb, mode):
    operation = described[path][verb.upper()]
    if mode is GenerationMode.POSITIVE or operation.body or operation.headers:
        compare(operation, mode)


def test_an_answer_that_is_not_described_is_found(app):
    lacking = document()
    responses = lacking["paths"]["/v1/write-schema"]["post"]["responses"]
    del responses["404"], responses["400"]
    planted = schemathesis.openapi.from_dict(lacking)
    planted.app = app
    with pytest.raises(FailureGroup, match="Undocumented status code"):
        compare(planted["/v1/write-schema"]["POST"], GenerationMode.POSITIVE)


def test_every_route_is_described_with_what_it_needs():
    paths = document()["paths"]
    told = {f"{verb.upper()} {path}" for path, verbs in paths.items() for verb in verbs}
    assert told == {route for route in METHODS if " " in route} - {"GET /openapi.json", "GET /docs", *LINEAGE}
    for route in ROUTES:
        verb, _, path = route.partition(" ")
        operation = paths[path][verb.lower()]
        assert operation["security"]
        assert {"200", "400", "401", "403", "404", "409", "429", "500", "503", "504"} == set(operation["responses"])


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.loaded, self.text = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.loaded += [value for name, value in attributes if name in {"src", "href"} and tag != "a"]

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_tells_every_route_and_loads_nothing(app):
    answer = Http(app).get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    seen = Page(answer.text)
    assert seen.loaded == []
    assert not {"script", "link", "img", "iframe"} & seen.tags
    text = "".join(seen.text)
    for route in (*ROUTES, "GET /metrics", "GET /healthz"):
        assert route in text
    for word in ("full_feature_names", "event_times", "write_id", "RESOURCE_EXHAUSTED", "-d '{"):
        assert word in text


def test_the_page_quotes_what_it_is_made_from():
    described = document()
    described["info"]["title"] = "<script>alert(1)</script>"
    assert "<script>" not in page(described)


def test_the_examples_are_requests_that_the_server_takes(app):
    """Copied as they stand: what they name may not be there, but their form is right."""
    for path, verbs in document()["paths"].items():
        for operation in verbs.values():
            content = operation.get("requestBody", {}).get("content", {})
            if content:
                answer = Http(app).post(path, json=content["application/json"]["example"])
                assert answer.status_code in {200, 409} or "column" in answer.json()["error"]["message"].lower(), (
                    answer.text
                )
