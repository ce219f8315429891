"""JSON documents under ``store/evaluations``: there whole or not at all, and on disk before anybody is told of them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def save_document(path: Path, document: Mapping[str, Any]) -> Path:
    """Write a document; what stands in its place is replaced.

    Args:
        path: Where, with the suffix ``.json``; its folder is made.
        document: JSON values.

    Returns:
        The path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".json.part")
    with part.open("w", encoding="utf-8") as file:
        file.write(json.dumps(document, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return part.replace(path)
