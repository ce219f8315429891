"""Pages and roots that no window reaches any more, of whatever entity: idle entities are not written to."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import numpy as np

from featurestore.online.store import Snapshot, Transaction
from featurestore.online.windows.layout import PageLayout, split_name
from featurestore.windows.stored import HEAD, NEWEST_EVENT


def expired_pages(
    snapshot: Snapshot, prefix: bytes, layout: PageLayout, *, after: bytes, now: int, most: int
) -> tuple[list[bytes], bytes | None]:
    """Return the keys of roots and pages that no window reaches any more, of whatever entity.

    Args:
        snapshot: Where to look.
        prefix: The keyspace's prefix.
        layout: How its events are kept.
        after: Where the last look stopped; empty is the beginning.
        now: Microseconds.
        most: Look at no more keys than that.

    Returns:
        The keys, and where to go on, None at the end.
    """
    end = (int.from_bytes(prefix, "big") + 1).to_bytes(len(prefix), "big")
    expired, looked, name, oldest = [], 0, b"", now - layout.longest
    for name, block in islice(snapshot.scan("pages", after + b"\0" if after else prefix, end), most):
        looked += 1
        if _newest(name, block, len(prefix), layout) <= oldest:
            expired.append(name)
    return expired, name if looked == most else None


def drop_expired(
    transaction: Transaction, prefix: bytes, layout: PageLayout, names: Iterable[bytes], *, now: int
) -> int:
    """Drop roots and pages that no window reaches any more, but not a root that has got an event since it was looked at.

    Args:
        transaction: The write in progress.
        prefix: The keyspace's prefix.
        layout: How its events are kept.
        names: Keys from `expired_pages`.
        now: Microseconds.

    Returns:
        How many were dropped.
    """
    found = [(name, transaction.get("pages", name)) for name in names]
    oldest = now - layout.longest
    expired = [n for n, block in found if block is not None and _newest(n, block, len(prefix), layout) <= oldest]
    for name in expired:
        transaction.delete("pages", name)
    return len(expired)


def _newest(name: bytes, block: bytes, prefix: int, layout: PageLayout) -> float:
    """Return the last instant that a root or page can hold; what is neither, or of an older form, holds nothing."""
    place = split_name(name, prefix)
    if place is None:
        return -np.inf
    level, page = place
    if level:
        return (page + 1) * layout.spans[level - 1] - 1
    return int.from_bytes(block[8 * NEWEST_EVENT : 8 * HEAD], "little", signed=True)
