"""The description of the HTTP side: an OpenAPI document, and a page for people that is made from it and loads nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

import msgspec

from featurestore import __version__
from featurestore.serving.access import CONSUMER, METHODS, ROUTES, roles_of
from featurestore.serving.json_bodies import ANSWERS, BODIES, ErrorAnswer
from featurestore.serving.status import HTTP_OF

JSON, PROMETHEUS = "application/json", "text/plain; version=0.0.4"

_WHAT = {
    "GetSchema": "The shape of a read: its keys, its request data and its columns.",
    "GetOnlineFeatures": "The newest features of some keys, as columns.",
    "GetWriteSchema": "The columns that rows of a view have.",
    "Write": "Accept rows: after the answer they are durable and visible.",
    "AdvanceClock": "Move the replay clock forward.",
    "GetStatus": "The store's clock and revision.",
    "GET /metrics": "The server's numbers, for Prometheus.",
    "GET /healthz": "Whether the process is alive.",
    "GET /readyz": "Whether calls are taken; not while the server drains.",
}
_COMPONENTS = "#/components/schemas/"


def document() -> dict[str, Any]:
    """Return the OpenAPI document of every route but those of lineage and the two that describe them."""
    paths: dict[str, dict[str, Any]] = {}
    for route in METHODS:
        if route in ROUTES or route in _WHAT:
            verb, _, path = route.partition(" ")
            paths.setdefault(path, {})[verb.lower()] = _operation(route)
    kinds = [*BODIES.values(), *ANSWERS.values(), ErrorAnswer]
    _, schemas = msgspec.json.schema_components(kinds, ref_template=f"{_COMPONENTS}{{name}}")
    return {
        "openapi": "3.1.0",
        "info": {"title": "featurestore", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(route: str) -> dict[str, Any]:
    rpc = ROUTES.get(route)
    operation: dict[str, Any] = {"operationId": rpc or route.rpartition("/")[2], "summary": _WHAT[rpc or route]}
    if METHODS[route] == "public":
        return {**operation, "responses": {"200": {"description": "Yes."}, "503": {"description": "No."}}}
    roles = " or ".join(roles_of(route))
    operation |= {
        "description": f"Needs the role {roles}, where the server asks who calls.",
        "security": [{"bearer": []}, {}],
    }
    body = BODIES.get(rpc or "")
    if body is not None:
        content = {JSON: {"schema": _ref(body), "example": body.example}}
        operation["requestBody"] = {"required": True, "content": content}
    if rpc == "GetOnlineFeatures":
        told = "What the caller runs, such as `delay_model@3`."
        operation["parameters"] = [
            {"name": CONSUMER, "in": "header", "description": told, "schema": {"type": "string"}}
        ]
    content = {JSON: {"schema": _ref(ANSWERS[rpc])}} if rpc else {PROMETHEUS: {"schema": {"type": "string"}}}
    answered = {"200": {"description": "OK", "content": content}}
    return {**operation, "responses": {**answered, **_refusals()}}


def _refusals() -> dict[str, Any]:
    names: dict[int, list[str]] = {}
    for code, http in HTTP_OF.items():
        names.setdefault(http, []).append(code)
    content = {JSON: {"schema": _ref(ErrorAnswer)}}
    return {
        str(http): {"description": ", ".join(codes), "content": content}
        for http, codes in sorted(names.items())
        if http >= 400
    }


def _ref(kind: type[msgspec.Struct]) -> dict[str, str]:
    return {"$ref": f"{_COMPONENTS}{kind.__name__}"}


def page(described: Mapping[str, Any]) -> str:
    """Return an OpenAPI document as a page of HTML without scripts, images or anything else that would have to be loaded."""
    schemas = described["components"]["schemas"]
    operations = [
        _section(verb, path, operation, schemas)
        for path, verbs in described["paths"].items()
        for verb, operation in verbs.items()
    ]
    title = escape(f"{described['info']['title']} {described['info']['version']}")
    lines = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>',
        '<p>JSON over HTTP; <a href="openapi.json">openapi.json</a> says the same to programs. Instants are ISO 8601 in UTC, binary is',
        'base64, decimals are text, and doubles without a number in JSON are "NaN", "Infinity" or "-Infinity".</p>',
        *(line for section in operations for line in section),
        "<h2>Errors</h2>",
        *_fields("ErrorAnswer", schemas),
        "</html>",
    ]
    return "\n".join(lines)


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "h2{margin-top:2.5rem;font-size:1.1rem}code,pre{font-family:ui-monospace,monospace;font-size:.9em}"
    "pre{background:#8881;padding:.7rem;overflow-x:auto}td,th{text-align:left;padding:.15rem 1rem .15rem 0;vertical-align:top}"
    ":root{color-scheme:light dark}"
)


def _section(verb: str, path: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> Iterator[str]:
    yield f'<h2 id="{escape(operation["operationId"])}"><code>{escape(verb.upper())} {escape(path)}</code></h2>'
    yield f"<p>{escape(operation['summary'])} {escape(operation.get('description', ''))}</p>"
    body = operation.get("requestBody", {}).get("content", {}).get(JSON)
    if body:
        yield from _fields(_name(body["schema"]), schemas)
        sent = json.dumps(body["example"])
        command = f"curl -s $SERVER{path} -H 'content-type: application/json' \\\n  -d '{sent}'"
        yield f"<pre>{escape(command)}</pre>"
    answer = operation["responses"]["200"].get("content", {}).get(JSON)
    if answer:
        yield "<p>Answer:</p>"
        yield from _fields(_name(answer["schema"]), schemas)
    codes = {code: response["description"] for code, response in operation["responses"].items() if code != "200"}
    yield f"<p>Otherwise: {escape('; '.join(f'{code} {why}' for code, why in codes.items()))}</p>"


def _fields(name: str, schemas: Mapping[str, Any]) -> Iterator[str]:
    """Describe a body field by field, and then the bodies that are in it."""
    schema = schemas[name]
    yield f"<table><caption>{escape(schema['description'])}</caption>"
    for field, kind in schema["properties"].items():
        need = "required" if field in schema["required"] else ""
        cells = (f"<code>{escape(field)}</code>", escape(_kind(kind)), need, escape(kind.get("description", "")))
        yield f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    yield "</table>"
    for inner in dict.fromkeys(_names_in(schema["properties"].values())):
        yield from _fields(inner, schemas)


def _kind(schema: Mapping[str, Any]) -> str:
    """Say of which type a value is.

    >>> _kind({"type": "object", "additionalProperties": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "null"}]}}})
    'object of array of string or null'
    """
    if "$ref" in schema:
        return _name(schema)
    if "anyOf" in schema:
        return " or ".join(_kind(part) for part in schema["anyOf"])
    inner = schema.get("items") or schema.get("additionalProperties")
    return f"{schema['type']} of {_kind(inner)}" if inner else str(schema["type"])


def _names_in(schemas: Iterable[Mapping[str, Any]]) -> Sequence[str]:
    found = (schema if "$ref" in schema else schema.get("items", {}) for schema in schemas)
    return [_name(schema) for schema in found if "$ref" in schema]


def _name(schema: Mapping[str, Any]) -> str:
    name: str = schema["$ref"].removeprefix(_COMPONENTS)
    return name
