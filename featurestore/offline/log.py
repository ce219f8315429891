"""The Delta log of an offline table: which files count, since which commit, and what is known to have been done.

Files are written and synced before the commit that names them. A commit is written and synced beside the log and put in
its place whole, or not at all: of two that want the same number one gets it; the other looks at the log again, and is
repeated if what it was made for still holds.
Delta's own library reads what is summed up, and does the rest; a small commit or read does not wait for it, not even for its import.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import count, takewhile
from pathlib import Path

import pyarrow as pa

from featurestore.errors import (
    ConflictError,
    CorruptionError,
    FailedPreconditionError,
    NotFoundError,
    ResourceExhaustedError,
)
from featurestore.offline.actions import Action, Change, LogVersion, TableState, actions_of, written_file
from featurestore.offline.data_files import DataFile, discard
from featurestore.offline.durable import publish, sync

LOG = logging.getLogger(__name__)

CHECKPOINT_EVERY = 50  # commits
COMMIT_ATTEMPTS = 50

_RESTORE = "Restore the log from a backup."


class TableLog:
    """The log of one table, read once and then kept up to date; threads may share it.

    Args:
        directory: Folder of the table.
        at_version: Look at this version; None is the newest.
    """

    def __init__(self, directory: Path, *, at_version: int | None = None) -> None:
        self.directory = directory
        self._at_version = at_version
        self._folder = directory / "_delta_log"
        self._known: LogVersion | None = None
        self._opened = 0  # the folder's inode: another one is another log
        self._lock = threading.RLock()

    @property
    def exists(self) -> bool:
        """Whether anything was ever committed."""
        return self._commit_path(0).exists() or self._is_summed_up

    @property
    def version(self) -> int:
        """Version that is looked at."""
        return self._now().version

    @property
    def last_seq(self) -> int:
        """The greatest sequence number that the statistics of live files say; 0 when there is none."""
        return self._now().last_seq

    def mark(self, name: str) -> int:
        """Return the number that the last commit with an app transaction gave it, 0 when there is none."""
        return self._now().mark(name) if self.exists else 0

    def state(self, *, unbucketed: int = 0) -> TableState:
        """Return the version and its live files.

        Args:
            unbucketed: The number of buckets to say while no file was ever in one.
        """
        return self._now().state(unbucketed=unbucketed)

    def files_at(self, version: int) -> list[DataFile] | None:
        """Return the files that were live at a version; None when the log no longer knows it, or one is gone from the disk."""
        try:
            files = TableLog(self.directory, at_version=version).state().files
        except NotFoundError:
            return None
        return _on_disk(files)

    def added_between(self, since: int, until: int) -> list[DataFile] | None:
        """Return the files that brought new rows after one version and up to another; they may have been compacted into others.

        Returns:
            None when the log no longer knows all those commits, or a file is gone from the disk.
        """
        try:
            actions = [action for number in range(since + 1, until + 1) for action in self._actions(number)]
        except FileNotFoundError:
            return None
        adds = [action["add"] for action in actions if action.get("add", {}).get("dataChange")]
        return _on_disk([written_file(self.directory, add).file for add in adds])

    def unnamed_files(self, older_than: timedelta) -> list[str]:
        """Return the paths, sorted, of files in the table's folder that were replaced that long ago, or that no commit ever named."""
        from featurestore.offline import delta

        return delta.unnamed_files(self.directory, older_than)

    def create(self, columns: pa.Schema) -> None:
        """Make the log if there is none, and give the table the columns it lacks.

        Raises:
            ConflictError: Other writers kept committing in between.
        """
        with self._lock:
            if not self.exists:
                self._create(columns)
            for _ in range(COMMIT_ATTEMPTS):
                now = self._now()
                missing = [column for column in columns if column.name not in now.columns]
                if not missing:
                    return
                self._add_columns(missing, now.version)
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
                if not still(now):
                    discard(change.added)
                    return None
                if self._write(now.version + 1, change):
                    return now.version + 1
                time.sleep(random.uniform(0, 0.001 * attempt))  # noqa: S311  # only parts racers
        discard(change.added)
        raise self._conflict()

    def _write(self, version: int, change: Change) -> bool:
        """Write a commit durably, and now and then sum the log up; False when there is a commit of that number already."""
        path = self._commit_path(version)
        lines = "".join(json.dumps(action) + "\n" for action in actions_of(self.directory, change)).encode()
        try:
            if not publish(path, lines):
                return False
        except OSError as error:
            if path.exists() and path.read_bytes() == lines:
                raise self._unsynced(error) from error
            discard(change.added)
            raise self._full(error) from error
        if version % CHECKPOINT_EVERY == 0:
            self._sum_up()
        return True

    def _now(self) -> LogVersion:
        """Return the log as it is now, or as it was at the version that is looked at."""
        with self._lock:
            if not self.exists:
                raise FailedPreconditionError(f"{self.directory} was never filled.")
            inode = self._folder.stat().st_ino
            if self._known is None or inode != self._opened:
                self._known, self._opened = self._read(), inode
            elif self._at_version is None:
                self._known = self._caught_up(self._known)
                if not self._commit_path(self._known.version).exists():  # so much was forgotten since
                    self._known = self._read()
            return self._known

    def _read(self) -> LogVersion:
        if not self._is_summed_up:
            version = self._caught_up(LogVersion(self.directory, -1))
            if not self._is_summed_up and self._at_version in (None, version.version):
                return version
        from featurestore.offline import delta

        return delta.read_version(self.directory, self._at_version)

    @property
    def _is_summed_up(self) -> bool:
        """Whether there is a checkpoint; from then on commits may be forgotten."""
        return (self._folder / "_last_checkpoint").exists()

    def _caught_up(self, known: LogVersion) -> LogVersion:
        """Return what stands after the commits that have come since, up to the one that is looked at."""
        while known.version != self._at_version:
            try:
                known = known.after(self._actions(known.version + 1))
            except FileNotFoundError:
                break
        return known

    def _actions(self, version: int) -> list[Action]:
        """Return the actions of a commit.

        Raises:
            FileNotFoundError: There is none of that number, or not any more.
            CorruptionError: It is damaged.
        """
        path = self._commit_path(version)
        try:
            return [json.loads(line) for line in path.read_bytes().splitlines()]
        except ValueError as error:
            raise CorruptionError(f"A commit is damaged: {error}.", place=str(path), repair=_RESTORE) from error

    def _commit_path(self, version: int) -> Path:
        return self._folder / f"{version:020}.json"

    def _create(self, columns: pa.Schema) -> None:
        from featurestore.offline import delta

        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            delta.create_table(self.directory, columns)
        except OSError as error:
            if not self.exists:  # else somebody else was faster
                raise self._full(error) from error
        self._make_durable(-1)
        sync(self.directory.parent)

    def _add_columns(self, columns: Sequence[pa.Field], since: int) -> None:
        from featurestore.offline import delta

        if delta.add_columns(self.directory, pa.schema(columns)):
            self._make_durable(since)

    def _make_durable(self, since: int) -> None:
        """Sync the commits after a version that Delta's library wrote, which only renames."""
        written = takewhile(Path.exists, map(self._commit_path, count(since + 1)))
        sync(*written, self._folder)

    def _sum_up(self) -> None:
        """Sum the log up, so that opening it does not read every commit there ever was; another commit will, if this one cannot."""
        from featurestore.offline import delta

        try:
            written = self._folder.glob(f"{delta.sum_up(self.directory):020}.checkpoint*")
            sync(*written, self._folder / "_last_checkpoint", self._folder)
        except OSError as error:
            LOG.warning("the log of %s was not summed up: %s", self.directory, error)

    def _conflict(self) -> ConflictError:
        return ConflictError(f"Other writers kept committing to {self.directory}.", repair="Try again.")

    def _unsynced(self, error: Exception) -> ResourceExhaustedError:
        return ResourceExhaustedError(
            f"The disk did not take the log of {self.directory}: {error}.",
            place=str(self._folder),
            repair="Look at the disk; the commit is there now, and may be lost when the machine stops.",
        )

    def _full(self, error: Exception) -> ResourceExhaustedError:
        return ResourceExhaustedError(
            f"The log of {self.directory} cannot be written: {error}.",
            place=str(self._folder),
            repair="Make room on the disk and try again; nothing was committed.",
        )


def _on_disk(files: Sequence[DataFile]) -> list[DataFile] | None:
    return list(files) if all(file.path.exists() for file in files) else None
