"""Idle entities of windowed views: their pages go when no window reaches them any more, though nobody writes to them."""

from __future__ import annotations

from dataclasses import dataclass, field

from featurestore.online.keyspaces import Keyspace, find_keyspace, live_layouts
from featurestore.online.store import OnlineStore, read_head
from featurestore.online.windows import PageLayout, drop_expired, expired_pages
from featurestore.refs import ViewRef
from featurestore.registry.snapshot import RegistrySnapshot, ViewRecord

PAGES_AT_ONCE = 20_000


@dataclass(slots=True)
class Sweep:
    """Goes round the pages of windowed views, some at each step.

    Args:
        store: The online store.
    """

    store: OnlineStore
    _waiting: list[tuple[ViewRef, ViewRecord, int]] = field(default_factory=list)
    _after: bytes = b""

    def step(self, registry: RegistrySnapshot) -> int:
        """Look at some pages, drop those that no window reaches any more, and return how many keys that were.

        Args:
            registry: The views as they are now; a round goes on with those that it began with.
        """
        if not self._waiting:
            windowed = [(ref, record) for ref, record in registry.view_versions() if record.kind == "window"]
            self._waiting = [(ref, record, layout) for ref, record in windowed for layout in live_layouts(record)]
        if not self._waiting:
            return 0
        ref, record, layout = self._waiting[-1]
        pages = PageLayout.of(record.stored(layout), keyed=bool(record.event_key))
        with self.store.read() as snapshot:
            keyspace, now = find_keyspace(snapshot, ref, layout) or Keyspace(0), read_head(snapshot).clock
            expired, after = expired_pages(
                snapshot, keyspace.prefix, pages, after=self._after, now=now, most=PAGES_AT_ONCE
            )
        if after is None:
            self._waiting.pop()
        self._after = after or b""
        if not expired:
            return 0
        with self.store.write() as transaction:
            return drop_expired(transaction, keyspace.prefix, pages, expired, now=now)
