"""Profiles: what the values of a view version looked like, kept over time; and how far a batch lies from one.

    <profiles>/<view>/v<version>.jsonl    one Profile a line, oldest first
    <profiles>/<view>/v<version>.rows     sizes of the batches that were admitted, one a line, for views that compare them

Counts, distinct values, extremes, mean, standard deviation, top values and the counts of all bins are exact. Up to a million distinct
values the quantiles are exact too; above, the bounds of the bins come from a sample of a million distinct values, their counts stay exact,
and a quantile is interpolated between two bounds: its rank is off by at most the share of one bin, about a hundredth.

Memory is bounded by one file of the table and a million distinct values; DuckDB counts the values of larger columns, on disk if it must.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import CorruptionError
from featurestore.offline.durable import append_lines, whole_lines, write_durably
from featurestore.offline.relations import THREADS
from featurestore.offline.shift import BINS, Counts, Floats, psi
from featurestore.offline.table import OfflineTable
from featurestore.refs import ViewRef
from featurestore.rows import RowColumn
from featurestore.types import EPOCH_DAY, DType, instant

SCHEMA_VERSION = 1
PROBABILITIES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
FINE_BINS, TOP = 100, 20

_IN_MEMORY = 1_000_000  # rows, or distinct values
_AT_ONCE = 20_000_000  # values of a table that is read whole
_MEMORY = "512MB"
_CATEGORIES = ("string", "bool")
_OPAQUE = ("binary", "list", "struct", "vector")
_TEXT = 64
_DAY = 86_400_000_000


class TopValue(msgspec.Struct, frozen=True):
    """A frequent value, as text, and in how many rows it is."""

    value: str
    rows: int


class FeatureProfile(msgspec.Struct, frozen=True, kw_only=True):
    """What the values of one column looked like.

    Attributes:
        name: Name of the feature, or of the column that a windowed view aggregates.
        dtype: Its type.
        rows: Rows, nulls included.
        nulls: Rows without a value.
        nans: Values that are not a number; they count in no bin.
        distinct: Different values, NaN left out; None for binary and nested types, of which only rows and nulls are known.
        minimum: Least value: a number, or text for times, decimals and text.
        maximum: Greatest value.
        mean: Mean of numbers; instants in microseconds since 1970 UTC, days since 1970.
        stddev: Sample standard deviation; None with fewer than two values.
        quantiles: Of numbers, at PROBABILITIES.
        exact: Whether the quantiles are exact.
        edges: Of numbers, inner bounds of bins of about equal counts; bin i holds ``edges[i - 1] < value <= edges[i]``.
        counts: Rows in each bin, one more than edges.
        top: The most frequent values of text and booleans.
        psi: Population stability index against the profile before, None without one.
    """

    name: str
    dtype: str
    rows: int
    nulls: int
    nans: int = 0
    distinct: int | None = None
    minimum: float | str | None = None
    maximum: float | str | None = None
    mean: float | None = None
    stddev: float | None = None
    quantiles: tuple[float, ...] = ()
    exact: bool = True
    edges: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    top: tuple[TopValue, ...] = ()
    psi: float | None = None

    @property
    def null_share(self) -> float:
        """Share of rows without a value; 0 where there are no rows."""
        return self.nulls / self.rows if self.rows else 0.0

    @property
    def median(self) -> float | None:
        """The middle value of numbers, or None."""
        return self.quantiles[PROBABILITIES.index(0.5)] if self.quantiles else None


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What a view version looked like at one version of its Delta log.

    Attributes:
        view: The view version.
        delta_version: Version of its Delta log.
        taken_at: Microseconds since 1970 UTC.
        rows: Accepted rows, corrections included.
        features: One for each value column.
        schema_version: Of this document.
    """

    view: str
    delta_version: int
    taken_at: int
    rows: int
    features: tuple[FeatureProfile, ...]
    schema_version: int = SCHEMA_VERSION

    def feature(self, name: str) -> FeatureProfile | None:
        """Return the profile of one column, or None."""
        return next((feature for feature in self.features if feature.name == name), None)


@dataclass(frozen=True, slots=True)
class Shift:
    """How far values lie from a profile.

    Attributes:
        psi: Population stability index, over ten bins of numbers or the most frequent values of text.
        ks: Kolmogorov-Smirnov distance of numbers at the bounds of the profile's bins, which is at most the share of one bin below
            the distance over all values; None for text and booleans.
    """

    psi: float
    ks: float | None


@dataclass(frozen=True, slots=True)
class ProfileLog:
    """The kept profiles of one view version.

    Args:
        folder: Folder of all profiles.
        ref: The view version.
    """

    folder: Path
    ref: ViewRef

    @property
    def path(self) -> Path:
        """Its file."""
        return self.folder / self.ref.view / f"v{self.ref.version}.jsonl"

    def read(self) -> list[Profile]:
        """Return the kept profiles, oldest first; raises CorruptionError for a line that is none."""
        return [_decoded(line, f"{self.path}:{i}") for i, line in enumerate(whole_lines(self.path), 1)]

    def newest(self, at: int | None = None) -> Profile | None:
        """Return the newest profile, or the newest that was taken up to an instant (microseconds UTC); None if there is none."""
        lines = list(enumerate(whole_lines(self.path), 1))
        found = (_decoded(line, f"{self.path}:{number}") for number, line in reversed(lines))
        return next((profile for profile in found if at is None or profile.taken_at <= at), None)

    def append(self, profile: Profile) -> None:
        """Keep a profile durably; a line that a killed process left unfinished goes."""
        append_lines(self.path, [msgspec.json.encode(profile)])

    def note_rows(self, rows: int) -> None:
        """Note the size of a batch that was admitted."""
        append_lines(self.path.with_suffix(".rows"), [str(rows).encode()])

    def noted_rows(self, last: int) -> list[int]:
        """Return the sizes of the last batches that were noted, oldest first."""
        return [int(line) for line in whole_lines(self.path.with_suffix(".rows"))[-last:]]


def shown_values(dtype: DType, values: pa.ChunkedArray) -> set[float | str]:
    """Return the forms in which a profile would show some values: the least, the greatest, quantiles, bounds of bins, top values.

    >>> sorted(shown_values(DType("int64"), pa.chunked_array([[7, None]])))
    [7]
    """
    if dtype.family in _OPAQUE:
        return set()
    stripped = _Stripped(dtype).take(values).unique().to_pylist()
    return {_told(value, dtype) for value in stripped} | {
        float(value) for value in stripped if dtype.family not in _CATEGORIES
    }


def drop_profiles(log: ProfileLog, shown: Mapping[str, set[float | str]]) -> int:
    """Drop the kept profiles that show one of some values; returns how many.

    Args:
        log: The profiles of a view version; the caller sees to it that nobody adds one meanwhile.
        shown: Column -> values, as `shown_values` has them.
    """
    profiles = log.read()
    kept = [
        profile
        for profile in profiles
        if not any(_shown(feature) & shown.get(feature.name, set()) for feature in profile.features)
    ]
    if len(kept) < len(profiles):
        write_durably(log.path, b"".join(msgspec.json.encode(profile) + b"\n" for profile in kept))
    return len(profiles) - len(kept)


def _shown(feature: FeatureProfile) -> set[float | str | None]:
    top = (each.value for each in feature.top)
    return {feature.minimum, feature.maximum, *feature.quantiles, *feature.edges, *top}


def is_due(newest: Profile | None, table: OfflineTable, *, now: int) -> bool:
    """Say whether an ingest has to take a profile: none is there, or the newest is a day old or has less than nine tenths of the rows.

    So all profiles of a growing version together cost about as much as ten of the last.

    Args:
        newest: The newest profile.
        table: The offline table.
        now: Microseconds since 1970 UTC.
    """
    if newest is None or now - newest.taken_at >= _DAY:
        return True
    return newest.rows < 0.9 * sum(file.rows for file in table.files())


def keep_profile(log: ProfileLog, table: OfflineTable, *, now: int) -> Profile:
    """Profile a view version and keep the profile; the newest one when nothing was committed since.

    Raises:
        FailedPreconditionError: The version has no rows.
        CorruptionError: A file is missing or damaged; says which.
    """
    newest = log.newest()
    if newest is not None and table.exists and newest.delta_version == table.version:
        return newest
    profile = profile_table(log.ref, table, now=now, before=newest)
    log.append(profile)
    return profile


def profile_table(ref: ViewRef, table: OfflineTable, *, now: int, before: Profile | None) -> Profile:
    """Profile every value column of a view version.

    Args:
        ref: The view version.
        table: Its offline table, which must have rows.
        now: Microseconds since 1970 UTC.
        before: The profile before, which the values are compared with; None for the first.

    Raises:
        FailedPreconditionError: Nothing was ever committed.
        CorruptionError: A file is missing or damaged; says which.
    """
    pinned = table.pinned()
    columns, files = table.schema.values, pinned.files()
    rows = sum(file.rows for file in files)
    at_once = rows * len(columns) <= _AT_ONCE
    whole = pinned.read([column.name for column in columns], files=files) if at_once else None

    def parts(column: RowColumn) -> Iterator[pa.ChunkedArray]:
        if whole is not None:
            yield whole[column.name]
            return
        for file in files:
            yield pinned.read([column.name], files=[file])[column.name]

    features = tuple(
        profile_values(c.name, c.dtype, parts(c), before=before.feature(c.name) if before else None) for c in columns
    )
    return Profile(view=str(ref), delta_version=pinned.version, taken_at=now, rows=rows, features=features)


def profile_values(
    name: str, dtype: DType, parts: Iterable[pa.ChunkedArray], *, before: FeatureProfile | None = None
) -> FeatureProfile:
    """Profile the values of one column.

    Args:
        name: Name of the column.
        dtype: Its type.
        parts: Its values, in parts; they are read once.
        before: The profile that they are compared with, or None.

    >>> found = profile_values("temp", DType("float64"), [pa.chunked_array([[1.0, 2.0, None, 3.0, 2.0]])])
    >>> found.distinct, found.mean, found.median, found.nulls
    (3, 2.0, 2.0, 1)
    """
    with _tallied(dtype, parts) as tally:
        facts: dict[str, Any] = {"rows": tally.rows, "nulls": tally.nulls, "nans": tally.nans}
        if dtype.family not in _OPAQUE:
            facts |= _extremes(tally, dtype)
            facts |= _categories(tally) if dtype.family in _CATEGORIES else _numbers(tally)
            comparable = before is not None and before.dtype == dtype.name
            facts["psi"] = _shift(before, tally).psi if comparable and before else None
        return FeatureProfile(name=name, dtype=dtype.name, **facts)


def shift_of(reference: FeatureProfile, dtype: DType, values: pa.ChunkedArray) -> Shift:
    """Return how far values lie from a profile.

    Args:
        reference: A profile of values of the same type.
        dtype: The type.
        values: Any order; nulls and NaN are left out.
    """
    stripped = _Stripped(dtype)
    left = stripped.take(values)
    each = _count([left]) if dtype.family in _CATEGORIES else pa.table({"v": left, "n": np.ones(len(left), np.int64)})
    return _shift(reference, _Tally(stripped.rows, stripped.nulls, stripped.nans, each))


# --- counting the values of a column ---------------------------------------------------------------------------------------------------


class _Tally:
    """The different values of a column with their counts: ``v`` as Arrow has them, times as integers, and ``n``."""

    def __init__(self, rows: int, nulls: int, nans: int, counted: pa.Table | None) -> None:
        self.rows, self.nulls, self.nans = rows, nulls, nans
        self._counted = counted

    @property
    def distinct(self) -> int:
        """How many different values there are."""
        return len(self._counted) if self._counted is not None else 0

    @property
    def is_whole(self) -> bool:
        """Whether `sample` has every value."""
        return True

    def sample(self) -> pa.Table:
        """Return the values with their counts: all of them, or a million."""
        assert self._counted is not None
        return self._counted

    def chunks(self) -> Iterator[pa.Table]:
        """Go through all values with their counts."""
        yield self.sample()

    def top(self, number: int) -> list[tuple[Any, int]]:
        """Return the most frequent values, with their counts, ties in order of the values."""
        counted = self.sample()
        order = pc.sort_indices(counted, [("n", "descending"), ("v", "ascending")])[:number]
        return list(zip(*(counted.take(order)[name].to_pylist() for name in ("v", "n")), strict=True))

    def count_of(self, values: Sequence[Any]) -> Counts:
        """Return the counts of some values, (len(values),)."""
        found = dict.fromkeys(values, 0)
        wanted = pa.array(values, self.sample().schema.field("v").type)
        for chunk in self.chunks():
            there = chunk.filter(pc.is_in(chunk["v"], wanted))
            found |= dict(zip(there["v"].to_pylist(), there["n"].to_pylist(), strict=True))
        return np.array([found[value] for value in values], np.int64)


class _LargeTally(_Tally):
    """The same over a table of DuckDB, which may lie on disk."""

    def __init__(self, rows: int, nulls: int, nans: int, connection: duckdb.DuckDBPyConnection) -> None:
        super().__init__(rows, nulls, nans, None)
        self._connection = connection
        self._distinct = int(connection.execute("SELECT count(*) FROM counted").fetchall()[0][0])

    @property
    def distinct(self) -> int:
        return self._distinct

    @property
    def is_whole(self) -> bool:
        return self._distinct <= _IN_MEMORY

    def sample(self) -> pa.Table:
        some = "" if self.is_whole else f" USING SAMPLE reservoir({_IN_MEMORY} ROWS) REPEATABLE (1)"
        return self._connection.sql(f"SELECT v, n FROM counted{some}").to_arrow_table()  # noqa: S608

    def chunks(self) -> Iterator[pa.Table]:
        reader = self._connection.sql("SELECT v, n FROM counted").to_arrow_reader(_IN_MEMORY)
        yield from (pa.Table.from_batches([batch]) for batch in reader)

    def top(self, number: int) -> list[tuple[Any, int]]:
        return self._connection.execute(f"SELECT v, n FROM counted ORDER BY n DESC, v LIMIT {number}").fetchall()  # noqa: S608


@contextmanager
def _tallied(dtype: DType, parts: Iterable[pa.ChunkedArray]) -> Iterator[_Tally]:
    """Count the values of a column: in memory while they are few, else in a database of its own that is gone afterwards."""
    stripped = _Stripped(dtype)
    waiting: list[pa.ChunkedArray] = []
    parts = iter(parts)
    for part in parts:
        waiting.append(stripped.take(part))
        if stripped.rows > _IN_MEMORY:
            break
    else:
        counted = _count(waiting) if waiting and dtype.family not in _OPAQUE else None
        yield _Tally(stripped.rows, stripped.nulls, stripped.nans, counted)
        return
    if dtype.family in _OPAQUE:
        for part in parts:
            stripped.take(part)
        yield _Tally(stripped.rows, stripped.nulls, stripped.nans, None)
        return
    with tempfile.TemporaryDirectory(prefix="featurestore-profile-") as folder:
        settings: dict[str, str | bool | int | float | list[str]] = {
            "threads": THREADS,
            "memory_limit": _MEMORY,
            "temp_directory": folder,
            "preserve_insertion_order": False,
        }
        with duckdb.connect(config=settings) as connection:
            for i, values in enumerate((*waiting, *map(stripped.take, parts))):
                connection.register("part", pa.table({"v": values}))
                into = "CREATE TABLE counts AS" if i == 0 else "INSERT INTO counts"
                connection.execute(f"{into} SELECT v, count(*) AS n FROM part GROUP BY v")  # noqa: S608
                connection.unregister("part")
            connection.execute("CREATE TABLE counted AS SELECT v, sum(n)::BIGINT AS n FROM counts GROUP BY v")
            yield _LargeTally(stripped.rows, stripped.nulls, stripped.nans, connection)


class _Stripped:
    """Takes nulls and NaN out of the parts of a column, counts them, and gives every value one form: zero has one sign."""

    def __init__(self, dtype: DType) -> None:
        self._dtype = dtype
        self.rows = self.nulls = self.nans = 0

    def take(self, part: pa.ChunkedArray) -> pa.ChunkedArray:
        self.rows += len(part)
        self.nulls += part.null_count
        if self._dtype.family in _OPAQUE:
            return pa.chunked_array([], part.type)
        values = part.drop_null()
        if self._dtype.family in ("float32", "float64"):
            is_nan = pc.is_nan(values)
            self.nans += pc.sum(is_nan).as_py() or 0
            values = pc.add(values.filter(pc.invert(is_nan)), pa.scalar(0.0, values.type))
        whole = {"timestamp": pa.int64(), "date": pa.int32()}.get(self._dtype.family)
        return values.cast(whole) if whole else values


def _count(parts: Sequence[pa.ChunkedArray]) -> pa.Table:
    counted = pc.value_counts(pa.chunked_array([chunk for part in parts for chunk in part.chunks], parts[0].type))
    return pa.table({"v": counted.field("values"), "n": counted.field("counts")})


def _floats(values: pa.ChunkedArray) -> Floats:
    numbers: Floats = values.cast(pa.float64(), safe=False).to_numpy()
    return numbers


# --- what a tally says -----------------------------------------------------------------------------------------------------------------


def _extremes(tally: _Tally, dtype: DType) -> dict[str, Any]:
    found = [pc.min_max(chunk["v"]).as_py() for chunk in tally.chunks() if len(chunk)]
    if not found:
        return {"distinct": 0}
    least, greatest = min(each["min"] for each in found), max(each["max"] for each in found)
    return {"distinct": tally.distinct, "minimum": _told(least, dtype), "maximum": _told(greatest, dtype)}


def _categories(tally: _Tally) -> dict[str, Any]:
    return {"top": tuple(TopValue(str(value), rows) for value, rows in tally.top(TOP))}


def _numbers(tally: _Tally) -> dict[str, Any]:
    sample = tally.sample()
    if not len(sample):
        return {}
    values, weights = _floats(sample["v"]), sample["n"].to_numpy()
    order = np.argsort(values, kind="stable")
    values, ranks = values[order], np.cumsum(weights[order])
    edges = np.unique(values[np.searchsorted(ranks, np.arange(1, FINE_BINS) / FINE_BINS * int(ranks[-1]))])
    edges = edges[edges < values[-1]]  # values of the column, so that no bin is empty
    counts = _bins(tally, edges)
    exact = tally.is_whole
    points = [_at_rank(values, ranks, p) if exact else _between(edges, counts, p) for p in PROBABILITIES]
    mean, stddev = _moments(tally)
    return {
        "mean": mean,
        "stddev": stddev,
        "quantiles": tuple(points),
        "exact": exact,
        "edges": tuple(edges.tolist()),
        "counts": tuple(counts.tolist()),
    }


def _moments(tally: _Tally) -> tuple[float | None, float | None]:
    """Return mean and sample standard deviation, in two passes; None where infinite values or too few leave none."""
    total = sum(int(pc.sum(chunk["n"]).as_py()) for chunk in tally.chunks())
    with np.errstate(all="ignore"):
        mean = math.fsum(float(_floats(c["v"]) @ (c["n"].to_numpy() / total)) for c in tally.chunks())
        squares = math.fsum(float((_floats(c["v"]) - mean) ** 2 @ c["n"].to_numpy()) for c in tally.chunks())
    stddev = math.sqrt(squares / (total - 1)) if total > 1 and math.isfinite(squares) else None
    return (mean if math.isfinite(mean) else None), stddev


def _at_rank(values: Floats, ranks: Counts, probability: float) -> float:
    """Return a quantile (type 7) of sorted values of which each comes ``ranks[i] - ranks[i - 1]`` times."""
    place = probability * (int(ranks[-1]) - 1)
    low, high = (values[np.searchsorted(ranks, edge, side="right")] for edge in (math.floor(place), math.ceil(place)))
    share = place - math.floor(place)
    return float(low if low == high or share == 0 else low + (high - low) * share)


def _between(edges: Floats, counts: Counts, probability: float) -> float:
    """Return a quantile by its rank between two bounds of bins; of the outer bins, their inner bound."""
    ranks = np.cumsum(counts[:-1])
    return float(np.interp(probability * counts.sum(), ranks, edges))


def _bins(tally: _Tally, edges: Floats) -> Counts:
    counts = np.zeros(edges.size + 1, np.int64)
    for chunk in tally.chunks():
        bins = np.searchsorted(edges, _floats(chunk["v"]), side="left")
        counts += np.bincount(bins, weights=chunk["n"].to_numpy(), minlength=counts.size).astype(np.int64)
    return counts


def _shift(reference: FeatureProfile, tally: _Tally) -> Shift:
    if DType(reference.dtype).family in _CATEGORIES:
        return Shift(_category_psi(reference, tally), None)
    edges, before = np.array(reference.edges, np.float64), np.array(reference.counts, np.int64)
    if not before.sum() or tally.rows == tally.nulls + tally.nans:
        return Shift(0.0, 0.0)
    after = _bins(tally, edges)
    starts = _coarse(before)
    distance = np.abs(np.cumsum(before) / before.sum() - np.cumsum(after) / after.sum()).max()
    return Shift(psi(np.add.reduceat(before, starts), np.add.reduceat(after, starts)), float(distance))


def _coarse(counts: Counts) -> Counts:
    """Return where each of about ten bins begins, so that they have about equal counts."""
    ranks = np.cumsum(counts)
    ends = np.searchsorted(ranks, [i / BINS * int(ranks[-1]) for i in range(1, BINS)], side="left") + 1
    return np.unique([0, *(end for end in ends.tolist() if end < counts.size)])


def _category_psi(reference: FeatureProfile, tally: _Tally) -> float:
    """Compare the most frequent values of the reference, and all others together."""
    if not len(tally.sample()):
        return 0.0
    is_bool = reference.dtype == "bool"
    counts = tally.count_of([found.value == "True" if is_bool else found.value for found in reference.top])
    known = np.array([found.rows for found in reference.top], np.int64)
    others, rest = reference.rows - reference.nulls - known.sum(), tally.rows - tally.nulls - counts.sum()
    return psi([*known, others], [*counts, rest])


def _told(value: Any, dtype: DType) -> float | str:
    """Return a value as JSON has it: times in ISO form, decimals and text as text."""
    if dtype.family == "timestamp":
        return str(instant(value))
    if dtype.family == "date":
        return str(np.datetime64(EPOCH_DAY) + np.timedelta64(value, "D"))
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)[:_TEXT]


# --- lines on disk ---------------------------------------------------------------------------------------------------------------------


def _decoded(line: bytes, place: str) -> Profile:
    try:
        return msgspec.json.decode(line, type=Profile)
    except msgspec.DecodeError as error:
        raise CorruptionError(f"A profile is damaged: {error}.", place=place) from error
