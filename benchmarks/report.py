"""What a run says at its end: the machine, the versions, and every claim with its ratios; as a table, and as JSON."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import feast_env
from measuring import Claim, Effort

LATEST = Path(__file__).parent / "results" / "latest.json"

_PACKAGES = ("featurestore", "duckdb", "pyarrow", "polars", "numpy", "lmdb", "grpcio", "protobuf")


def document(claims: Sequence[Claim], effort: Effort, *, seconds: float) -> dict[str, Any]:
    """Return everything there is to know of a run."""
    return {
        "schema_version": 1,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "rounds": effort.rounds,
        "small": effort.small,
        "machine": _machine(),
        "versions": {**{name: version(name) for name in _PACKAGES}, "feast": feast_env.VERSION},
        "claims": [claim.document() for claim in claims],
    }


def save(run: dict[str, Any]) -> Path:
    """Write a run to results/latest.json."""
    LATEST.parent.mkdir(exist_ok=True)
    LATEST.write_text(json.dumps(run, indent=2) + "\n")
    return LATEST


def text(run: dict[str, Any]) -> str:
    """Return a run for people."""
    return "\n".join(_lines(run))


def _lines(run: dict[str, Any]) -> Iterator[str]:
    machine = run["machine"]
    yield "{cpu}, {cpus} CPUs, {memory_gib} GiB, {system}, Python {python}, load {load}".format(**machine)
    yield ", ".join(f"{name} {number}" for name, number in run["versions"].items())
    yield f"{run['rounds']} rounds in {run['seconds']:.0f} s; a ratio is how many times better the first line is"
    if run["small"]:
        yield "SMALL: this only tries the scripts; the numbers say nothing"
    for claim in run["claims"]:
        yield ""
        yield f"{claim['name']} ({claim['unit']})"
        for contender in claim["contenders"]:
            yield _line(contender)


def _line(contender: dict[str, Any]) -> str:
    ratio = contender["ratio"]
    return (
        f"  {contender['name']:<30}{_number(contender['median']):>9}"
        f"  {_number(contender['min']) + '-' + _number(contender['max']):<17}"
        f"x{ratio['median']:<6.2f} {ratio['min']:.2f}-{ratio['max']:.2f}  {contender['remark']}".rstrip()
    )


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _machine() -> dict[str, Any]:
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cpus": os.cpu_count(),
        "memory_gib": round(memory / 2**30),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }
