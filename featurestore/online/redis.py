"""The online store in Redis: the same tables, in one server that many machines read.

A row is a value of its own, the ready fragment, and what orders it is another beside it. A commit is one script on the server: it puts each
row that is greater than the one there and nothing else of it, so that delivering twice, late or in another order changes nothing, and does
everything else after the rows. Scripts are atomic, so one `MGET` sees a commit whole or not at all; a commit of more than 500 rows is
several scripts, the last of which says that it is done, so that other readers get their turn.

Redis acknowledges before anything is on a disk: what it held can be gone. So it only ever holds what can be brought again; the record of
how far it was fed stands in it beside the rows, and a read asks for that record together with the rows.

    <namespace>r:<keyspace + entity key>    row              <namespace>o:<keyspace + entity key>    order
    <namespace><table>:<key>                an entry         <namespace><table>                      its keys, sorted (ZRANGEBYLEX)
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from heapq import merge
from itertools import islice, takewhile
from operator import itemgetter
from typing import Any, TypeVar

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    NoPermissionError,
    OutOfMemoryError,
    RedisError,
    ResponseError,
)
from redis.retry import Retry

from featurestore.errors import FailedPreconditionError, ResourceExhaustedError, UnavailableError
from featurestore.online.breaker import Breaker
from featurestore.online.redis_address import RedisAddress
from featurestore.online.store import OnlineStore, Snapshot, Table
from featurestore.online.turns import Turns

_ROWS_OF_A_SCRIPT = 500
_SCANNED_AT_ONCE = 1000
_STAMP = struct.Struct(">Q")
_BIAS = 1 << 63

COMMIT = """
local function is_greater(new, old)
    -- Six words of four bytes: Lua's numbers are doubles, and its order of strings is that of the server's locale.
    local a, b = {struct.unpack('>I4I4I4I4I4I4', new)}, {struct.unpack('>I4I4I4I4I4I4', old)}
    for i = 1, 6 do
        if a[i] ~= b[i] then return a[i] > b[i] end
    end
    return false
end
if ARGV[1] ~= '*' and (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then
    return redis.error_reply('EMPTIED the record of what was fed is not the one that was there')
end
local rows = tonumber(ARGV[2])
local key, arg, changed = 2, 3, 0
for _ = 1, rows do
    local row, order, stamp = KEYS[key], KEYS[key + 1], ARGV[arg]
    local old = redis.call('GET', order)
    if not old or is_greater(stamp, old) then
        redis.call('SET', row, ARGV[arg + 1])
        redis.call('SET', order, stamp)
        if ARGV[arg + 2] ~= '' then
            redis.call('PEXPIREAT', row, ARGV[arg + 2])
            redis.call('PEXPIREAT', order, ARGV[arg + 2])
        end
        changed = changed + 1
    end
    key, arg = key + 2, arg + 3
end
while key <= #KEYS do
    local name, index, member, value = KEYS[key], KEYS[key + 1], ARGV[arg], ARGV[arg + 1]
    if ARGV[arg + 2] == 'put' then
        redis.call('SET', name, value)
        if index ~= '' then redis.call('ZADD', index, 0, member) end
    else
        redis.call('DEL', name)
        if index ~= '' then redis.call('ZREM', index, member) end
    end
    key, arg = key + 2, arg + 3
end
return changed
"""

FED = b"fed"

_T = TypeVar("_T")


class Fed(msgspec.Struct, frozen=True, array_like=True):
    """How far Redis was fed; it stands in the table ``meta`` beside the rows.

    Attributes:
        owner: The store that feeds it; no other may.
        run: When it began to be filled: an emptied Redis that is filled again is not the same.
        cursor: Key of the last batch of the row log that is in.
        complete: Whether everything is in that was before the log began.
        log: The row log that it is fed from; another one begins anew.
        commits: How many commits there were. The store counts them, so that it is noticed when the last of them are lost.
    """

    owner: bytes
    run: bytes
    cursor: int = 0
    complete: bool = False
    log: bytes = b""
    commits: int = 0


decode_fed = msgspec.msgpack.Decoder(Fed).decode


def explained(address: RedisAddress, error: RedisError) -> UnavailableError | FailedPreconditionError:
    """Return what a failure of Redis is here."""
    if isinstance(error, AuthenticationError | AuthorizationError | NoPermissionError):
        return FailedPreconditionError(
            f"{address} does not let us in: {type(error).__name__}.",
            repair="Look at the user and password of FEATURESTORE_REDIS_URL, and at the ACL there.",
        )
    if str(error).startswith("EMPTIED"):
        return UnavailableError(f"{address} was emptied while it was written to.", repair="It is filled again.")
    if isinstance(error, OutOfMemoryError):
        return ResourceExhaustedError(f"{address} has no memory left.", repair="Raise its maxmemory.")
    reason = str(error).strip().rstrip(".") or type(error).__name__
    return UnavailableError(f"{address} does not answer: {reason}.")


@contextmanager
def asking(address: RedisAddress, breaker: Breaker) -> Iterator[None]:
    """Ask the server inside, if the breaker lets us; it is told how that went, whatever happens.

    Raises:
        UnavailableError: The breaker is open, or the server does not answer.
        FailedPreconditionError: It does not let us in.
    """
    if not breaker.admits():
        raise UnavailableError(f"{address} did not answer just now; it is asked again in {breaker.wait:.2f} s.")
    answered = False
    try:
        yield
        answered = True
    except RedisError as error:
        answered = isinstance(error, ResponseError)  # though not what we want
        raise explained(address, error) from error
    finally:
        breaker.succeeded() if answered else breaker.failed()


class RedisSnapshot:
    """What the server holds, as it is at each call: one `multi_get` is one moment, two are not."""

    __slots__ = ("_store",)

    def __init__(self, store: RedisStore) -> None:
        self._store = store

    def get(self, table: Table, key: bytes) -> bytes | None:
        """Return the value of a key, or None."""
        value: bytes | None = self._store.ask("GET", self._store.address.prefix(table) + key)
        return value

    def multi_get(self, table: Table, prefix: bytes, keys: Iterable[bytes]) -> list[bytes | None]:
        """Return the value of prefix + key for each key."""
        first = self._store.address.prefix(table) + prefix
        return self._store.fetch([first + key for key in keys])

    def scan(self, table: Table, first: bytes, until: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Go through the pairs with ``first <= key < until``; for rows and their order every key of the server is looked at."""
        found = self._names(table, first, until)
        while names := list(islice(found, _SCANNED_AT_ONCE)):
            values = self.multi_get(table, b"", names)
            yield from ((name, value) for name, value in zip(names, values, strict=True) if value is not None)

    def _names(self, table: Table, first: bytes, until: bytes) -> Iterator[bytes]:
        index = self._store.address.index(table)
        if not index:
            own = self._store.address.prefix(table)
            shared = takewhile(lambda pair: pair[0] == pair[1], zip(first, until, strict=False))
            found = self._store.names(own + bytes(byte for byte, _ in shared))
            yield from sorted({name[len(own) :] for name in found if first <= name[len(own) :] < until})
            return
        low = b"[" + first
        while names := self._store.ask("ZRANGEBYLEX", index, low, b"(" + until, "LIMIT", 0, _SCANNED_AT_ONCE):
            yield from names
            low = b"(" + names[-1]


class RedisTransaction:
    """The one write in progress; it sees what it wrote, and nothing is sent before it is committed."""

    __slots__ = ("_changes", "_under")

    def __init__(self, under: Snapshot) -> None:
        self._under = under
        self._changes: dict[Table, dict[bytes, bytes | None]] = {}

    def get(self, table: Table, key: bytes) -> bytes | None:
        """Return the value of a key, or None."""
        changed = self._changes.get(table, {})
        return changed[key] if key in changed else self._under.get(table, key)

    def multi_get(self, table: Table, prefix: bytes, keys: Iterable[bytes]) -> list[bytes | None]:
        """Return the value of prefix + key for each key."""
        asked, changed = list(keys), self._changes.get(table, {})
        found = self._under.multi_get(table, prefix, asked)
        return [changed.get(prefix + key, value) for key, value in zip(asked, found, strict=True)]

    def scan(self, table: Table, first: bytes, until: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Go through the pairs with ``first <= key < until``."""
        changed = dict(self._changes.get(table, {}))
        stored = (pair for pair in self._under.scan(table, first, until) if pair[0] not in changed)
        mine = [(k, v) for k, v in sorted(changed.items(), key=itemgetter(0)) if v is not None and first <= k < until]
        yield from merge(stored, mine, key=itemgetter(0))

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        """Set the value of a key."""
        self._changes.setdefault(table, {})[key] = value

    def put_many(self, table: Table, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Set many values."""
        self._changes.setdefault(table, {}).update(items)

    def delete(self, table: Table, key: bytes) -> None:
        """Remove a key if it is there."""
        self._changes.setdefault(table, {})[key] = None

    @contextmanager
    def part(self) -> Iterator[RedisTransaction]:
        """Begin a part that an error inside undoes alone; until it ends it is used in the place of the whole."""
        part = RedisTransaction(self)
        yield part
        for table, changed in part.changes.items():
            self._changes.setdefault(table, {}).update(changed)

    @property
    def changes(self) -> Mapping[Table, Mapping[bytes, bytes | None]]:
        """What it wrote: table -> key -> value, None for what is deleted."""
        return self._changes


class RedisStore(OnlineStore):
    """An online store in Redis; it is safe to share between threads, and writes have one process at a time.

    Args:
        address: Where it is.

    Attributes:
        address: Likewise.
        lifetimes: Keyspace prefix -> microseconds after its event at which a row goes from Redis; those that are not named stay.
        guard: The record `FED` as it must be when something is committed, empty for none; it moves with every commit. None does not look.
    """

    def __init__(self, address: RedisAddress) -> None:
        self.address = address
        self.lifetimes: dict[bytes, int] = {}
        self.guard: bytes | None = None
        self._client = redis.Redis.from_url(address.url, retry=Retry(NoBackoff(), 0), **address.options())
        self._commit = self._client.register_script(COMMIT)
        self._breaker = Breaker()
        self._turns = Turns()

    @contextmanager
    def read(self) -> Iterator[RedisSnapshot]:
        """Begin to read; unlike a snapshot of LMDB it does not stay as it was."""
        yield RedisSnapshot(self)

    @contextmanager
    def write(self) -> Iterator[RedisTransaction]:
        """Begin the only write of this process; leaving it sends everything, an error inside sends nothing.

        Raises:
            UnavailableError: The server does not answer; some of the rows may be there, what was written after them is not.
            ResourceExhaustedError: The server has no memory left; likewise.
        """
        with self._turns:
            transaction = RedisTransaction(RedisSnapshot(self))
            yield transaction
            self._send(transaction.changes)

    def writers(self) -> int:
        """Return at least 1: whoever reads has to wait for long work in Redis, so it writes less at once."""
        return max(1, len(self._turns))

    def close(self) -> None:
        """Release the connections."""
        self._client.close()

    def ask(self, *command: bytes | str | int) -> Any:
        """Send one command and return its answer."""
        return self._try(lambda: self._client.execute_command(*command))  # type: ignore[no-untyped-call]  # redis-py has no types there

    def fetch(self, names: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of some keys of the server, all of one moment."""
        found: list[bytes | None] = self.ask("MGET", *names) if names else []
        return found

    def names(self, first: bytes) -> list[bytes]:
        """Return the keys of the server that begin in a way; every key is looked at."""
        pattern = re.sub(rb"([\\*?\[\]])", rb"\\\1", first) + b"*"
        return self._try(lambda: list(self._client.scan_iter(pattern, count=_SCANNED_AT_ONCE)))

    def check(self) -> None:
        """Make sure that the server forgets nothing by itself; raises FailedPreconditionError."""
        policy = self._try(lambda: self._client.info("memory")).get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            raise FailedPreconditionError(
                f"{self.address} drops keys when it is full (maxmemory-policy {policy}): rows would be missing and nobody would know.",
                repair="Set `maxmemory-policy noeviction` there.",
            )

    def _try(self, step: Callable[[], _T]) -> _T:
        with asking(self.address, self._breaker):
            return step()

    def _send(self, changes: Mapping[Table, Mapping[bytes, bytes | None]]) -> None:
        rows, others = self._sorted_out(changes)
        while len(rows) > _ROWS_OF_A_SCRIPT:
            first, rows = rows[:_ROWS_OF_A_SCRIPT], rows[_ROWS_OF_A_SCRIPT:]
            self._submit(first, [])
        if rows or others:
            self._submit(rows, others)

    def _submit(self, rows: Sequence[_Row], others: Sequence[_Other]) -> None:
        """Run the script, and count it in the record of what was fed."""
        name = self.address.prefix("meta") + FED
        fed = next((other.value for other in others if other.name == name), self.guard)
        if not (self.guard is not None and fed):
            self._try(partial(self._commit, *self._arguments(rows, others)))
            return
        before = decode_fed(self.guard).commits if self.guard else 0
        after = msgspec.msgpack.encode(msgspec.structs.replace(decode_fed(fed), commits=before + 1))
        counted = [other for other in others if other.name != name]
        counted.append(_Other(name, self.address.index("meta"), FED, after))
        self._try(partial(self._commit, *self._arguments(rows, counted)))
        self.guard = after

    def clear(self) -> None:
        """Delete everything of the namespace, the record of what was fed first: readers are refused from then on."""
        self.ask("DEL", self.address.prefix("meta") + FED)
        names = self.names(f"{self.address.namespace}:".encode())
        while names:
            self.ask("DEL", *names[-_SCANNED_AT_ONCE:])
            del names[-_SCANNED_AT_ONCE:]

    def _sorted_out(self, changes: Mapping[Table, Mapping[bytes, bytes | None]]) -> tuple[list[_Row], list[_Other]]:
        """Return the rows that are put only where they are greater, and everything else."""
        orders, rows, others = changes.get("order", {}), [], []
        row, order = self.address.prefix("rows"), self.address.prefix("order")
        compared = {
            name
            for name, value in changes.get("rows", {}).items()
            if value is not None and len(orders.get(name) or b"") == _STAMP.size * 3
        }
        for table, changed in changes.items():
            prefix, index = self.address.prefix(table), self.address.index(table)
            if table == "rows":
                rows = [
                    _Row(row + name, order + name, orders[name] or b"", changed[name] or b"", self._until(name, orders))
                    for name in compared
                ]
            skipped = compared if not index else ()
            others += [_Other(prefix + key, index, key, value) for key, value in changed.items() if key not in skipped]
        return rows, others

    def _arguments(self, rows: Sequence[_Row], others: Sequence[_Other]) -> tuple[list[bytes], list[Any]]:
        """Return the keys and arguments of the script."""
        keys = [self.address.prefix("meta") + FED]
        keys += [key for row in rows for key in (row.row, row.order)]
        keys += [key for other in others for key in (other.name, other.index)]
        arguments: list[Any] = [b"*" if self.guard is None else self.guard, len(rows)]
        arguments += [part for row in rows for part in (row.stamp, row.fragment, row.until)]
        for other in others:
            arguments += [other.member, other.value or b"", b"delete" if other.value is None else b"put"]
        return keys, arguments

    def _until(self, name: bytes, orders: Mapping[bytes, bytes | None]) -> bytes:
        """Return when a row goes, as text in milliseconds since 1970 UTC; empty when it stays."""
        lifetime = self.lifetimes.get(name[:4])
        if lifetime is None:
            return b""
        event = _STAMP.unpack_from(orders[name] or b"")[0] - _BIAS
        return str(max(0, (event + lifetime) // 1000)).encode()


@dataclass(frozen=True, slots=True)
class _Row:
    """A row that is put only where it is greater."""

    row: bytes
    order: bytes
    stamp: bytes
    fragment: bytes
    until: bytes


@dataclass(frozen=True, slots=True)
class _Other:
    """An entry of a table that is set, or deleted."""

    name: bytes
    index: bytes
    member: bytes
    value: bytes | None
