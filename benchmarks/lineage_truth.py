"""A generator of registries and usage with planted debts and decoys, and how exactly the findings say what was planted.

Everything is written through the published contract: one SQLite file. A debt is ``(code, subject)``; whatever is flagged beside the
planted ones is wrong, decoys included. With lost segments nothing may be called never read, or safe, that was read.
"""

from __future__ import annotations

import json
import random
import sqlite3
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lineage import Lineage, Verdict

DAY = 86_400_000_000
NOW = 20_600 * DAY
APPLIED = NOW - 200 * DAY
WINDOW = range(20_500, 20_599)
WORKERS = 8
FEATURES_OF_A_VIEW = 10
STRUCTURAL = ("LN101", "LN102", "LN103", "LN104", "LN105", "LN106", "LN107", "LN108", "LN110", "LN201")


@dataclass
class Truth:
    """A generated project: its document, bindings, reads, and what is wrong with it."""

    document: dict[str, Any]
    bindings: list[tuple[str, str]] = field(default_factory=list)
    reads: list[tuple[Any, ...]] = field(default_factory=list)
    debts: set[tuple[str, str]] = field(default_factory=set)
    served: set[tuple[str, str]] = field(default_factory=set)


def generate(features: int, consumers: int, plants: int, *, seed: int) -> Truth:
    """Return a project with so many feature versions and consumers, and so many debts and twice as many decoys of each kind."""
    rng = random.Random(seed)
    views = features // FEATURES_OF_A_VIEW // 2
    truth = Truth(_document(views))
    models = [f"model_{number:05}@1" for number in range(consumers)]
    names = [f"v{number:05}" for number in range(views)]
    for number, key in enumerate(models):
        own = rng.sample(names, min(4, views))
        reads = [f"{view}@v1:f{place}" for view in own for place in range(rng.randint(1, FEATURES_OF_A_VIEW))]
        cadence = rng.choice([None, None, 1.0, 7.0])
        _declare(truth, key, reads, cadence=cadence, writes=["score@v1"] if number == 0 else [])
        truth.bindings.append((f"svc-{key}", key))
        if number % 7 == 0:  # a rotated credential, and one that was bound only after it had read
            truth.bindings.append((f"svc-{key}-new", key))
        for ref in reads:
            principal = f"svc-{key}-new" if number % 7 == 0 and rng.random() < 0.5 else f"svc-{key}"
            late = number % 14 == 0 and principal.endswith("-new")
            _read(truth, rng, ref, "" if late else key, principal, "undeclared" if late else "bound")
    _plant(truth, rng, models, names, plants)
    _decoys(truth, rng, names, 2 * plants)
    return truth


def _plant(truth: Truth, rng: random.Random, models: list[str], names: list[str], plants: int) -> None:
    declared = {
        key: {ref.partition("@")[0] for ref in document["reads"]}
        for key, document in truth.document["consumers"].items()
    }
    for number in range(plants):
        view = names[number % len(names)]
        owner = models[number % len(models)]
        foreign = next(name for name in rng.sample(names, len(names)) if name not in declared[owner])
        _read(truth, rng, f"{view}@v1:f0", "", "", "anonymous")
        truth.debts.add(("LN101", f"principal:anonymous reads {view}@v1"))
        _read(truth, rng, f"{view}@v1:f1", "", f"stranger-{number}", "undeclared")
        truth.debts.add(("LN103", f"principal:stranger-{number} reads {view}@v1"))
        _read(truth, rng, f"{view}@v1:f2", f"ghost_{number}", f"ghost-{number}", "bound")
        truth.debts.add(("LN104", f"ghost_{number} reads {view}@v1"))
        _read(truth, rng, f"{foreign}@v1:f3", owner, f"svc-{owner}", "bound")
        truth.debts.add(("LN105", f"{owner} reads {foreign}@v1"))
        listed = min(truth.document["consumers"][owner]["reads"])
        newer = listed.replace("@v1", "@v2")
        _read(truth, rng, newer, owner, f"svc-{owner}", "bound")
        truth.debts.add(("LN106", f"{owner} reads {newer.partition(':')[0]}"))
        _read(truth, rng, "score@v1:score", "", f"planner-{number}", "undeclared")
        truth.debts.add(("LN107", f"principal:planner-{number} reads score@v1"))
        _read(truth, rng, f"{view}@v2:f4", f"refused_{number}", f"refused-{number}", "bound", outcome="refused")
        truth.debts.add(("LN108", f"refused_{number} reads {view}@v2"))
        for name in ("one", "two"):
            truth.bindings.append((f"both-{number}", f"{name}_{number}"))
            _declare(truth, f"{name}_{number}", [f"{view}@v1:f5"], kind="job")
            _read(truth, rng, f"{view}@v1:f5", f"{name}_{number}", f"both-{number}", "bound")
        truth.debts.add(("LN110", f"principal:both-{number} is shared"))
        _read(truth, rng, f"{view}@v1:f6", "", f"both-{number}", "ambiguous")
        truth.debts.add(("LN102", f"principal:both-{number} reads {view}@v1"))
        _declare(truth, f"idle_{number}", [f"{view}@v2:f7", f"{view}@v2:f8"], kind="job")
        truth.bindings.append((f"svc-idle-{number}", f"idle_{number}"))
        truth.debts.add(("LN201", f"idle_{number} declares {view}@v2"))


def _decoys(truth: Truth, rng: random.Random, names: list[str], count: int) -> None:
    """Add what looks like a debt and is none: too early by cadence, another credential, a wildcard binding, an implied input."""
    for number in range(count):
        view = names[(3 * number) % len(names)]
        _declare(truth, f"yearly_{number}", [f"{view}@v2:f9"], kind="job", cadence=365.0)
        _declare(truth, f"wild_{number}@1", [f"{view}@v1:f9"])
        truth.bindings.append((f"wild-{number}", f"wild_{number}@*"))
        _read(truth, rng, f"{view}@v1:f9", "", f"wild-{number}", "undeclared")
        truth.served.add((f"wild_{number}@1", f"{view}@v1:f9"))
        _declare(truth, f"heat_{number}", ["heat@v1:heat"], kind="dashboard")
        for ref in ("heat@v1:heat", f"{names[0]}@v1:f0", f"{names[0]}@v1:f1"):
            _read(truth, rng, ref, f"heat_{number}", f"svc-heat-{number}", "bound")


def _document(views: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number in range(views):
        version = _version([f"f{place}" for place in range(FEATURES_OF_A_VIEW)], f"table_{number:05}")
        found[f"v{number:05}"] = {"current": 1, "versions": {"1": version, "2": version}}
    found["score"] = {"current": 1, "versions": {"1": _version(["score"], "score", kind="push")}}
    heat = _version([], "none") | {
        "kind": "on_demand",
        "source": None,
        "inputs": ["v00000@v1:f0", "v00000@v1:f1"],
        "features": [_feature("heat", sql="f0 + f1")],
    }
    found["heat"] = {"current": 1, "versions": {"1": heat}}
    keys = {"entity": {"join_keys": [["id", "string"]]}}
    head = {"schema_version": 1, "project": "generated", "revision": 1, "committed_at": APPLIED, "entities": keys}
    return {**head, "views": found, "services": {}, "consumers": {}, "datasets": {}}


def _version(names: list[str], table: str, *, kind: str = "parquet") -> dict[str, Any]:
    source = {"kind": kind, "name": table, "event_timestamp": "at", "created_timestamp": None}
    features = [_feature(name) for name in names]
    return {
        "kind": "batch",
        "status": "live",
        "entity": "entity",
        "source": source,
        "features": features,
        "owner": "o@x",
    }


def _feature(name: str, *, sql: str | None = None) -> dict[str, Any]:
    expression = {"sql": sql} if sql else None
    return {
        "name": name,
        "dtype": "float64",
        "column": None if sql else name,
        "aggregation": None,
        "expression": expression,
    }


def _declare(
    truth: Truth, key: str, reads: list[str], *, kind: str = "model", cadence: float | None = None, writes: Any = ()
) -> None:
    name, _, number = key.partition("@")
    fields = {"reads": reads, "writes": list(writes), "cadence_days": cadence, "owner": "o@x"}
    truth.document["consumers"][key] = {"kind": kind, "name": name, "version": number or None, **fields}


def _read(
    truth: Truth, rng: random.Random, ref: str, consumer: str, principal: str, binding: str, *, outcome: str = "ok"
) -> None:
    view, _, rest = ref.partition("@v")
    number, _, name = rest.partition(":")
    for _ in range(rng.randint(1, 3)):
        day, worker = rng.choice(WINDOW), rng.randrange(WORKERS)
        truth.reads.append((worker, day, view, int(number), name, principal, consumer, binding, outcome))
    if outcome == "ok" and consumer:
        truth.served.add((consumer, ref))


def write(truth: Truth, folder: Path, *, lost: float = 0.0, seed: int = 0) -> set[tuple[int, int]]:
    """Write the project; a share of the segments is lost with all that they counted. Returns the lost (worker, day)."""
    rng = random.Random(seed)
    segments = [(worker, day) for worker in range(WORKERS) for day in WINDOW]
    gone = set(rng.sample(segments[1:-1], round(lost * len(segments)))) if lost else set()
    (folder / "store").mkdir(parents=True)
    (folder / "featurestore.toml").write_text("")
    with sqlite3.connect(folder / "store" / "registry.db") as database:
        database.executescript(_TABLES)
        database.execute("INSERT INTO commits VALUES (1, ?, 'a', '', ?)", (APPLIED, json.dumps(truth.document)))
        database.executemany("INSERT INTO bindings VALUES (?, ?, ?)", [(*pair, APPLIED) for pair in truth.bindings])
        database.executemany(_ADD, (_row(read) for read in truth.reads if (read[0], read[1]) not in gone))
        database.executemany(
            "INSERT INTO usage_segments VALUES (?, ?, 'prod', ?, ?, ?, 0)",
            [
                (f"w{worker}", day - WINDOW[0], day * DAY, (day + 1) * DAY, int(day == WINDOW[-1]))
                for worker, day in segments
                if (worker, day) not in gone
            ],
        )
    return gone


def _row(read: tuple[Any, ...]) -> tuple[Any, ...]:
    _, day, view, version, name, principal, consumer, binding, outcome = read
    text = time.strftime("%Y-%m-%d", time.gmtime(day * 86_400))
    at = day * DAY + 3_600_000_000
    return (text, view, version, name, principal, consumer, binding, outcome, at, at)


_TABLES = """
CREATE TABLE commits (revision INTEGER PRIMARY KEY, committed_at INTEGER, principal TEXT, message TEXT, document TEXT);
CREATE TABLE bindings (principal TEXT, consumer TEXT, created_at INTEGER);
CREATE TABLE usage_daily (day TEXT, view TEXT, version INTEGER, feature TEXT, principal TEXT, consumer TEXT, binding TEXT,
    environment TEXT, mode TEXT, client TEXT, outcome TEXT, calls INTEGER, entity_rows INTEGER, first_read INTEGER,
    last_read INTEGER, PRIMARY KEY (day, view, version, feature, principal, consumer, binding, environment, mode, client, outcome));
CREATE TABLE usage_segments (worker TEXT, number INTEGER, environment TEXT, started_at INTEGER, ended_at INTEGER,
    closed INTEGER, dropped INTEGER);
"""
_ADD = """
INSERT INTO usage_daily VALUES (?, ?, ?, ?, ?, ?, ?, 'prod', 'online', 'host', ?, 1, 1, ?, ?)
ON CONFLICT DO UPDATE SET calls = calls + 1
"""


def scores(truth: Truth, folder: Path) -> dict[str, Any]:
    """Return precision and recall of the structural findings, what was wrong, and how long the report took."""
    started = time.perf_counter()
    found = Lineage(folder, clock=lambda: NOW).check(select=["LN1", "LN201"])
    elapsed = time.perf_counter() - started
    flagged = {
        (f.rule.code, f.subject) for f in found.all if f.verdict is Verdict.FLAGGED and f.rule.code in STRUCTURAL
    }
    never_read = {
        (f.subject.partition(" declares ")[0], feature)
        for f in found.all
        if f.rule.code == "LN201" and f.verdict is Verdict.FLAGGED
        for feature in f.features
    }
    hits = len(flagged & truth.debts)
    return {
        "precision": hits / len(flagged) if flagged else 1.0,
        "recall": hits / len(truth.debts),
        "wrong": sorted(flagged - truth.debts),
        "missed": sorted(truth.debts - flagged),
        "falsely_never_read": sorted(never_read & truth.served),
        "complete": found.coverage.complete,
        "seconds": elapsed,
    }


def measure_findings(features: int, consumers: int, plants: int, *, seed: int = 1) -> None:
    """Print how exact the findings are on a complete log, and with 1 % of the segments lost."""
    truth = generate(features, consumers, plants, seed=seed)
    for lost in (0.0, 0.01):
        with tempfile.TemporaryDirectory() as folder:
            write(truth, Path(folder), lost=lost, seed=seed)
            found = scores(truth, Path(folder))
        print(
            f"lost {lost:4.0%}: precision {found['precision']:.4f}, recall {found['recall']:.4f}, debts {len(truth.debts)}, reads "
            f"{len(truth.reads)}, coverage {'complete' if found['complete'] else 'incomplete'}, "
            f"falsely never read {len(found['falsely_never_read'])}, report {found['seconds']:.2f} s"
        )
        for name in ("wrong", "missed"):
            print(*(f"    {name}: {debt}" for debt in found[name][:5]), sep="\n")
