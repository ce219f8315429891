"""The files of a repository that can hold a reference, and how its modules find each other."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from lineage.errors import NotFoundError

LARGEST = 4_000_000  # bytes; a greater file is data, not code
SUFFIXES = frozenset({".py", ".pyi", ".ipynb", ".sql", ".yaml", ".yml", ".toml", ".json"})
_SKIPPED = frozenset(
    [
        "node_modules",
        "__pycache__",
        "venv",
        "env",
        "site-packages",
        "build",
        "dist",
        "target",
        "htmlcov",
        "mlruns",
        "vendor",
        "third_party",
    ]
)
# Everything by which code reads features or tables: a Python file without any of it, and that imports none with it, reads nothing.
_READS = re.compile(
    rb"get_online_features|get_historical_features|_online_features|_historical_features|get_feature_service"
    rb"|get-online-features|get-historical-features|retrieve_online_documents|FeatureService"
    rb"|read_parquet|scan_parquet|read_csv|scan_csv|read_delta|scan_delta|DeltaTable|read_table|ParquetFile|ParquetDataset"
    rb"|read_sql|read_database|\.sql\(|\.execute\(|\.query\(|\.read\b"
)
_IMPORT = re.compile(rb"^\s*(?:from|import)\s+(.+)$", re.MULTILINE)
_WORD = re.compile(rb"[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of the repository.

    Attributes:
        name: Its path from the root, with slashes.
    """

    name: str
    content: bytes


def files_of(root: Path, *, tests: bool = False, exclude: Iterable[str] = ()) -> Iterator[SourceFile | tuple[str, str]]:
    """Yield the files of a repository that can hold a reference; one that cannot be read is yielded as (name, reason).

    Folders whose name begins with a dot, environments, build results and installed packages are left out, and so is what a
    ``.gitignore`` at the root names.

    Args:
        root: A folder, or one file.
        tests: Whether test code counts.
        exclude: Patterns of paths from the root to leave out.

    Raises:
        NotFoundError: There is no such folder.
    """
    if not root.exists():
        raise NotFoundError(f"There is no folder '{root}'.")
    ignored = (*_gitignore(root), *exclude)
    for path in sorted(_walk(root, ignored)) if root.is_dir() else [root]:
        name = path.relative_to(root).as_posix() if root.is_dir() else path.name
        if not tests and is_test(name):
            continue
        try:
            if path.stat().st_size > LARGEST:
                yield name, f"it is larger than {LARGEST // 1_000_000} MB"
            else:
                yield SourceFile(name, path.read_bytes())
        except OSError as error:
            yield name, str(error.strerror or error)


def is_test(name: str) -> bool:
    """Say whether a file is test code, by its path.

    >>> is_test("tests/test_model.py"), is_test("src/contest.py")
    (True, False)
    """
    path = PurePosixPath(name)
    named = path.suffix == ".py" and (
        path.stem.startswith("test_") or path.stem.endswith("_test") or path.stem == "conftest"
    )
    return named or not {"tests", "test", "testing"}.isdisjoint(path.parts[:-1])


def _gitignore(root: Path) -> tuple[str, ...]:
    file = root / ".gitignore"
    if not file.is_file():
        return ()
    lines = (line.strip() for line in file.read_text("utf-8", errors="replace").splitlines())
    return tuple(line for line in lines if line and line[0] not in "#!")


def _walk(root: Path, ignored: tuple[str, ...]) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        here = Path(folder).relative_to(root).as_posix()
        prefix = "" if here == "." else f"{here}/"
        folders[:] = [f for f in folders if not _leave_out_folder(f) and not _matches(f"{prefix}{f}/", ignored)]
        for name in names:
            if Path(name).suffix in SUFFIXES and not _matches(prefix + name, ignored):
                yield Path(folder, name)


def _leave_out_folder(name: str) -> bool:
    return name.startswith(".") or name in _SKIPPED or name.endswith(".egg-info")


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Match the common forms of ignore patterns: a name anywhere, a path from the root, a folder, and ``*``."""
    path, is_folder = name.rstrip("/"), name.endswith("/")
    for pattern in patterns:
        plain = pattern.strip("/").removeprefix("**/")
        if pattern.endswith("/") and not is_folder:
            continue
        if "/" in plain or pattern.startswith("/"):
            if fnmatch(path, plain):
                return True
        elif fnmatch(path.rpartition("/")[2], plain):
            return True
    return False


class Modules:
    """Finds the file that an import means.

    Args:
        names: The Python files of the repository.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)

    def find(self, dotted: str, importer: str, level: int = 0) -> str | None:
        """Return the file of a module; None when it is not of this repository.

        Args:
            dotted: What is imported, such as ``a.b``.
            importer: The file that imports it.
            level: The number of leading dots.
        """
        here = PurePosixPath(importer).parent
        inner = dotted.replace(".", "/")
        if level:
            folders = [here, *here.parents]
            return self._at(folders[level - 1], inner) if level <= len(folders) else None
        for folder in (here, *here.parents):
            for root in (folder, folder / "src"):
                if found := self._at(root, inner):
                    return found
        return None

    def _at(self, folder: PurePosixPath, inner: str) -> str | None:
        base = (folder / inner).as_posix() if inner else folder.as_posix()
        names = (f"{base}.py", f"{base}/__init__.py".removeprefix("./"))
        return next((name for name in names if name in self._names), None)


def that_may_read(files: Mapping[str, bytes]) -> list[str]:
    """Return the Python files that can read something: by a call in them, or by importing a file that can.

    Args:
        files: Name -> content.
    """
    imports = {name: frozenset(_WORD.findall(b" ".join(_IMPORT.findall(text)))) for name, text in files.items()}
    found = {name for name, text in files.items() if _READS.search(text)}
    waiting = {_stem(name) for name in found}
    while waiting:
        new = {name for name, words in imports.items() if name not in found and not waiting.isdisjoint(words)}
        found |= new
        waiting = {_stem(name) for name in new}
    return sorted(found)


def _stem(name: str) -> bytes:
    path = PurePosixPath(name)
    return (path.parent.name if path.stem == "__init__" else path.stem).encode()
