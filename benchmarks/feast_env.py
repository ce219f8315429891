"""Feast in an environment of its own, so that its pinned packages and ours never meet."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

VERSION = "0.67.0"

_HERE = Path(__file__).parent
_CACHE = _HERE.parent / ".cache"
_REQUIREMENTS = _HERE / "feast_requirements.txt"


def feast_programs() -> Path:
    """Return the folder of Feast's `python` and `feast`; the environment is made once and kept under .cache/."""
    folder = _CACHE / f"feast-{VERSION}-{hashlib.sha256(_REQUIREMENTS.read_bytes()).hexdigest()[:12]}"
    ready = folder / ".ready"  # written last: an environment left half made is made anew
    if not ready.exists():
        _make(folder)
        ready.touch()
    return folder / "bin"


def feast_variables() -> dict[str, str]:
    """Return the environment variables Feast runs under: it must not report to anybody while it is timed."""
    return {**os.environ, "FEAST_USAGE": "False", "PYTHONWARNINGS": "ignore"}


def _make(folder: Path) -> None:
    print(f"making an environment for Feast {VERSION} in {folder} ...", file=sys.stderr)
    uv = Path(sys.executable).parent / "uv"
    subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder], check=True)
    install = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", folder / "bin" / "python"]
    subprocess.run([*install, "-r", _REQUIREMENTS], check=True)


if __name__ == "__main__":
    print(feast_programs())
