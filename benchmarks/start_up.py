"""Start-up: whole processes, from nothing to their end, as somebody at a terminal or a CI job pays for them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from feast_env import feast_programs, feast_variables
from measuring import Claim, Effort, in_turn, seconds_of
from projects import make_project, write_rows
from tables import ONLINE, VIEW, newest

NOW = 1_792_000_000_000_000


def measure(effort: Effort) -> list[Claim]:
    """Measure commands and imports."""
    ours, feast = Path(sys.executable).parent, feast_programs()
    python = sys.executable
    with TemporaryDirectory() as scratch:
        project = _small_project(Path(scratch))
        return [
            _claim(
                "Command line",
                {
                    "featurestore --help": [ours / "featurestore", "--help"],
                    "lineage --help": [ours / "lineage", "--help"],
                    "lineage consumers FEATURE": [
                        *(ours / "lineage", "consumers", f"{VIEW}@v1:float64_0", "--project", project)
                    ],
                    "feast --help": [feast / "feast", "--help"],
                },
                effort,
            ),
            _claim(
                "Import",
                {
                    "import featurestore": [python, "-c", "import featurestore"],
                    "FeatureStore(project)": [
                        python,
                        "-c",
                        f"from featurestore import FeatureStore as F; F({str(project)!r})",
                    ],
                    "import feast": [feast / "python", "-c", "import feast"],
                    "python alone": [python, "-c", "pass"],
                },
                effort,
            ),
        ]


def _small_project(folder: Path) -> Path:
    file = write_rows(newest(100, now=NOW), folder / "events.parquet")
    make_project(folder / "project", file, ONLINE.dtypes, created=False).close()
    return folder / "project"


def _claim(name: str, commands: Mapping[str, list[str | Path]], effort: Effort) -> Claim:
    work = {shown: partial(_run, command) for shown, command in commands.items()}
    for run in work.values():  # once for the disk's cache and the bytecode
        run()
    contenders = {shown: partial(seconds_of, run) for shown, run in work.items()}
    return Claim(f"{name}, whole process", "s", in_turn(contenders, effort.rounds))


def _run(command: list[str | Path]) -> None:
    subprocess.run(command, check=True, capture_output=True, env=feast_variables())
