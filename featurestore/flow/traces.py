"""Looking for what an erasure may have left: bytes in every file of the store, as they lie there and as they are decoded.

Parquet pages and dictionaries are decompressed, the entries of the online store are gone through besides a scan of its raw file, and what
SQLite has in tables is read besides its raw pages, free ones included.
"""

from __future__ import annotations

import json
import mmap
import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from featurestore.flow.erased import Proof, Trace
from featurestore.offline.pages import decompressed_pages
from featurestore.online.store import TABLES, OnlineStore
from featurestore.subject import Subject
from featurestore.types import DType

LEAST_BYTES = 6  # a shorter text is found by chance

_SQLITE = b"SQLite format 3\0"
_PARQUET = b"PAR1"


def patterns_of(subject: Subject) -> list[bytes]:
    """Return the byte strings by which a subject can be found anywhere: its keys, if they are one text that is long enough.

    Args:
        subject: Whom to look for. Whole numbers and keys of several columns have none: their parts stand in many places by right.
    """
    if len(subject.join_keys) > 1 or DType(subject.join_keys[0][1]).name not in {"string", "binary"}:
        return []
    texts = [value.as_py() for value in subject.values.column(0)]
    return [pattern for text in texts for pattern in forms_of(text) if len(pattern) >= LEAST_BYTES]


def forms_of(value: str | bytes) -> list[bytes]:
    r"""Return a text as files hold it: plain, and as JSON writes it.

    >>> forms_of("Zo\u00eb")
    [b'Zo\xc3\xab', b'Zo\\u00eb']
    """
    if isinstance(value, bytes):
        return [value, value.hex().encode()]
    return list(
        dict.fromkeys([value.encode(), *(json.dumps(value, ensure_ascii=a)[1:-1].encode() for a in (True, False))])
    )


def search(
    store: Path, patterns: Iterable[bytes], *, online: OnlineStore | None = None, leave_out: Iterable[Path] = ()
) -> Proof:
    """Look for byte strings in everything that a store's folder holds.

    Args:
        store: The folder; every file below it is looked at.
        patterns: What to look for.
        online: The online store, whose entries are looked at one by one; None leaves that to the scan of its file.
        leave_out: Files that are not looked at.
    """
    wanted = sorted(set(patterns), key=len, reverse=True)
    seen = _Seen(re.compile(b"|".join(map(re.escape, wanted)), re.DOTALL), len(wanted))
    left_out = set(leave_out)
    if wanted:
        for path in sorted(store.rglob("*")):
            if path.is_file() and path not in left_out:
                seen.look_into(path, path.relative_to(store).as_posix())
        if online is not None:
            seen.look_through(online)
    return seen.proof()


@dataclass
class _Seen:
    """What was looked at, and what was found."""

    pattern: re.Pattern[bytes]
    patterns: int
    files: int = 0
    pages: int = 0
    entries: int = 0
    read: int = 0
    found: set[Trace] = field(default_factory=set)

    def proof(self) -> Proof:
        return Proof(
            files=self.files,
            pages=self.pages,
            entries=self.entries,
            bytes=self.read,
            patterns=self.patterns,
            found=tuple(sorted(self.found)),
        )

    def look_into(self, path: Path, name: str) -> None:
        self.files += 1
        if not path.stat().st_size:
            return
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
            self._look(raw, name, "bytes")
            magic = raw[: len(_SQLITE)]
        if magic.startswith(_PARQUET):
            self._look_into_pages(path, name)
        elif magic == _SQLITE:
            for text in _sqlite_texts(path):
                self._look(text.encode(errors="surrogateescape"), name, "a table")

    def look_through(self, online: OnlineStore) -> None:
        with online.read() as snapshot:
            for table in TABLES:
                for key, value in snapshot.scan(table, b"", b"\xff" * 512):
                    self.entries += 1
                    self._look(key + b"\0" + value, "online", f"an entry of {table}")

    def _look_into_pages(self, path: Path, name: str) -> None:
        try:
            for page in decompressed_pages(path):
                self.pages += 1
                self._look(page, name, "a page")
        except (OSError, pa.ArrowException) as error:
            self.found.add(Trace(name, f"cannot be decoded: {error}"))

    def _look(self, content: bytes | mmap.mmap, name: str, how: str) -> None:
        self.read += len(content)
        if self.pattern.search(content):
            self.found.add(Trace(name, how))


def _sqlite_texts(path: Path) -> Iterator[str]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        connection.text_factory = lambda raw: raw.decode(errors="surrogateescape")
        yield from connection.iterdump()
