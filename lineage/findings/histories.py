"""Every commit of a registry in order, and what each added to the features of a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lineage.registry import Commit, Consumer, Snapshot, connect, feature_in, parse_snapshot
from lineage.state import State

_GROUP = "group."


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """What one commit added to what a model reads.

    Attributes:
        model: Name of the model, without its version.
        revision: The commit.
        committed_at: Microseconds since 1970 UTC.
        added: Features, as ``view:feature``, that the model did not read in any version before the commit.
        units: The same, features that the manifest declares to be one group taken together.
        initial: Whether it is the first manifest of the model.
    """

    model: str
    revision: int
    committed_at: int
    added: frozenset[str]
    units: tuple[frozenset[str], ...]
    initial: bool


def commits_of(state: State) -> Iterator[Snapshot]:
    """Yield the snapshot of every commit up to the state's, in order."""
    with connect(state.path) as connection:
        rows = connection.execute(
            "SELECT revision, committed_at, document FROM commits WHERE revision <= ? ORDER BY revision",
            (state.snapshot.revision,),
        ).fetchall()
    for revision, committed_at, document in rows:
        yield parse_snapshot(Commit(revision, committed_at, document, None), state.path)


def change_sets(state: State) -> Iterator[ChangeSet]:
    """Yield what each commit added to each model, the earliest first.

    A new version of a feature, and a feature that only got another name, are no additions.
    """
    before: dict[str, frozenset[str]] = {}
    for snapshot in commits_of(state):
        for name, manifests in _models(snapshot).items():
            reads = {feature_in(ref): ref for manifest in manifests for ref in manifest.features}
            known = before.get(name)
            added = frozenset(_new(snapshot, reads, known)) if known is not None else frozenset(reads)
            if added:
                units = _units(manifests, added)
                yield ChangeSet(name, snapshot.revision, snapshot.committed_at, added, units, known is None)
            before[name] = frozenset(reads) | _fingerprints(snapshot, reads.values())
        for gone in set(before) - set(_models(snapshot)):
            before[gone] = frozenset()


def _models(snapshot: Snapshot) -> dict[str, list[Consumer]]:
    found: dict[str, list[Consumer]] = {}
    for manifest in snapshot.consumers.values():
        if manifest.kind == "model":
            found.setdefault(manifest.name, []).append(manifest)
    return found


def _new(snapshot: Snapshot, reads: dict[str, str], known: frozenset[str]) -> Iterator[str]:
    """Yield what was not there under its name, nor under another with the same meaning."""
    for feature, ref in reads.items():
        meaning = _fingerprints(snapshot, [ref])
        if feature not in known and not (meaning and meaning <= known):
            yield feature


def _fingerprints(snapshot: Snapshot, refs: object) -> frozenset[str]:
    meanings = {feature.ref: feature.fingerprint for view in snapshot.views.values() for feature in view.features}
    return frozenset(f"meaning:{meanings[ref]}" for ref in refs if meanings.get(ref))  # type: ignore[attr-defined]


def _units(manifests: list[Consumer], added: frozenset[str]) -> tuple[frozenset[str], ...]:
    """Return the additions, those of one declared group (tag ``group.NAME = "view:a, view:b"``) taken together."""
    groups = [
        frozenset(part.strip() for part in text.split(","))
        for manifest in manifests
        for tag, text in manifest.tags.items()
        if tag.startswith(_GROUP)
    ]
    units = [group & added for group in dict.fromkeys(groups) if group & added]
    grouped = frozenset().union(*units)
    return (*units, *(frozenset({feature}) for feature in sorted(added - grouped)))
