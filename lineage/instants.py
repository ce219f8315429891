"""Instants and durations as people write them; inside they are integer microseconds since 1970 UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from lineage.errors import InvalidQuestionError

SECOND = 1_000_000
MINUTE = 60 * SECOND
DAY = 86_400 * SECOND

_UNITS = {"m": MINUTE, "h": 60 * MINUTE, "d": DAY, "w": 7 * DAY}
_DURATION = re.compile(r"(\d{1,6})([mhdw])")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def instant(text: str, *, now: int) -> int:
    """Read an instant: an ISO date or time (naive is UTC), or how long ago (``30m``, ``12h``, ``90d``, ``2w``).

    Args:
        text: What was written.
        now: The instant that durations count back from, in microseconds since 1970 UTC.

    Raises:
        InvalidQuestionError: It is neither.

    >>> instant("2013-11-22", now=0)
    1385078400000000
    >>> instant("1d", now=DAY)
    0
    """
    if match := _DURATION.fullmatch(text):
        return now - int(match[1]) * _UNITS[match[2]]
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidQuestionError(
            f"'{text}' is no time.", repair="Write 2026-01-31, 2026-01-31T12:00:00Z or 30d."
        ) from None
    return ((read if read.tzinfo else read.replace(tzinfo=UTC)) - _EPOCH) // timedelta(microseconds=1)


def day(at: int) -> str:
    """Return the UTC day of an instant.

    >>> day(1385078400000000)
    '2013-11-22'
    """
    return written(at)[:10]


def written(at: int) -> str:
    """Return an instant to the second in ISO form, in UTC.

    >>> written(1385078400000000)
    '2013-11-22T00:00:00Z'
    """
    return (_EPOCH + timedelta(microseconds=at)).strftime("%Y-%m-%dT%H:%M:%SZ")
