"""`featurestore top`: what a running server does, from the numbers that its processes share."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from featurestore.serving.metrics import QUANTILES, SECOND, Labels, Metric, read_metrics
from featurestore.serving.read_metrics import LAG, READ_SECONDS, ROWS

Metrics = Mapping[tuple[str, Labels], Metric]


@dataclass(frozen=True, slots=True)
class ReadLine:
    """The reads of one consumer from one service.

    Attributes:
        service: What it reads; ``(features)`` for references.
        consumer: Who reads.
        rate: Reads a second since the look before; of all time at the first look.
        count: Reads since the server began.
        quantiles: p50, p90, p99 and p99.9 in microseconds, of the same time as the rate.
    """

    service: str
    consumer: str
    rate: float
    count: int
    quantiles: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ViewLine:
    """What reads found in one view version: rows since the server began, and the age of the last row in seconds (None: none)."""

    view: str
    found: int
    missing: int
    expired: int
    lag: float | None


@dataclass(frozen=True, slots=True)
class Look:
    """A server at one moment."""

    reads: tuple[ReadLine, ...]
    views: tuple[ViewLine, ...]


def looks(directory: Path, seconds: float) -> Iterator[Look]:
    """Look at a server again and again.

    Args:
        directory: The store's folder ``metrics``.
        seconds: Between two looks.
    """
    before: Metrics = {}
    began = 0.0
    while True:
        now, found = time.monotonic(), read_metrics(directory)
        yield Look(tuple(_read_lines(found, before, now - began if before else 0.0)), tuple(_view_lines(found)))
        before, began = found, now
        time.sleep(seconds)


def _read_lines(found: Metrics, before: Metrics, seconds: float) -> Iterator[ReadLine]:
    for key in sorted(found):
        if key[0] != READ_SECONDS:
            continue
        total = found[key]
        recent = total.since(before.get(key))
        labels = dict(total.labels)
        yield ReadLine(
            service=labels["service"],
            consumer=labels["consumer"],
            rate=recent.count / seconds if seconds else 0.0,
            count=total.count,
            quantiles=tuple(recent.quantile(q) * 1e6 / SECOND for q in QUANTILES),
        )


def _view_lines(found: Metrics) -> Iterator[ViewLine]:
    for view in sorted({dict(labels)["view"] for name, labels in found if name == ROWS}):
        rows = {
            state: found.get((ROWS, (("view", view), ("state", state)))) for state in ("found", "missing", "expired")
        }
        lag = found.get((LAG, (("view", view),)))
        counts = {state: metric.value if metric else 0 for state, metric in rows.items()}
        yield ViewLine(view, **counts, lag=lag.value / 1e6 if lag else None)
