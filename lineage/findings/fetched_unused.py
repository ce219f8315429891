"""Fetched and unused: a model reads features that it gives no weight.

The model says so itself: a linear model by weights that are all zero, trees by never splitting on an input. The facts come from the
model file (``lineage import artefact``), read without running anything in it. An input whose name is no feature of the manifest, or
a model whose inputs have no names, leaves the question open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lineage.findings.finding import Finding, Parameters, Rule, Verdict
from lineage.manifests import constructor, reads_line
from lineage.registry import Consumer, without_alias
from lineage.state import State

FETCHED_UNUSED = Rule("LN202", "fetched_unused", "low", "A model reads features that it gives no weight.")
RULES = (FETCHED_UNUSED,)


def fetched_unused(state: State, parameters: Parameters) -> Iterator[Finding]:
    """Yield one finding per consumer whose model file was imported.

    Args:
        state: The registry and the imported model files.
        parameters: Not used: what a model file says is a fact.
    """
    del parameters
    for key, artefact in sorted((state.records.artefacts or {}).items()):
        if (manifest := state.snapshot.consumers.get(key)) is not None:
            yield _finding(state, manifest, artefact)


def _finding(state: State, manifest: Consumer, artefact: Mapping[str, Any]) -> Finding:
    subject = f"{manifest.key} uses what it fetches"
    evidence = ({"type": "artefact", **artefact},)
    reason = artefact.get("opaque") or ""
    inputs = inputs_of(manifest)
    names = [str(name) for name in artefact.get("inputs", ())]
    unknown = sorted(set(names) - set(inputs))
    if reason or not names or (unknown and not set(names) & set(inputs)):
        why = reason or (
            "its inputs have no names" if not names else f"no input of it is a feature: {', '.join(unknown[:3])}"
        )
        message = f"It cannot be said what {manifest.key} uses: {why}."
        return Finding(FETCHED_UNUSED, Verdict.UNDETERMINED, subject, message, evidence)
    used = {inputs[name] for name in artefact.get("used", ()) if name in inputs}
    unused = sorted({inputs[name] for name in names if name in inputs} - used)
    never_in = sorted(set(map(without_alias, manifest.reads)) - {inputs[name] for name in names if name in inputs})
    if not unused and (unknown or not never_in):
        message = f"{manifest.key} gives weight to every feature among its {len(names)} inputs."
        return Finding(FETCHED_UNUSED, Verdict.CLEARED, subject, message, evidence)
    dead = [*unused, *(never_in if not unknown else ())]
    line = reads_line(state.snapshot, manifest, remove=dead)
    return Finding(
        FETCHED_UNUSED,
        Verdict.FLAGGED,
        subject,
        f"{manifest.key} reads {', '.join(dead)} and its model gives them no weight.",
        evidence,
        constructor(manifest.key, line, kind=manifest.kind),
        tuple(dead),
    )


def inputs_of(manifest: Consumer) -> Mapping[str, str]:
    """Return every name that an input of a model may have for a feature of its manifest; a name of two features is left out.

    >>> sorted(inputs_of(Consumer("m@1", "model", "m", "1", reads=("weather@v1:temp",))))
    ['temp', 'weather:temp', 'weather@v1:temp', 'weather@v1__temp', 'weather__temp']
    """
    found: dict[str, set[str]] = {}
    for ref in manifest.reads:
        plain = without_alias(ref)
        alias = ref.rpartition("=")[0]
        view, _, name = plain.partition(":")
        bare = alias or view.partition("@")[0]
        for spelling in {name, plain, f"{bare}:{name}", f"{bare}__{name}", f"{view}__{name}"}:
            found.setdefault(spelling, set()).add(plain)
    return {spelling: next(iter(refs)) for spelling, refs in found.items() if len(refs) == 1}
