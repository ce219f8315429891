"""The page of measured numbers: a section for each claim, which a run that measured it again replaces."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"

_END = "## What was tried"


def update(run: dict[str, Any], page: Path = PAGE) -> None:
    """Put the claims of a run into the page, each in the place of its earlier numbers or else after all others."""
    text = page.read_text()
    for claim in run["claims"]:
        section = "\n".join(_section(claim, run)) + "\n\n"
        old = re.compile(rf"^## {re.escape(claim['name'])}\n.*?(?=^## )", re.DOTALL | re.MULTILINE)
        text = old.sub(lambda _, new=section: new, text) if old.search(text) else text.replace(_END, section + _END)  # type: ignore[misc]
    page.write_text(text)


def _section(claim: dict[str, Any], run: dict[str, Any]) -> Iterator[str]:
    yield f"## {claim['name']}"
    yield ""
    yield f"| {run['finished_at'][:10]}, rounds: {run['rounds']} | median {claim['unit']} | min to max | ratio | |"
    yield "|---|---|---|---|---|"
    for contender in claim["contenders"]:
        middle, least, most = (_shown(contender[name]) for name in ("median", "min", "max"))
        ratio = contender["ratio"]["median"]
        yield f"| {contender['name']} | {middle} | {least} to {most} | {ratio:.2f} | {contender['remark']} |"


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
