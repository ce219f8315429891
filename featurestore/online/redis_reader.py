"""Online reads from Redis: all that a read needs in one `MGET`, so that it sees one moment, and then the read of every store.

A worker has one connection and one request on its way; reads that come meanwhile go together in the next. The busier it is, the more of
them share a round trip: with 32 callers that is 3 to 4 times the reads of a connection each, and as many as a pool of threads six times.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from redis import asyncio as redis_asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from featurestore.errors import FailedPreconditionError, FeatureStoreError, UnavailableError
from featurestore.lanes import WireColumn
from featurestore.online.breaker import Breaker
from featurestore.online.keyspaces import Keyspace, decode_keyspace, keyspace_name, usual_number
from featurestore.online.on_demand import PreparedOnDemand
from featurestore.online.reader import AnyView, Clock, PreparedRead, StoredView, answer, in_flight, prepare_stored
from featurestore.online.redis import FED, RedisStore, asking, decode_fed
from featurestore.online.redis_address import RedisAddress
from featurestore.online.rollout import ShadowView
from featurestore.online.store import HEAD, Head, Table, read_head
from featurestore.planning import PlannedView, ReadPlan

_READS_AT_ONCE = 64
_KEYS_AT_ONCE = 5000  # the server answers nobody else meanwhile

Values = list[bytes | None]


class FetchedSnapshot:
    """What was fetched of Redis at one moment; nothing else is there.

    Args:
        address: Where it came from.
        values: Key of the server -> value.
    """

    __slots__ = ("_address", "_values")

    def __init__(self, address: RedisAddress, values: Mapping[bytes, bytes | None]) -> None:
        self._address = address
        self._values = values

    def get(self, table: Table, key: bytes) -> bytes | None:
        """Return the value of a key that was fetched."""
        return self._values[self._address.prefix(table) + key]

    def multi_get(self, table: Table, prefix: bytes, keys: Iterable[bytes]) -> Values:
        """Return the value of prefix + key for each key; all were fetched."""
        first = self._address.prefix(table) + prefix
        return [self._values[first + key] for key in keys]

    def scan(self, table: Table, first: bytes, until: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Go through a range, which no read of a view of columns does."""
        raise NotImplementedError(table, first, until)


@dataclass(frozen=True, slots=True)
class _Fetch:
    """What a read asks Redis for, and how it is answered from that."""

    address: RedisAddress
    prepared: PreparedRead
    keys: Sequence[Sequence[bytes]]

    def names(self) -> list[bytes]:
        """Return the keys of the server."""
        meta, rows = self.address.prefix("meta"), self.address.prefix("rows")
        names = [meta + HEAD, meta + FED, *(meta + _record_of(view) for view in _versions(self.prepared.plan))]
        for view in self.prepared.views:
            for prefix, keys in view.places(self.keys[view.key_set]):
                first = rows + prefix
                names += [first + key for key in keys]
        return names

    def answer(self, values: Values, request: Iterable[WireColumn], *, now: int | None) -> bytes:
        """Return the serialized ReadResponse; raises UnavailableError while rows may be missing."""
        snapshot = FetchedSnapshot(self.address, dict(zip(self.names(), values, strict=True)))
        _check_complete(self.address, snapshot.get("meta", FED))
        pairs = zip(self.prepared.plan.views, self.prepared.views, strict=True)
        views = tuple(self._checked(snapshot, planned, view) for planned, view in pairs)
        prepared = self.prepared if views == self.prepared.views else replace(self.prepared, views=views)
        return answer(snapshot, prepared, self.keys, request, now=now)

    def _checked(self, snapshot: FetchedSnapshot, planned: PlannedView, view: AnyView) -> AnyView:
        """Return how a view is read if all of it is there; without the version in its shadow if that is not."""
        _check_filled(self.address, planned, snapshot.get("meta", _record_of(planned)))
        if planned.rollout is None:
            return view
        other = planned.rollout.view
        try:
            _check_filled(self.address, other, snapshot.get("meta", _record_of(other)))
        except FailedPreconditionError:
            if not isinstance(view, ShadowView):
                raise
            return view.old
        return view


class RedisReader:
    """Reads features of entities from Redis, on one event loop.

    Args:
        address: Where it is.
        clock: Microseconds since 1970 UTC; None is the replay clock, which lives in the store.
    """

    def __init__(self, address: RedisAddress, clock: Clock | None) -> None:
        self._address = address
        self._clock = clock
        self._client = redis_asyncio.Redis.from_url(address.url, retry=Retry(NoBackoff(), 0), **address.options())
        self._breaker = Breaker()
        self._waiting: list[tuple[list[bytes], asyncio.Future[Values]]] = []
        self._working: asyncio.Task[None] | None = None
        self._head = Head()

    def prepare(self, plan: ReadPlan) -> PreparedRead:
        """Look up what reads of a plan need; Redis is not asked.

        Raises:
            FailedPreconditionError: A view is windowed.
        """
        return prepare_in_redis(plan)

    async def read(
        self, prepared: PreparedRead, keys: Sequence[Sequence[bytes]], request: Iterable[WireColumn] = ()
    ) -> bytes:
        """Read one row per entity and view; see OnlineReader.read.

        Raises:
            UnavailableError: Redis does not answer, or was emptied and is not filled again yet.
            FailedPreconditionError: A view version was never filled; names the command that does.
        """
        fetch = _Fetch(self._address, prepared, keys)
        values = await self._fetch(fetch.names())
        return fetch.answer(values, request, now=self._clock() if self._clock else None)

    async def follow(self) -> None:
        """See how far Redis was fed; also what finds out that it is back, when nobody reads."""
        (head,) = await self._fetch([self._address.prefix("meta") + HEAD])
        snapshot = FetchedSnapshot(self._address, {self._address.prefix("meta") + HEAD: head})
        self._head = read_head(snapshot)

    def head(self) -> Head:
        """Return the state of the store when it was last followed."""
        return self._head

    async def close(self) -> None:
        """Release the connection; no read is in progress."""
        await self._client.aclose()

    async def _fetch(self, names: list[bytes]) -> Values:
        """Return the values of some keys of the server, all of one moment."""
        future: asyncio.Future[Values] = asyncio.get_running_loop().create_future()
        self._waiting.append((names, future))
        if self._working is None:  # a task of its own: a caller that goes away must not leave half an answer behind
            self._working = asyncio.ensure_future(self._work())
        return await future

    async def _work(self) -> None:
        """Fetch what waits, again and again, until nothing does; nobody is left waiting, whatever happens."""
        group: list[tuple[list[bytes], asyncio.Future[Values]]] = []
        try:
            while self._waiting:
                group = self._take()
                try:
                    values = iter(await self._ask([name for names, _ in group for name in names]))
                except Exception as error:  # noqa: BLE001  # each of them is told
                    for _, future in group:
                        if not future.done():
                            future.set_exception(_again(error))
                    continue
                for names, future in group:
                    found = [next(values) for _ in names]
                    if not future.done():
                        future.set_result(found)
        finally:
            for _, future in (*group, *self._waiting):
                future.cancel()
            self._waiting.clear()
            self._working = None

    def _take(self) -> list[tuple[list[bytes], asyncio.Future[Values]]]:
        group: list[tuple[list[bytes], asyncio.Future[Values]]] = []
        size = 0
        while self._waiting and len(group) < _READS_AT_ONCE and (not group or size < _KEYS_AT_ONCE):
            group.append(self._waiting.pop(0))
            size += len(group[-1][0])
        return group

    async def _ask(self, names: list[bytes]) -> Values:
        with asking(self._address, self._breaker):
            found: Any = await self._client.mget(names)
            return list(found)


def prepare_in_redis(plan: ReadPlan) -> PreparedRead:
    """Look up what reads of a plan from Redis need.

    Raises:
        FailedPreconditionError: A view is windowed.
    """
    views = tuple(in_flight(view, _prepare) for view in plan.views)
    return PreparedRead(plan, views, tuple(map(PreparedOnDemand.of, plan.on_demand)))


def read_at_once(
    store: RedisStore,
    prepared: PreparedRead,
    keys: Sequence[Sequence[bytes]],
    request: Iterable[WireColumn] = (),
    *,
    now: int | None,
) -> bytes:
    """Read as RedisReader does, and wait for it.

    Args:
        store: The store.
        prepared: From `prepare_in_redis`.
        keys: As in OnlineReader.read.
        request: Likewise.
        now: Microseconds UTC; None is the replay clock.
    """
    fetch = _Fetch(store.address, prepared, keys)
    return fetch.answer(store.fetch(fetch.names()), request, now=now)


def _prepare(view: PlannedView) -> StoredView:
    if view.record.kind == "window":
        raise FailedPreconditionError(
            f"{view.ref.view}@v{view.ref.version} is windowed, and the online store in Redis has no windows.",
            repair='Set store = "lmdb" under [online].',
        )
    return prepare_stored(view, _prefix(view))


def _prefix(view: PlannedView) -> bytes:
    return Keyspace(usual_number(view.ref, view.record.layout)).prefix


def _versions(plan: ReadPlan) -> Iterator[PlannedView]:
    """Go through every view version that is read, those in flight among them."""
    for view in plan.views:
        yield view
        if view.rollout is not None:
            yield view.rollout.view


def _record_of(view: PlannedView) -> bytes:
    return keyspace_name(view.ref, view.record.layout)


def _check_complete(address: RedisAddress, stored: bytes | None) -> None:
    if stored is None or not decode_fed(stored).complete:
        raise UnavailableError(
            f"{address} is empty, or not filled again yet.",
            repair="A running server fills it; without one run `featurestore materialize`.",
        )


def _check_filled(address: RedisAddress, view: PlannedView, stored: bytes | None) -> None:
    keyspace = None if stored is None else decode_keyspace(stored)
    if keyspace is None or not keyspace.filled:
        name = f"{view.ref.view}@v{view.ref.version}"
        raise FailedPreconditionError(
            f"{name} was never filled in {address}.",
            repair=f"Run `featurestore materialize {name}`, or `featurestore write {name}` if it has no rows yet.",
        )
    if keyspace.prefix != _prefix(view):
        raise FailedPreconditionError(
            f"The keyspace of {view.ref} in {address} has another number than its name gives.",
            repair="Choose another namespace under [online]; a server fills it.",
        )


def _again(error: Exception) -> Exception:
    """Return an error of its own for a caller: one that is raised twice collects tracebacks."""
    if isinstance(error, FeatureStoreError):
        return type(error)(error.message, place=error.place, repair=error.repair)
    return error
