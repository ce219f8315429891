"""Gets the registry of a Feast repository as JSON: from a file, or by the Python that Feast is installed in."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lineage.errors import InvalidQuestionError, NotFoundError, UnavailableError

# What Feast's Python runs. It reads the registry alone: no definition of the repository is imported, and no pickled function loaded.
DUMP = """
import json, sys
from importlib import import_module
from feast import FeatureStore
from google.protobuf.json_format import MessageToDict

KINDS = {"feature_view": "FeatureView", "stream_feature_view": "StreamFeatureView", "on_demand_feature_view": "OnDemandFeatureView"}
proto = FeatureStore(repo_path=sys.argv[1]).registry.proto()
document = MessageToDict(proto)
records = document.get("featureViewVersionHistory", {}).get("records", [])
for record, held in zip(records, proto.feature_view_version_history.records if records else []):
    record.pop("featureViewProto", None)
    name = KINDS.get(held.feature_view_type)
    if name:
        kind = getattr(import_module(f"feast.protos.feast.core.{name}_pb2"), name)
        record["featureView"] = MessageToDict(kind.FromString(held.feature_view_proto))
for view in [*document.get("onDemandFeatureViews", []), *(record.get("featureView", {}) for record in records)]:
    view.get("spec", {}).pop("featureTransformation", None)
print(json.dumps(document, indent=1, sort_keys=True))
"""
_SECONDS = 300


def read_repository(source: Path, python: str = "python") -> Mapping[str, Any]:
    """Return the registry of a Feast repository as JSON values.

    Args:
        source: The folder of ``feature_store.yaml``, or a file: JSON of its registry, or of ``feast registry-dump``.
        python: The Python that Feast is installed in; a file needs none.

    Raises:
        NotFoundError: There is no such folder or file.
        UnavailableError: Feast could not be run, or could not read its registry.
        InvalidQuestionError: The JSON is no registry.
    """
    if source.is_file():
        text = source.read_text("utf-8")
    elif (source / "feature_store.yaml").is_file():
        text = _dumped(source, python)
    else:
        raise NotFoundError(f"There is no Feast repository at '{source}': no feature_store.yaml.")
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidQuestionError(f"'{source}' is no JSON: {error}.") from error
    if not isinstance(document, dict) or not {"featureViews", "featureServices", "entities"} & document.keys():
        raise InvalidQuestionError(f"'{source}' is no registry of Feast: it has no feature views.")
    return document


def _dumped(folder: Path, python: str) -> str:
    try:
        run = subprocess.run(
            [python, "-c", DUMP, str(folder.resolve())], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"'{python}' could not read the registry: {error}.") from error
    if run.returncode:
        last = (run.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UnavailableError(
            f"'{python}' could not read the registry: {last}.",
            repair="Give --python the Python that Feast is installed in.",
        )
    return run.stdout
