"""Unix sockets in the store's folder, by which the processes of a server reach each other; their owner alone may open them."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from featurestore.errors import UnavailableError
from featurestore.flow.sockets import address_path
from featurestore.serving.grpc_aio import GrpcAioTransport

_LONGEST = 100  # bytes of a socket's path; the kernel takes 107


@contextmanager
def local_socket(store_directory: Path, name: str) -> Iterator[Path]:
    """Choose where a process of the server listens; when another takes its place, that is in the same place.

    A path that is too long for a socket is replaced by one in a private folder; a file beside it names it, for `socket_path`.

    Args:
        store_directory: The project's ``store`` folder; made if it is not there.
        name: Of the process, such as ``writer``.

    Raises:
        UnavailableError: Somebody else has the place of the private folder.
    """
    store_directory.mkdir(parents=True, exist_ok=True)
    address = address_path(store_directory, name)
    path = store_directory / f"{name}.sock"
    if len(os.fsencode(path)) <= _LONGEST:
        address.unlink(missing_ok=True)
        yield path
        path.unlink(missing_ok=True)
        return
    path = _private_folder(store_directory) / path.name
    address.write_text(f"{path}\n")
    yield path
    path.unlink(missing_ok=True)
    with suppress(OSError):  # another process of the server may still have its socket there
        path.parent.rmdir()


def _private_folder(store_directory: Path) -> Path:
    """Return the folder for the sockets of a store, which only its owner may enter."""
    told = hashlib.blake2b(os.fsencode(store_directory.resolve()), digest_size=8).hexdigest()
    folder = Path(tempfile.gettempdir()) / f"featurestore-{os.getuid()}-{told}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise UnavailableError(f"{folder} belongs to somebody else.", repair="Set TMPDIR to a folder of your own.")
    return folder


async def listen(transport: GrpcAioTransport, path: Path) -> None:
    """Open the socket for its owner alone."""
    before = os.umask(0o177)
    try:
        await transport.start(f"unix:{path}")
    finally:
        os.umask(before)
