"""The structural track: bundles, loops and cascades planted among decoys, which the findings must tell exactly.

Truth is what was planted: for bundles the generator's own list, for loops and cascades networkx on the graph that was drawn.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np

from lineage import Lineage, Verdict
from lineage.evaluation.record import FOLDER, Record, save_record

DAY = 86_400_000_000
NOW = 20_000 * DAY
FIRST, SECOND = NOW - 60 * DAY, NOW - 30 * DAY
MODELS, FEATURES = 12, 40
BUNDLES = ("planted", "planted, with some of it evaluated with others", "planted, evaluated as a whole")
DECOYS = ("one feature", "a part was evaluated", "a declared group", "taken out again", "first features", "nothing new")
_TABLES = """
CREATE TABLE commits (revision INTEGER PRIMARY KEY, committed_at INTEGER, principal TEXT, message TEXT, document TEXT);
CREATE TABLE bindings (principal TEXT, consumer TEXT, created_at INTEGER);
CREATE TABLE usage_daily (day TEXT, view TEXT, version INTEGER, feature TEXT, principal TEXT, consumer TEXT, binding TEXT,
    environment TEXT, mode TEXT, client TEXT, outcome TEXT, calls INTEGER, entity_rows INTEGER, first_read INTEGER, last_read INTEGER);
CREATE TABLE usage_segments (worker TEXT, number INTEGER, environment TEXT, started_at INTEGER, ended_at INTEGER, closed INTEGER,
    dropped INTEGER);
"""


@dataclass
class Project:
    """A generated registry of two commits, and what is wrong with it."""

    views: dict[str, Any]
    commits: list[dict[str, Any]] = field(default_factory=lambda: [{}, {}])
    records: list[Record] = field(default_factory=list)
    bundled: set[str] = field(default_factory=set)
    onto: nx.DiGraph = field(default_factory=nx.DiGraph)
    on_purpose: set[str] = field(default_factory=set)


def generate(rng: np.random.Generator) -> Project:
    """Draw a project: a graph of models that read each other's scores, some by way of a computed feature or a job, and bundles."""
    base = [f"f{place}" for place in range(FEATURES)]
    project = Project({"base": _view(base)})
    _draw_models(project, rng)
    for kind in (*BUNDLES, *DECOYS):
        _draw_bundle(project, kind, rng)
    return project


def _draw_models(project: Project, rng: np.random.Generator) -> None:
    names = [f"m{place}" for place in range(MODELS)]
    project.onto.add_nodes_from(names)
    for name in names:
        project.views[f"{name}_score"] = _view(["score"])
    reads = {name: ["base@v1:f0", "base@v1:f1"] for name in names}
    for a in names:
        for b in names:
            if rng.random() < 1.1 / MODELS:
                reads[b].append(_score_of(project, a, rng))
                project.onto.add_edge(a, b)
    for name in names:
        purpose = rng.random() < 0.15
        project.on_purpose |= {name} if purpose else set()
        tags = {"stage": "ensemble"} if purpose else {}
        _declare(project, name, reads[name], writes=[f"{name}_score@v1"], tags=tags, label=f"label of {name}")
    for name in names[:3]:  # who only looks closes no loop and is no model
        _declare(project, f"board_{name}", [f"{name}_score@v1:score"], kind="dashboard")


def _score_of(project: Project, name: str, rng: np.random.Generator) -> str:
    """Return a reference that the score of a model flows into: the score itself, a feature computed from it, or what a job makes of it."""
    way = rng.integers(3)
    if way == 1:
        computed = _view(["twice"], sql="score * 2") | {"kind": "on_demand", "source": None}
        project.views[f"{name}_twice"] = computed | {"inputs": [f"{name}_score@v1:score"]}
        return f"{name}_twice@v1:twice"
    if way == 2:
        project.views[f"{name}_log"] = _view(["late"])
        _declare(project, f"job_{name}", [f"{name}_score@v1:score"], kind="job", writes=[f"{name}_log@v1"])
        return f"{name}_log@v1:late"
    return f"{name}_score@v1:score"


def _draw_bundle(project: Project, kind: str, rng: np.random.Generator) -> None:
    name = "bundle_" + "".join(letter for letter in kind if letter.isalpha())
    drawn = [f"base@v1:f{place}" for place in rng.permutation(np.arange(2, FEATURES))[: 3 + rng.integers(10)]]
    old, new = drawn[:1], drawn[1:2] if kind == "one feature" else drawn[1:]
    new = [] if kind == "nothing new" else new
    after = [*old, *([] if kind == "taken out again" else new)]
    tags = {"group.all": ", ".join(ref.replace("@v1", "") for ref in new)} if kind == "a declared group" else {}
    first = None if kind == "first features" else [*old, *(new if kind == "taken out again" else [])]
    _declare(project, name, after, tags=tags, label="late", before=first)
    without = {
        "a part was evaluated": new[:1],
        "planted, with some of it evaluated with others": [new[0], old[0]] if new else [],
        "planted, evaluated as a whole": new,
    }.get(kind)
    if without:
        project.records.append(_record(name, without, after))
    if kind in BUNDLES:
        project.bundled.add(name)


def _record(name: str, without: list[str], features: list[str]) -> Record:
    return Record(
        f"{name}@1", tuple(sorted(without)), tuple(sorted(features)), "rows", "ab", "late", "log_loss", "x:y",
        created_at=NOW - DAY, dataset_saved_at=SECOND,
    )  # fmt: skip


def _declare(
    project: Project,
    name: str,
    reads: list[str],
    *,
    kind: str = "model",
    before: list[str] | None = None,
    **fields: Any,
) -> None:
    """Declare a consumer in both commits; with `before` it read something else in the first, or was not there (an empty list)."""
    key = f"{name}@1" if kind == "model" else name
    common = {"kind": kind, "name": name, "version": "1" if kind == "model" else None, "owner": "o@x", **fields}
    was = before if before is not None or "bundle" in name else reads
    if was:
        project.commits[0][key] = {**common, "reads": was}
    project.commits[1][key] = {**common, "reads": reads}


def _view(names: list[str], *, sql: str = "") -> dict[str, Any]:
    expression = {"sql": sql} if sql else None
    features = [
        {"name": n, "dtype": "float64", "column": None if sql else n, "aggregation": None, "expression": expression}
        for n in names
    ]
    source = {"kind": "push", "name": names[0], "event_timestamp": "at", "created_timestamp": None}
    version = {"kind": "batch", "status": "live", "entity": "entity", "source": source, "owner": "o@x"}
    return {**version, "features": features}


def write(project: Project, folder: Path) -> None:
    """Write the registry and the records."""
    (folder / "store").mkdir(parents=True)
    (folder / "featurestore.toml").write_text("")
    views = {name: {"current": 1, "versions": {"1": version}} for name, version in project.views.items()}
    head = {
        "schema_version": 1,
        "project": "p",
        "entities": {"entity": {"join_keys": [["id", "string"]]}},
        "views": views,
    }
    with sqlite3.connect(folder / "store" / "registry.db") as database:
        database.executescript(_TABLES)
        for revision, (consumers, at) in enumerate(zip(project.commits, (FIRST, SECOND), strict=True), 1):
            document = {
                **head,
                "revision": revision,
                "committed_at": at,
                "consumers": consumers,
                "services": {},
                "datasets": {},
            }
            database.execute("INSERT INTO commits VALUES (?, ?, 'a', '', ?)", (revision, at, json.dumps(document)))
    for record in project.records:
        save_record(folder / FOLDER, record)


def compared(rng: np.random.Generator) -> dict[str, list[int]]:
    """Return of one project, per kind of debt: how many that are flagged are right, all flagged, all planted, and planted ones found."""
    project = generate(rng)
    with tempfile.TemporaryDirectory() as folder:
        write(project, Path(folder) / "p")
        ask = Lineage(Path(folder) / "p", clock=lambda: NOW)
        found = [f for f in ask.check(select=["LN410", "LN450", "LN451"]).all if f.verdict is Verdict.FLAGGED]
    bundles = {f.subject.partition(" ")[0] for f in found if f.rule.code == "LN410"}
    return {
        "bundled": _counts(bundles, project.bundled),
        "loops": _loops(project.onto, [f.evidence[0]["models"] for f in found if f.rule.code == "LN450"]),
        "cascades": _counts({f.subject for f in found if f.rule.code == "LN451"}, _cascades(project)),
    }


def _counts(found: set[str], truth: set[str]) -> list[int]:
    return [len(found & truth), len(found), len(truth), len(found & truth)]


def _cascades(project: Project) -> set[str]:
    feeding = {b: sorted(set(project.onto.predecessors(b)) - {b}) for b in project.onto}
    return {f"{b} builds on {', '.join(by)}" for b, by in feeding.items() if by and b not in project.on_purpose}


def _loops(onto: nx.DiGraph, rings: list[list[str]]) -> list[int]:
    """A ring is right when its edges are there; a component that can be gone round is found when one of its rings is."""
    right = sum(all(onto.has_edge(a, b) for a, b in zip(ring, [*ring[1:], ring[0]], strict=True)) for ring in rings)
    round_ways = [c for c in nx.strongly_connected_components(onto) if len(c) > 1 or onto.has_edge(*(2 * list(c)))]
    return [right, len(rings), len(round_ways), sum(any(set(ring) <= c for ring in rings) for c in round_ways)]


def scores(said: list[dict[str, list[int]]]) -> dict[str, float]:
    """Return precision and recall of each kind over all projects."""
    found = {}
    for kind in ("bundled", "loops", "cascades"):
        right, flagged, planted, hit = np.sum([one[kind] for one in said], axis=0).tolist()
        found |= {
            f"{kind}: planted": planted,
            f"{kind}: precision": right / max(flagged, 1),
            f"{kind}: recall": hit / max(planted, 1),
        }
    return found
