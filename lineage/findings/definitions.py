"""Does everything resolve: owner, unit, meaning, ttl, source, expiry; and views that nobody declares or reads.

The configuration debt of Sculley et al. (2015): what a definition leaves out is found out by whoever uses it. These rules run when
they are selected (``lineage check --select LN3``, or ``select`` in ``lineage.toml``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lineage.findings.finding import Finding, Parameters, Rule, Verdict
from lineage.graph import Node
from lineage.instants import DAY, written
from lineage.registry import Feature, ViewVersion, view_of
from lineage.state import State

NO_OWNER = Rule("LN301", "no_owner", "low", "A view or a consumer has no owner.", default=False)
NO_UNIT = Rule("LN302", "no_unit", "info", "Numbers without a unit.", default=False)
NO_MEANING = Rule("LN303", "no_meaning", "info", "Features without a description.", default=False)
NO_TTL = Rule("LN304", "no_ttl", "info", "A value counts however old it is.", default=False)
NO_SOURCE = Rule(
    "LN305", "unknown_source", "low", "A view reads a source whose columns nobody looked at.", default=False
)
EXPIRED = Rule(
    "LN306", "expired_manifest", "medium", "A manifest has expired, or expires within 30 days.", default=False
)
DEPRECATED = Rule(
    "LN307", "reads_deprecated", "medium", "A manifest lists a deprecated or retired version.", default=False
)
UNPINNED = Rule(
    "LN308",
    "unpinned_prediction",
    "low",
    "A consumer builds on a prediction of a model of somebody else.",
    default=False,
)
DEAD_VIEW = Rule(
    "LN309", "dead_view", "low", "A view version that nobody declares, reads, or computes from.", default=False
)
RULES = (NO_OWNER, NO_UNIT, NO_MEANING, NO_TTL, NO_SOURCE, EXPIRED, DEPRECATED, UNPINNED, DEAD_VIEW)

SOON = 30 * DAY
_NUMBERS = ("int", "float", "decimal", "double")


def definitions(state: State, parameters: Parameters) -> Iterator[Finding]:
    """Yield what definitions and manifests leave open, one finding per object and rule.

    Args:
        state: The registry and the usage.
        parameters: `minimum_days` before a view may be called dead.
    """
    for view in state.snapshot.views.values():
        if view.status != "retired":
            yield from _view(view)
            yield from _dead(state, view, parameters)
    yield from _consumers(state)


def _view(view: ViewVersion) -> Iterator[Finding]:
    if not view.owner:
        yield _flag(NO_OWNER, view.ref, "has no owner", f'owner="..." on {view.name}')
    checks: tuple[tuple[Rule, str, Callable[[Feature], bool]], ...] = (
        (NO_UNIT, "unit", lambda feature: feature.dtype.startswith(_NUMBERS) and not feature.unit),
        (NO_MEANING, "description", lambda feature: not feature.description),
    )
    for rule, setting, lacks in checks:
        refs = tuple(feature.ref for feature in view.features if lacks(feature))
        if refs:
            names = ", ".join(ref.partition(":")[2] for ref in refs)
            yield _flag(rule, view.ref, f"has no {setting} for {names}", f'Feature(..., {setting}="...")', refs)
    if view.kind == "batch" and view.ttl is None:
        yield _flag(
            NO_TTL, view.ref, "has no ttl: a value of years ago still counts", f"ttl=timedelta(...) on {view.name}"
        )
    if view.source is not None and view.source.kind != "push" and not view.source.columns:
        message = f"reads source {view.source.name}, whose columns nobody looked at"
        yield _flag(NO_SOURCE, view.ref, message, "featurestore apply, where the source can be reached")


def _dead(state: State, view: ViewVersion, parameters: Parameters) -> Iterator[Finding]:
    closure = state.graph.downstream([Node("view", view.ref)], through={"view", "feature", "service"})
    if any(node.kind in ("consumer", "principal", "dataset") for node in closure.nodes):
        return
    since = state.usage.since or 0
    coverage = state.usage.coverage()
    message = "is declared by nobody, was read by nobody, and nothing that is read is computed from it"
    refs = tuple(feature.ref for feature in view.features)
    if coverage.complete and state.now - since >= parameters.minimum_days * DAY:
        yield _flag(DEAD_VIEW, view.ref, message, f"featurestore retire {view.ref}", refs)
    else:
        evidence = tuple(gap.evidence() for gap in coverage.gaps)
        text = f"{view.ref} {message}, as far as reads were counted."
        yield Finding(DEAD_VIEW, Verdict.UNDETERMINED, view.ref, text, evidence, features=refs)


def _consumers(state: State) -> Iterator[Finding]:
    writers = {view: key for key, manifest in state.snapshot.consumers.items() for view in manifest.writes}
    for key, manifest in state.snapshot.consumers.items():
        if not manifest.owner:
            yield _flag(NO_OWNER, key, "has no owner", f'owner="..." in the manifest of {key}')
        if manifest.expires_at is not None and manifest.expires_at - state.now < SOON:
            word = "expired" if manifest.expires_at <= state.now else "expires"
            yield _flag(
                EXPIRED, key, f"{word} {written(manifest.expires_at)}", "a later expires_at, or take the manifest out"
            )
        views = sorted({view_of(ref) for ref in manifest.features})
        for ref in views:
            found = state.snapshot.views.get(ref)
            if found is not None and found.status != "live":
                fix = f"featurestore promote {found.name} --move {key}"
                yield _flag(DEPRECATED, f"{key} on {ref}", f"reads a {found.status} version", fix)
            writer = writers.get(ref)
            if writer and state.owner_of(writer) != manifest.owner:
                message = f"builds on a prediction of {writer}, which {state.owner_of(writer) or 'nobody'} may retrain at any time"
                yield _flag(UNPINNED, f"{key} on {ref}", message, "agree with its owner on a version that stays")


def _flag(rule: Rule, subject: str, fact: str, fix: str, features: tuple[str, ...] = ()) -> Finding:
    return Finding(rule, Verdict.FLAGGED, subject, f"{subject} {fact}.", (), fix, features)
