"""Unix sockets in the store's folder, by which the processes of a server reach each other; their owner alone may open them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from featurestore.flow.sockets import address_path, socket_path
from featurestore.serving.grpc_aio import GrpcAioTransport

_LONGEST = 100  # bytes of a socket's path; the kernel takes 107


@contextmanager
def local_socket(store_directory: Path, name: str) -> Iterator[Path]:
    """Choose where a process of the server listens, and leave nothing of it behind.

    A path that is too long for a socket is replaced by a private folder's; a file beside it names it, for `socket_path`.

    Args:
        store_directory: The project's ``store`` folder; made if it is not there.
        name: Of the process, such as ``writer``.
    """
    store_directory.mkdir(parents=True, exist_ok=True)
    address = address_path(store_directory, name)
    address.unlink(missing_ok=True)
    path = socket_path(store_directory, name)
    if len(os.fsencode(path)) <= _LONGEST:
        yield path
        path.unlink(missing_ok=True)
        return
    with tempfile.TemporaryDirectory(prefix="featurestore-") as folder:  # only its owner may enter it
        path = Path(folder) / path.name
        address.write_text(f"{path}\n")
        yield path
        address.unlink(missing_ok=True)


async def listen(transport: GrpcAioTransport, path: Path) -> None:
    """Open the socket for its owner alone."""
    before = os.umask(0o177)
    try:
        await transport.start(f"unix:{path}")
    finally:
        os.umask(before)
