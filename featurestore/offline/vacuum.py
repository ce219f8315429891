"""Vacuum: files that no commit names any more, or that no commit ever named, leave the disk once nobody can be reading or writing them."""

from __future__ import annotations

import time
from collections.abc import Collection
from datetime import timedelta
from pathlib import Path

from featurestore.errors import InvalidArgumentError
from featurestore.offline.data_files import DRAFT
from featurestore.offline.durable import sync
from featurestore.offline.log import TableLog

RETENTION = timedelta(days=7)

_COMMITTED_WITHIN = 3600.0  # seconds: a younger file may be about to be named by a commit


def vacuum(log: TableLog, *, keep: Collection[str], older_than: timedelta = RETENTION) -> list[str]:
    """Remove files from the disk.

    Args:
        log: The table's log; what it names stays.
        keep: Paths in the table's folder that stay too, such as those a saved dataset lists.
        older_than: How long ago a file must have been replaced; what was never named must be an hour old besides.

    Returns:
        The paths of the removed files in the table's folder, sorted.

    Raises:
        InvalidArgumentError: A negative time.
    """
    if older_than < timedelta(0):
        raise InvalidArgumentError(f"{older_than} is negative.", place="$.older_than")
    kept, now = set(keep), time.time()
    removed = [
        path for path in log.unnamed_files(older_than) if path not in kept and _is_settled(log.directory / path, now)
    ]
    for path in removed:
        (log.directory / path).unlink(missing_ok=True)
    sync(*{(log.directory / path).parent for path in removed})
    return removed


def _is_settled(path: Path, now: float) -> bool:
    return path.suffix in (".parquet", DRAFT) and path.exists() and now - path.stat().st_mtime > _COMMITTED_WITHIN
