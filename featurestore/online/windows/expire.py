"""Pages and roots that no window reaches any more, of whatever entity: idle entities are not written to."""

from __future__ import annotations

from itertools import islice

import numpy as np

from featurestore.online.store import Snapshot
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
    found = list(islice(snapshot.scan("pages", after + b"\0" if after else prefix, end), most))
    oldest = now - layout.longest
    expired = [name for name, block in found if _newest(name, block, len(prefix), layout) <= oldest]
    return expired, found[-1][0] if len(found) == most else None


def _newest(name: bytes, block: bytes, prefix: int, layout: PageLayout) -> float:
    """Return the last instant that a root or page can hold; what is neither, or of an older form, holds nothing."""
    place = split_name(name, prefix)
    if place is None:
        return -np.inf
    level, page = place
    if level:
        return (page + 1) * layout.spans[level - 1] - 1
    return int.from_bytes(block[8 * NEWEST_EVENT : 8 * HEAD], "little", signed=True)
