"""Turns the registry of Feast into the neutral JSON that docs/reference/registry-json.md describes.

A feature view keeps its version number of Feast; one without versions is version 0. A feature service is a service, and a consumer
that declares to read it: Feast knows no other declaration. Its tag ``principals`` names who may run it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lineage.errors import InvalidQuestionError, LineageError
from lineage.findings.feast_repairs import STORE
from lineage.instants import instant

_TYPES = {
    "DOUBLE": "float64",
    "FLOAT": "float32",
    "INT64": "int64",
    "INT32": "int32",
    "STRING": "string",
    "BOOL": "bool",
    "BYTES": "binary",
    "UNIX_TIMESTAMP": "timestamp",
}
_KINDS = {"BATCH_FILE": "parquet", "PUSH_SOURCE": "push"}


@dataclass(frozen=True, slots=True)
class FeastRegistry:
    """A registry of Feast.

    Attributes:
        document: The neutral JSON, without revision and time.
        committed_at: When it last changed, in microseconds since 1970 UTC.
        created: Feature service -> when it was made, in microseconds since 1970 UTC.
        principals: Feature service -> who may run it, by its tag.
    """

    document: Mapping[str, Any]
    committed_at: int
    created: Mapping[str, int]
    principals: Mapping[str, tuple[str, ...]]
    features: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def resolve(self, ref: str) -> str | None:
        """Return a reference of Feast with its version, ``view@v0:feature``; None when there is no such feature."""
        match = re.fullmatch(r"(\w+)(?:@(v?\d+|latest))?:(\w+)", ref)
        if match is None or match[1] not in self.document["views"]:
            return None
        view = self.document["views"][match[1]]
        version = match[2].lstrip("v") if match[2] and match[2] != "latest" else str(view["current"])
        known = view["versions"].get(version)
        names = {feature["name"] for feature in known["features"]} if known else set()
        return f"{match[1]}@v{version}:{match[3]}" if match[3] in names else None


def read_feast(dump: Mapping[str, Any]) -> FeastRegistry:
    """Turn a registry of Feast, as JSON values, into neutral JSON.

    Args:
        dump: The registry as `lineage.feast.read_repository` returns it.

    Raises:
        InvalidQuestionError: It is not as Feast writes it.
    """
    try:
        return _registry(dump)
    except (KeyError, TypeError, AttributeError, ValueError, StopIteration) as error:
        if isinstance(error, LineageError):
            raise
        raise InvalidQuestionError(f"The registry is not as Feast writes it: {error!r}.") from error


def _registry(dump: Mapping[str, Any]) -> FeastRegistry:
    entities = {e["spec"]["name"]: e["spec"] for e in dump.get("entities", ())}
    views = {view["spec"]["name"]: _view(view, dump, entities) for view in _views(dump)}
    services = {s["spec"]["name"]: _service(s["spec"], views) for s in dump.get("featureServices", ())}
    created = {s["spec"]["name"]: _time(s) for s in dump.get("featureServices", ())}
    project = next((v["spec"].get("project") for v in _views(dump)), None) or str(dump.get("project") or "feast")
    document = {
        "schema_version": 1,
        "project": project,
        "store": STORE,
        "entities": _entities(views),
        "views": views,
        "services": services,
        "consumers": {name: _consumer(name, service) for name, service in services.items()},
        "datasets": {},
    }
    times = [_time(item) for key in ("featureViews", "entities", "featureServices") for item in dump.get(key, ())]
    return FeastRegistry(document, max(times, default=0), created, {n: _principals(s) for n, s in services.items()})


def _views(dump: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for key in ("featureViews", "streamFeatureViews", "onDemandFeatureViews"):
        yield from dump.get(key, ())


def _time(item: Mapping[str, Any]) -> int:
    created = item.get("meta", {}).get("createdTimestamp")
    return instant(_microseconds(created), now=0) if created else 0


def _microseconds(text: str) -> str:
    """Protobuf writes up to nine digits of a second; six are kept."""
    return re.sub(r"(\.\d{6})\d+", r"\1", text)


def _view(view: Mapping[str, Any], dump: Mapping[str, Any], entities: Mapping[str, Any]) -> dict[str, Any]:
    name, current = view["spec"]["name"], int(view.get("meta", {}).get("currentVersionNumber", 0))
    versions = {str(current): _version(view, entities, dump)}
    for record in dump.get("featureViewVersionHistory", {}).get("records", ()):
        number = str(record.get("versionNumber", 0))
        if record["featureViewName"] == name and number not in versions and "featureView" in record:
            versions[number] = _version(record["featureView"], entities, dump)
    return {"current": current, "versions": dict(sorted(versions.items(), key=lambda pair: int(pair[0])))}


def _version(view: Mapping[str, Any], entities: Mapping[str, Any], dump: Mapping[str, Any]) -> dict[str, Any]:
    spec = view["spec"]
    on_demand = "sources" in spec
    source = spec.get("batchSource") or spec.get("source")
    keys = _join_keys(spec, entities)
    return {
        "kind": "on_demand" if on_demand else "batch",
        "status": "live",
        "entity": "+".join(spec.get("entities", ())) or None if keys else None,
        "join_keys": keys,
        "source": None if on_demand or source is None else _source(source),
        "features": [_feature(f, source or {}, on_demand=on_demand) for f in spec.get("features", ())],
        "ttl": _duration(spec.get("ttl")),
        "request": list(_request(spec)),
        "inputs": list(_inputs(spec, dump)),
        "access": "observe",
        "owner": spec.get("owner", ""),
        "description": spec.get("description", ""),
        "tags": spec.get("tags", {}),
    }


def _join_keys(spec: Mapping[str, Any], entities: Mapping[str, Any]) -> list[list[str]]:
    dtypes = {column["name"]: _dtype(column) for column in spec.get("entityColumns", ())}
    known = [entities[name] for name in spec.get("entities", ()) if name in entities and name != "__dummy"]
    return [[entity["joinKey"], dtypes.get(entity["joinKey"]) or _dtype(entity)] for entity in known]


def _dtype(column: Mapping[str, Any]) -> str:
    kind = str(column.get("valueType", ""))
    return _TYPES.get(kind, kind.lower())


def _source(source: Mapping[str, Any]) -> dict[str, Any]:
    options = next((value for key, value in source.items() if key.endswith("Options") and isinstance(value, dict)), {})
    query = options.get("query")
    return {
        "kind": "sql" if query else _KINDS.get(source.get("type", ""), "postgres"),
        "name": source.get("name") or options.get("uri") or options.get("table") or "",
        "path": options.get("uri") or options.get("table") or None,
        "query": query,
        "tables": {},
        "event_timestamp": source.get("timestampField") or None,
        "created_timestamp": source.get("createdTimestampColumn") or None,
    }


def _feature(feature: Mapping[str, Any], source: Mapping[str, Any], *, on_demand: bool) -> dict[str, Any]:
    renamed = {to: column for column, to in source.get("fieldMapping", {}).items()}
    name = feature["name"]
    return {
        "name": name,
        "dtype": _dtype(feature),
        "unit": feature.get("tags", {}).get("unit", ""),
        "description": feature.get("description", ""),
        "column": None if on_demand else renamed.get(name, name),
        "aggregation": None,
        "expression": {"sql": ""} if on_demand else None,  # a Python function: what it computes is opaque
    }


def _duration(text: str | None) -> int | None:
    """Return microseconds; Feast's 0 is without limit."""
    return round(float(text.removesuffix("s")) * 1_000_000) or None if text else None


def _request(spec: Mapping[str, Any]) -> Iterator[list[str]]:
    for source in spec.get("sources", {}).values():
        for column in source.get("requestDataSource", {}).get("requestDataOptions", {}).get("schema", ()):
            yield [column["name"], _dtype(column)]


def _inputs(spec: Mapping[str, Any], dump: Mapping[str, Any]) -> Iterator[str]:
    current = {v["spec"]["name"]: int(v.get("meta", {}).get("currentVersionNumber", 0)) for v in _views(dump)}
    for source in spec.get("sources", {}).values():
        inner = source.get("featureViewProjection")
        if inner:
            yield from _projected(inner, current)


def _projected(projection: Mapping[str, Any], current: Mapping[str, int]) -> Iterator[str]:
    name = projection["featureViewName"]
    version = projection.get("versionTag", current.get(name))
    if version is not None:
        yield from (f"{name}@v{version}:{column['name']}" for column in projection.get("featureColumns", ()))


def _service(spec: Mapping[str, Any], views: Mapping[str, Any]) -> dict[str, Any]:
    current = {name: view["current"] for name, view in views.items()}
    refs = [ref for projection in spec.get("features", ()) for ref in _projected(projection, current)]
    return {
        "features": list(dict.fromkeys(refs)),
        "owner": spec.get("owner", ""),
        "description": spec.get("description", ""),
        "tags": spec.get("tags", {}),
    }


def _consumer(name: str, service: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kind": "service",
        "name": name,
        "version": None,
        "reads": service["features"],
        "services": [name],
        "owner": service["owner"],
        "tags": service["tags"],
    }


def _principals(service: Mapping[str, Any]) -> tuple[str, ...]:
    named: Iterable[str] = str(service["tags"].get("principals", "")).replace(";", ",").split(",")
    return tuple(name.strip() for name in named if name.strip())


def _entities(views: Mapping[str, Any]) -> dict[str, Any]:
    versions = (version for view in views.values() for version in view["versions"].values())
    return {version["entity"]: {"join_keys": version["join_keys"]} for version in versions if version["entity"]}
