"""Pulling a view's source into the offline store: idempotent, in order of acceptance, one commit."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.flow.erased import Found
from featurestore.offline.durable import holding
from featurestore.offline.table import OfflineTable
from featurestore.rows import CREATED, EVENT, SEQ, Canonical

_LATE = 86_400_000_000  # a day: rows created this long after their event look like a first load of history


class SequenceGiver(Protocol):
    """Who hands out the order of acceptance: the one writer of a store."""

    def reserve(self, count: int) -> int:
        """Return the first of `count` sequence numbers that nobody else will get."""
        ...


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What an ingest did, in rows.

    Attributes:
        read: Rows in the source.
        accepted: Rows that were new.
        repeated: Rows equal to a stored one in keys, times, event key and values.
        later: Rows that were not known yet at `known_until`.
        null_events: Rows refused because their event time is null.
        null_keys: Rows refused because a key is null.
        warnings: What a user should know.
        erased: Rows left out because their entity was erased, and they are not later than that.
    """

    view: str
    read: int
    accepted: int
    repeated: int
    later: int
    null_events: int
    null_keys: int
    warnings: tuple[str, ...] = ()
    erased: int = 0


@contextmanager
def ingesting(folder: Path) -> Iterator[None]:
    """Let one ingest of a view version run at a time: two that look for new rows at once would both find the same ones.

    Args:
        folder: Folder of the version's offline table; the lock lies beside it and goes with the process that holds it.
    """
    with holding(ingest_lock(folder)):
        yield


def ingest_lock(folder: Path) -> Path:
    """Return the lock of the ingests of a view version, which lies beside the folder of its offline table."""
    return folder.with_name(f"{folder.name}.ingest.lock")


def is_ingesting(folder: Path) -> bool:
    """Say whether an ingest of a view version runs now, in whatever process; see `ingesting`."""
    path = ingest_lock(folder)
    if not path.exists():
        return False
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def ingest_rows(
    view: str,
    canonical: Canonical,
    *,
    table: OfflineTable,
    sequence: SequenceGiver,
    known_until: int | None,
    backfilled_until: int | None,
    admit: Callable[[pa.Table, pa.Table], tuple[str, ...]],
    erased: Callable[[pa.Table], Found],
) -> IngestReport:
    """Accept the new rows of a pulled source.

    Args:
        view: The view version, for the report.
        canonical: The source's rows in canonical form.
        table: Where they go.
        sequence: Gives the order of acceptance.
        known_until: Leave out rows that became known after this instant (microseconds UTC); None takes all.
        backfilled_until: As the view declares.
        admit: Called with the new rows among those that were offered before any is accepted; returns warnings, or raises
            QuarantinedError.
        erased: Says which rows are of erased entities; they are left out.
    """
    known = canonical.rows if known_until is None else canonical.rows.filter(_known(canonical.rows, known_until))
    gone = erased(known).mask
    rows = known.filter(pa.array(~gone)) if gone.any() else known
    fresh = table.new_rows(rows)
    warnings = admit(fresh, rows)
    if len(fresh):
        first = sequence.reserve(len(fresh))
        table.load(fresh.append_column(SEQ, pa.array(np.arange(first, first + len(fresh)))))
    return IngestReport(
        view=view,
        read=len(canonical.rows) + canonical.null_events + canonical.null_keys,
        accepted=len(fresh),
        repeated=len(rows) - len(fresh),
        later=len(canonical.rows) - len(known),
        null_events=canonical.null_events,
        null_keys=canonical.null_keys,
        warnings=(*warnings, *late_creation_warning(fresh, view, backfilled_until)),
        erased=int(gone.sum()),
    )


def late_creation_warning(rows: Any, view: str, backfilled_until: int | None) -> tuple[str, ...]:
    """Warn when most rows were created long after their event: they would be unknown for most of history.

    Args:
        rows: Canonical rows.
        view: Name of the view, for the text.
        backfilled_until: As the view declares, microseconds UTC; rows up to it count as known at their event time.
    """
    dated = rows.filter(pc.is_valid(rows[CREATED])) if len(rows) else rows
    if backfilled_until is not None and len(dated):
        dated = dated.filter(pc.greater(dated[EVENT].cast(pa.int64()), backfilled_until))
    if not len(dated):
        return ()
    delay = pc.subtract(dated[CREATED].cast(pa.int64()), dated[EVENT].cast(pa.int64()))
    late = pc.sum(pc.greater(delay, _LATE)).as_py() or 0
    if 2 * late <= len(rows):
        return ()
    what = f"{late} of {len(rows)} rows of {view} were created more than a day after their event: training does not know them before."
    return (f"{what} If this is a first load of history, declare backfilled_until= on the view.",)


def _known(rows: pa.Table, instant: int) -> pa.ChunkedArray:
    """Say for each row whether it was known at an instant: at its created time, or at its event time if that is null."""
    event = rows[EVENT].cast(pa.int64())
    return pc.less_equal(pc.max_element_wise(event, rows[CREATED].cast(pa.int64())), instant)
