"""What can be wrong with a project, checked one by one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from featurestore.errors import FeatureStoreError, UnavailableError
from featurestore.flow.remote import RemoteWriter
from featurestore.store import FeatureStore


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        what: What was looked at.
        ok: Whether it is in order.
        detail: What was found, or what to do.
    """

    what: str
    ok: bool
    detail: str


def examine(project: Path) -> list[Check]:
    """Look at a project's settings, registry, offline tables, online store and server.

    Args:
        project: The project folder.
    """
    python = ".".join(map(str, sys.version_info[:3]))
    checks = [Check("python", sys.version_info >= (3, 11), python)]
    try:
        store = FeatureStore(project)
    except FeatureStoreError as error:
        return [*checks, Check("project", ok=False, detail=str(error))]
    with store:
        checks += [
            Check("project", ok=True, detail=str(store.settings.root)),
            _check("registry", lambda: f"revision {store.snapshot().revision}"),
            _check("store folder", lambda: _writable(store.settings.store)),
            *_tables(store),
            _check("writer", lambda: _writer(store)),
        ]
    return checks


def _check(what: str, look: Callable[[], str]) -> Check:
    try:
        return Check(what, ok=True, detail=look())
    except (FeatureStoreError, OSError) as error:
        return Check(what, ok=False, detail=str(error))


def _tables(store: FeatureStore) -> Iterator[Check]:
    for ref, record in store.snapshot().view_versions():
        if record.kind != "on_demand":
            table = store.table(ref)
            yield _check(f"offline {ref}", lambda t=table: f"{len(t.files())} files" if t.exists else "no rows yet")  # type: ignore[misc]


def _writable(folder: Path) -> str:
    if not os.access(folder, os.W_OK):
        raise UnavailableError(f"{folder} cannot be written to.", repair="Check its owner and mode.")
    return str(folder)


def _writer(store: FeatureStore) -> str:
    with store.writer() as writer:
        return "a server's" if isinstance(writer, RemoteWriter) else "free"
