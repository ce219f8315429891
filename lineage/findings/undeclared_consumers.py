"""Undeclared consumers: reads that no manifest declares.

Sculley et al., *Hidden Technical Debt in Machine Learning Systems* (NIPS 2015), name the debt: whoever reads a prediction or a
feature without saying so is coupled to it, and nobody knows what a change would break. Per reader and feature version, what was
read without being declared is exact: a set difference. That nothing was is only known where usage is complete (LN100).
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping

from lineage.consumers import Relation, Standing, relations
from lineage.findings.finding import Finding, Parameters, Rule, Verdict
from lineage.graph import NODE_KINDS, Node
from lineage.instants import written
from lineage.manifests import bind_command, constructor, reads_line
from lineage.registry import Consumer, feature_in
from lineage.state import State

USAGE_INCOMPLETE = Rule("LN100", "usage_incomplete", "medium", "Some reads may not have been counted.")
ANONYMOUS_READ = Rule("LN101", "anonymous_read", "high", "A feature is read with no identity.")
AMBIGUOUS_CONSUMER = Rule("LN102", "ambiguous_consumer", "medium", "A principal runs several consumers and names none.")
UNBOUND_PRINCIPAL = Rule("LN103", "unbound_principal", "high", "A principal reads and is bound to no consumer.")
NO_MANIFEST = Rule("LN104", "no_manifest", "high", "A consumer reads and has no manifest.")
UNDECLARED_FEATURE = Rule(
    "LN105", "undeclared_feature", "high", "A consumer reads a feature that its manifest does not list."
)
OTHER_VERSION = Rule("LN106", "other_version", "medium", "A consumer reads another version than its manifest lists.")
TRANSITIVE_CONSUMER = Rule("LN107", "transitive_consumer", "high", "A prediction is read without being declared.")
REFUSED_READ = Rule("LN108", "refused_read", "info", "An undeclared read was tried and refused.")

RULES = (
    USAGE_INCOMPLETE,
    ANONYMOUS_READ,
    AMBIGUOUS_CONSUMER,
    UNBOUND_PRINCIPAL,
    NO_MANIFEST,
    UNDECLARED_FEATURE,
    OTHER_VERSION,
    TRANSITIVE_CONSUMER,
    REFUSED_READ,
)

_NOT_READERS = frozenset(NODE_KINDS) - {"consumer", "principal"}


LOCAL = "local:"  # how the OS user of local mode is recorded; bindings do not concern it


def undeclared_consumers(state: State, parameters: Parameters) -> Iterator[Finding]:
    """Yield one finding per reader and feature version that is read and not declared, and one on the usage itself.

    Args:
        state: The registry and the usage.
        parameters: Not used: what was read is a fact.
    """
    del parameters
    yield _usage(state)
    found = [relation for relation in relations(state) if relation.standing in (Standing.UNDECLARED, Standing.REFUSED)]
    # An on-demand feature reads its inputs: the feature is the finding, they are not.
    implied = {(relation.reader, ref) for relation in found for ref in state.snapshot.inputs_of(relation.feature)}
    for relation in found:
        if (relation.reader, relation.feature) not in implied:
            yield _finding(state, relation)


def _usage(state: State) -> Finding:
    coverage = state.usage.coverage()
    evidence = tuple(gap.evidence() for gap in coverage.gaps)
    if coverage.complete:
        message = "Every read was counted: what is not listed here did not happen."
        return Finding(USAGE_INCOMPLETE, Verdict.CLEARED, state.snapshot.project, message)
    message = f"There may be more undeclared reads than were counted: {coverage}."
    fix = "lineage check --since TIME, after the last gap; keep the usage folder of every worker"
    return Finding(USAGE_INCOMPLETE, Verdict.UNDETERMINED, state.snapshot.project, message, evidence, fix)


def _finding(state: State, relation: Relation) -> Finding:
    producers = () if relation.reader.identity == "anonymous" else _producers(state, relation)
    rule = _rule(state, relation, producers)
    reader, feature = relation.reader.node, relation.feature
    return Finding(
        rule=rule,
        verdict=Verdict.FLAGGED,
        subject=f"{reader} reads {feature}",
        message=_message(state, relation, rule, producers),
        evidence=_evidence(state, relation, producers),
        fix=_fix(state, relation),
    )


def _rule(state: State, relation: Relation, producers: tuple[str, ...]) -> Rule:
    """Return the one rule that says most: who it was comes first, then which version, then whether it is a prediction."""
    if relation.standing is Standing.REFUSED:
        return REFUSED_READ
    match relation.reader.identity:
        case "anonymous":
            rule = ANONYMOUS_READ
        case "ambiguous":
            rule = AMBIGUOUS_CONSUMER
        case "unbound":
            rule = TRANSITIVE_CONSUMER if producers else UNBOUND_PRINCIPAL
        case _:
            rule = _consumer_rule(state, relation, producers)
    return rule


def _consumer_rule(state: State, relation: Relation, producers: tuple[str, ...]) -> Rule:
    if _declared_versions(state, relation):
        return OTHER_VERSION
    if producers:
        return TRANSITIVE_CONSUMER
    return UNDECLARED_FEATURE if relation.reader.node.name in state.snapshot.consumers else NO_MANIFEST


def _producers(state: State, relation: Relation) -> tuple[str, ...]:
    """Return the consumers whose prediction the feature is or is derived from, other than the reader itself."""
    feature = Node("feature", relation.feature)
    closure = state.graph.upstream([feature], through=_NOT_READERS)
    return tuple(node.name for node in closure.nodes if node.kind == "consumer" and node != relation.reader.node)


def _declared_versions(state: State, relation: Relation) -> list[str]:
    """Return the other versions of the feature that the reader's manifest lists."""
    manifest = state.snapshot.consumers.get(relation.reader.node.name)
    name = feature_in(relation.feature)
    declared = manifest.features if manifest else frozenset()
    return sorted(ref for ref in declared if feature_in(ref) == name and ref != relation.feature)


def _message(state: State, relation: Relation, rule: Rule, producers: tuple[str, ...]) -> str:
    reader, feature = relation.reader.node, f"{relation.feature}{_where(relation)}"
    if rule is REFUSED_READ:
        return f"{reader} tried to read {feature} and was refused."
    last = f", last {written(relation.last_read)}" if relation.last_read is not None else ""
    reasons: Mapping[Rule, Callable[[], str]] = {
        ANONYMOUS_READ: lambda: "it has no identity, so nobody can say who depends on it",
        AMBIGUOUS_CONSUMER: lambda: f"it may run {', '.join(relation.reader.candidates)} and does not say which",
        UNBOUND_PRINCIPAL: lambda: "no consumer is bound to this principal",
        NO_MANIFEST: lambda: "this consumer has no manifest",
        UNDECLARED_FEATURE: lambda: f"its manifest {_reason(state, relation)}",
        OTHER_VERSION: lambda: f"its manifest lists {', '.join(_declared_versions(state, relation))}",
        TRANSITIVE_CONSUMER: lambda: f"this is a prediction of {', '.join(producers)}, and the reader is not declared",
    }
    return f"{reader} read {feature} (calls: {relation.calls}{last}); {reasons[rule]()}."


def _reason(state: State, relation: Relation) -> str:
    manifest = state.snapshot.consumers[relation.reader.node.name]
    if relation.feature not in state.declared[manifest.key]:
        return "does not list it"
    if any(manifest.environment not in ("", read.environment) for read in relation.reads):
        return f"lists it for environment {manifest.environment} alone"
    return f"counted until {written(manifest.expires_at or 0)}"


def _where(relation: Relation) -> str:
    environments = sorted({read.environment for read in relation.reads if read.environment})
    return f" in {', '.join(environments)}" if environments else ""


def _evidence(state: State, relation: Relation, producers: tuple[str, ...]) -> tuple[dict[str, object], ...]:
    usage = [read.evidence() for read in relation.reads]
    start = [Node("consumer", producer) for producer in producers]
    path = state.graph.path(start, [Node("feature", relation.feature)]) or ()
    return (*usage, *({"type": "edge", "edge": str(edge)} for edge in path))


def _fix(state: State, relation: Relation) -> str:
    match relation.reader.identity:
        case "anonymous":
            return 'FeatureStore(..., consumer="NAME"), or FEATURESTORE_CONSUMER=NAME, with a token'
        case "ambiguous":
            candidates = relation.reader.candidates
            return (
                f"FEATURESTORE_CONSUMER={_best(state, relation, candidates) or candidates[0].replace('@*', '@VERSION')}"
            )
        case "unbound":
            return _binding_fix(state, relation)
    return _manifest_fix(state, relation)


def _binding_fix(state: State, relation: Relation) -> str:
    name = relation.reader.node.name
    if name.startswith(LOCAL):
        return 'FeatureStore(..., consumer="NAME"), or FEATURESTORE_CONSUMER=NAME: in local mode a name is all it takes'
    candidate = _best(state, relation, _unclaimed(state))
    command = bind_command(name, candidate or "CONSUMER")
    return command if candidate else f"lineage declare principal:{shlex.quote(name)}, then {command}"


def _manifest_fix(state: State, relation: Relation) -> str:
    name = relation.reader.node.name
    manifest = state.snapshot.consumers.get(name)
    wanted = _undeclared_features(state, relation)
    if manifest is None:
        return constructor(name, reads_line(state.snapshot, None, add=wanted))
    if relation.feature in state.declared[name]:
        return _widened(manifest, relation)
    return constructor(name, reads_line(state.snapshot, manifest, add=wanted), kind=manifest.kind)


def _widened(manifest: Consumer, relation: Relation) -> str:
    """Return the setting of a manifest that lists the feature and does not count where or when it was read."""
    if any(manifest.environment not in ("", read.environment) for read in relation.reads):
        return f'environment="" in the manifest of {manifest.key}, or a manifest of its own'
    return f"a later expires_at in the manifest of {manifest.key}"


def _undeclared_features(state: State, relation: Relation) -> set[str]:
    """Return this feature and all else the reader was served: one line of features.py that settles them together."""
    return set(state.snapshot.outermost({relation.feature, *state.served_to.get(relation.reader, ())}))


def _unclaimed(state: State) -> tuple[str, ...]:
    """Return the consumers that no principal is bound to: an unknown principal may well be one of them."""
    bound = {binding.consumer for binding in state.bindings}
    return tuple(key for key in state.snapshot.consumers if not {key, f"{key.partition('@')[0]}@*"} & bound)


def _best(state: State, relation: Relation, candidates: tuple[str, ...]) -> str | None:
    """Return the one consumer that declares everything this principal read, if there is exactly one."""
    read = _undeclared_features(state, relation)
    manifests = state.snapshot.consumers
    fitting = [key for key in candidates if key in manifests and read <= state.declared[key]]
    return fitting[0] if len(fitting) == 1 else None
