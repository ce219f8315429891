"""Files that are there after a power loss, and locks between processes that go with the one that holds them."""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from featurestore.errors import UnavailableError


def sync(*paths: Path) -> None:
    """Wait until the content of these files, or the entries of these folders, are on disk."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_durably(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Put a file in the place of an older one, if there is one: whenever it is interrupted, one of the two is there as a whole.

    Args:
        path: The file.
        content: What it holds.
        mode: Who may open it, before the umask.
    """
    beside = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        _write_new(beside, content, mode)
        beside.replace(path)
        sync(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def _write_new(path: Path, content: bytes, mode: int = 0o666) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(handle)


def publish(path: Path, content: bytes) -> bool:
    """Put a new file in its place: whenever it is interrupted, it is there as a whole or not at all.

    Args:
        path: The file.
        content: What it holds.

    Returns:
        Whether it was put there; False when there is one already.

    Raises:
        OSError: It cannot be written; or it is there, and the disk did not take it.
    """
    beside = path.with_name(f"_{path.stem}-{uuid.uuid4().hex}.tmp")
    folder = os.open(path.parent, os.O_RDONLY)  # before there is something that must be synced
    try:
        _write_new(beside, content)
        os.link(beside, path)
        os.fsync(folder)
    except FileExistsError:
        return False
    finally:
        os.close(folder)
        with suppress(OSError):  # it counts for nobody
            beside.unlink(missing_ok=True)
    return True


def append_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Add lines to a file durably, after cutting off what a killed process left without an end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        end = file.read().rfind(b"\n") + 1
        file.truncate(end)
        file.write(b"".join(line + b"\n" for line in lines))
        file.flush()
        sync(path, path.parent, path.parent.parent)


def whole_lines(path: Path) -> list[bytes]:
    """Return the lines of a file that have an end; a file that is not there has none."""
    text = path.read_bytes() if path.exists() else b""
    return text[: text.rfind(b"\n") + 1].splitlines()


@contextmanager
def holding(path: Path, *, shared: bool = False, patience: float | None = None) -> Iterator[None]:
    """Hold the lock that is a file.

    Args:
        path: The file; made if need be.
        shared: Beside others that hold it in the same way.
        patience: Seconds to wait for those that are in the way; None waits for ever.

    Raises:
        UnavailableError: They did not give it back in time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with path.open("a") as lock:
        if patience is None:
            fcntl.flock(lock, kind)
        else:
            _wait_for(lock.fileno(), kind, path, time.monotonic() + patience)
        yield


def _wait_for(lock: int, kind: int, path: Path, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise UnavailableError(f"Another process holds {path}.", repair="Try again when it is done.") from error
            time.sleep(0.02)
        else:
            return


def rewriting(directory: Path) -> Path:
    """Return the lock of a table that compactions share, and that an erasure has alone.

    Args:
        directory: Folder of the table; the lock lies beside it.
    """
    return directory.with_name(f"{directory.name}.rewrite.lock")
