"""Versions in flight: a version is read by a share of the keys, or beside the current one, before it is promoted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from featurestore.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from featurestore.refs import FeatureRef, ViewRef
from featurestore.registry.plan import Change, ChangePlan
from featurestore.registry.snapshot import Document, RegistrySnapshot, RolloutRecord, ViewRecord


def start_rollout(
    snapshot: RegistrySnapshot, ref: ViewRef, *, share: float | None, move: Sequence[str] = ()
) -> ChangePlan:
    """Plan to begin, or to change, the rollout of a version; `promote` ends it, of the version for good and of the current one back.

    Args:
        snapshot: What is registered.
        ref: The version.
        share: Which share of the keys gets it, from 0 to 1; None compares it in the shadow, and nobody gets it.
        move: Services that take part with what they are frozen to; references without a version always do.

    Raises:
        NotFoundError: The version, or a service to move, does not exist.
        InvalidArgumentError: The share is none, or a consumer is named: it takes part through its services.
        FailedPreconditionError: The version is current, retired, or computed on demand; or it has other keys, or as a canary lacks a
            feature or has it in another type.
    """
    target = snapshot.freeze(ref)
    versions, record = snapshot.document.views[target.view], snapshot.view(target)
    if share is not None and not 0 <= share <= 1:
        raise InvalidArgumentError(f"{share:%} is no share of keys.", repair="Write one from 0% to 100%.")
    if target.version == versions.current:
        raise FailedPreconditionError(f"{target} is current already.", repair="Name the version that shall be.")
    sources = {versions.current, *(_frozen_to(snapshot.document, name, target) for name in move)}
    for number in sorted(sources - {target.version or 0}):
        _check_fits(ViewRef(target.view, number), versions.versions[number], target, record, canary=share is not None)
    kind = "shadow" if share is None else "canary"
    rollout = RolloutRecord(to=target.version or 0, kind=kind, share=share or 0.0, moves=tuple(sorted({*move})))  # type: ignore[arg-type]  # one of two
    if rollout == versions.rollout:
        return ChangePlan(snapshot.revision, snapshot.document, ())
    views = {**snapshot.document.views, target.view: msgspec.structs.replace(versions, rollout=rollout)}
    new = msgspec.structs.replace(snapshot.document, views=views)
    change = Change(kind, f"view {target}", shown(rollout))
    return ChangePlan(snapshot.revision, new, (change,), tuple(_notes(versions.versions[versions.current], record)))


def shown(rollout: RolloutRecord | None) -> str:
    """Say what a rollout does.

    >>> shown(RolloutRecord(to=2, kind="canary", share=0.1, moves=("delay",)))
    'v2: 10% of keys, with delay'
    """
    return f"v{rollout.to}: {rollout.described}" if rollout else ""


def role(document: Document, ref: ViewRef) -> str:
    """Say what a version is to reads without a version: current, on its way with a share of the keys or in the shadow, or nothing."""
    versions = document.views[ref.view]
    if ref.version == versions.current:
        return "current"
    return versions.rollout.described if versions.rollout and versions.rollout.to == ref.version else ""


def _frozen_to(document: Document, name: str, target: ViewRef) -> int:
    """Return the version of the view that a service is frozen to."""
    if name in document.consumers:
        raise InvalidArgumentError(
            f"{name} is a consumer; a rollout moves services.", repair="Name the services that it reads."
        )
    if name not in document.services:
        raise NotFoundError.of("service", name, document.services)
    found = {ref.version for ref in map(FeatureRef.parse, document.services[name].features) if ref.view == target.view}
    if not found:
        raise FailedPreconditionError(f"Service '{name}' does not read {target.view}.")
    return min(version for version in found if version is not None)


def _check_fits(old: ViewRef, before: ViewRecord, new: ViewRef, after: ViewRecord, *, canary: bool) -> None:
    """Refuse a version that cannot answer in the place of another."""
    if after.status == "retired":
        raise FailedPreconditionError(f"{new} is retired.", repair="Promote a live version.")
    if "on_demand" in {before.kind, after.kind}:
        raise FailedPreconditionError(
            f"{new} is computed on demand and has no keys to share out.", repair=f"Run `featurestore promote {new}`."
        )
    if after.access == "enforce":
        raise FailedPreconditionError(
            f"{new} is for declared readers alone, and nobody has declared it by chance.",
            repair=f"Move its readers: `featurestore promote {new} --move NAME`.",
        )
    if before.join_keys != after.join_keys:
        raise FailedPreconditionError(f"{new} has other keys than {old}.", repair=f"Run `featurestore promote {new}`.")
    for feature in before.features if canary else ():
        other = after.feature(feature.name)
        if other is None or other.dtype != feature.dtype:
            what = f"has no '{feature.name}'" if other is None else f"has '{feature.name}' as {other.dtype}"
            raise FailedPreconditionError(
                f"{new} {what}, {old} has it as {feature.dtype}: it cannot answer some keys in its place.",
                repair=f"Compare them by `featurestore promote {new} --shadow`, or promote it at once.",
            )


def _notes(before: ViewRecord, after: ViewRecord) -> Iterator[str]:
    kept = {feature.name: feature.dtype for feature in after.features}
    others = [feature.name for feature in before.features if kept.get(feature.name) != feature.dtype]
    if others:
        yield f"not compared, since the version has them not or in another type: {', '.join(others)}"
