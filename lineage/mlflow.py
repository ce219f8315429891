"""MLflow, both ways: model versions as consumers with manifests, and manifests as tags of model versions and runs.

What a model version reads is said, in this order, by our own tags, by the saved dataset that its run logged as an input, and by the tags
that Feast sets. Nothing of a model is loaded or run: of its files only the signature in ``MLmodel`` is read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from lineage.errors import InvalidQuestionError, NotFoundError, UnavailableError
from lineage.registry import Consumer, Snapshot

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.store.entities.paged_list import PagedList

Found = TypeVar("Found")
PREFIX = "featurestore."
FEATURES, CONSUMER, DATASET = f"{PREFIX}features", f"{PREFIX}consumer", f"{PREFIX}dataset"
OWNER, REVISION = f"{PREFIX}owner", f"{PREFIX}revision"
_FEAST_FEATURES, _FEAST_SERVICE = "feast.feature_refs", "feast.feature_service"
_SOURCE = "featurestore"
# The longest value of a tag of a run; MLflow refuses more. Longer lists go on in ``featurestore.features.1`` and so on.
TAG_LENGTH = 5000
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class TrackedModel:
    """A model version as MLflow knows it.

    Attributes:
        key: ``name@version``, or what our tag says it is.
        features: Feature references as they were written; without a version the current one is meant.
        service: The feature service that Feast's tag names; empty for none.
        dataset: Name of the saved dataset that its run logged; None for none.
        label: The column that it predicts; empty when nobody said.
        inputs: Columns of its signature; empty when there is none, or it cannot be read.
        created_at: Microseconds since 1970 UTC.
        run: Id of its run; empty for none.
        tags: Aliases such as ``champion``, where it has them.
    """

    key: str
    features: tuple[str, ...]
    service: str
    dataset: str | None
    label: str
    inputs: tuple[str, ...]
    metrics: Mapping[str, float]
    owner: str
    created_at: int
    run: str
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A model version as a consumer.

    Attributes:
        consumer: What it reads, frozen to versions.
        declared_at: Microseconds since 1970 UTC.
        unknown: References that name nothing in the registry.
    """

    consumer: Consumer
    declared_at: int
    unknown: tuple[str, ...]


def connect_to(uri: str, *, registry_uri: str | None = None) -> MlflowClient:
    """Return a client of a tracking server, or of a folder or database that one writes.

    Raises:
        InvalidQuestionError: MLflow is not installed; says how to install it.
    """
    try:
        from mlflow import MlflowClient
    except ModuleNotFoundError as error:
        raise InvalidQuestionError(
            "MLflow is not installed here.", repair="Run `pip install 'featurestore[mlflow]'`."
        ) from error
    return MlflowClient(tracking_uri=uri, registry_uri=registry_uri)


def read_models(client: MlflowClient) -> Iterator[TrackedModel]:
    """Yield every model version of a registry, with what its run recorded.

    Args:
        client: As from `connect_to`.

    Raises:
        UnavailableError: The server does not answer.
    """
    for version in _versions(client):
        run = _run(client, version.run_id)
        tags = {**(run.data.tags if run else {}), **version.tags}
        profile, dataset = _dataset(run)
        features = _listed(tags) or tuple((profile.get("features") or {}).values()) or _feast_features(tags)
        yield TrackedModel(
            key=tags.get(CONSUMER) or f"{version.name}@{version.version}",
            features=features,
            service=tags.get(_FEAST_SERVICE, ""),
            dataset=tags.get(DATASET) or dataset,
            label=str(profile.get("targets") or ""),
            inputs=_signature(version),
            metrics=dict(run.data.metrics) if run else {},
            owner=tags.get(OWNER) or tags.get("mlflow.user", ""),
            created_at=int(version.creation_timestamp) * 1000,
            run=version.run_id or "",
            tags=dict.fromkeys(version.aliases or (), "alias"),
        )


def manifest_of_model(model: TrackedModel, snapshot: Snapshot) -> Manifest:
    """Return the manifest of a model version; a reference without a version is frozen to the current one.

    Args:
        model: As MLflow knows it.
        snapshot: The registry that its features are in.
    """
    wanted = list(model.features)
    if not wanted and model.service in snapshot.services:
        wanted = list(snapshot.services[model.service].features)
    known = {feature.ref for view in snapshot.views.values() for feature in view.features}
    frozen = {text: _frozen(text, snapshot) for text in wanted}
    name, _, version = model.key.partition("@")
    consumer = Consumer(
        key=model.key,
        kind="model",
        name=name,
        version=version,
        reads=tuple(dict.fromkeys(ref for ref in frozen.values() if ref in known)),
        services=(model.service,) if model.service in snapshot.services else (),
        dataset=model.dataset,
        label=model.label,
        metrics=model.metrics,
        owner=model.owner,
        tags={"mlflow.run": model.run, **model.tags} if model.run else dict(model.tags),
    )
    return Manifest(consumer, model.created_at, tuple(text for text, ref in frozen.items() if ref not in known))


def tag_models(client: MlflowClient, snapshot: Snapshot, *, keys: Iterable[str] = ()) -> tuple[str, ...]:
    """Write manifests as tags onto the model versions of their names and onto the runs that made them.

    Args:
        client: As from `connect_to`.
        snapshot: The registry.
        keys: Consumers; empty is every model with a version.

    Returns:
        The consumers that were written.

    Raises:
        NotFoundError: A consumer that is asked for has no manifest, or MLflow no model version of it.
        UnavailableError: The server does not answer.
    """
    asked = tuple(keys)
    for key in asked:
        if key not in snapshot.consumers:
            raise NotFoundError.of("consumer", key, snapshot.consumers)
    there = {f"{version.name}@{version.version}": version for version in _versions(client)}
    written = []
    for key in asked or [key for key, consumer in snapshot.consumers.items() if consumer.version]:
        if key in there:
            _tag(client, there[key], manifest_tags(snapshot, key))
            written.append(key)
        elif asked:
            raise NotFoundError.of("model version in MLflow", key, there)
    return tuple(written)


def manifest_tags(snapshot: Snapshot, key: str) -> dict[str, str]:
    """Return a manifest as tags; a list that is longer than a tag may be goes on in numbered ones."""
    consumer = snapshot.consumers[key]
    parts = _parts(sorted(consumer.features))
    tags = {FEATURES + (f".{n}" if n else ""): json.dumps(part) for n, part in enumerate(parts)}
    tags |= {CONSUMER: key, REVISION: str(snapshot.revision)}
    tags |= {OWNER: consumer.owner} if consumer.owner else {}
    return tags | ({DATASET: consumer.dataset} if consumer.dataset else {})


def _parts(refs: list[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for ref in refs:
        if len(json.dumps([*parts[-1], ref])) > TAG_LENGTH:
            parts.append([])
        parts[-1].append(ref)
    return parts


def _tag(client: MlflowClient, version: ModelVersion, tags: Mapping[str, str]) -> None:
    """Write tags in place of those that an earlier manifest left."""
    run = _run(client, version.run_id)
    for name, value in tags.items():
        client.set_model_version_tag(version.name, version.version, name, value)
        if run:
            client.set_tag(run.info.run_id, name, value)
    for name in _left_over(version.tags, tags):
        client.delete_model_version_tag(version.name, version.version, name)
    for name in _left_over(run.data.tags, tags) if run else ():
        client.delete_tag(version.run_id, name)


def _left_over(there: Mapping[str, str], tags: Mapping[str, str]) -> list[str]:
    return [name for name in there if name.startswith(PREFIX) and name not in tags]


def _versions(client: MlflowClient) -> Iterator[ModelVersion]:
    yield from pages_of(lambda token: client.search_model_versions(max_results=_PAGE, page_token=token))


def pages_of(search: Callable[[str | None], PagedList[Found]]) -> Iterator[Found]:
    """Yield what a search of MLflow finds, from every page.

    Args:
        search: Asks for the page of a token; None is the first.

    Raises:
        UnavailableError: The server does not answer.
    """
    from mlflow.exceptions import MlflowException

    token = None
    while True:
        try:
            page = search(token)
        except (MlflowException, OSError) as error:
            raise _unavailable(error) from error
        yield from page
        token = page.token
        if not token:
            return


def _unavailable(error: Exception) -> UnavailableError:
    return UnavailableError(f"MLflow does not answer: {str(error).partition(chr(10))[0]}")


def _run(client: MlflowClient, run_id: str | None) -> Run | None:
    """Return a run; None for a model that was registered without one, or whose run is gone."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id) if run_id else None
    except (MlflowException, OSError) as error:
        if isinstance(error, MlflowException) and error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise _unavailable(error) from error


def _dataset(run: Run | None) -> tuple[Mapping[str, Any], str | None]:
    """Return what the profile of the saved dataset says that a run was trained on, and its name."""
    inputs = run.inputs.dataset_inputs if run and run.inputs else []
    ours = [logged.dataset for logged in inputs if logged.dataset.source_type == _SOURCE]
    if not ours:
        return {}, None
    profile = _decoded(ours[0].profile)
    return (profile if isinstance(profile, dict) else {}), ours[0].name


def _listed(tags: Mapping[str, str]) -> tuple[str, ...]:
    names = [FEATURES, *(f"{FEATURES}.{n}" for n in range(1, len(tags)))]
    parts = [_decoded(tags[name]) for name in names if name in tags]
    return tuple(str(ref) for part in parts if isinstance(part, list) for ref in part)


def _feast_features(tags: Mapping[str, str]) -> tuple[str, ...]:
    """Return what Feast's tag lists; one that was cut off at its greatest length lists too little, so its service counts."""
    text = tags.get(_FEAST_FEATURES, "")
    return () if text.endswith("...") else tuple(ref for ref in text.split(",") if ref)


def _decoded(text: str | None) -> Any:
    try:
        return json.loads(text or "null")
    except ValueError:
        return None


def _signature(version: ModelVersion) -> tuple[str, ...]:
    """Return the columns of a model's signature; none where its files cannot be read from here."""
    from mlflow.exceptions import MlflowException
    from mlflow.models import get_model_info

    try:
        signature = get_model_info(version.source).signature
    except (MlflowException, OSError, ValueError):
        return ()
    return tuple(signature.inputs.input_names()) if signature and signature.inputs else ()


def _frozen(text: str, snapshot: Snapshot) -> str:
    """Return a reference with its version.

    A reference of Feast names version 0 as ``@v0`` or not at all; what is not there stays as it is.
    """
    view, _, feature = text.rpartition("=")[2].partition(":")
    name, _, version = view.partition("@v")
    number = version or snapshot.current.get(name)
    return text if number is None else f"{name}@v{number}:{feature}"
