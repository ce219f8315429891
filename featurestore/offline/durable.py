"""Files that are there after a power loss."""

from __future__ import annotations

import os
from pathlib import Path


def sync(*paths: Path) -> None:
    """Wait until the content of these files, or the entries of these folders, are on disk."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
