"""FeatureDebtBench, statistical track: how often the verdicts are wrong, beside the rules that people use instead.

python benchmarks/feature_debt/run.py                 development seeds, 1,000 runs of each closed-form case
python benchmarks/feature_debt/run.py --runs 100      quicker
python benchmarks/feature_debt/run.py --trees 200     boosted trees, too: a long run

python benchmarks/feature_debt/run.py --only reports  one track

Each run's result is kept as soon as it is there; the same command again goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # each process has a core of its own
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import cost
import inputs
import numpy as np
import structure
from cases import BOUNDARY, boosted, clustered, designed
from ledger import FINDINGS, HERE, VERDICTS, Ledger, code_of
from reports import RATIOS, RULES, report

from lineage.evaluation.verdicts import Worth

DEVELOPMENT_SEED = 1_000
RESULTS = Path(__file__).parents[1] / "results" / "feature_debt.json"
KEPT = RESULTS.with_suffix("")
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


def claims(case, runs: int, ledger: Ledger, wanted: tuple[Worth, ...]) -> int:
    """Return in how many runs of a case the verdict was one of some."""
    said = ledger.results(f"{case.name}, {case.ratio:g} epsilon", runs, lambda rng: str(case.draw(rng).worth))
    return sum(worth in wanted for worth in said)


USELESS = (Worth.NEGLIGIBLE, Worth.HARMFUL)


def false_negligible(place: int, *, runs: int, ledger: Ledger) -> Rate:
    """Count wrong claims of a boundary case."""
    case = BOUNDARY[place]()
    return Rate(f"NEGLIGIBLE at {case.ratio:g} epsilon: {case.name}", claims(case, runs, ledger, USELESS), runs, 0.05)


def false_negligible_trees(binary: bool, *, runs: int, ledger: Ledger) -> Rate:
    """Count wrong claims on boosted trees at the boundary."""
    case = boosted(2000, binary=binary)
    return Rate(f"NEGLIGIBLE at 1 epsilon: {case.name}", claims(case, runs, ledger, USELESS), runs, 0.05)


def power(cell: tuple[float, float], *, runs: int, ledger: Ledger) -> Rate:
    """Count right claims where the design predicts 0.8."""
    case, rows = designed(*cell)
    what = f"NEGLIGIBLE at {cell[1]:g} epsilon, correlation {cell[0]:g}, with the {rows} rows the design asks for"
    return Rate(what, claims(case, runs, ledger, USELESS), runs, 0.8, at_most=False)


def row_errors_alone(_: int, *, runs: int, ledger: Ledger) -> Rate:
    """Count wrong claims when clustered rows are taken as independent: this one is expected to fail, and shows why clusters count."""
    case = clustered(400, 1.0, by_cluster=False)
    return Rate(f"for comparison: {case.name}", claims(case, runs, ledger, USELESS), runs, 0.05)


def whole_reports(rho: float, *, runs: int, ledger: Ledger, rows: int = 4000) -> dict[str, float]:
    """Return the false discovery proportion of whole reports, and how each rule does: wrong removals and found ones."""
    harmful = {j for j, ratio in enumerate(RATIOS) if ratio >= 1}
    worthless = {j for j, ratio in enumerate(RATIOS) if ratio == 0}
    found: dict[str, list[float]] = {"false discoveries": []}
    said = ledger.results(f"report, {rows} rows, correlation {rho:g}", runs, lambda rng: report(rows, rho, rng))
    for told in said:
        ours, material = set(told["removed"]["ours"]), set(told["material"])
        wrong = len(ours & harmful) + len({j for j in material if RATIOS[j] <= 1})
        found["false discoveries"].append(wrong / max(len(ours) + len(material), 1))
        for rule in RULES:
            removed = set(told["removed"][rule])
            found.setdefault(f"{rule}: removes what is needed", []).append(len(removed & harmful) / len(harmful))
            found.setdefault(f"{rule}: finds what is worthless", []).append(len(removed & worthless) / len(worthless))
    means = {name: float(np.mean(values)) for name, values in found.items()}
    means["false discoveries, standard error"] = float(np.std(found["false discoveries"]) / runs**0.5)
    return means


@dataclass(frozen=True)
class Effort:
    """How much is run.

    Attributes:
        runs: Of each closed-form case; a quarter of it of whole reports, a tenth of debts among inputs.
        trees: Of each case of boosted trees; 0 leaves them out.
        seed: Of all.
        folder: Where the results of single runs are kept, so that what was stopped goes on; None keeps none.
        minutes: The budget of the evaluation whose cost is measured.
    """

    runs: int
    trees: int
    seed: int
    folder: Path | None = None
    minutes: float = cost.MINUTES

    @property
    def ledger(self) -> Ledger:
        """Where results of the verdicts are kept."""
        own = (HERE / f"{name}.py" for name in ("cases", "learners", "reports"))
        return Ledger(self.seed, self.folder, code_of((*VERDICTS, *own)))


def epsilon_track(effort: Effort, pool: Executor) -> dict[str, Any]:
    """Count wrong and right claims of verdicts in closed form."""
    kept = {"runs": effort.runs, "ledger": effort.ledger}
    boundary = pool.map(partial(false_negligible, **kept), range(len(BOUNDARY)))
    powers = pool.map(partial(power, **kept), POWER_CELLS)
    shown = pool.map(partial(row_errors_alone, **kept), (0,))
    return _rates([*boundary, *powers], list(shown))


def trees_track(effort: Effort, pool: Executor) -> dict[str, Any]:
    """Count wrong claims on boosted trees."""
    if not effort.trees:
        return {"holds": True, "rates": []}
    count = partial(false_negligible_trees, runs=effort.trees, ledger=effort.ledger)
    return _rates(list(pool.map(count, (False, True))))


def _rates(rates: list[Rate], shown: Sequence[Rate] = ()) -> dict[str, Any]:
    return {
        "holds": all(rate.holds for rate in rates),
        "rates": [{**asdict(rate), "rate": rate.rate, "holds": rate.holds} for rate in rates],
        "comparison": [{**asdict(rate), "rate": rate.rate} for rate in shown],
    }


def reports_track(effort: Effort, pool: Executor) -> dict[str, Any]:
    """Count wrong claims of whole reports, beside the rules that people use instead."""
    rhos, runs = (0.0, 0.5, 0.9), max(50, effort.runs // 4)
    found = list(pool.map(partial(whole_reports, runs=runs, ledger=effort.ledger), rhos))
    within = [r["false discoveries"] <= 0.05 + 2 * r["false discoveries, standard error"] for r in found]
    scores = {f"correlation {rho:g}": means for rho, means in zip(rhos, found, strict=True)}
    return {"holds": all(within), "runs": runs, "scores": scores}


def inputs_track(effort: Effort, pool: Executor) -> dict[str, Any]:
    """Score removable groups, legacy pairs and clusters."""
    runs = max(5, effort.runs // 10)
    found = pool.submit(inputs.measure, runs, inputs.ledger(effort.seed, effort.folder)).result()
    return {"holds": inputs.holds(found), "runs": runs, "scores": {"all": found}}


def cost_track(effort: Effort, pool: Executor) -> dict[str, Any]:
    """Measure what an evaluation of thirty features takes."""
    found = pool.submit(cost.measure, cost.ROWS, effort.seed, minutes=effort.minutes).result()
    return {"holds": cost.holds(found), "scores": {"boosted trees": found}}


def structure_track(effort: Effort, pool: Executor) -> dict[str, Any]:
    """Compare planted bundles, loops and cascades with those that are found: both must be the same."""
    runs = max(5, effort.runs // 10)
    kept = Ledger(effort.seed, effort.folder, code_of((*FINDINGS.glob("*.py"), HERE / "structure.py")))
    found = structure.scores(pool.submit(kept.results, "structure", runs, structure.compared).result())
    exact = all(value == 1 for name, value in found.items() if not name.endswith("planted"))
    return {"holds": exact, "runs": runs, "scores": {"all": found}}


TRACKS: dict[str, Callable[[Effort, Executor], dict[str, Any]]] = {
    "epsilon": epsilon_track,
    "reports": reports_track,
    "structure": structure_track,
    "inputs": inputs_track,
    "trees": trees_track,
    "cost": cost_track,
}


def measure(effort: Effort, only: Sequence[str], processes: int) -> dict[str, Any]:
    """Run some tracks; return what each found, and how long it took this time."""
    found = {}
    with ProcessPoolExecutor(processes) as pool:
        for name in only:
            begun = time.perf_counter()
            section = TRACKS[name](effort, pool)
            section["seconds"] = round(time.perf_counter() - begun, 1)
            found[name] = {"seed": effort.seed, **section}
            print(text(name, found[name]), flush=True)
    return found


def text(name: str, section: dict[str, Any]) -> str:
    """Return what a track found for people."""
    lines = [f"{name}: seed {section['seed']}, {section['seconds']} s, {'holds' if section['holds'] else 'FAILS'}"]
    for rate in [*section.get("rates", ()), *section.get("comparison", ())]:
        sign, mark = ("<=" if rate["at_most"] else ">="), "" if rate.get("holds", True) else "   FAILS"
        lines.append(f"{rate['rate']:7.3f} {sign} {rate['limit']:<5} of {rate['runs']}: {rate['what']}{mark}")
    for group, scores in section.get("scores", {}).items():
        lines += [f"  {group}", *(f"{value:7.3f} {what}" for what, value in scores.items())]
    return "\n".join(lines)


def main() -> None:
    """Run, print, and write results/feature_debt.json: the tracks that were run replace theirs in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--trees", type=int, default=0)
    parser.add_argument("--seed", type=int, default=DEVELOPMENT_SEED)
    parser.add_argument("--minutes", type=float, default=cost.MINUTES)
    parser.add_argument("--only", nargs="*", choices=TRACKS, default=list(TRACKS))
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    found = measure(Effort(asked.runs, asked.trees, asked.seed, KEPT, asked.minutes), asked.only, asked.processes)
    asked.out.parent.mkdir(exist_ok=True)
    before = json.loads(asked.out.read_text())["tracks"] if asked.out.exists() else {}
    document = {"schema_version": 2, "tracks": {**before, **found}}
    asked.out.write_text(json.dumps(document, indent=2) + "\n")
    sys.exit(0 if all(section["holds"] for section in found.values()) else 1)


if __name__ == "__main__":
    main()
