"""LightGBM's text format: a head with the names, then each tree with the inputs that it splits on."""

from __future__ import annotations

from typing import Any

from lineage.artefacts.artefact import artefact, opaque


def parse_lightgbm(text: str) -> dict[str, Any]:
    """Return what a model uses: every input that some tree splits on, or that a linear leaf weighs.

    Args:
        text: As ``Booster.save_model`` writes it.
    """
    names: list[str] = []
    used: set[int] = set()
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if key == "feature_names":
            names = value.split(" ")
        elif key in ("split_feature", "leaf_features"):
            used.update(int(number) for number in value.split())
        elif line.startswith("end of trees"):
            break
    else:
        return opaque("lightgbm", "the file is cut off", names)
    if names and all(name == f"Column_{place}" for place, name in enumerate(names)):
        return opaque("lightgbm", "its inputs have no names", names)
    return artefact("lightgbm", names, used)
