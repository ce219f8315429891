"""The Delta log of an offline table: which files count, since which commit, and what is known to have been done.

Files are written and synced before the commit that names them; a commit is synced before it is reported. Commits of different kinds do not
disturb each other, and one that lost a race is looked at again and repeated. What must not happen twice, or not beside another, says so
with an app transaction: of two commits beside each other that carry the same one, the later is refused.

    fold     number of the last fold of the row log
    load     greatest sequence number that came in bulk
    buckets  how many hash buckets there are; whoever writes to one, or changes how many there are, carries it
    compact  number of the last rewrite of files into fewer
    erase    number of the last receipt of an erasure

The log holds no values of keys or features, so that erasing an entity does not have to look for it there.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import deltalake
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, PostCommitHookProperties, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, RemoveAction

from featurestore.errors import ConflictError, FailedPreconditionError, ResourceExhaustedError
from featurestore.offline.data_files import DataFile, WrittenFile, discard
from featurestore.offline.durable import sync
from featurestore.rows import SEQ

BUCKET = "__bucket"
FOLD, LOAD, BUCKETS, COMPACT, ERASE = "fold", "load", "buckets", "compact", "erase"
CHECKPOINT_EVERY = 10  # commits
COMMIT_ATTEMPTS = 50

_SETTINGS = {"delta.logRetentionDuration": "interval 7 days", "delta.deletedFileRetentionDuration": "interval 7 days"}
_NO_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)  # ours are synced


@dataclass(frozen=True, slots=True)
class TableState:
    """What a table was at one version of its log: enough to read it when the log has long forgotten that version.

    Attributes:
        version: Version of the Delta log.
        buckets: Number of hash buckets of bulk loads.
        files: The live files, in order of their paths.
    """

    version: int
    buckets: int
    files: tuple[DataFile, ...]

    @property
    def recent(self) -> tuple[DataFile, ...]:
        """The files of the recent run."""
        return tuple(file for file in self.files if file.bucket is None)

    def by_bucket(self) -> Mapping[int, tuple[DataFile, ...]]:
        """Return the files of each bucket that has any, in order of the buckets."""
        numbers = sorted({file.bucket for file in self.files if file.bucket is not None})
        return {number: tuple(file for file in self.files if file.bucket == number) for number in numbers}


@dataclass(frozen=True, slots=True)
class Change:
    """What one commit does.

    Attributes:
        added: Files that count from then on.
        removed: Files that no longer do; they stay on disk.
        marks: App transaction -> its number.
        new_rows: Whether the added files hold rows that the table did not have before.
    """

    added: Sequence[WrittenFile] = ()
    removed: Sequence[DataFile] = ()
    marks: Mapping[str, int] = field(default_factory=dict)
    new_rows: bool = True


@dataclass(frozen=True, slots=True)
class LogVersion:
    """A log as it stands.

    Args:
        directory: Folder of the table.
        table: Delta's view of it.
    """

    directory: Path
    table: deltalake.DeltaTable

    def mark(self, name: str) -> int:
        """Return the number that the last commit with an app transaction gave it, 0 when there is none."""
        return self.table.transaction_version(name) or 0

    def state(self, *, unbucketed: int = 0) -> TableState:
        """Return the version and its live files; see `TableLog.state`."""
        actions = pa.table(self.table.get_add_actions(flatten=True))
        names = ("path", f"partition.{BUCKET}", "num_records", "size_bytes")
        found = zip(*(actions[name].to_pylist() for name in names), strict=True)
        files = sorted((DataFile(self.directory / path, *facts) for path, *facts in found), key=lambda file: file.path)
        buckets = next((file.buckets for file in files if file.buckets), self.mark(BUCKETS))
        return TableState(int(self.table.version()), buckets or unbucketed, tuple(files))

    def holds(self, change: Change) -> bool:
        """Say whether a commit that ended in an error is in the log nevertheless."""
        live = {file.path for file in self.state().files}
        gone = not any(file.path in live for file in change.removed)
        return (
            bool(change.added or change.removed) and gone and all(written.file.path in live for written in change.added)
        )


class TableLog:
    """The log of one table, opened once and then kept up to date; threads may share it.

    Args:
        directory: Folder of the table.
        at_version: Look at this version; None is the newest.
    """

    def __init__(self, directory: Path, *, at_version: int | None = None) -> None:
        self.directory = directory
        self._at_version = at_version
        self._folder = directory / "_delta_log"
        self._handle: deltalake.DeltaTable | None = None
        self._opened = 0  # the folder's inode: another one is another log
        self._changed = 0  # when the folder last did, as it was seen
        self._lock = threading.RLock()

    @property
    def exists(self) -> bool:
        """Whether anything was ever committed."""
        return self._folder.is_dir() and (
            self._handle is not None or deltalake.DeltaTable.is_deltatable(self.directory)
        )

    @property
    def version(self) -> int:
        """Version that is looked at."""
        return int(self._refreshed().version())

    def mark(self, name: str) -> int:
        """Return the number that the last commit with an app transaction gave it, 0 when there is none."""
        with self._lock:
            return self._now().mark(name) if self.exists else 0

    def state(self, *, unbucketed: int = 0) -> TableState:
        """Return the version and its live files.

        Args:
            unbucketed: The number of buckets to say while no file was ever in one.
        """
        with self._lock:
            return self._now().state(unbucketed=unbucketed)

    @property
    def last_seq(self) -> int:
        """The greatest sequence number that the statistics of live files say; 0 when there is none."""
        with self._lock:
            actions = pa.table(self._now().table.get_add_actions(flatten=True))
        return pc.max(actions[f"max.{SEQ}"]).as_py() or 0 if len(actions) else 0

    def files_at(self, version: int) -> list[DataFile] | None:
        """Return the files that were live at a version; None when the log no longer knows it, or one is gone from the disk."""
        try:
            files = TableLog(self.directory, at_version=version).state().files
        except DeltaError:
            return None
        return _on_disk(files)

    def added_between(self, since: int, until: int) -> list[DataFile] | None:
        """Return the files that brought new rows after one version and up to another; they may have been compacted into others.

        Returns:
            None when the log no longer knows all those commits, or a file is gone from the disk.
        """
        commits = [self._folder / f"{number:020}.json" for number in range(since + 1, until + 1)]
        try:
            actions = [json.loads(line) for commit in commits for line in commit.read_text().splitlines()]
        except FileNotFoundError:
            return None
        return _on_disk([self._file_of(action["add"]) for action in actions if action.get("add", {}).get("dataChange")])

    def unnamed_files(self, older_than: timedelta) -> list[str]:
        """Return the paths, sorted, of files in the table's folder that were replaced that long ago, or that no commit ever named."""
        hours = int(older_than / timedelta(hours=1))
        found = self._refreshed().vacuum(hours, dry_run=True, enforce_retention_duration=False, full=True)
        return sorted(set(found))

    def create(self, columns: pa.Schema) -> None:
        """Make the log if there is none, and give the table the columns it lacks.

        Raises:
            ConflictError: Other writers kept committing in between.
        """
        with self._lock:
            if not self.exists:
                self._create(columns)
            for _ in range(COMMIT_ATTEMPTS):
                table = self._opened_table()
                known = {column.name for column in table.schema().fields}
                missing = [column for column in columns if column.name not in known]
                if not missing:
                    return
                since = self._refreshed().version()
                try:
                    table.alter.add_columns(deltalake.Schema.from_arrow(pa.schema(missing)).fields)
                except CommitFailedError:
                    self._refreshed()  # somebody else committed, perhaps these very columns
                    continue
                self._make_durable(since)
                self._refreshed()
        raise self._conflict()

    def commit(self, change: Change, *, still: Callable[[LogVersion], bool]) -> int | None:
        """Commit a change, or not if what it was made for no longer holds.

        Args:
            change: What to commit; its files are on disk.
            still: Looks at the log and says whether the change still fits; asked again whenever somebody else was faster.

        Returns:
            The version of the log that holds it; None when it did not fit any more, and nothing was committed. Files of a change that is
            not committed are removed.

        Raises:
            ConflictError: Other writers kept committing in between.
            ResourceExhaustedError: The log cannot be written; nothing was committed.
        """
        with self._lock:
            for attempt in range(COMMIT_ATTEMPTS):
                now = self._now()
                since = int(now.table.version())
                if attempt and now.holds(change):
                    return self._make_durable(since - 1)
                if not still(now):
                    discard(change.added)
                    return None
                try:
                    self._write(now.table, change)
                except CommitFailedError:
                    time.sleep(random.uniform(0, 0.001 * attempt))  # noqa: S311  # only parts racers
                    continue
                except (OSError, DeltaError) as error:
                    if not self._now().holds(change):
                        discard(change.added)
                        raise self._full(error) from error
                return self._make_durable(since)
        discard(change.added)
        raise self._conflict()

    @contextmanager
    def read_beside(self) -> Iterator[None]:
        """Read what others committed on another thread, while the caller writes the files of its own commit."""
        with ThreadPoolExecutor(1) as thread:
            reading = thread.submit(self._refreshed)
            yield
            reading.result()

    def _now(self) -> LogVersion:
        return LogVersion(self.directory, self._refreshed())

    def _refreshed(self) -> deltalake.DeltaTable:
        """Return the table as it is now, or as it was at the version that is looked at."""
        with self._lock:
            known, table = self._handle, self._opened_table()
            if known is not None and table is known and self._at_version is None and self._has_moved(table):
                table.update_incremental()
            return table

    def _has_moved(self, table: deltalake.DeltaTable) -> bool:
        """Say whether there may be newer commits: the next one, or, should that be forgotten already, any change of the folder."""
        before, self._changed = self._changed, self._folder.stat().st_mtime_ns
        return before != self._changed or (self._folder / f"{table.version() + 1:020}.json").exists()

    def _opened_table(self) -> deltalake.DeltaTable:
        """Return the table as it was when it was last looked at."""
        if not self.exists:
            raise FailedPreconditionError(f"{self.directory} was never filled.")
        inode = self._folder.stat().st_ino
        if self._handle is None or inode != self._opened:
            self._handle = deltalake.DeltaTable(self.directory, version=self._at_version)
            self._opened = inode
        return self._handle

    def _create(self, columns: pa.Schema) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            deltalake.DeltaTable.create(
                self.directory,
                schema=pa.schema([*columns, pa.field(BUCKET, pa.int32())]),
                partition_by=[BUCKET],
                mode="ignore",
                configuration=_SETTINGS,
            )
        except (OSError, DeltaError) as error:
            if not self.exists:  # else somebody else was faster
                raise self._full(error) from error
        self._make_durable(-1)
        sync(self.directory.parent)

    def _write(self, table: deltalake.DeltaTable, change: Change) -> None:
        table.create_write_transaction(
            [
                *(self._add(file, change.new_rows) for file in change.added),
                *(self._remove(file) for file in change.removed),
            ],
            "append",
            table.schema(),
            [BUCKET],
            commit_properties=CommitProperties(
                app_transactions=[Transaction(name, number) for name, number in change.marks.items()]
            ),
            post_commithook_properties=_NO_HOOKS,
        )

    def _add(self, written: WrittenFile, new_rows: bool) -> AddAction:  # noqa: FBT001
        statistics = {
            "numRecords": written.file.rows,
            "minValues": {SEQ: written.first_seq},
            "maxValues": {SEQ: written.last_seq},
            "nullCount": {SEQ: 0},
        }
        path = written.file.path.relative_to(self.directory).as_posix()
        partition, now = _partition(written.file), time.time_ns() // 1_000_000
        return AddAction(path, written.file.size, partition, now, new_rows, json.dumps(statistics))

    def _remove(self, file: DataFile) -> RemoveAction:
        path = file.path.relative_to(self.directory).as_posix()
        return RemoveAction(path, False, time.time_ns() // 1_000_000, file.size, _partition(file))

    def _file_of(self, add: Mapping[str, str]) -> DataFile:
        """Return the file that an action of a commit adds."""
        bucket = add["partitionValues"][BUCKET]  # type: ignore[index]  # JSON
        rows = json.loads(add["stats"])["numRecords"]
        return DataFile(self.directory / add["path"], None if bucket is None else int(bucket), rows, int(add["size"]))

    def _make_durable(self, since: int) -> int:
        """Sync the commits after a version, whose writer only renames, and return the newest; now and then, sum the log up."""
        commits = list(self._commits_after(since))
        newest = since + len(commits)
        sync(*commits, self._folder)
        if since // CHECKPOINT_EVERY != newest // CHECKPOINT_EVERY:
            self._checkpoint()
        return newest

    def _commits_after(self, version: int) -> Iterator[Path]:
        while (commit := self._folder / f"{version + 1:020}.json").exists():
            version += 1
            yield commit

    def _checkpoint(self) -> None:
        """Sum the log up, so that opening it does not read every commit there ever was."""
        table = self._refreshed()
        table.create_checkpoint()
        table.cleanup_metadata()
        written = self._folder.glob(f"{table.version():020}.checkpoint*")
        sync(*written, self._folder / "_last_checkpoint", self._folder)

    def _conflict(self) -> ConflictError:
        return ConflictError(f"Other writers kept committing to {self.directory}.", repair="Try again.")

    def _full(self, error: Exception) -> ResourceExhaustedError:
        return ResourceExhaustedError(
            f"The log of {self.directory} cannot be written: {error}.",
            place=str(self._folder),
            repair="Make room on the disk and try again; nothing was committed.",
        )


def _on_disk(files: Sequence[DataFile]) -> list[DataFile] | None:
    return list(files) if all(file.path.exists() for file in files) else None


def _partition(file: DataFile) -> dict[str, str | None]:
    return {BUCKET: None if file.bucket is None else str(file.bucket)}
