"""What the commits of an offline table say, as Delta's actions, and what they add up to.

A commit is JSON of one line an action (https://github.com/delta-io/delta/blob/master/PROTOCOL.md). App transactions say what is known to
have been done:

    fold     number of the last fold of the row log
    load     greatest sequence number that came in bulk
    buckets  how many hash buckets there are; whoever changes how many there are carries it
    compact  number of the last rewrite of files into fewer
    erase    number of the last receipt of an erasure

The log holds no values of keys or features, so that erasing an entity does not have to look for it there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from featurestore.offline.data_files import DataFile, WrittenFile
from featurestore.rows import SEQ

BUCKET = "__bucket"
FOLD, LOAD, BUCKETS, COMPACT, ERASE = "fold", "load", "buckets", "compact", "erase"
MARKS = (FOLD, LOAD, BUCKETS, COMPACT, ERASE)

Action = Mapping[str, Mapping[str, Any]]


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
    """A log as it stands: what its actions add up to.

    Attributes:
        directory: Folder of the table.
        version: Number of the last commit.
        columns: Names of the table's columns.
        files: Path in the folder -> the live file, with its sequence numbers.
        marks: App transaction -> the number that the last commit with it gave it.
    """

    directory: Path
    version: int
    columns: frozenset[str] = frozenset()
    files: Mapping[str, WrittenFile] = field(default_factory=dict)
    marks: Mapping[str, int] = field(default_factory=dict)

    def after(self, actions: Iterable[Action]) -> LogVersion:
        """Return what stands after one more commit."""
        columns, files, marks = self.columns, dict(self.files), dict(self.marks)
        for action in actions:
            for kind, facts in action.items():
                if kind == "add":
                    files[facts["path"]] = written_file(self.directory, facts)
                elif kind == "remove":
                    files.pop(facts["path"], None)
                elif kind == "txn":
                    marks[facts["appId"]] = facts["version"]
                elif kind == "metaData":
                    columns = frozenset(column["name"] for column in json.loads(facts["schemaString"])["fields"])
        return replace(self, version=self.version + 1, columns=columns, files=files, marks=marks)

    @property
    def last_seq(self) -> int:
        """The greatest sequence number in the live files; 0 when there is none."""
        return max((written.last_seq for written in self.files.values()), default=0)

    def mark(self, name: str) -> int:
        """Return the number that the last commit with an app transaction gave it, 0 when there is none."""
        return self.marks.get(name, 0)

    def state(self, *, unbucketed: int = 0) -> TableState:
        """Return the version and its live files; see `TableLog.state`."""
        files = tuple(self.files[path].file for path in sorted(self.files))
        buckets = next((file.buckets for file in files if file.buckets), self.mark(BUCKETS))
        return TableState(self.version, buckets or unbucketed, files)


def actions_of(directory: Path, change: Change) -> list[Action]:
    """Return a change as Delta's actions."""
    now = time.time_ns() // 1_000_000
    return [
        {"commitInfo": {"timestamp": now, "operation": "WRITE", "engineInfo": "featurestore"}},
        *({"txn": {"appId": name, "version": number, "lastUpdated": now}} for name, number in change.marks.items()),
        *({"remove": _removal(directory, file, now)} for file in change.removed),
        *({"add": _addition(directory, written, now, change.new_rows)} for written in change.added),
    ]


def _addition(directory: Path, written: WrittenFile, now: int, new_rows: bool) -> Mapping[str, Any]:  # noqa: FBT001
    statistics = {
        "numRecords": written.file.rows,
        "minValues": {SEQ: written.first_seq},
        "maxValues": {SEQ: written.last_seq},
        "nullCount": {SEQ: 0},
    }
    place = _place(directory, written.file)
    return {**place, "modificationTime": now, "dataChange": new_rows, "stats": json.dumps(statistics)}


def _removal(directory: Path, file: DataFile, now: int) -> Mapping[str, Any]:
    place = _place(directory, file)
    return {**place, "deletionTimestamp": now, "dataChange": False, "extendedFileMetadata": True}


def _place(directory: Path, file: DataFile) -> dict[str, Any]:
    bucket = None if file.bucket is None else str(file.bucket)
    path = file.path.relative_to(directory).as_posix()
    return {"path": path, "partitionValues": {BUCKET: bucket}, "size": file.size}


def written_file(directory: Path, add: Mapping[str, Any]) -> WrittenFile:
    """Return the file that an action of a commit adds."""
    bucket, statistics = add["partitionValues"][BUCKET], json.loads(add["stats"])
    number = None if bucket is None else int(bucket)
    file = DataFile(directory / add["path"], number, statistics["numRecords"], int(add["size"]))
    return WrittenFile(file, statistics["minValues"][SEQ], statistics["maxValues"][SEQ])
