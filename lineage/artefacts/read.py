"""Model files, told apart by their content."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lineage.artefacts.artefact import SCHEMA_VERSION
from lineage.artefacts.lightgbm import parse_lightgbm
from lineage.artefacts.onnx import parse_onnx
from lineage.artefacts.ubj import decode_ubj
from lineage.artefacts.xgboost import parse_xgboost
from lineage.errors import InvalidQuestionError, NotFoundError

_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_REPAIR = "Give LightGBM text, XGBoost JSON or UBJ, ONNX, or the JSON of lineage.artefacts.describe(model)."


def read_artefact(path: Path) -> dict[str, Any]:
    """Return what a model file says of its inputs; nothing in the file is run.

    Args:
        path: The model file.

    Raises:
        NotFoundError: There is no such file.
        InvalidQuestionError: It is none of the formats that can be read, or is damaged.
    """
    if not path.is_file():
        raise NotFoundError(f"There is no model file '{path}'.")
    content = path.read_bytes()
    if content.startswith(_PICKLES) or content.startswith(b"PK"):
        raise InvalidQuestionError(
            f"'{path}' is a pickle or an archive of one, which would have to be run to be read.",
            repair="In the program that has the model: json.dump(lineage.artefacts.describe(model), file).",
        )
    try:
        return _parsed(content)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise InvalidQuestionError(f"'{path}' is no model that can be read ({error}).", repair=_REPAIR) from error


def _parsed(content: bytes) -> dict[str, Any]:
    if content.startswith((b"tree\n", b"tree\r\n")):
        return parse_lightgbm(content.decode())
    if content.lstrip()[:1] == b"{" and content.lstrip()[1:2] in b'"\n\r\t }':
        document = json.loads(content)
        return parse_xgboost(document) if "learner" in document else _described(document)
    if content[:1] == b"{":
        return parse_xgboost(decode_ubj(content))
    return parse_onnx(content)


def _described(document: Mapping[str, Any]) -> dict[str, Any]:
    """Check a description that `describe` made."""
    if document["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"schema version {document['schema_version']}, not {SCHEMA_VERSION}")
    inputs, used = [str(name) for name in document["inputs"]], [str(name) for name in document["used"]]
    if set(used) - set(inputs):
        raise ValueError("it uses what is no input")
    kind, reason = str(document["format"]), str(document["opaque"])
    return {"schema_version": SCHEMA_VERSION, "format": kind, "inputs": inputs, "used": used, "opaque": reason}
