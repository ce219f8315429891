"""The processes of a server as others on this machine reach them: their names, the services they answer, and their sockets."""

from __future__ import annotations

from pathlib import Path

WRITER, TRAINING = "writer", "training"
SERVICE, TRAINING_SERVICE = "featurestore.v1.Writer", "featurestore.v1.Training"


def socket_path(store_directory: Path, name: str = WRITER) -> Path:
    """Return where a process of the store's server listens: the socket in its folder, or where the file beside it says.

    Args:
        store_directory: The project's ``store`` folder.
        name: Of the process.
    """
    address = address_path(store_directory, name)
    return Path(address.read_text().strip()) if address.exists() else store_directory / f"{name}.sock"


def address_path(store_directory: Path, name: str) -> Path:
    """Return the file that names a process's socket when its path in the store's folder would be too long for one."""
    return store_directory / f"{name}.address"
