"""Reads a log of feature requests: who asked for which feature service or features, and when.

JSON lines, one request each: a time, who asked (``user`` or ``principal``), and ``feature_service`` or ``features``; optional
``mode`` (``online`` or ``offline``), ``environment``, ``client``, ``calls`` and ``rows``. Lines that cannot be understood are listed.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lineage.errors import NotFoundError
from lineage.feast.document import FeastRegistry
from lineage.instants import instant

_TIMES = ("at", "time", "timestamp", "event_timestamp", "ts")
_USERS = ("principal", "user", "requestor_id", "username", "requester")
_SERVICES = ("feature_service", "service")
_FEATURES = ("features", "feature_refs")


@dataclass(frozen=True, slots=True)
class RequestLog:
    """What a log of requests says.

    Attributes:
        name: Of its file.
        usage: Rows of ``usage_daily``.
        first: The first request, in microseconds since 1970 UTC; 0 without any.
        last: The last one.
        skipped: ``(line, reason)`` of what could not be understood; lines are counted from 1.
    """

    name: str
    usage: tuple[tuple[Any, ...], ...]
    first: int
    last: int
    skipped: tuple[tuple[int, str], ...]


def read_requests(path: Path, registry: FeastRegistry, bindings: Mapping[str, Iterable[str]]) -> RequestLog:
    """Read a log of feature requests.

    Args:
        path: JSON lines.
        registry: What they refer to.
        bindings: Principal -> the feature services it may run.

    Raises:
        NotFoundError: There is no such file.
    """
    if not path.is_file():
        raise NotFoundError(f"There is no log '{path}'.")
    counts: dict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0, 0, 2**62, 0])
    skipped: list[tuple[int, str]] = []
    times: list[int] = []
    for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
        if line.strip():
            try:
                at, keys, calls, rows = _request(line, registry, bindings)
            except ValueError as error:
                skipped.append((number, str(error)))
                continue
            times.append(at)
            for key in keys:
                row = counts[key]
                row[:] = row[0] + calls, row[1] + rows, min(row[2], at), max(row[3], at)
    usage = tuple((*key, *row) for key, row in sorted(counts.items()))
    return RequestLog(path.name, usage, min(times, default=0), max(times, default=0), tuple(skipped))


def _request(
    line: str, registry: FeastRegistry, bindings: Mapping[str, Iterable[str]]
) -> tuple[int, list[tuple[Any, ...]], int, int]:
    entry = json.loads(line)
    if not isinstance(entry, dict):
        raise ValueError("it is no object")  # noqa: TRY004 - the content of a file, not an argument
    at = _time(_first(entry, _TIMES))
    user, service = str(_first(entry, _USERS) or ""), str(_first(entry, _SERVICES) or "")
    consumer, binding = _identity(user, service, tuple(bindings.get(user, ())))
    mode, environment = str(entry.get("mode") or "online"), str(entry.get("environment") or "")
    outcome = "ok" if entry.get("status", "ok") in ("ok", "success", 200) else "refused"
    day = datetime.fromtimestamp(at / 1_000_000, UTC).date().isoformat()
    rest = (user, consumer, binding, environment, mode, str(entry.get("client") or ""), outcome)
    keys = [(day, *_split(ref), *rest) for ref in _refs(entry, service, registry)]
    return at, keys, int(entry.get("calls") or 1), int(entry.get("rows") or 1)


def _time(value: Any) -> int:
    if value is None:
        raise ValueError("it has no time")
    if isinstance(value, (int, float)):
        return int(value * 1_000_000) if value < 1e11 else int(value * 1000) if value < 1e14 else int(value)
    return instant(str(value), now=0)


def _first(entry: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((entry[name] for name in names if entry.get(name) is not None), None)


def _identity(user: str, service: str, bound: tuple[str, ...]) -> tuple[str, str]:
    """Return the consumer and how it was established.

    A service that is named is believed unless the tags bind the principal to others.
    """
    if not user:
        return "", "anonymous"
    if service and (not bound or service in bound):
        return service, "bound" if bound else "local"
    if service or not bound:
        return "", "undeclared"
    return (bound[0], "bound") if len(bound) == 1 else ("", "ambiguous")


def _refs(entry: Mapping[str, Any], service: str, registry: FeastRegistry) -> Iterator[str]:
    asked = _first(entry, _FEATURES)
    if asked is None and service:
        known = registry.document["services"].get(service)
        if known is None:
            raise ValueError(f"there is no feature service '{service}' in the registry")
        asked = known["features"]
    if not isinstance(asked, list) or not asked:
        raise ValueError("it names no features and no feature service")
    for ref in asked:
        resolved = registry.resolve(str(ref))
        if resolved is None:
            raise ValueError(f"there is no feature '{ref}' in the registry")
        yield resolved


def _split(ref: str) -> tuple[str, int, str]:
    view, _, feature = ref.partition(":")
    name, _, version = view.partition("@v")
    return name, int(version), feature
