"""What a randomised holdout says: whether one model's decisions change what another model reads.

Only chance may have chosen for whom the first model decides. Then the difference of the outcome between the two arms is the effect of
the decisions, and nothing else makes it but chance. The p value is that of a permutation of the arms with a studentised difference:
exact where the decisions change nothing for anybody, and right in the limit where they change nothing on average (Wu, Ding,
*Randomization tests for weak null hypotheses in randomized experiments*, JASA 2021). The bounds are Welch's.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lineage.errors import CorruptRegistryError, InvalidQuestionError, NotFoundError
from lineage.evaluation.documents import save_document
from lineage.evaluation.verdicts import ALPHA, holm

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pyarrow import Table

FOLDER = Path("holdouts")  # under the folder of the evaluation records
SCHEMA_VERSION = 1
FEWEST_UNITS = 20  # in each arm; below, neither the bounds nor the p value mean much
DRAWS = 1999
_LARGE = 5000  # units in the smaller arm, from which on permutations say what Student's t does
_BY_ACCIDENT = 0.001  # arms so far from their declared share, or so unequally measured, are no accident
_SEED = 20_130_101


@dataclass(frozen=True, slots=True)
class Effect:
    """What the decisions change of one outcome.

    Attributes:
        outcome: What was measured.
        treated: Units that the model decided for and that have the outcome.
        control: Units left to chance that have it.
        difference: Mean of the treated minus that of the others.
        lower: The effect is above this with 97.5 %.
        upper: It is below this with 97.5 %.
        p: Of a difference as large, did the decisions change nothing; adjusted over all outcomes of the holdout (Holm).
        problem: Why nothing can be said; empty when it can.
    """

    outcome: str
    treated: int
    control: int
    difference: float = math.nan
    lower: float = math.nan
    upper: float = math.nan
    p: float = 1.0
    problem: str = ""

    @property
    def affects(self) -> bool:
        """Whether the decisions change the outcome, at an error of 5 % over all outcomes of the holdout."""
        return not self.problem and self.p <= ALPHA and not self.lower <= 0 <= self.upper


@dataclass(frozen=True, slots=True)
class Holdout:
    """A randomised holdout of one model's decisions, and what another model reads.

    Attributes:
        acts: Name of the model whose decisions were left to chance for some.
        reads: Name of the model that reads the outcomes.
        randomised_by: Who or what chose the arms, as the person who ran it says.
        source: The file the units were read from.
        digest: SHA-256 of the file.
        created_at: Microseconds since 1970 UTC.
        effects: One per outcome.
    """

    acts: str
    reads: str
    randomised_by: str
    source: str
    digest: str
    created_at: int
    effects: tuple[Effect, ...]

    @property
    def id(self) -> str:
        """A stable identity: a hash of who, what and when."""
        parts = (self.acts, self.reads, self.digest, self.created_at)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def document(self) -> dict[str, Any]:
        """Return it as JSON values; what is not known is null."""
        effects = [{**_known(asdict(effect)), "affects": effect.affects} for effect in self.effects]
        return {"id": self.id, **asdict(self), "effects": effects}


@dataclass(frozen=True, slots=True)
class Arms:
    """Units with their arm and outcomes, as a file says.

    Attributes:
        treated: bool ``(units,)``: whether the model decided for the unit.
        outcomes: Name -> float64 ``(units,)``; NaN is not measured.
        digest: SHA-256 of the file.
    """

    treated: NDArray[Any]
    outcomes: dict[str, NDArray[Any]]
    digest: str


def read_arms(path: Path, *, treated: str, outcomes: Sequence[str], unit: str = "") -> Arms:
    """Read a Parquet or CSV file of units.

    Args:
        path: The file.
        treated: Column that says for whom the model decided: true or false, 1 or 0.
        outcomes: Columns of numbers: what the other model reads.
        unit: Column of what was randomised; rows of one unit are averaged. Empty: each row is a unit.

    Raises:
        NotFoundError: There is no such file or column.
        InvalidQuestionError: A column is not of its kind, or a unit is in both arms.
    """
    table = _read_table(path)
    for column in filter(None, (treated, unit, *outcomes)):
        if column not in table.column_names:
            raise NotFoundError.of("column", column, table.column_names)
    arm = _numbers(table, treated)
    if not set(arm.tolist()) <= {0.0, 1.0}:
        raise InvalidQuestionError(f"'{treated}' says more than treated or not.", repair="Write true or false.")
    values = {name: _numbers(table, name) for name in outcomes}
    if unit:
        arm, values = _averaged(table, unit, arm, values)
    return Arms(arm.astype(bool), values, hashlib.sha256(path.read_bytes()).hexdigest())


def _read_table(path: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import csv

    if not path.is_file():
        raise NotFoundError(f"There is no file '{path}'.")
    try:
        return csv.read_csv(path) if path.suffix == ".csv" else pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise InvalidQuestionError(f"'{path}' cannot be read: {error}.", repair="Give Parquet or CSV.") from error


def _numbers(table: Table, column: str) -> NDArray[Any]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        return np.asarray(pc.cast(table[column], pa.float64(), safe=False).to_numpy(), np.float64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InvalidQuestionError(f"'{column}' is no column of numbers.", repair="Name another one.") from error


def _averaged(
    table: Table, unit: str, arm: NDArray[Any], values: dict[str, NDArray[Any]]
) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
    """Return one arm and one mean outcome per unit: rows of a unit were randomised together, so they count as one."""
    import numpy as np

    encoded = table[unit].combine_chunks().dictionary_encode(null_encoding="encode")
    of = np.asarray(encoded.indices, np.int64)
    counts = np.bincount(of)
    arms = np.bincount(of, arm) / counts
    if not np.isin(arms, (0.0, 1.0)).all():
        raise InvalidQuestionError(
            f"{int((~np.isin(arms, (0.0, 1.0))).sum())} units of '{unit}' are in both arms.",
            repair="Name what was randomised.",
        )
    means = {}
    for name, column in values.items():
        known = ~np.isnan(column)
        seen = np.bincount(of[known], minlength=len(counts))
        with np.errstate(invalid="ignore"):
            means[name] = np.bincount(of[known], column[known], minlength=len(counts)) / seen
    return arms, means


def effects_of(arms: Arms, *, share: float | None = None, seed: int = _SEED) -> tuple[Effect, ...]:
    """Compare the two arms by each outcome.

    Args:
        arms: The units.
        share: Of the units that should be treated; None is not declared. Arms far from it were not made as declared.
        seed: Of the permutations.
    """
    problem = _unlike(arms.treated, share)
    found = [_effect(name, arms.treated, values, problem, seed) for name, values in arms.outcomes.items()]
    adjusted = iter(holm([effect.p for effect in found if not effect.problem]))
    return tuple(
        effect if effect.problem else Effect(**{**asdict(effect), "p": min(1.0, next(adjusted))}) for effect in found
    )


def _unlike(treated: NDArray[Any], share: float | None) -> str:
    """Return why the arms cannot have been made as declared; empty when they can."""
    from scipy.special import bdtr, bdtrc

    count, size = int(treated.sum()), len(treated)
    if share is None or not size:
        return ""
    p = 2 * min(float(bdtr(count, size, share)), float(bdtrc(count - 1, size, share)) if count else 1.0)
    return f"{count} of {size} units are treated, which is not {share:.1%} by chance" if p < _BY_ACCIDENT else ""


def _effect(name: str, treated: NDArray[Any], values: NDArray[Any], problem: str, seed: int) -> Effect:
    import numpy as np

    known = np.isfinite(values)
    ones, zeros = values[known & treated], values[known & ~treated]
    problem = problem or _unmeasured(known, treated) or _too_few(len(ones), len(zeros))
    if not problem and np.ptp(np.concatenate([ones, zeros])) == 0:
        problem = f"'{name}' is the same for every unit"
    if problem:
        return Effect(name, len(ones), len(zeros), problem=problem)
    difference, error, degrees = _welch(ones, zeros)
    margin = _student_quantile(degrees) * error
    p = _p(ones, zeros, difference, error, degrees, seed)
    return Effect(name, len(ones), len(zeros), difference, difference - margin, difference + margin, p)


def _too_few(treated: int, control: int) -> str:
    if min(treated, control) >= FEWEST_UNITS:
        return ""
    return f"{treated} treated and {control} other units have the outcome; at least {FEWEST_UNITS} of each are needed"


def _unmeasured(known: NDArray[Any], treated: NDArray[Any]) -> str:
    """Return that the outcome is missing more often in one arm: then those left are not alike; empty when that may be chance."""
    from scipy.special import ndtr

    sizes = int(treated.sum()), int((~treated).sum())
    missing = int((~known & treated).sum()), int((~known & ~treated).sum())
    if not all(sizes) or not sum(missing):
        return ""
    shares = missing[0] / sizes[0], missing[1] / sizes[1]
    pooled = sum(missing) / sum(sizes)
    error = math.sqrt(pooled * (1 - pooled) * (1 / sizes[0] + 1 / sizes[1]))
    if error == 0 or 2 * float(ndtr(-abs(shares[0] - shares[1]) / error)) >= _BY_ACCIDENT:
        return ""
    return f"the outcome is missing for {shares[0]:.1%} of the treated and {shares[1]:.1%} of the others: the rest cannot be compared"


def _welch(ones: NDArray[Any], zeros: NDArray[Any]) -> tuple[float, float, float]:
    """Return the difference of two means, its standard error, and the degrees of freedom (Welch, 1947)."""
    parts = float(ones.var(ddof=1)) / len(ones), float(zeros.var(ddof=1)) / len(zeros)
    spread = sum(parts)
    if spread == 0:
        return float(ones.mean() - zeros.mean()), 0.0, math.inf
    degrees = spread**2 / (parts[0] ** 2 / (len(ones) - 1) + parts[1] ** 2 / (len(zeros) - 1))
    return float(ones.mean() - zeros.mean()), math.sqrt(spread), degrees


def _student_quantile(degrees: float) -> float:
    from scipy.special import ndtri, stdtrit

    return float(ndtri(1 - ALPHA / 2) if math.isinf(degrees) else stdtrit(degrees, 1 - ALPHA / 2))


def _p(ones: NDArray[Any], zeros: NDArray[Any], difference: float, error: float, degrees: float, seed: int) -> float:
    """Return the p value of both sides: of permutations, or of Student's t where there are many units."""
    import numpy as np
    from scipy.special import stdtr

    if error == 0:
        return 1.0 / (DRAWS + 1)
    seen = abs(difference) / error
    if min(len(ones), len(zeros)) >= _LARGE:
        return 2 * float(stdtr(degrees, -seen))
    values, size = np.concatenate([ones, zeros]), len(ones)
    values = (values - values.mean()) / values.std()
    random = np.random.default_rng(seed)
    total, squares, rest = values.sum(), values @ values, len(values) - size
    drawn = np.concatenate([_sums(random, values, size, draws) for draws in _portions(len(values))])
    means = drawn[:, 0] / size, (total - drawn[:, 0]) / rest
    variances = (
        (drawn[:, 1] - size * means[0] ** 2) / (size - 1),
        (squares - drawn[:, 1] - rest * means[1] ** 2) / (rest - 1),
    )
    spread = np.sqrt(np.maximum(variances[0] / size + variances[1] / rest, 1e-300))
    as_far = int((np.abs(means[0] - means[1]) / spread >= seen * (1 - 1e-9)).sum())
    return (as_far + 1) / (DRAWS + 1)


def _portions(units: int) -> list[int]:
    """Return how many permutations to draw at a time, so that no more than some million numbers are held."""
    most = max(1, 2_000_000 // units)
    return [min(most, DRAWS - done) for done in range(0, DRAWS, most)]


def _sums(random: Any, values: NDArray[Any], size: int, draws: int) -> NDArray[Any]:
    """Return the sum and the sum of squares of the first units of each permutation: float64 ``(draws, 2)``."""
    import numpy as np

    first = random.permuted(np.tile(values, (draws, 1)), axis=1)[:, :size]
    return np.column_stack([first.sum(axis=1), (first * first).sum(axis=1)])


def save_holdout(folder: Path, holdout: Holdout) -> Path:
    """Keep a holdout.

    Args:
        folder: ``store/evaluations`` of the project.
        holdout: What to keep.
    """
    document = {"schema_version": SCHEMA_VERSION, **holdout.document()}
    return save_document(folder / FOLDER / f"{holdout.id}.json", document)


def read_holdouts(folder: Path, *, until: int | None = None) -> tuple[Holdout, ...]:
    """Return the holdouts that are kept, the oldest first.

    Args:
        folder: ``store/evaluations`` of the project.
        until: Only those made by then, in microseconds since 1970 UTC; None is all.

    Raises:
        CorruptRegistryError: One is damaged or of a newer schema.
    """
    found = (_read(path) for path in sorted((folder / FOLDER).glob("*.json")))
    return tuple(
        sorted((h for h in found if until is None or h.created_at <= until), key=lambda h: (h.created_at, h.id))
    )


def _read(path: Path) -> Holdout:
    try:
        document = json.loads(path.read_text("utf-8"))
        if document.pop("schema_version") != SCHEMA_VERSION:
            raise CorruptRegistryError(f"The holdout '{path}' is of another schema.", path=path)
        del document["id"]
        effects = tuple(Effect(**_unknown(effect)) for effect in document.pop("effects"))
        return Holdout(**document, effects=effects)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptRegistryError(f"The holdout '{path}' is damaged: {error}.", path=path) from error


def _known(document: dict[str, Any]) -> dict[str, Any]:
    """Return JSON values: what is not known is null."""
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in document.items()}


def _unknown(document: dict[str, Any]) -> dict[str, Any]:
    return {name: math.nan if value is None else value for name, value in document.items() if name != "affects"}
