"""Playing history through the store: each row enters by `write` when it became known, and the clock follows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.client import Client
from featurestore.refs import ViewRef
from featurestore.rows import RowSchema


class ReplayTarget(Protocol):
    """What rows are played into: a client of a server on the replay clock, or the writer itself."""

    def write(self, ref: ViewRef, rows: pa.Table) -> Any:
        """Accept rows that have the source's column names."""
        ...

    def advance_clock(self, time: int) -> Any:
        """Move the replay clock to an instant (microseconds UTC)."""
        ...


@dataclass(frozen=True, slots=True)
class ServedTarget:
    """Plays rows into a running server.

    Args:
        client: A client whose principal may write and move the clock.
    """

    client: Client

    def write(self, ref: ViewRef, rows: pa.Table) -> Any:
        """Accept rows that have the source's column names."""
        return self.client.write(str(ref), {name: rows[name] for name in rows.column_names})

    def advance_clock(self, time: int) -> Any:
        """Move the replay clock to an instant (microseconds UTC)."""
        return self.client.advance_clock(time)


@dataclass
class Feed:
    """The rows of one view in the order in which they became known.

    Args:
        ref: The view version.
        rows: Rows with the source's column names, sorted by `known_at`.
        known_at: When each became known, microseconds UTC, shape (rows,).
    """

    ref: ViewRef
    rows: pa.Table
    known_at: np.ndarray[Any, np.dtype[np.int64]]
    _next: int = field(default=0, init=False)

    @classmethod
    def of(cls, ref: ViewRef, rows: pa.Table, schema: RowSchema, *, since: int, until: int) -> Feed:
        """Build the feed of a view from its source's rows that became known in ``(since, until]``."""
        event = _micros(rows[schema.event_timestamp])
        created = _micros(rows[schema.created_timestamp]) if schema.created_timestamp else event
        known = pc.max_element_wise(event, created)
        wanted = pc.and_(pc.is_valid(event), pc.and_(pc.greater(known, since), pc.less_equal(known, until)))
        kept = rows.append_column("__known_at", known).filter(wanted).sort_by("__known_at")
        return cls(ref, kept.drop_columns(["__known_at"]), kept["__known_at"].to_numpy())

    def due(self, moment: int) -> pa.Table:
        """Return the rows that became known up to a moment and were not returned before."""
        end = int(np.searchsorted(self.known_at, moment, side="right"))
        first, self._next = self._next, max(self._next, end)
        return self.rows.slice(first, self._next - first)


def replay(target: ReplayTarget, feeds: Sequence[Feed], moments: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Play the feeds up to each moment in turn.

    Args:
        target: Where rows go and whose clock moves.
        feeds: What became known when.
        moments: Rising instants, microseconds UTC; the clock stops at each.

    Yields:
        (moment, rows written since the one before), once everything known by then is in and the clock stands there.
    """
    for moment in moments:
        written = 0
        for feed in feeds:
            rows = feed.due(moment)
            if len(rows):
                target.write(feed.ref, rows)
                written += len(rows)
        target.advance_clock(moment)
        yield moment, written


def _micros(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.timestamp("us", "UTC")).cast(pa.int64())
