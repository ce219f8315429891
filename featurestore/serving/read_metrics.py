"""What the calls of a worker cost, and what its reads find: who asked how often, how long it took, and how old the features are."""

from __future__ import annotations

import time
from collections.abc import Iterable

from featurestore.online.codec import event_times
from featurestore.online.reader import PreparedRead
from featurestore.online.rollout import CanaryView, Compared, Seen, ShadowView
from featurestore.serving.access import rpc_of
from featurestore.serving.call import Call, Reply
from featurestore.serving.metrics import Counter, Distribution, MetricsFile

CALLS, READ_SECONDS = "featurestore_calls_total", "featurestore_read_seconds"
ROWS, LAG = "featurestore_rows_total", "featurestore_freshness_lag_microseconds"
COMPARED, DIFFERING = "featurestore_shadow_rows_total", "featurestore_shadow_differing_rows_total"

STATES = ("found", "missing", "expired")


class ReadMetrics:
    """Counts what one worker does.

    Args:
        file: Where the counts go.
    """

    def __init__(self, file: MetricsFile) -> None:
        self._file = file
        self._calls: dict[tuple[str, str], Counter] = {}
        self._reads: dict[tuple[str, str], Distribution] = {}

    def count(self, call: Call, reply: Reply) -> None:
        """Count a call by its method and how it ended."""
        key = (call.method, reply.code)
        counter = self._calls.get(key)
        if counter is None:
            labels = {"method": rpc_of(call.method), "code": reply.code}
            counter = self._calls[key] = self._file.counter(CALLS, labels)
        counter.add()

    def took(self, service: str, consumer: str, since: int) -> None:
        """Record how long a read took.

        Args:
            service: What was asked: a service, or ``(features)`` for references.
            consumer: Who asked.
            since: When the read began, as `time.perf_counter_ns` says.
        """
        key = (service, consumer)
        distribution = self._reads.get(key)
        if distribution is None:
            labels = {"service": service, "consumer": consumer}
            distribution = self._reads[key] = self._file.distribution(READ_SECONDS, labels)
        distribution.record(time.perf_counter_ns() - since)

    def collect(self, reads: Iterable[PreparedRead]) -> None:
        """Move what reads have found into the file; to be called now and then."""
        for read in reads:
            for planned, view in zip(read.plan.views, read.views, strict=True):
                if isinstance(view, ShadowView):
                    self._compare(planned.version, view.name, view.found)
                if isinstance(view, ShadowView | CanaryView):
                    self._collect(planned.version, view.old.seen)
                    self._collect(view.name, view.new.seen)
                else:
                    self._collect(planned.version, view.seen)

    def _compare(self, view: str, other: str, found: Compared) -> None:
        """Bring what a shadow found into the file."""
        labels = {"view": view, "other": other}
        self._file.counter(COMPARED, labels).add(found.rows)
        for feature, count in found.differing.items():
            self._file.counter(DIFFERING, {**labels, "feature": feature}).add(count)
        found.rows = 0
        found.differing.clear()

    def _collect(self, view: str, seen: Seen) -> None:
        missing, expired = seen.missing, seen.expired
        for state, rows in zip(STATES, (seen.rows - missing - expired, missing, expired), strict=True):
            if rows:
                self._file.counter(ROWS, {"view": view, "state": state}).add(rows)
        if seen.newest is not None:
            row, t = seen.newest
            self._file.gauge(LAG, {"view": view}).set(t - int(event_times([row])[0]))
        seen.rows = seen.missing = seen.expired = 0
        seen.newest = None
