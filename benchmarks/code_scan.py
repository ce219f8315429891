"""How right and how fast the code scan is, on repositories whose reads are known (benchmarks/scan_corpus.py).

Run it with `python benchmarks/code_scan.py`; `--files N`, `--plain N` (files that read nothing), `--seeds N`, `--show N` misses. Exit
code 1 when precision or recall is below what is promised, or something nobody can tell is not listed.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.scan_corpus import make_corpus, truth_of
from lineage.scan import scan

PROMISED = 0.98


@dataclass(frozen=True)
class Verdict:
    """How a scan compares with the truth."""

    right: int
    false: list
    missed: list
    listed: int
    lost: list
    files: int
    seconds: float

    @property
    def precision(self) -> float:
        return self.right / max(1, self.right + len(self.false))

    @property
    def recall(self) -> float:
        return self.right / max(1, self.right + len(self.missed))


def judge(root: Path) -> Verdict:
    """Scan a repository and compare what is found with what its comments say."""
    known, unknown = truth_of(root)
    begun = time.perf_counter()
    result = scan(root)
    seconds = time.perf_counter() - begun
    found = {(r.file, r.line, r.ref) for r in result.references}
    listed = {(u.file, u.line) for u in result.unresolved}
    return Verdict(
        right=len(known & found),
        false=sorted(found - known),
        missed=sorted(known - found),
        listed=len(unknown & listed),
        lost=sorted(unknown ^ listed),
        files=result.files,
        seconds=seconds,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--plain", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--show", type=int, default=10)
    asked = parser.parse_args()
    kept = True
    for seed in range(asked.seeds):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "repository"
            make_corpus(root, files=asked.files, seed=seed, plain=asked.plain)
            verdict = judge(root)
        print(
            f"seed {seed}: {verdict.right} references, precision {verdict.precision:.4f}, recall {verdict.recall:.4f}, "
            f"{verdict.listed} unknown ones listed, {len(verdict.lost)} not or too many; {verdict.files} files in {verdict.seconds:.2f} s"
        )
        for miss in (*verdict.false, *verdict.missed, *verdict.lost)[: asked.show]:
            print("   ", miss)
        kept &= min(verdict.precision, verdict.recall) >= PROMISED and not verdict.lost
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
