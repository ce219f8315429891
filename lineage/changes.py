"""What changed between two commits that somebody may feel, and what it would break.

Kinds of break: ``remove`` (it is gone, or on its way out), ``schema`` (another type or unit), ``meaning`` (the same name says another
thing), ``freshness`` (a value counts for another time). A reader that is frozen to a version keeps it; a new version is a break for
whoever moves, so its readers are told before they do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lineage.findings.finding import SEVERITIES, Verdict
from lineage.impact import Impact, impact
from lineage.instants import written
from lineage.registry import Snapshot, ViewVersion
from lineage.state import State


@dataclass(frozen=True, slots=True)
class Break:
    """One change that a reader may feel.

    Attributes:
        object: The version, or feature version, whose readers are hit.
        kind: ``remove``, ``schema``, ``meaning`` or ``freshness``.
        detail: What is different, for people.
    """

    object: str
    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed between two commits and what it hits.

    Attributes:
        since: The earlier revision.
        until: The later one.
        hits: Each break with its impact, the most severe first.
    """

    since: int
    until: int
    hits: tuple[tuple[Break, Impact], ...]

    @property
    def severity(self) -> str:
        """The greatest severity of all; ``none`` when nothing is hit."""
        found = [hit.severity for _, hit in self.hits]
        return max(found, key=_rank, default="none")

    @property
    def verdict(self) -> Verdict:
        """FLAGGED when something is hit, UNDETERMINED when that is not known, else CLEARED."""
        verdicts = {hit.verdict for _, hit in self.hits}
        return next((v for v in (Verdict.FLAGGED, Verdict.UNDETERMINED) if v in verdicts), Verdict.CLEARED)


def _rank(severity: str) -> int:
    return SEVERITIES.index(severity) if severity in SEVERITIES else -1


def impact_since(state: State, before: Snapshot, *, environment: str | None = None) -> Changes:
    """Return what changed since an earlier commit and what each change hits.

    Args:
        state: The registry and the usage.
        before: The registry as it was.
        environment: Only reads of this environment count; None is all.
    """
    known = [found for found in breaks(before, state.snapshot) if _is_known(state, found.object)]
    hits = [(found, impact(state, found.object, change=found.kind, environment=environment)) for found in known]
    hits.sort(key=lambda hit: (-_rank(hit[1].severity), hit[0].object, hit[0].kind))
    return Changes(before.revision, state.snapshot.revision, tuple(hits))


def _is_known(state: State, name: str) -> bool:
    return name.partition(":")[0] in state.snapshot.views


def breaks(before: Snapshot, after: Snapshot) -> tuple[Break, ...]:
    """Return every change between two commits that a reader may feel."""
    found = [*_status_breaks(before, after)]
    for name in before.current:
        old, new = _newest(before, name), _newest(after, name)
        if old is not None and new is not None and old != new:
            found += _version_breaks(old, new)
    return tuple(dict.fromkeys(found))


def _status_breaks(before: Snapshot, after: Snapshot) -> Iterator[Break]:
    for ref, view in before.views.items():
        now = after.views.get(ref)
        status = now.status if now is not None else "gone"
        if status not in (view.status, "live"):
            yield Break(ref, "remove", f"{view.status} -> {status}")


def _newest(snapshot: Snapshot, name: str) -> ViewVersion | None:
    versions = [view for view in snapshot.views.values() if view.name == name]
    return max(versions, key=lambda view: view.version, default=None)


def _version_breaks(old: ViewVersion, new: ViewVersion) -> Iterator[Break]:
    features = {feature.name: feature for feature in new.features}
    for feature in old.features:
        now = features.get(feature.name)
        if now is None:
            yield Break(feature.ref, "remove", f"{new.ref} has no {feature.name}")
        elif (now.dtype, now.unit) != (feature.dtype, feature.unit):
            detail = f"{feature.dtype} {feature.unit} -> {now.dtype} {now.unit} in {new.ref}".replace("  ", " ")
            yield Break(feature.ref, "schema", detail)
        elif now.fingerprint != feature.fingerprint and old.ttl == new.ttl:
            yield Break(feature.ref, "meaning", f"another meaning in {new.ref}")
    if old.ttl != new.ttl:
        yield Break(old.ref, "freshness", f"ttl {_hours(old.ttl)} -> {_hours(new.ttl)} in {new.ref}")


def _hours(ttl: int | None) -> str:
    return "unlimited" if ttl is None else f"{ttl / 3_600_000_000:g} h"


def as_markdown(found: Sequence[tuple[Break | None, Impact]], *, title: str) -> str:
    """Return impacts as Markdown for a pull request: a table of what is hit, then whom to tell."""
    lines = [f"### {title}", ""]
    if not found:
        return "\n".join([*lines, "Nothing changed that a reader may feel.", ""])
    lines += ["| change | severity | read by | declared by | further | tell |", "|---|---|---|---|---|---|"]
    lines += [f"| {' | '.join(map(_cell, _row(change, hit)))} |" for change, hit in found]
    gaps = list(dict.fromkeys(str(gap) for _, hit in found for gap in hit.coverage.gaps))
    lines += ["", *(f"> Reads may be missing from this: {gap}." for gap in gaps)] if gaps else []
    return "\n".join([*lines, ""])


def _row(change: Break | None, hit: Impact) -> tuple[str, ...]:
    what = f"**{hit.change}** `{hit.object}`" + (f": {change.detail}" if change else "")
    live = dict.fromkeys(
        f"`{r.reader}` ({r.read.environment or 'any'}, {written(r.read.last_read)[:10]})" for r in hit.live
    )
    declared = [f"`{consumer.key}`" for consumer in hit.consumers]
    further = [
        *(f"view `{name}`" for name in hit.views),
        *(f"prediction `{name}`" for name in hit.predictions),
        *(f"service `{name}`" for name in hit.services),
        *(f"dataset `{name}`" for name in hit.datasets),
        *(f"`{reader.reader}` through predictions" for reader in hit.transitive),
    ]
    told = [contact.owner for contact in hit.contacts]
    verdict = hit.severity if hit.verdict is not Verdict.UNDETERMINED else "unknown"
    return what, verdict, ", ".join(live), ", ".join(declared), ", ".join(further), ", ".join(told)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ") or "-"
