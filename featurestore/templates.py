"""Project folders to begin with: an empty one, and the flights example."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from featurestore.config import FILE
from featurestore.errors import InvalidArgumentError, NotFoundError

_SETTINGS = """\
[project]
name = "{name}"
environment = "dev"

[serving]
grpc_port = 6565
http_port = 6566
auth = "none"    # "required" asks every caller who they are: a token, a JSON Web Token or a certificate
"""

_FEATURES = '''\
"""What your features mean. Change a line, then run `featurestore plan`."""

from datetime import timedelta

from featurestore import Entity, Feature, FeatureService, FeatureView, ParquetSource

user = Entity("user", join_keys={"user_id": "int64"})

activity = FeatureView(
    "activity",
    entity=user,
    source=ParquetSource("activity", "data/activity.parquet", event_timestamp="event_timestamp"),
    features=[Feature("score", "float64", unit="1")],
    ttl=timedelta(days=7),
)

first_model = FeatureService("first_model", features=[activity])
'''


def write_project(folder: Path) -> Iterator[Path]:
    """Write featurestore.toml and a first features.py into a folder, and yield the paths.

    Raises:
        InvalidArgumentError: The folder is a project already; nothing was changed.
    """
    if (folder / FILE).exists():
        raise InvalidArgumentError(f"{folder.resolve()} is a project already.", place=str(folder / FILE))
    folder.mkdir(parents=True, exist_ok=True)
    name = "".join(c if c.isalnum() else "_" for c in folder.resolve().name) or "project"
    for path, text in ((folder / FILE, _SETTINGS.format(name=name)), (folder / "features.py", _FEATURES)):
        if not path.exists():
            path.write_text(text)
            yield path


def run_demo(folder: Path) -> int:
    """Run the flights example in a folder of its own and return its exit code.

    Raises:
        NotFoundError: This installation does not hold the example.
    """
    script = example_folder() / "demo.py"
    return subprocess.run([sys.executable, str(script), str(folder)], check=False).returncode


def example_folder() -> Path:
    """Return the folder of the flights example: in the wheel, or beside the source."""
    package = Path(__file__).parent
    for candidate in (package / "examples" / "flights", package.parent / "examples" / "flights"):
        if (candidate / "demo.py").is_file():
            return candidate
    raise NotFoundError.of("example", "flights", [], repair="Run it from a checkout of the repository.")
