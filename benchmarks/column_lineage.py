"""How right column lineage is, judged by changing input values: the 22 queries of TPC-H, and queries made by a grammar.

How edges are judged stands in tests/lineage/column_oracle.py. Run it with `python benchmarks/column_lineage.py`; `--queries N` says how
many queries are made, `--most N` how many databases an edge that was not seen yet gets, `--show N` how many misses are printed. Exit
code 1 when a rate is below what is promised.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial, reduce
from multiprocessing import get_context
from operator import add
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "lineage"))

import column_queries
import tpch
from column_oracle import MEASURES, Verdict, watch_and_judge

from lineage.columns import resolve

PROMISED = {"direct precision": 0.99, "direct recall": 0.99, "indirect precision": 0.97, "indirect recall": 0.97}


def judge_tpch(number: int, *, most: int) -> Verdict:
    sql = tpch.QUERIES[number]
    found = resolve(sql, tpch.TABLES)
    return watch_and_judge(sql, found, tpch.SCHEMA, rows=tpch.ROWS, seed=number, least=4, most=most)


def judge_made(seed: int, *, most: int) -> Verdict:
    query = column_queries.make_query(seed)
    found = resolve(query.sql, column_queries.TABLES)
    return watch_and_judge(
        query.sql, found, column_queries.SCHEMA, rows=10, anchor=query.anchor, seed=seed, least=5, most=most
    )


def lines(name: str, verdict: Verdict, seconds: float, show: int) -> Iterator[str]:
    yield f"{name}: {verdict.outputs} outputs, {len(verdict.opaque)} opaque, {seconds:.0f} s"
    for measure in MEASURES:
        tally = verdict.tallies[measure]
        yield f"  {measure:<20} {tally.rate:.4f}   {tally.right} of {tally.judged}"
        yield from (f"      {miss}" for miss in tally.wrong[:show])


def is_kept(verdict: Verdict) -> bool:
    return all(verdict.tallies[measure].rate >= promised for measure, promised in PROMISED.items())


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--queries", type=int, default=300)
    arguments.add_argument("--first-seed", type=int, default=0)
    arguments.add_argument("--most", type=int, default=150)
    arguments.add_argument("--show", type=int, default=5)
    arguments.add_argument("--processes", type=int, default=2)
    given = arguments.parse_args()
    kept = True
    with ProcessPoolExecutor(given.processes, mp_context=get_context("spawn")) as pool:
        for name, judge, cases in (
            ("TPC-H", judge_tpch, list(tpch.QUERIES)),
            ("made by the grammar", judge_made, range(given.first_seed, given.first_seed + given.queries)),
        ):
            begun = time.monotonic()
            verdict = reduce(add, pool.map(partial(judge, most=given.most), cases), Verdict())
            print("\n".join(lines(name, verdict, time.monotonic() - begun, given.show)), flush=True)
            kept &= is_kept(verdict)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
