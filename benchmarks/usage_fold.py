"""Claim: reads fold from slots to daily usage faster than a million a second, in bounded memory, and the report follows at once.

    python -m benchmarks.usage_fold [READS]     default: 100 million

Counts reads as a worker does, one call each, over 90 days of a project with many features and readers; folds every segment into a
registry; then asks for the undeclared readers of those days. Prints one line a measure. Most of the time goes into counting.
"""

from __future__ import annotations

import resource
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.lineage_truth import DAY, NOW, generate, write
from featurestore.audit import UsageWriter, collect
from lineage import Lineage

DAYS = 90
PLANS, FEATURES = 200, 20
PRINCIPALS = 50


def main(reads: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        write(generate(4_000, 400, 40, seed=3), project, lost=0.0, seed=3)
        counted = time.perf_counter()
        calls = count(project / "usage", reads)
        counted = time.perf_counter() - counted
        folded = time.perf_counter()
        with sqlite3.connect(project / "store" / "registry.db", isolation_level=None) as connection:
            report = collect(project / "usage", connection)
        folded = time.perf_counter() - folded
        total = sum(segment.calls for segment in report.folded)
        assert total == calls, (total, calls)
        assert not report.problems
        assert not any(segment.dropped for segment in report.folded)
        asked = time.perf_counter()
        found = Lineage(project, clock=lambda: NOW).check(select=["LN1"], since=f"{DAYS}d")
        asked = time.perf_counter() - asked
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        print(f"counted   {calls:>12,} reads in {counted:7.1f} s   {calls / counted:>12,.0f} reads/s")
        print(f"folded    {len(report.folded):>12,} segments in {folded:5.1f} s   {calls / folded:>12,.0f} reads/s")
        print(f"report    {len(found.all):>12,} findings in {asked:5.1f} s   over {DAYS} days")
        print(f"memory    {peak:>12,} MiB at most")


def count(folder: Path, reads: int) -> int:
    """Count reads of 90 days, spread over plans and principals, and hand over a segment each day."""
    now = [NOW - DAYS * DAY]
    writer = UsageWriter(folder, environment="prod", clock=lambda: now[0])
    for plan in range(PLANS):
        writer.register_plan(f"plan-{plan}", tuple(f"v{plan:05}@v1:f{n}" for n in range(FEATURES)))
    each = reads // (DAYS * PLANS)
    for _ in range(DAYS):
        for plan in range(PLANS):
            who = f"svc-model_{plan % PRINCIPALS:05}@1"
            for _ in range(each):
                writer.record(f"plan-{plan}", who, "", "undeclared", "host", "online", "ok", 1)
        writer.rotate()
        now[0] += DAY
    writer.close()
    return each * DAYS * PLANS


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000_000)
