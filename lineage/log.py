"""The change log of a registry: who committed what, when and why, and what was forced although somebody read it."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

_LOG = """
    SELECT revision, committed_at, principal, kind, object, detail, message
    FROM changes JOIN commits USING (revision)
    WHERE committed_at >= ? AND committed_at <= ? AND instr(object, ?) > 0
    ORDER BY revision, position
"""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One thing that a commit did.

    Attributes:
        committed_at: Microseconds since 1970 UTC.
        kind: ``create``, ``new version``, ``promote``, ``retired`` and so on; ``force`` where somebody who reads was passed over.
        object: What it was done to.
        detail: What is different; of a ``force`` the reason that was given, then who was passed over.
        message: What was said of the commit.
    """

    revision: int
    committed_at: int
    principal: str
    kind: str
    object: str
    detail: str
    message: str

    @property
    def forced(self) -> bool:
        """Whether it was done although somebody reads what it took."""
        return self.kind == "force"


def read_change_log(
    connection: sqlite3.Connection, *, about: str = "", since: int | None = None, until: int
) -> tuple[LogEntry, ...]:
    """Read the change log, oldest first.

    Args:
        connection: An open registry.
        about: Only lines whose object contains this; empty is all.
        since: Only commits from this instant on (microseconds since 1970 UTC); None is since ever.
        until: Only commits up to this instant.
    """
    tables = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'changes'").fetchone()
    if not tables[0]:  # a registry of somebody else's store keeps none
        return ()
    rows = connection.execute(_LOG, (-(2**63) if since is None else since, until, about))
    return tuple(LogEntry(*row) for row in rows)
