"""What a server does, as numbers that every process of it can read: counters, gauges and distributions in memory-mapped files.

A process writes its own file in the store's folder ``metrics`` and nobody else does, so that counting needs no lock and no system call:
one look-up and two or three stores. Whoever wants to know adds up the files; a process that died leaves what it had counted. The folder
is emptied when a server starts.

A distribution has 32 equal steps in each power of two, so a quantile is known within 1/32 of itself, after Tene's HdrHistogram
(http://hdrhistogram.org).
"""

from __future__ import annotations

import json
import mmap
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Kind = Literal["counter", "gauge", "distribution"]
Labels = tuple[tuple[str, str], ...]

QUANTILES = (0.5, 0.9, 0.99, 0.999)
SECOND = 1_000_000_000  # distributions of time are in nanoseconds

_SUFFIX = ".metrics"
_MAGIC = int.from_bytes(b"FSMETRIC", "little")
_SIZE = 8 << 20
_KINDS: tuple[Kind, ...] = ("counter", "gauge", "distribution")
_STEP_BITS = 5
_STEPS = 1 << _STEP_BITS
_LONGEST = 1 << 43  # nanoseconds: more than two hours; what takes longer counts as that
_BUCKETS = (_LONGEST.bit_length() - _STEP_BITS - 1) * _STEPS + 2 * _STEPS
_WORDS: Mapping[Kind, int] = {"counter": 1, "gauge": 1, "distribution": 1 + _BUCKETS}


class Counter:
    """A number that only rises, or for a gauge is set."""

    __slots__ = ("_at", "_words")

    def __init__(self, words: memoryview, at: int) -> None:
        self._words = words
        self._at = at

    def add(self, amount: int = 1) -> None:
        """Add to it."""
        self._words[self._at] += amount

    def set(self, value: int) -> None:
        """Set it."""
        self._words[self._at] = value


class Distribution:
    """How often which value occurred, and the sum of all."""

    __slots__ = ("_at", "_words")

    def __init__(self, words: memoryview, at: int) -> None:
        self._words = words
        self._at = at

    def record(self, value: int) -> None:
        """Count a value, of at least 0."""
        self._words[self._at] += value
        self._words[self._at + 1 + bucket_of(value)] += 1


def bucket_of(value: int) -> int:
    """Return the number of the step that a value lies in.

    >>> bucket_of(0), bucket_of(63), bucket_of(64), bucket_of(65), bucket_of(66)
    (0, 63, 64, 64, 65)
    """
    shift = value.bit_length() - _STEP_BITS - 1
    if shift <= 0:
        return value
    return (shift << _STEP_BITS) + (value >> shift) if value < _LONGEST else _BUCKETS - 1


def lower_edge(bucket: int) -> int:
    """Return the least value of a step.

    >>> lower_edge(bucket_of(1000)) <= 1000 < lower_edge(bucket_of(1000) + 1)
    True
    """
    shift = max(0, (bucket >> _STEP_BITS) - 1)
    return (bucket - (shift << _STEP_BITS)) << shift


class MetricsFile:
    """The numbers of one process; a number that no longer fits is counted by nobody, rather than to disturb what is served.

    Args:
        directory: The store's folder ``metrics``; made when missing.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / f"{os.getpid()}-{uuid.uuid4().hex[:8]}{_SUFFIX}"
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(file, 0, _SIZE)  # a store into a hole of a full disk would kill the process
            self._map = mmap.mmap(file, _SIZE)
        finally:
            os.close(file)
        self._words = memoryview(self._map).cast("q")
        self._words[0] = _MAGIC
        self._free = 2
        self._spare = memoryview(bytearray(8 * max(_WORDS.values()))).cast("q")
        self._known: dict[tuple[str, Labels], int | None] = {}

    def counter(self, name: str, labels: Mapping[str, str] | None = None) -> Counter:
        """Return a counter; the same name and labels give the same one."""
        return Counter(*self._place("counter", name, labels))

    def gauge(self, name: str, labels: Mapping[str, str] | None = None) -> Counter:
        """Return a gauge; over several processes the greatest counts."""
        return Counter(*self._place("gauge", name, labels))

    def distribution(self, name: str, labels: Mapping[str, str] | None = None) -> Distribution:
        """Return a distribution of nanoseconds."""
        return Distribution(*self._place("distribution", name, labels))

    def _place(self, kind: Kind, name: str, labels: Mapping[str, str] | None) -> tuple[memoryview, int]:
        key = (name, tuple((labels or {}).items()))
        if key not in self._known:
            self._known[key] = self._allocate(kind, key)
        at = self._known[key]
        return (self._spare, 0) if at is None else (self._words, at)

    def _allocate(self, kind: Kind, key: tuple[str, Labels]) -> int | None:
        text = json.dumps([key[0], *key[1]]).encode()
        text += b" " * (-len(text) % 8)
        start, label_words = self._free, len(text) // 8
        at = start + 3 + label_words
        end = at + _WORDS[kind]
        if end >= len(self._words):
            return None
        self._map[8 * (start + 3) : 8 * at] = text
        self._words[start], self._words[start + 1], self._words[start + 2] = (
            end - start,
            _KINDS.index(kind),
            label_words,
        )
        self._free = self._words[1] = end  # last: until here the number is not there
        return at


@dataclass(frozen=True, slots=True)
class Metric:
    """A number as all processes together have it.

    Attributes:
        kind: counter, gauge or distribution.
        name: Its name.
        labels: What tells it from others of the name.
        value: Of a counter or gauge; of a distribution the sum.
        counts: Of a distribution: step -> how many.
    """

    kind: Kind
    name: str
    labels: Labels
    value: int
    counts: Mapping[int, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many values a distribution has."""
        return sum(self.counts.values())

    def quantile(self, q: float) -> float:
        """Return the value that a share q of a distribution does not exceed, within 1/32; NaN for an empty one."""
        wanted, seen = q * self.count, 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= wanted:
                return (lower_edge(bucket) + lower_edge(bucket + 1) - 1) / 2
        return float("nan")

    def plus(self, other: Metric) -> Metric:
        """Return what both have; of gauges the greater."""
        if self.kind == "gauge":
            return self if self.value >= other.value else other
        counts = dict(self.counts)
        for bucket, count in other.counts.items():
            counts[bucket] = counts.get(bucket, 0) + count
        return Metric(self.kind, self.name, self.labels, self.value + other.value, counts)

    def since(self, earlier: Metric | None) -> Metric:
        """Return what was counted after an earlier look; a gauge stays."""
        if earlier is None or self.kind == "gauge":
            return self
        counts = {b: c - earlier.counts.get(b, 0) for b, c in self.counts.items() if c > earlier.counts.get(b, 0)}
        return Metric(self.kind, self.name, self.labels, self.value - earlier.value, counts)


def read_metrics(directory: Path) -> dict[tuple[str, Labels], Metric]:
    """Return the numbers of all processes of a server, added up.

    Args:
        directory: The store's folder ``metrics``; one that is not there has none.
    """
    found: dict[tuple[str, Labels], Metric] = {}
    for path in sorted(directory.glob(f"*{_SUFFIX}")):
        for metric in _read_file(path):
            key = (metric.name, metric.labels)
            found[key] = found[key].plus(metric) if key in found else metric
    return found


def clear_metrics(directory: Path) -> None:
    """Remove what an earlier server counted."""
    for path in directory.glob(f"*{_SUFFIX}"):
        path.unlink(missing_ok=True)


def _read_file(path: Path) -> Iterator[Metric]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:  # a server that starts has just removed it
        return
    words = memoryview(data[: len(data) - len(data) % 8]).cast("q")
    if len(words) < 2 or words[0] != _MAGIC:  # magic and end
        return
    start, end = 2, words[1]
    while start < end:
        size, kind, label_words = words[start], _KINDS[words[start + 1]], words[start + 2]
        at = start + 3 + label_words
        name, *labels = json.loads(data[8 * (start + 3) : 8 * at])
        counts = {}
        if kind == "distribution":
            counts = {bucket: count for bucket, count in enumerate(words[at + 1 : start + size]) if count}
        yield Metric(kind, name, tuple((key, value) for key, value in labels), words[at], counts)
        start += size


_BOUNDS = tuple(factor * 10**power for power in range(4, 11) for factor in (1, 2.5, 5))  # 10 us to 50 s, in nanoseconds


def to_prometheus(metrics: Iterable[Metric]) -> str:
    """Return metrics in Prometheus' text format (https://prometheus.io/docs/instrumenting/exposition_formats); times in seconds.

    >>> print(to_prometheus([Metric("counter", "calls_total", (("code", "OK"),), 3)]), end="")
    # TYPE calls_total counter
    calls_total{code="OK"} 3
    """
    lines, last = [], ""
    for metric in sorted(metrics, key=lambda m: (m.name, m.labels)):
        if metric.name != last:
            kind = "histogram" if metric.kind == "distribution" else metric.kind
            lines.append(f"# TYPE {metric.name} {kind}")
            last = metric.name
        lines += (
            _histogram(metric)
            if metric.kind == "distribution"
            else [f"{metric.name}{_text(metric.labels)} {metric.value}"]
        )
    return "".join(f"{line}\n" for line in lines)


def _histogram(metric: Metric) -> Iterator[str]:
    for bound in _BOUNDS:
        below = sum(count for bucket, count in metric.counts.items() if lower_edge(bucket + 1) - 1 <= bound)
        yield f"{metric.name}_bucket{_text((*metric.labels, ('le', repr(bound / SECOND))))} {below}"
    yield f"{metric.name}_bucket{_text((*metric.labels, ('le', '+Inf')))} {metric.count}"
    yield f"{metric.name}_sum{_text(metric.labels)} {metric.value / SECOND!r}"
    yield f"{metric.name}_count{_text(metric.labels)} {metric.count}"


def _text(labels: Labels) -> str:
    escaped = (f'{name}="{_escaped(value)}"' for name, value in labels)
    return f"{{{','.join(escaped)}}}" if labels else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
