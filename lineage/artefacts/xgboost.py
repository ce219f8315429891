"""XGBoost's document, which is the same in JSON and in UBJ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lineage.artefacts.artefact import artefact, opaque

LEAF = -1


def parse_xgboost(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a model uses: inputs that a tree splits on, or whose weight in a linear booster is not 0.

    Args:
        document: As ``Booster.save_model`` writes it.
    """
    learner = document["learner"]
    names = [str(name) for name in learner.get("feature_names") or ()]
    count = int(learner["learner_model_param"]["num_feature"])
    booster = learner["gradient_booster"]
    if booster["name"] == "gblinear":
        weights = booster["model"]["weights"]
        groups = len(weights) // (count + 1)
        used: Iterable[int] = (place // groups for place, weight in enumerate(weights[: count * groups]) if weight)
        return artefact("xgboost", names, used)
    model = booster["gbtree"]["model"] if "gbtree" in booster else booster["model"]
    if "trees" not in model:
        return opaque("xgboost", f"its booster {booster['name']} is not known", names)
    return artefact("xgboost", names, {place for tree in model["trees"] for place in _splits(tree)})


def _splits(tree: Mapping[str, Any]) -> Iterable[int]:
    children = zip(tree["split_indices"], tree["left_children"], strict=True)
    return (int(place) for place, left in children if int(left) != LEAF)
