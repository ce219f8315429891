"""The questions of lineage as HTTP routes of a server, for the project that it serves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import APIRouter


def lineage_routes(project: Path, *, max_bytes: int) -> Callable[[Callable[..., Any]], APIRouter]:
    """Return what makes the routes, given the dependency that admits a caller.

    Args:
        project: The project folder.
        max_bytes: The longest body that is read.
    """
    from lineage import Lineage
    from lineage.http import router

    def routes(authorize: Callable[..., Any]) -> APIRouter:
        return router(partial(Lineage, project), authorize=authorize, prefix="/lineage", max_bytes=max_bytes)

    return routes
