"""Telling what the demo does: the story on standard output, progress and timings on standard error."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WIDTH = 100


@contextmanager
def step(title: str, *why: str) -> Iterator[None]:
    """Announce a step and why it is done, and say how long it took."""
    print(f"\n\033[1m{title}\033[0m" if sys.stdout.isatty() else f"\n{title}")
    for line in why:
        print(f"  {line}")
    sys.stdout.flush()
    begun = time.monotonic()
    yield
    progress(f"  [{time.monotonic() - begun:.1f} s]")


def tell(text: object) -> None:
    """Print a result, indented."""
    print("\n".join(f"  | {line}" for line in str(text).splitlines()), flush=True)


def progress(text: str) -> None:
    """Print progress to standard error."""
    print(text, file=sys.stderr, flush=True)


def run(project: Path, *command: str, expect: int = 0, because: str = "") -> str:
    """Run a command in the project folder, show what it prints, and check its exit code."""
    print(f"  $ {' '.join(command)}", flush=True)
    program = [sys.executable, "-m", "featurestore" if command[0] == "featurestore" else "lineage.cli", *command[1:]]
    done = subprocess.run(program, cwd=project, capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    tell("\n".join(lines[:40]) + (f"\n... {len(lines) - 40} more lines" if len(lines) > 40 else ""))
    if done.returncode != expect:
        raise SystemExit(f"`{' '.join(command)}` exited with {done.returncode}, expected {expect}.")
    if because:
        print(f"  Exit code {done.returncode}: {because}")
    return done.stdout


def fresh_folder(folder: Path, *, mark: str) -> None:
    """Make the demo's folder anew; a folder that an earlier run did not make is left alone."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / mark).exists():
            raise SystemExit(f"{folder} is not empty and was not made by the demo. Name another folder.")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / mark).touch()
