"""The questions of lineage over HTTP: the same answers as ``--format json`` of the command, as routes for a FastAPI application.

    app.include_router(router(lambda: Lineage("flights"), authorize=may_read), prefix="/lineage")

Every route asks `authorize` first, and only reads but for ``POST /openlineage``, which takes events in. What takes long, the statistics
of rows behind the findings LN4, is left to the command. FastAPI is imported here and nowhere else in lineage.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.routing import APIRoute

from lineage.cli import EXIT_CODES
from lineage.drawing import as_document, as_dot, as_mermaid
from lineage.errors import InvalidQuestionError, LineageError
from lineage.findings import Rule, rules_of
from lineage.objects import resolve, with_parts
from lineage.printing import document
from lineage.project import Lineage
from lineage.usage import Coverage

# Exit codes of the command -> statuses of HTTP.
_STATUSES = {2: 400, 3: 500, 4: 404, 5: 403, 6: 503}
_STATISTICS = "LN4"


@dataclass(frozen=True, slots=True)
class _Asked:
    """The project that is asked, and when, by `time.perf_counter`."""

    lineage: Lineage
    started: float


class _Route(APIRoute):
    """Answers an error of lineage with its message and the status that fits."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        handler = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handler(request)
            except LineageError as error:
                code = next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 1)
                return JSONResponse({"error": str(error)}, _STATUSES.get(code, 500))

        return answer


def router(  # noqa: C901 - one line a route
    open_lineage: Callable[[], Lineage], *, authorize: Callable[..., Any], prefix: str = "", max_bytes: int = 1 << 22
) -> APIRouter:
    """Return the routes of every question.

    Args:
        open_lineage: Opens the project that is asked about.
        authorize: A FastAPI dependency that raises unless the caller may read asked.lineage.
        prefix: What the paths begin with.
        max_bytes: The longest body that is read.
    """
    # What it holds it gives back once there is an answer, however slowly that is read.
    admitted = Depends(authorize, scope="function")
    routes = APIRouter(prefix=prefix, route_class=_Route, dependencies=[admitted], tags=["lineage"])

    def asked_now() -> _Asked:
        started = time.perf_counter()
        return _Asked(open_lineage(), started)

    Asked = Annotated[_Asked, Depends(asked_now)]  # noqa: N806 - a type

    @routes.get("/consumers")
    def consumers(asked: Asked, ref: str = "", since: str | None = None) -> Response:
        found = asked.lineage.consumers(ref, since=since)
        relations = [{**_fields(r), "calls": r.calls, "last_read": r.last_read} for r in found.relations]
        payload = {
            "object": ref,
            "relations": relations,
            "transitive": found.transitive,
            "rollouts": found.rollouts,
        }
        return _answer(asked, "consumers", payload, found.coverage)

    @routes.get("/upstream")
    def upstream(asked: Asked, ref: str, depth: Annotated[int | None, Query(ge=1)] = None) -> Response:
        return _closure(asked, "upstream", ref, depth)

    @routes.get("/downstream")
    def downstream(asked: Asked, ref: str, depth: Annotated[int | None, Query(ge=1)] = None) -> Response:
        return _closure(asked, "downstream", ref, depth)

    @routes.get("/path")
    def path(asked: Asked, start: str, end: str) -> Response:
        edges = asked.lineage.path(start, end)
        return _answer(
            asked, "path", {"start": start, "end": end, "found": edges is not None, "edges": edges or ()}, None
        )

    @routes.get("/impact")
    def impact(asked: Asked, ref: str, change: str = "remove", environment: str | None = None) -> Response:
        found = asked.lineage.impact(ref, change=change, environment=environment)
        payload = {name: value for name, value in _fields(found).items() if name != "coverage"}
        return _answer(asked, "impact", payload, found.coverage)

    @routes.get("/usage")
    def usage(asked: Asked, ref: str, since: str | None = None) -> Response:
        found = asked.lineage.usage(ref, since=since)
        return _answer(asked, "usage", {"object": ref, "reads": found.reads}, found.coverage)

    @routes.get("/check")
    def check(asked: Asked, select: Annotated[list[str] | None, Query()] = None) -> Response:
        _refuse_statistics(asked.lineage.selected(select or ()), "lineage check --select LN4")
        found = asked.lineage.check(select=select or ())
        payload = {"counts": found.counts, "findings": [finding.document() for finding in found.all]}
        return _answer(asked, "check", payload, found.coverage)

    @routes.get("/explain/{finding}")
    def explain(asked: Asked, finding: str) -> Response:
        _refuse_statistics(rules_of(finding), f"lineage explain {finding}")
        return _answer(asked, "explain", {"finding": asked.lineage.explain(finding).document()}, None)

    @routes.get("/cells")
    def cells(asked: Asked, ref: str = "") -> Response:
        found = [{**_fields(agreement), "fix": agreement.fix} for agreement in asked.lineage.cells(ref)]
        return _answer(asked, "cells", {"object": ref, "cells": found}, asked.lineage.coverage())

    @routes.get("/log")
    def log(asked: Asked, about: str = "", since: str | None = None) -> Response:
        return _answer(asked, "log", {"object": about, "entries": asked.lineage.log(about, since=since)}, None)

    @routes.get("/select")
    def select(asked: Asked, selection: str) -> Response:
        return _answer(asked, "select", {"selection": selection, "nodes": asked.lineage.select(selection)}, None)

    @routes.get("/graph")
    def graph(asked: Asked, form: Annotated[str, Query(pattern="json|dot|mermaid")] = "json") -> Response:
        whole = asked.lineage.graph()
        if form == "json":
            return _answer(asked, "export", as_document(whole), asked.lineage.coverage())
        return PlainTextResponse(as_dot(whole) if form == "dot" else as_mermaid(whole))

    @routes.post("/openlineage")
    async def openlineage(request: Request) -> Response:
        started = time.perf_counter()
        events = await _events_of(request, max_bytes)
        lineage = open_lineage()
        taken = await asyncio.to_thread(lineage.take_events, events, origin="http", declared=False)
        return _answer(_Asked(lineage, started), "import openlineage", _fields(taken), None)

    return routes


def _refuse_statistics(rules: Iterable[Rule], command: str) -> None:
    """Refuse findings that fit models to rows: a server's workers have calls to answer."""
    if codes := [rule.code for rule in rules if rule.code.startswith(_STATISTICS)]:
        raise InvalidQuestionError(
            f"{', '.join(codes)} rest on statistics of rows, which a server does not compute.",
            repair=f"Run `{command}`.",
        )


async def _events_of(request: Request, max_bytes: int) -> list[Any]:
    """Return one event or an array of them; JSON must be said, since a page of another origin cannot say that without asking first."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise InvalidQuestionError("The body must be JSON.", repair="Send `content-type: application/json`.")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > max_bytes:
            raise InvalidQuestionError(f"The body has more than {max_bytes} bytes.", repair="Send it in parts.")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidQuestionError(f"The body is no JSON: {error}.") from error
    return found if isinstance(found, list) else [found]


def _closure(asked: _Asked, command: str, ref: str, depth: int | None) -> Response:
    graph = asked.lineage.graph()
    about = resolve(ref, graph)
    up = command == "upstream"
    closure = (
        graph.upstream(with_parts(graph, about), depth=depth) if up else graph.downstream(about.nodes, depth=depth)
    )
    nodes = [{"object": node, "kind": node.kind, "distance": distance} for node, distance in closure.distances.items()]
    return _answer(
        asked, command, {"object": ref, "nodes": nodes}, asked.lineage.coverage(), truncated=closure.truncated
    )


def _answer(
    asked: _Asked, command: str, payload: Mapping[str, Any], coverage: Coverage | None, *, truncated: bool = False
) -> Response:
    text = document(
        command,
        payload,
        elapsed_ms=(time.perf_counter() - asked.started) * 1000,
        coverage=coverage,
        truncated=truncated,
    )
    return JSONResponse(json.loads(text))


def _fields(record: Any) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in fields(record)}
