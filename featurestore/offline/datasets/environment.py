"""What a dataset was made with: libraries, Python, machine, and the commit of the project's code."""

from __future__ import annotations

import subprocess
from importlib.metadata import version
from pathlib import Path

import msgspec

LIBRARIES = ("featurestore", "deltalake", "duckdb", "numba", "numpy", "polars", "pyarrow", "sqlglot")
GIT_TIMEOUT = 10  # seconds


class CodeVersion(msgspec.Struct, frozen=True):
    """A commit, and whether tracked files differed from it."""

    commit: str
    dirty: bool


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that can change a value or a file."""
    return {library: version(library) for library in LIBRARIES}


def code_version(folder: Path) -> CodeVersion | None:
    """Return the commit that a folder's code is at; None outside of a git work tree, before its first commit, or without git."""
    commit = _git(folder, "rev-parse", "--verify", "--quiet", "HEAD")
    if not commit:
        return None
    return CodeVersion(commit, dirty=bool(_git(folder, "status", "--porcelain", "--untracked-files=no")))


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
