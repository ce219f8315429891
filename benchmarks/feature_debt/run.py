"""FeatureDebtBench, statistical track: how often the verdicts are wrong, beside the rules that people use instead.

python benchmarks/feature_debt/run.py                 development seeds, 1,000 runs of each closed-form case
python benchmarks/feature_debt/run.py --runs 100      quicker
python benchmarks/feature_debt/run.py --trees 200     boosted trees, too: a long run
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # each process has a core of its own
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import inputs
import numpy as np
from cases import BOUNDARY, boosted, clustered, designed
from reports import RATIOS, RULES, report

from lineage.evaluation.verdicts import Worth

DEVELOPMENT_SEED = 1_000
RESULTS = Path(__file__).parents[1] / "results" / "feature_debt.json"
POWER_CELLS = ((0.0, 0.5), (0.5, 0.25), (0.9, 0.0), (0.9, 0.5))


@dataclass(frozen=True)
class Rate:
    """How often something happened, and the limit it is held to.

    Attributes:
        what: What was counted.
        happened: In how many runs.
        runs: Of how many.
        limit: The rate it is held to.
        at_most: Whether the limit is an upper one.
    """

    what: str
    happened: int
    runs: int
    limit: float
    at_most: bool = True

    @property
    def rate(self) -> float:
        return self.happened / self.runs

    @property
    def holds(self) -> bool:
        """Within two Monte Carlo standard errors of the limit."""
        slack = 2 * (self.limit * (1 - self.limit) / self.runs) ** 0.5
        return self.rate <= self.limit + slack if self.at_most else self.rate >= self.limit - slack


def claims(case, runs: int, seed: int, wanted: tuple[Worth, ...]) -> int:
    """Return in how many runs of a case the verdict was one of some."""
    return sum(case.draw(np.random.default_rng([seed, run])).worth in wanted for run in range(runs))


USELESS = (Worth.NEGLIGIBLE, Worth.HARMFUL)


def false_negligible(place: int, *, runs: int, seed: int) -> Rate:
    """Count wrong claims of a boundary case."""
    case = BOUNDARY[place]()
    return Rate(f"NEGLIGIBLE at {case.ratio:g} epsilon: {case.name}", claims(case, runs, seed, USELESS), runs, 0.05)


def false_negligible_trees(binary: bool, *, runs: int, seed: int) -> Rate:
    """Count wrong claims on boosted trees at the boundary."""
    case = boosted(2000, binary=binary)
    return Rate(f"NEGLIGIBLE at 1 epsilon: {case.name}", claims(case, runs, seed, USELESS), runs, 0.05)


def power(cell: tuple[float, float], *, runs: int, seed: int) -> Rate:
    """Count right claims where the design predicts 0.8."""
    case, rows = designed(*cell)
    what = f"NEGLIGIBLE at {cell[1]:g} epsilon, correlation {cell[0]:g}, with the {rows} rows the design asks for"
    return Rate(what, claims(case, runs, seed, USELESS), runs, 0.8, at_most=False)


def row_errors_alone(_: int, *, runs: int, seed: int) -> Rate:
    """Count wrong claims when clustered rows are taken as independent: this one is expected to fail, and shows why clusters count."""
    case = clustered(400, 1.0, by_cluster=False)
    return Rate(f"for comparison: {case.name}", claims(case, runs, seed, USELESS), runs, 0.05)


def whole_reports(rho: float, *, runs: int, seed: int, rows: int = 4000) -> dict[str, float]:
    """Return the false discovery proportion of whole reports, and how each rule does: wrong removals and found ones."""
    harmful = {j for j, ratio in enumerate(RATIOS) if ratio >= 1}
    worthless = {j for j, ratio in enumerate(RATIOS) if ratio == 0}
    found: dict[str, list[float]] = {"false discoveries": []}
    for run in range(runs):
        told = report(rows, rho, np.random.default_rng([seed, run]))
        ours = told.removed["ours"]
        wrong = len(ours & harmful) + len({j for j in told.material if RATIOS[j] <= 1})
        found["false discoveries"].append(wrong / max(len(ours) + len(told.material), 1))
        for rule in RULES:
            found.setdefault(f"{rule}: removes what is needed", []).append(
                len(told.removed[rule] & harmful) / len(harmful)
            )
            found.setdefault(f"{rule}: finds what is worthless", []).append(
                len(told.removed[rule] & worthless) / len(worthless)
            )
    means = {name: float(np.mean(values)) for name, values in found.items()}
    means["false discoveries, standard error"] = float(np.std(found["false discoveries"]) / runs**0.5)
    return means


def measure(runs: int, trees: int, seed: int) -> dict[str, object]:
    """Run the whole track."""
    begun = time.perf_counter()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        boundary = list(pool.map(partial(false_negligible, runs=runs, seed=seed), range(len(BOUNDARY))))
        powers = list(pool.map(partial(power, runs=runs, seed=seed), POWER_CELLS))
        forests = list(pool.map(partial(false_negligible_trees, runs=trees, seed=seed), (False, True))) if trees else []
        shown = list(pool.map(partial(row_errors_alone, runs=runs, seed=seed), (0,)))
        about_inputs = pool.submit(inputs.measure, max(5, runs // 10), seed)
        rhos = (0.0, 0.5, 0.9)
        reports = dict(
            zip(rhos, pool.map(partial(whole_reports, runs=max(50, runs // 4), seed=seed), rhos), strict=True)
        )
        found_inputs = about_inputs.result()
    rates = [*boundary, *forests, *powers]
    return {
        "schema_version": 1,
        "seed": seed,
        "runs": runs,
        "runs_of_trees": trees,
        "seconds": round(time.perf_counter() - begun, 1),
        "holds": all(rate.holds for rate in rates)
        and inputs.holds(found_inputs)
        and all(r["false discoveries"] <= 0.05 + 2 * r["false discoveries, standard error"] for r in reports.values()),
        "rates": [{**asdict(rate), "rate": rate.rate, "holds": rate.holds} for rate in rates],
        "comparison": [{**asdict(rate), "rate": rate.rate} for rate in shown],
        "inputs": found_inputs,
        "reports": {f"correlation {rho}": found for rho, found in reports.items()},
    }


def text(result: dict) -> str:
    """Return a result for people."""
    lines = [f"seed {result['seed']}, {result['runs']} runs, {result['seconds']} s"]
    for rate in [*result["rates"], *result["comparison"]]:
        sign, mark = ("<=" if rate["at_most"] else ">="), "" if rate.get("holds", True) else "   FAILS"
        lines.append(f"{rate['rate']:7.3f} {sign} {rate['limit']:<5} {rate['what']}{mark}")
    lines += [f"{value:7.3f} {what}" for what, value in result["inputs"].items()]
    for name, found in result["reports"].items():
        lines += [f"whole reports, {name}", *(f"{value:7.3f} {what}" for what, value in found.items())]
    return "\n".join(lines)


def main() -> None:
    """Run, print, and write results/feature_debt.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--trees", type=int, default=0)
    parser.add_argument("--seed", type=int, default=DEVELOPMENT_SEED)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    result = measure(asked.runs, asked.trees, asked.seed)
    asked.out.parent.mkdir(exist_ok=True)
    asked.out.write_text(json.dumps(result, indent=2) + "\n")
    print(text(result))
    sys.exit(0 if result["holds"] else 1)


if __name__ == "__main__":
    main()
