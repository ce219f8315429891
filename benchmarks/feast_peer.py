"""Feast as a contender: a process of its own environment that does what it is told."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from feast_env import feast_programs, feast_variables

Ask = Callable[..., Any]


@contextmanager
def feast_repository(folder: Path, file: Path, dtypes: dict[str, str], **settings: Any) -> Iterator[Ask]:
    """Make a Feast repository of one view and yield `ask(method, **arguments)`; see feast_repo.Repository for both."""
    script = Path(__file__).parent / "feast_repo.py"
    with (folder / "feast.log").open("wb") as log:
        process = subprocess.Popen(
            [feast_programs() / "python", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=feast_variables(),
        )

    def ask(method: str, **arguments: Any) -> Any:
        assert process.stdin is not None
        assert process.stdout is not None
        print(json.dumps([method, arguments]), file=process.stdin, flush=True)
        answer = process.stdout.readline()
        if not answer:
            raise RuntimeError(f"Feast failed at {method}:\n{(folder / 'feast.log').read_text()[-2000:]}")
        return json.loads(answer)

    with process:
        ask("open", folder=str(folder / "feast"), file=str(file), dtypes=dtypes, **settings)
        yield ask
        process.stdin.close()  # type: ignore[union-attr]  # it is a pipe
