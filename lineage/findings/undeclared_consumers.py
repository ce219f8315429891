"""Undeclared consumers: reads that no manifest declares.

Sculley et al., *Hidden Technical Debt in Machine Learning Systems* (NIPS 2015), name the debt: whoever reads a prediction or a
feature without saying so is coupled to it, and nobody knows what a change would break. Per reader and feature version, what was
read without being declared is exact: a set difference. That nothing was is only known where usage is complete (LN100).
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from lineage.cells import code_of
from lineage.consumers import Relation, Standing
from lineage.findings.finding import Finding, Parameters, Rule, Verdict
from lineage.findings.settling import settled_manifest
from lineage.graph import Edge, Node, build_graph
from lineage.imported import CodeReference
from lineage.instants import written
from lineage.manifests import bind_command, constructor, reads_line
from lineage.registry import Consumer, feature_in, view_of
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


LOCAL = "local:"  # how the OS user of local mode is recorded; bindings do not concern it


def undeclared_consumers(state: State, parameters: Parameters) -> Iterator[Finding]:
    """Yield one finding per reader and view version that is read and not declared, and one on the usage itself.

    Args:
        state: The registry and the usage.
        parameters: For the manifest that settles all findings on a consumer: when a declaration counts as never read.
    """
    yield _usage(state)
    found = [r for r in state.relations if r.standing in (Standing.UNDECLARED, Standing.REFUSED)]
    # An on-demand feature reads its inputs: the feature is the finding, they are not.
    implied = {(relation.reader, ref) for relation in found for ref in state.snapshot.inputs_of(relation.feature)}
    groups: dict[tuple[str, Node, str], list[_Case]] = {}
    for relation in found:
        if (relation.reader, relation.feature) not in implied:
            case = _case(state, relation)
            groups.setdefault((case.rule.code, relation.reader.node, view_of(relation.feature)), []).append(case)
    for _, cases in sorted(groups.items()):
        yield _finding(state, cases, parameters)


@dataclass(frozen=True, slots=True)
class _Case:
    """One feature version that a reader read without declaring it: the rule, and whose prediction it is."""

    relation: Relation
    rule: Rule
    producers: tuple[str, ...]


def _case(state: State, relation: Relation) -> _Case:
    producers = () if relation.reader.identity == "anonymous" else _producers(state, relation)
    return _Case(relation, _rule(state, relation, producers), producers)


def _usage(state: State) -> Finding:
    coverage = state.usage.coverage()
    evidence = tuple(gap.evidence() for gap in coverage.gaps)
    if coverage.complete:
        message = "Every read was counted: what is not listed here did not happen."
        return Finding(USAGE_INCOMPLETE, Verdict.CLEARED, state.snapshot.project, message)
    message = f"There may be more undeclared reads than were counted: {coverage}."
    fix = "lineage check --since TIME, after the last gap; keep the usage folder of every worker"
    return Finding(USAGE_INCOMPLETE, Verdict.UNDETERMINED, state.snapshot.project, message, evidence, fix)


def _finding(state: State, cases: list[_Case], parameters: Parameters) -> Finding:
    """Return the finding on one reader, view version and rule; the cases are its features."""
    cases = sorted(cases, key=lambda case: case.relation.feature)
    first = cases[0]
    references = code_of(state, first.relation.reader.node.name, [case.relation.feature for case in cases])
    return Finding(
        rule=first.rule,
        verdict=Verdict.FLAGGED,
        subject=f"{first.relation.reader.node} reads {view_of(first.relation.feature)}",
        message=_message(state, cases) + _located(references),
        evidence=(
            *(piece for case in cases for piece in _evidence(state, case)),
            *(reference.evidence() for reference in references),
        ),
        fix=_fix(state, [case.relation for case in cases], parameters),
        features=tuple(case.relation.feature for case in cases),
    )


def _located(references: tuple[CodeReference, ...]) -> str:
    return f" It is in the code at {', '.join(reference.place for reference in references[:3])}." if references else ""


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
    """Return the consumers whose prediction the feature is or is computed from, other than the reader itself."""
    views = map(view_of, state.snapshot.with_inputs([relation.feature]))
    writers = {name for view in views for name in state.snapshot.writers.get(view, ())}
    return tuple(sorted(writers - {relation.reader.node.name}))


def _way(state: State, case: _Case) -> tuple[Edge, ...]:
    """Return one shortest way from a producer to the feature, in the small part of the graph that can hold it."""
    snapshot = state.snapshot
    views = dict.fromkeys(map(view_of, snapshot.with_inputs([case.relation.feature])))
    part = replace(
        snapshot,
        views={ref: snapshot.views[ref] for ref in views if ref in snapshot.views},
        consumers={key: replace(snapshot.consumers[key], reads=()) for key in case.producers},
        services={},
        datasets={},
    )
    graph = build_graph(part)
    return graph.path([Node("consumer", key) for key in case.producers], [Node("feature", case.relation.feature)]) or ()


def _declared_versions(state: State, relation: Relation) -> list[str]:
    """Return the other versions of the feature that the reader's manifest lists."""
    listed = state.declared_versions.get(relation.reader.node.name, {}).get(feature_in(relation.feature), ())
    return [ref for ref in listed if ref != relation.feature]


def _message(state: State, cases: list[_Case]) -> str:
    relation, rule = cases[0].relation, cases[0].rule
    reader = relation.reader.node
    what = f"{_listed([case.relation.feature for case in cases])}{_where([case.relation for case in cases])}"
    if rule is REFUSED_READ:
        return f"{reader} tried to read {what} and was refused."
    calls = max(case.relation.calls for case in cases)
    last = max((case.relation.last_read for case in cases if case.relation.last_read is not None), default=None)
    when = f", last {written(last)}" if last is not None else ""
    return f"{reader} read {what} (calls: {calls}{when}); {'; '.join(_reasons(state, cases))}."


def _listed(features: list[str]) -> str:
    """Write feature versions of one view in short.

    >>> _listed(["weather@v1:temp"]), _listed(["weather@v1:humid", "weather@v1:temp"])
    ('weather@v1:temp', 'weather@v1: humid, temp')
    """
    if len(features) == 1:
        return features[0]
    return f"{view_of(features[0])}: {', '.join(feature.partition(':')[2] for feature in features)}"


def _reasons(state: State, cases: list[_Case]) -> list[str]:
    """Return every reason once, in the order of the features."""
    relation, rule = cases[0].relation, cases[0].rule
    producers = dict.fromkeys(name for case in cases for name in case.producers)
    versions = dict.fromkeys(ref for case in cases for ref in _declared_versions(state, case.relation))
    reasons: Mapping[Rule, Callable[[], Iterable[str]]] = {
        ANONYMOUS_READ: lambda: ["it has no identity, so nobody can say who depends on it"],
        AMBIGUOUS_CONSUMER: lambda: [f"it may run {', '.join(relation.reader.candidates)} and does not say which"],
        UNBOUND_PRINCIPAL: lambda: ["no consumer is bound to this principal"],
        NO_MANIFEST: lambda: ["this consumer has no manifest"],
        UNDECLARED_FEATURE: lambda: dict.fromkeys(f"its manifest {_reason(state, case.relation)}" for case in cases),
        OTHER_VERSION: lambda: [f"its manifest lists {', '.join(versions)}"],
        TRANSITIVE_CONSUMER: lambda: [
            f"this is a prediction of {', '.join(producers)}, and the reader is not declared"
        ],
    }
    return list(reasons[rule]())


def _reason(state: State, relation: Relation) -> str:
    manifest = state.snapshot.consumers[relation.reader.node.name]
    if relation.feature not in state.declared[manifest.key]:
        return "does not list it"
    if any(manifest.environment not in ("", read.environment) for read in relation.reads):
        return f"lists it for environment {manifest.environment} alone"
    return f"counted until {written(manifest.expires_at or 0)}"


def _where(relations: list[Relation]) -> str:
    environments = sorted({read.environment for relation in relations for read in relation.reads if read.environment})
    return f" in {', '.join(environments)}" if environments else ""


def _evidence(state: State, case: _Case) -> tuple[dict[str, object], ...]:
    usage = [read.evidence() for read in case.relation.reads]
    path = _way(state, case) if case.producers else ()
    return (*usage, *({"type": "edge", "edge": str(edge)} for edge in path))


def _fix(state: State, relations: list[Relation], parameters: Parameters) -> str:
    relation = relations[0]
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
    return _manifest_fix(state, relations, parameters)


def _binding_fix(state: State, relation: Relation) -> str:
    name = relation.reader.node.name
    if name.startswith(LOCAL):
        return 'FeatureStore(..., consumer="NAME"), or FEATURESTORE_CONSUMER=NAME: in local mode a name is all it takes'
    candidate = _best(state, relation, state.unclaimed)
    command = bind_command(name, candidate or "CONSUMER")
    return command if candidate else f"lineage declare principal:{shlex.quote(name)}, then {command}"


def _manifest_fix(state: State, relations: list[Relation], parameters: Parameters) -> str:
    name = relations[0].reader.node.name
    listed = [relation for relation in relations if relation.feature in state.declared.get(name, ())]
    if listed and len(listed) == len(relations):
        return _widened(state.snapshot.consumers[name], listed[0])
    if any(relation.calls for relation in relations):
        return settled_manifest(state, name, parameters)
    manifest = state.snapshot.consumers.get(name)
    wanted = [relation.feature for relation in relations]
    line = reads_line(state.snapshot, manifest, add=state.snapshot.outermost(wanted))
    return constructor(name, line, kind=manifest.kind if manifest else "")


def _widened(manifest: Consumer, relation: Relation) -> str:
    """Return the setting of a manifest that lists the feature and does not count where or when it was read."""
    if any(manifest.environment not in ("", read.environment) for read in relation.reads):
        return f'environment="" in the manifest of {manifest.key}, or a manifest of its own'
    return f"a later expires_at in the manifest of {manifest.key}"


def _undeclared_features(state: State, relation: Relation) -> set[str]:
    """Return this feature and all else the reader was served: one line of features.py that settles them together."""
    return set(state.snapshot.outermost({relation.feature, *state.served_to.get(relation.reader, ())}))


def _best(state: State, relation: Relation, candidates: tuple[str, ...]) -> str | None:
    """Return the one consumer that declares everything this principal read, if there is exactly one."""
    read = _undeclared_features(state, relation)
    fitting = frozenset(candidates).intersection(*(state.declarers.get(feature, frozenset()) for feature in read))
    return next(iter(fitting)) if len(fitting) == 1 else None
