"""Who really read which feature version, and whether anything of it may be missing.

Usage is kept by UTC day. "Nobody reads it" is only known for a window whose coverage is complete: no missing segment, nothing
dropped, no worker that fell silent without saying goodbye. A gap is evidence and is returned as such.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import groupby, pairwise
from operator import attrgetter
from typing import Any

from lineage.instants import MINUTE, written

# A living worker is heard of at each heartbeat and fold; a shorter silence than this says nothing.
HEARTBEAT_GRACE = 5 * MINUTE

_READS = """
    SELECT view || '@v' || version || ':' || feature, principal, consumer, binding, environment, mode, outcome,
           sum(calls), sum(entity_rows), min(first_read), max(last_read), count(DISTINCT day), count(DISTINCT client)
    FROM usage_daily
    WHERE last_read >= ? AND first_read <= ?
    GROUP BY view, version, feature, principal, consumer, binding, environment, mode, outcome
    ORDER BY 1, 2, 3, 4, 5, 6, 7
"""
_SESSIONS = """
    SELECT principal, client, consumer, binding, view || '@v' || version || ':' || feature, count(DISTINCT day), sum(calls)
    FROM usage_daily
    WHERE last_read >= :since AND first_read <= :until AND outcome = 'ok' AND principal IN (
        SELECT principal FROM usage_daily
        WHERE last_read >= :since AND first_read <= :until AND outcome = 'ok' AND principal != ''
        GROUP BY principal HAVING min(client) < max(client) OR min(consumer) < max(consumer)
    )
    GROUP BY principal, client, consumer, binding, view, version, feature
    ORDER BY principal, client, consumer, binding
"""
_SEGMENTS = """
    SELECT worker, number, environment, started_at, ended_at, closed, dropped
    FROM usage_segments WHERE started_at <= ? ORDER BY worker, number
"""


@dataclass(frozen=True, slots=True)
class Reads:
    """The reads of one feature version by one reader, in one environment and mode, added up over days and clients.

    Attributes:
        feature: ``view@v1:feature``.
        consumer: What the reader was accepted as; empty when none was named.
        binding: ``bound``, ``local``, ``undeclared``, ``ambiguous`` or ``anonymous``.
        outcome: ``ok``, or ``refused``: an attempt that got no values.
        first_read: Microseconds since 1970 UTC.
        last_read: Microseconds since 1970 UTC.
        days: On how many UTC days.
        clients: From how many clients.
    """

    feature: str
    principal: str
    consumer: str
    binding: str
    environment: str
    mode: str
    outcome: str
    calls: int
    entity_rows: int
    first_read: int
    last_read: int
    days: int
    clients: int

    @property
    def served(self) -> bool:
        """Whether values were given out."""
        return self.outcome == "ok"

    def evidence(self) -> dict[str, Any]:
        """Return it as one piece of evidence."""
        return {  # written out: there is one for each read of a report
            "type": "usage",
            "feature": self.feature,
            "principal": self.principal,
            "consumer": self.consumer,
            "binding": self.binding,
            "environment": self.environment,
            "mode": self.mode,
            "outcome": self.outcome,
            "calls": self.calls,
            "entity_rows": self.entity_rows,
            "first_read": self.first_read,
            "last_read": self.last_read,
            "days": self.days,
            "clients": self.clients,
        }


@dataclass(frozen=True, slots=True)
class Session:
    """What one client read with one credential.

    Attributes:
        principal: The credential.
        client: Peer host and user agent.
        consumer: What it was accepted as; empty when none was named.
        binding: How the consumer was established.
        features: The feature versions it got values of.
        days: On how many UTC days.
        calls: The most calls of one feature.
    """

    principal: str
    client: str
    consumer: str
    binding: str
    features: frozenset[str]
    days: int
    calls: int

    def evidence(self) -> dict[str, Any]:
        """Return it as one piece of evidence."""
        return {"type": "session", **asdict(self), "features": sorted(self.features)}


@dataclass(frozen=True, slots=True)
class Segment:
    """One folded usage segment of a worker; the numbers of a worker are gap-free from 0."""

    worker: str
    number: int
    environment: str
    started_at: int
    ended_at: int
    closed: bool
    dropped: int


@dataclass(frozen=True, slots=True)
class Gap:
    """A time in which reads may have happened that were not counted.

    Attributes:
        reason: ``missing_segments``, ``dropped``, ``silent_worker`` or ``no_segments``.
        worker: The worker, or empty when none ever reported.
        started_at: Microseconds since 1970 UTC; None is since ever.
        ended_at: Microseconds since 1970 UTC; None is until now.
        first_number: First missing segment, or None.
        last_number: Last missing segment, or None.
        dropped: Number of counts that were dropped; 0 when unknown.
    """

    reason: str
    worker: str
    started_at: int | None
    ended_at: int | None
    first_number: int | None = None
    last_number: int | None = None
    dropped: int = 0

    def overlaps(self, since: int | None, until: int) -> bool:
        """Say whether the gap reaches into a window; both ends belong to it, and `since` None is since ever."""
        begins_in_time = self.started_at is None or self.started_at <= until
        ends_in_time = self.ended_at is None or since is None or self.ended_at >= since
        return begins_in_time and ends_in_time

    def evidence(self) -> dict[str, Any]:
        """Return it as one piece of evidence."""
        return {"type": "gap", **asdict(self)}

    def __str__(self) -> str:
        start = written(self.started_at) if self.started_at is not None else "ever"
        end = written(self.ended_at) if self.ended_at is not None else "now"
        match self.reason:
            case "missing_segments":
                fact = f"segments {self.first_number} to {self.last_number} of worker {self.worker} are missing"
            case "dropped":
                fact = f"worker {self.worker} dropped {self.dropped} counts"
            case "silent_worker":
                return f"worker {self.worker} never closed and is silent since {start}"
            case _:
                return "no worker has ever reported its reads"
        return f"{fact} ({start} to {end})"


@dataclass(frozen=True, slots=True)
class Coverage:
    """Whether all reads of a window were counted.

    Attributes:
        since: Start of the window in microseconds since 1970 UTC; None is since ever.
        until: End of the window in microseconds since 1970 UTC.
        gaps: What may be missing, with the evidence; empty when nothing is.
        workers: How many workers reported.
    """

    since: int | None
    until: int
    gaps: tuple[Gap, ...]
    workers: int

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return not self.gaps

    def __str__(self) -> str:
        return "complete" if self.complete else "incomplete: " + "; ".join(map(str, self.gaps))


@dataclass(frozen=True)
class Usage:
    """All reads and segments of a window.

    Attributes:
        since: Start of the window in microseconds since 1970 UTC; None is since ever.
        until: Its end.
    """

    rows: tuple[Reads, ...]
    segments: tuple[Segment, ...]
    since: int | None
    until: int

    def reads(
        self,
        *,
        features: Collection[str] | None = None,
        consumers: Collection[str] | None = None,
        principals: Collection[str] | None = None,
        environment: str | None = None,
    ) -> tuple[Reads, ...]:
        """Return the reads that match every condition given.

        Args:
            features: Feature references, ``view@v1:feature``; None is any.
            consumers: Consumer keys; None is any.
            principals: Principals; None is any.
            environment: An environment; None is any.
        """
        return tuple(
            row
            for row in self.rows
            if (features is None or row.feature in features)
            and (consumers is None or row.consumer in consumers)
            and (principals is None or row.principal in principals)
            and (environment is None or row.environment == environment)
        )

    def coverage(self, *, since: int | None = None, environment: str | None = None) -> Coverage:
        """Return what is known of a window that ends where this usage ends.

        Args:
            since: Its start in microseconds since 1970 UTC; None is the start of this usage.
            environment: Only the workers of this environment count; None or empty is all.
        """
        start = self.since if since is None else since
        known = self._known.get(environment or "")
        if known is None:
            segments = [s for s in self.segments if not environment or s.environment == environment]
            known = tuple(_gaps(segments, self.until)), len({segment.worker for segment in segments})
            self._known[environment or ""] = known
        gaps = tuple(gap for gap in known[0] if gap.overlaps(start, self.until))
        return Coverage(start, self.until, gaps, known[1])

    @cached_property
    def _known(self) -> dict[str, tuple[tuple[Gap, ...], int]]:
        """Environment -> its gaps and workers: asked about for every declaration, and the same each time."""
        return {}


def read_usage(connection: sqlite3.Connection, *, since: int | None, until: int) -> Usage:
    """Read the usage of a window from an open registry.

    Args:
        connection: An open registry.
        since: Rows whose last read is before this instant (microseconds since 1970 UTC) are left out; None is since ever.
        until: Rows whose first read is after this instant are left out. Counts are by day, so a row across an end counts whole.
    """
    rows = connection.execute(_READS, (-(2**63) if since is None else since, until))
    return Usage(tuple(Reads(*row) for row in rows), read_segments(connection, until=until), since, until)


def read_segments(connection: sqlite3.Connection, *, until: int) -> tuple[Segment, ...]:
    """Read the segments that began up to an instant (microseconds since 1970 UTC)."""
    return tuple(_segment(row) for row in connection.execute(_SEGMENTS, (until,)))


def read_sessions(connection: sqlite3.Connection, *, since: int | None, until: int) -> tuple[Session, ...]:
    """Read the answered reads of a window by principal, client and consumer; arguments as in `read_usage`.

    A principal that was seen with one client and one consumer alone is left out: it is one workload.
    """
    rows = connection.execute(_SESSIONS, {"since": -(2**63) if since is None else since, "until": until})
    found = []
    for (principal, client, consumer, binding), group in groupby(rows, key=lambda row: row[:4]):
        features = [(ref, days, calls) for *_, ref, days, calls in group]
        most_days, most_calls = max(days for _, days, _ in features), max(calls for *_, calls in features)
        names = frozenset(ref for ref, _, _ in features)
        found.append(Session(principal, client, consumer, binding, names, most_days, most_calls))
    return tuple(found)


def _segment(row: tuple[str, int, str, int, int, int, int]) -> Segment:
    worker, number, environment, started, ended, closed, dropped = row
    return Segment(worker, number, environment, started, ended, bool(closed), dropped)


def _gaps(segments: Iterable[Segment], until: int) -> Iterator[Gap]:
    """Yield every gap of the workers; the segments come ordered by worker and number."""
    reported = False
    for worker, group in groupby(segments, key=attrgetter("worker")):
        reported = True
        yield from _worker_gaps(worker, tuple(group), until)
    if not reported:
        yield Gap("no_segments", "", None, None)


def _worker_gaps(worker: str, segments: tuple[Segment, ...], until: int) -> Iterator[Gap]:
    first, last = segments[0], segments[-1]
    if first.number > 0:
        yield Gap("missing_segments", worker, None, first.started_at, 0, first.number - 1)
    for left, right in pairwise(segments):
        if right.number > left.number + 1:
            yield Gap("missing_segments", worker, left.ended_at, right.started_at, left.number + 1, right.number - 1)
    for segment in segments:
        if segment.dropped:
            yield Gap("dropped", worker, segment.started_at, segment.ended_at, dropped=segment.dropped)
    if not last.closed and until - last.ended_at > HEARTBEAT_GRACE:
        yield Gap("silent_worker", worker, last.ended_at, None)
