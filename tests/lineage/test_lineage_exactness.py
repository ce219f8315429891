"""Undeclared consumers are exact: on any manifests, bindings and reads, the findings are the set difference, no more and no less."""

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from lineage.findings import Parameters
from lineage.findings.undeclared_consumers import undeclared_consumers
from lineage.registry import Binding, Consumer, Snapshot
from lineage.state import State
from lineage.usage import Reads, Segment, Usage

REFS = [f"{view}@v{version}:{name}" for view in ("a", "b") for version in (1, 2) for name in ("x", "y")]
CONSUMERS = ["m@1", "m@2", "job"]
PRINCIPALS = ["p", "q", ""]
ENVIRONMENTS = ["dev", "prod"]
NOW = 1000

manifests = st.dictionaries(
    st.sampled_from(CONSUMERS),
    st.tuples(st.frozensets(st.sampled_from(REFS)), st.sampled_from(["", *ENVIRONMENTS]), st.sampled_from([None, 500])),
)
bindings = st.sets(st.tuples(st.sampled_from(PRINCIPALS[:2]), st.sampled_from([*CONSUMERS, "m@*"])))
rows = st.lists(
    st.tuples(
        st.sampled_from(REFS),
        st.sampled_from(PRINCIPALS),
        st.sampled_from(CONSUMERS),
        st.sampled_from(["bound", "local", "undeclared", "ambiguous", "anonymous"]),
        st.sampled_from(ENVIRONMENTS),
        st.sampled_from(["ok", "refused"]),
        st.sampled_from([100, 900]),
    ),
    max_size=12,
)


def state_of(manifests, bindings, rows) -> State:
    consumers = {
        key: Consumer(
            key,
            "model",
            *(key.split("@") if "@" in key else (key, "")),
            reads=tuple(reads),
            environment=e,
            expires_at=x,
        )
        for key, (reads, e, x) in manifests.items()
    }
    snapshot = Snapshot("p", 1, 0, {}, {}, {}, consumers, {})
    reads = tuple(
        Reads(ref, principal, name if how in ("bound", "local") else "", how, e, "online", outcome, 1, 1, at, at, 1, 1)
        for ref, principal, name, how, e, outcome, at in rows
    )
    usage = Usage(reads, (Segment("w", 0, "", 0, NOW, closed=True, dropped=0),), None, NOW)
    state = State(Path("unused"), snapshot, tuple(Binding(*pair) for pair in sorted(bindings)), usage, NOW)
    state.__dict__["declared_since"] = {(key, ref): 0 for key, (reads, _, _) in manifests.items() for ref in reads}
    return state


def may_run(principal, bindings, manifests):
    names = set()
    for bound, name in bindings:
        if bound == principal:
            versions = {key for key in manifests if key.startswith("m@")} if name == "m@*" else {name}
            names |= versions or {name}
    return names


def expected_pairs(manifests, bindings, rows):
    """The definition, one row at a time: who read, and whether that is declared there and then."""
    pairs = {}
    for ref, principal, name, how, environment, outcome, at in rows:
        names = may_run(principal, bindings, manifests)
        if how in ("bound", "local"):
            reader = name
        elif how == "anonymous" or not principal:
            reader = "principal:anonymous"
        elif len(names) == 1 and names != {"m@*"}:
            (reader,) = names
        else:
            reader = f"principal:{principal}"
        reads, where, until = manifests.get(reader, ((), "", None))
        if ref in reads and where in ("", environment) and (until is None or at < until):
            continue
        pairs[f"{reader} reads {ref}"] = pairs.get(f"{reader} reads {ref}", False) or outcome == "ok"
    return pairs


@settings(max_examples=100, deadline=None)
@given(manifests, bindings, rows)
def test_findings_are_the_set_difference(manifests, bindings, rows):
    findings = list(undeclared_consumers(state_of(manifests, bindings, rows), Parameters()))
    found: dict[str, bool] = {}
    for finding in findings:
        if finding.verdict == "FLAGGED":
            reader = finding.subject.partition(" reads ")[0]
            for feature in finding.features:
                subject = f"{reader} reads {feature}"
                found[subject] = found.get(subject, False) or finding.rule.code != "LN108"
    assert found == expected_pairs(manifests, bindings, rows)
    assert len({finding.id for finding in findings}) == len(findings)


@settings(max_examples=50, deadline=None)
@given(manifests, bindings, rows, st.randoms())
def test_the_order_in_which_rows_arrive_does_not_matter(manifests, bindings, rows, random):
    shuffled = list(rows)
    random.shuffle(shuffled)
    before = sorted(
        (f.id, f.verdict, f.message) for f in undeclared_consumers(state_of(manifests, bindings, rows), Parameters())
    )
    after = sorted(
        (f.id, f.verdict, f.message)
        for f in undeclared_consumers(state_of(manifests, bindings, shuffled), Parameters())
    )
    assert before == after
