"""What can be wrong with a project, checked one by one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.errors import CorruptionError, FeatureStoreError, UnavailableError
from featurestore.flow.remote import RemoteWriter
from featurestore.offline.table import OfflineTable
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
            yield _check(f"offline {ref}", lambda t=table: _files(t))  # type: ignore[misc]


def _files(table: OfflineTable) -> str:
    """Look at every live file: whether it is there, with the size in the log and a footer that can be read."""
    if not table.exists:
        return "no rows yet"
    files, wrong = table.files(), []
    for file in files:
        if not file.path.is_file():
            wrong.append(f"{file.path} is missing")
        elif file.path.stat().st_size != file.size:
            wrong.append(f"{file.path} has {file.path.stat().st_size} bytes, the log says {file.size}")
        else:
            try:
                pq.read_metadata(file.path)
            except pa.ArrowException as error:
                wrong.append(f"{file.path} is damaged: {error}")
    if wrong:
        more = f" (and {len(wrong) - 1} more files)" if len(wrong) > 1 else ""
        raise CorruptionError(f"{wrong[0]}{more}.", repair="Restore it from a backup.")
    return f"{len(files)} files"


def _writable(folder: Path) -> str:
    if not os.access(folder, os.W_OK):
        raise UnavailableError(f"{folder} cannot be written to.", repair="Check its owner and mode.")
    return str(folder)


def _writer(store: FeatureStore) -> str:
    with store.writer() as writer:
        return "a server's" if isinstance(writer, RemoteWriter) else "free"
