"""Measure the claims beside the peers: `make bench`, or `python benchmarks/run.py --only training_read --rounds 3`."""

from __future__ import annotations

import argparse
import sys
import time

import append_commit
import client_decode
import handler
import materialize
import online_read
import page
import report
import start_up
import training_memory
import training_read
import transports
import windows
import windows_online
from measuring import Effort

BENCHMARKS = {
    "start_up": start_up.measure,
    "training_read": training_read.measure,
    "training_memory": training_memory.measure,
    "windows": windows.measure,
    "windows_online": windows_online.measure,
    "append_commit": append_commit.measure,
    "materialize": materialize.measure,
    "online_read": online_read.measure,
    "handler": handler.measure,
    "client_decode": client_decode.measure,
    "transports": transports.measure,
}


def main() -> None:
    """Run the benchmarks that were asked for, print the table and write it as JSON."""
    asked = _arguments()
    effort = Effort(rounds=asked.rounds or (1 if asked.small else 5), small=asked.small)
    begun = time.perf_counter()
    claims = []
    for name in asked.only or BENCHMARKS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        claims += BENCHMARKS[name](effort)
    run = report.document(claims, effort, seconds=time.perf_counter() - begun)
    print(report.text(run))
    print(f"written to {report.save(run)}", file=sys.stderr)
    if asked.page and not effort.small:
        page.update(run)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=BENCHMARKS, help="one benchmark; may be repeated")
    parser.add_argument("--rounds", type=int, help="how often everything is measured; default: 5, with --small 1")
    parser.add_argument("--small", action="store_true", help="little data and time, only to try the scripts")
    parser.add_argument("--page", action="store_true", help="also put the numbers into docs/benchmarks.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
