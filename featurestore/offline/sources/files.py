"""The files of a path: found, watched for changes while they are read, and the columns that stand in their folder names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape, glob
from pathlib import Path
from urllib.parse import unquote

from featurestore.errors import ConflictError, DefinitionError, FeatureStoreError
from featurestore.offline.sources.pieces import missing_path

_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file.

    Attributes:
        path: Where it lies, absolute.
        name: Its path as users know it: relative to the project folder where it lies in it.
        partitions: Column -> text, from folder names such as ``year=2013``; None for null.
    """

    path: Path
    name: str
    partitions: Mapping[str, str | None]

    @contextmanager
    def unchanged(self, source: str) -> Iterator[None]:
        """Refuse what was read of the file meanwhile if somebody changed it; raises ConflictError."""
        before = _stamp(self.path)
        try:
            yield
        except FeatureStoreError as error:
            self._check_same(before, source, error)
            raise
        self._check_same(before, source)

    def _check_same(self, before: tuple[int, ...], source: str, error: FeatureStoreError | None = None) -> None:
        if _stamp(self.path) != before:
            raise ConflictError(
                f"A file of source '{source}' changed while it was read.",
                place=self.name,
                repair="Try again when its writer is done; writers do best to make a new file and rename it into place.",
            ) from error


def find_files(root: Path, path: str, suffixes: Sequence[str], source: str) -> list[SourceFile]:
    """Return the files of a path: itself, all files of a folder that have one of the suffixes, or what a pattern matches.

    Args:
        root: The project folder.
        path: File, folder or glob, relative to it.
        suffixes: Endings of the names of files in a folder, e.g. ``.parquet``.
        source: Name of the source, for errors.

    Raises:
        DefinitionError: There is no such file; says the nearest name.
    """
    whole = root / path
    if (whole / "_delta_log").is_dir():
        raise DefinitionError(
            f"'{path}' of source '{source}' is a Delta table: not all of its files count.",
            place=source,
            repair="Say DeltaSource.",
        )
    patterns = [str(whole)]
    if whole.is_dir():
        patterns = [f"{escape(str(whole))}/**/*{suffix}" for suffix in suffixes]
    elif whole.is_file():
        patterns = [escape(str(whole))]
    found = {file for pattern in patterns for file in glob(pattern, recursive=True) if Path(file).is_file()}  # noqa: PTH207  # may be absolute
    if whole.is_dir() and not found:
        raise DefinitionError(
            f"Source '{source}' has no file '{path}' under {root}: the folder has no {' or '.join(suffixes)} file.",
            place=source,
            repair="Put some there, or name the files with a pattern.",
        )
    if not found:
        raise missing_path(root, path, source)
    return [_source_file(root, Path(file)) for file in sorted(found)]


def _source_file(root: Path, path: Path) -> SourceFile:
    inner = path.relative_to(root) if path.is_relative_to(root) else path
    pairs = [folder.partition("=") for folder in inner.parts[:-1]]
    values = {unquote(key): unquote(text) for key, equals, text in pairs if key and equals}
    partitions = {key: None if text == _NULL_PARTITION else text for key, text in values.items()}
    return SourceFile(path, str(inner), partitions)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        now = path.stat()
    except FileNotFoundError:
        return (0, 0, 0)
    return now.st_ino, now.st_size, now.st_mtime_ns
