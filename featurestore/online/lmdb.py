"""The online store in an LMDB environment: readers map the file, see one commit and wait for nobody.

The folder holds ``CURRENT``, one line that names the environment's folder beside it; a rewrite fills another folder and switches
that line. A process opens an environment once, however many stores ask for it, and never uses one across a fork.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from weakref import WeakSet

import lmdb

from featurestore.errors import CorruptionError, FailedPreconditionError, ResourceExhaustedError
from featurestore.online.store import TABLES, OnlineStore, Table
from featurestore.online.turns import Turns

FORMAT = b"featurestore-online/1"

_MAP_SIZE = 1 << 40  # sparse: address space, not disk; growing it later is what corrupts
_MAX_READERS = 1024
_OWNER = 0o600  # rows are for their owner; the server is how others read them
_FORMAT_KEY = b"format"
_CURRENT = "CURRENT"
_ENVIRONMENT = re.compile(r"env-([0-9]+)")
_COPIED_AT_ONCE = 100_000  # entries of one commit of a rewrite
_DAMAGED = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.VersionMismatchError)
_FULL = (lmdb.MapFullError, lmdb.DiskError, lmdb.TxnFullError)


class LmdbSnapshot:
    """The store at one commit; free it soon, since it holds back the pages it can see."""

    __slots__ = ("_path", "_tables", "_txn")

    def __init__(self, environment: _Environment) -> None:
        self._tables = environment.tables
        self._path = environment.path
        self._txn = environment.handle.begin(environment.tables["rows"])

    def get(self, table: Table, key: bytes) -> bytes | None:
        """Return the value of a key, or None."""
        try:
            value: bytes | None = self._txn.get(key, None, self._tables[table])
        except _DAMAGED as error:
            raise _damaged(self._path, error) from error
        return value

    def multi_get(self, table: Table, prefix: bytes, keys: Iterable[bytes]) -> list[bytes | None]:
        """Return the value of prefix + key for each key; nothing but C runs per key."""
        get = self._txn.get if table == "rows" else partial(self._txn.get, db=self._tables[table])
        try:
            return list(map(get, map(prefix.__add__, keys)))
        except _DAMAGED as error:
            raise _damaged(self._path, error) from error

    def scan(self, table: Table, first: bytes, until: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Go through the pairs with ``first <= key < until``."""
        with self._txn.cursor(self._tables[table]) as cursor:
            if not cursor.set_range(first):
                return
            for key, value in cursor:
                if key >= until:
                    return
                yield key, value

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._txn.abort()


class LmdbTransaction(LmdbSnapshot):
    """The one write in progress; it sees what it wrote."""

    __slots__ = ("_environment",)

    def __init__(self, environment: _Environment, parent: Any = None) -> None:
        self._environment = environment
        self._tables = environment.tables
        self._path = environment.path
        self._txn = environment.handle.begin(environment.tables["rows"], parent=parent, write=True)

    @contextmanager
    def part(self) -> Iterator[LmdbTransaction]:
        """Begin a part that an error inside undoes alone; until it ends it is used in the place of the whole."""
        with LmdbTransaction(self._environment, self._txn) as part:
            yield part
            part.commit()

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        """Set the value of a key."""
        self._txn.put(key, value, db=self._tables[table])

    def put_many(self, table: Table, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Set many values."""
        with self._txn.cursor(self._tables[table]) as cursor:
            cursor.putmulti(items)

    def delete(self, table: Table, key: bytes) -> None:
        """Remove a key if it is there."""
        self._txn.delete(key, db=self._tables[table])

    def commit(self) -> None:
        """Make everything durable and visible at once."""
        self._txn.commit()


class LmdbStore(OnlineStore):
    """An online store in a folder.

    Args:
        environment: From `open_lmdb`.
    """

    def __init__(self, environment: _Environment) -> None:
        self._environment = environment
        self._closed = False
        self.read: Callable[[], LmdbSnapshot] = partial(LmdbSnapshot, environment)
        _STORES.add(self)

    @contextmanager
    def write(self) -> Iterator[LmdbTransaction]:
        """Begin the only write; leaving it commits durably, an error inside undoes all of it.

        Raises:
            ResourceExhaustedError: The disk is full; nothing was written.
            FailedPreconditionError: The store was opened for reading only, or before a fork.
        """
        if self._environment.readonly:
            raise FailedPreconditionError(f"The online store {self._environment.path} is open for reading only.")
        self._check_usable()
        with self._environment.turns:
            transaction = LmdbTransaction(self._environment)
            try:
                yield transaction
                transaction.commit()
            except BaseException as error:
                transaction.__exit__(None, None, None)
                if isinstance(error, _FULL):
                    at = self._environment.path
                    raise ResourceExhaustedError(f"The online store {at} cannot grow: {error}.") from error
                if isinstance(error, _DAMAGED):
                    raise _damaged(self._environment.path, error) from error
                raise

    def writers(self) -> int:
        """Return how many threads of this process write or wait to."""
        return len(self._environment.turns)

    def rewrite(self) -> None:
        """Put every entry into a new environment, make that the current one and remove the old: no page of it is kept.

        The caller is the only writer. The stores of this process follow at once, those of others when they `reopen`. Whenever it is
        interrupted, one whole environment is current; the next rewrite removes what is left of others.

        Raises:
            ResourceExhaustedError: The disk is full; the old environment stays.
        """
        self._check_usable()
        old = self._environment
        directory = old.path.parent
        _sweep(directory, keep=old.path.name)
        path = directory / f"env-{_number(old.path.name) + 1}"
        try:
            _copy(old, path)
        except _FULL as error:
            shutil.rmtree(path, ignore_errors=True)
            raise ResourceExhaustedError(f"The online store {path} cannot be written: {error}.") from error
        _replace(directory / _CURRENT, f"{path.name}\n")
        for store in list(_STORES):
            if store._environment is old:  # noqa: SLF001  # the class's own module
                store.reopen()
        _sweep(directory, keep=path.name)

    def reopen(self) -> bool:
        """Follow ``CURRENT`` if it names another environment by now, and say whether it does.

        A snapshot in progress ends in the environment where it began, which is unmapped with the last of them.
        """
        old = self._environment
        if self._why or (old.path.parent / _CURRENT).read_text().strip() == old.path.name:
            return False
        self._environment = _acquire_current(old.path.parent, readonly=old.readonly)
        self.read = partial(LmdbSnapshot, self._environment)
        _leave(old)
        return True

    def close(self) -> None:
        """Release the store; the last one of a process closes the environment."""
        if not self._closed:
            self._closed = True
            self._refuse("closed")
            _release(self._environment)

    def _refuse(self, why: str) -> None:
        self.read = partial(_refused, self._environment.path, why)
        self._why = why

    _why = ""

    def _check_usable(self) -> None:
        if self._why:
            _refused(self._environment.path, self._why)


def open_lmdb(directory: Path, *, readonly: bool = False) -> LmdbStore:
    """Open the online store of a folder.

    Args:
        directory: The folder; made with an empty store in it unless `readonly`.
        readonly: For processes that only ever read, such as serving workers.

    Raises:
        FailedPreconditionError: There is no store yet and `readonly` was asked for; or this process holds it for reading only
            and wants to write.
        CorruptionError: The folder holds something else, a damaged store, or one of another format.
    """
    current = directory / _CURRENT
    if not current.exists():
        if readonly:
            raise FailedPreconditionError(
                f"There is no online store at {directory}.",
                repair="Run `featurestore materialize` or `featurestore write`.",
            )
        _create(directory)
    return LmdbStore(_acquire_current(directory, readonly=readonly))


@dataclass
class _Environment:
    """An open environment and how many stores of this process use it."""

    path: Path
    readonly: bool
    handle: Any
    tables: dict[str, Any]
    users: int = field(default=0)
    turns: Turns = field(default_factory=Turns)


_OPEN: dict[Path, _Environment] = {}
_OPEN_LOCK = threading.Lock()
_STORES: WeakSet[LmdbStore] = WeakSet()


def _acquire_current(directory: Path, *, readonly: bool) -> _Environment:
    """Open the environment that CURRENT names; again, if a rewrite has removed it in between."""
    current = directory / _CURRENT
    while True:
        name = current.read_text().strip()
        path = directory / name
        is_there = name and "/" not in name and (path / "data.mdb").exists()
        try:
            if is_there:
                return _acquire(path.resolve(), readonly=readonly)
        except CorruptionError:
            if current.read_text().strip() == name:
                raise
        else:
            if current.read_text().strip() == name:
                raise CorruptionError(f"{current} names '{name}', which is not there.", place=str(current))


def _acquire(path: Path, *, readonly: bool) -> _Environment:
    with _OPEN_LOCK:
        environment = _OPEN.get(path)
        if environment is None:
            environment = _OPEN[path] = _open(path, readonly=readonly)
        elif environment.readonly and not readonly:
            raise FailedPreconditionError(f"This process has the online store {path} open for reading only.")
        environment.users += 1
        return environment


def _release(environment: _Environment) -> None:
    with _OPEN_LOCK:
        environment.users -= 1
        if environment.users == 0 and _OPEN.get(environment.path) is environment:
            del _OPEN[environment.path]
            environment.handle.close()


def _leave(environment: _Environment) -> None:
    """Give an environment up without closing it: snapshots in progress keep it until they end."""
    with _OPEN_LOCK:
        environment.users -= 1
        if environment.users == 0 and _OPEN.get(environment.path) is environment:
            del _OPEN[environment.path]


def _number(name: str) -> int:
    named = _ENVIRONMENT.fullmatch(name)
    return int(named[1]) if named else 0


def _sweep(directory: Path, *, keep: str) -> None:
    """Remove the environments that are not current."""
    for path in directory.iterdir():
        if _ENVIRONMENT.fullmatch(path.name) and path.name != keep:
            shutil.rmtree(path, ignore_errors=True)


def _copy(old: _Environment, path: Path) -> None:
    """Put every entry of an environment, in its order, into one that was never anything else.

    LMDB's own compacting copy takes whole pages, with what is left in them of entries that were deleted.
    """
    path.mkdir()
    handle = lmdb.open(str(path), map_size=_MAP_SIZE, max_dbs=len(TABLES), mode=_OWNER)
    try:
        with old.handle.begin() as source:
            for name, table in old.tables.items():
                entries = iter(source.cursor(table))
                target = handle.open_db(name.encode())
                while batch := list(islice(entries, _COPIED_AT_ONCE)):
                    with handle.begin(target, write=True) as txn, txn.cursor() as cursor:
                        cursor.putmulti(batch, append=True)
        handle.sync(True)
    finally:
        handle.close()
    _sync_folder(path)


def _open(path: Path, *, readonly: bool) -> _Environment:
    options = {"readonly": readonly, "create": not readonly, "lock": True, "readahead": False}
    try:
        handle = lmdb.open(
            str(path),
            map_size=_MAP_SIZE,
            max_dbs=len(TABLES),
            max_readers=_MAX_READERS,
            max_spare_txns=8,
            mode=_OWNER,
            **options,
        )
    except lmdb.Error as error:
        raise _damaged(path, error) from error
    try:
        handle.reader_check()
        tables: dict[str, Any] = {name: handle.open_db(name.encode(), create=not readonly) for name in TABLES}
        _check_format(handle, tables["meta"], path)
    except lmdb.Error as error:
        handle.close()
        raise _damaged(path, error) from error
    except CorruptionError:
        handle.close()
        raise
    return _Environment(path, readonly, handle, tables)


def _check_format(handle: Any, meta: Any, path: Path) -> None:
    with handle.begin(meta) as txn:
        found = txn.get(_FORMAT_KEY)
    if found != FORMAT:
        what = found.decode(errors="replace") if found else "no format at all"
        raise CorruptionError(
            f"The online store {path} has {what}; this program reads {FORMAT.decode()}.",
            place=str(path / "data.mdb"),
            repair="Remove the folder `online` and run `featurestore materialize`.",
        )


def _create(directory: Path) -> None:
    """Make an empty environment, then name it in CURRENT: a crash in between leaves nothing that is ever read."""
    path = directory / "env-1"
    path.mkdir(parents=True, exist_ok=True)
    handle = lmdb.open(str(path), map_size=_MAP_SIZE, max_dbs=len(TABLES), mode=_OWNER)
    try:
        meta = handle.open_db(b"meta")
        with handle.begin(meta, write=True) as txn:
            txn.put(_FORMAT_KEY, FORMAT)
    finally:
        handle.close()
    _replace(directory / _CURRENT, f"{path.name}\n")


def _replace(path: Path, text: str) -> None:
    draft = path.with_suffix(".new")
    with draft.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _damaged(path: Path, error: lmdb.Error) -> CorruptionError:
    return CorruptionError(
        f"The online store is damaged: {error}.",
        place=str(path / "data.mdb"),
        repair="Remove the folder `online` and run `featurestore materialize`.",
    )


def _refused(path: Path, why: str) -> LmdbSnapshot:
    raise FailedPreconditionError(f"The online store {path} is {why}.")


def _forget_after_fork() -> None:
    """An environment may not be used in a forked child: its locks and reader slots belong to the parent."""
    _OPEN.clear()
    for store in _STORES:
        store._refuse("of the parent process; open it again")  # noqa: SLF001  # the class's own module


os.register_at_fork(after_in_child=_forget_after_fork)
