"""The mark in a store's folder that says which clock it runs on; it holds for every process."""

from __future__ import annotations

from pathlib import Path

_CLOCK = "clock"


def is_replay(store: Path) -> bool:
    """Say whether the store runs on the replay clock, which `serve --clock` sets."""
    mark = store / _CLOCK
    return mark.is_file() and mark.read_text().strip() == "replay"


def set_clock(store: Path, name: str) -> None:
    """Record which clock the store runs on, ``system`` or ``replay``; it holds for every process from now on."""
    store.mkdir(parents=True, exist_ok=True)
    (store / _CLOCK).write_text(f"{name}\n")
