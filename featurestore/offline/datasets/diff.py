"""What differs between two datasets: columns, definitions, keys, values, and how far the values moved.

Rows are matched by the columns that say whom and when they are about: join keys and time; rows that share both, by their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.offline.datasets.digest import differs, shown, type_name
from featurestore.offline.datasets.manifest import Manifest
from featurestore.offline.datasets.saved import Dataset
from featurestore.offline.relations import with_integer_times
from featurestore.offline.shift import bin_counts, bin_edges, ks, psi, quantiles
from featurestore.planning import PlannedOnDemand, PlannedView
from featurestore.registry.snapshot import FeatureRecord, ViewRecord
from featurestore.types import from_arrow

Int64Array = npt.NDArray[np.int64]

EXAMPLES = 5
CATEGORIES = 10
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
_NOT_MEANING = frozenset(
    {
        "features",
        "owner",
        "description",
        "tags",
        "schedule",
        "access",
        "created_revision",
        "status",
        "layout",
        "same_as",
    }
)
_NOT_SOURCE_MEANING = frozenset({"path", "tables", "columns"})


@dataclass(frozen=True, slots=True)
class Changed:
    """One fact that the datasets say differently; None where one of them does not have it."""

    what: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class KeysDiff:
    """How the rows of two datasets match.

    Attributes:
        columns: The columns they are matched by.
        matched: Rows that both have.
        added: Rows that only the second has.
        removed: Rows that only the first has.
        examples_added: Keys of the first few added rows.
        examples_removed: Keys of the first few removed rows.
    """

    columns: tuple[str, ...]
    matched: int
    added: int
    removed: int
    examples_added: tuple[dict[str, Any], ...]
    examples_removed: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class ValuesDiff:
    """How the values of one column differ over the matched rows.

    Attributes:
        column: Its name.
        changed: Rows in which it differs.
        greatest: Greatest absolute difference of numbers; None for other types, or where no row has a number on both sides.
        examples: (keys, before, after) of the first few.
    """

    column: str
    changed: int
    greatest: float | None
    examples: tuple[tuple[dict[str, Any], Any, Any], ...]


@dataclass(frozen=True, slots=True)
class Distribution:
    """What the values of one column are like, over all rows.

    Attributes:
        rows: Rows.
        null_rate: Share of nulls, in [0, 1]; 0 without rows.
        quantiles: Least value, quartiles and greatest value of numbers; instants in microseconds, days in days; empty for other types.
        categories: The most frequent values of texts, booleans and the like, with their shares of the values that are there.
    """

    rows: int
    null_rate: float
    quantiles: tuple[float, ...] = ()
    categories: tuple[tuple[Any, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Shift:
    """How far a column moved from the first dataset to the second, over all rows of each.

    Attributes:
        column: Its name.
        psi: Population stability index over the deciles of the first, or over the categories; None for nested types.
        ks: Kolmogorov-Smirnov distance of numbers, in [0, 1]; None for other types.
        p_value: How often chance alone gives such a distance.
        before: The first dataset's values.
        after: The second's.
    """

    column: str
    psi: float | None
    ks: float | None
    p_value: float | None
    before: Distribution
    after: Distribution


@dataclass(frozen=True, slots=True)
class DatasetDiff:
    """What differs between two datasets.

    Attributes:
        names: The two datasets.
        schema: Columns with their types.
        definitions: References, fingerprints, and what they are made of: ttl, window, source ...
        origin: What else they were made with: knowledge, position, engine, versions, commit, seed.
        keys: How their rows match.
        values: One for each column that both have and that differs in a matched row.
        shift: One for each output that both have.
    """

    names: tuple[str, str]
    schema: tuple[Changed, ...]
    definitions: tuple[Changed, ...]
    origin: tuple[Changed, ...]
    keys: KeysDiff
    values: tuple[ValuesDiff, ...]
    shift: tuple[Shift, ...]

    @property
    def equal(self) -> bool:
        """Whether columns, definitions, rows and values are the same; the origin may differ."""
        return not (self.schema or self.definitions or self.values or self.keys.added or self.keys.removed)


def diff_datasets(before: Dataset, after: Dataset) -> DatasetDiff:
    """Compare two datasets; both files are checked against their digests first.

    Args:
        before: The one that counts as the reference.
        after: The one that is compared with it.

    Raises:
        CorruptionError: A file is missing or damaged.
    """
    before.check()
    after.check()
    left, right = before.to_arrow(), after.to_arrow()
    by = _identity(before.manifest, after.manifest, left, right)
    rows, other_rows = _matched(left.select(by), right.select(by))
    common = [name for name in left.column_names if name in right.column_names]
    outputs = [name for name in common if name in before.manifest.outputs]
    keys = _keys(left, right, by, rows, other_rows)
    matched, other = left.take(pa.array(rows)), right.take(pa.array(other_rows))
    values = (_values(name, matched, other, by) for name in common if name not in by)
    return DatasetDiff(
        names=(before.name, after.name),
        schema=tuple(_changes("", _types(left), _types(right))),
        definitions=tuple(_changes("", _definitions(before.manifest), _definitions(after.manifest))),
        origin=tuple(_changes("", _origin(before.manifest), _origin(after.manifest))),
        keys=keys,
        values=tuple(found for found in values if found.changed),
        shift=tuple(_shift(name, left[name], right[name]) for name in outputs),
    )


# --- rows ----------------------------------------------------------------------------------------------------------------------------


def _identity(before: Manifest, after: Manifest, left: pa.Table, right: pa.Table) -> list[str]:
    """Return the columns that say whom and when a row is about, of those that both datasets have in one type."""
    wanted = [*_key_columns(before, left), *_key_columns(after, right)]
    both = [name for name in dict.fromkeys(wanted) if name in left.column_names and name in right.column_names]
    return [name for name in both if type_name(left[name].type) == type_name(right[name].type)]


def _key_columns(manifest: Manifest, table: pa.Table) -> list[str]:
    if manifest.definitions is None:  # schema 1 does not say which columns are keys: all that came with the spine
        return [name for name in table.column_names if name not in manifest.outputs]
    return [*(column for keys in manifest.read_plan().key_sets for column in keys.columns), manifest.timestamp]


def _matched(left: pa.Table, right: pa.Table) -> tuple[Int64Array, Int64Array]:
    """Return which row of the first is which row of the second; among equal keys, the n-th is the n-th."""
    if not left.num_columns:
        places = np.arange(min(len(left), len(right)))
        return places, places
    one, other = _numbered(left), _numbered(right)
    by = [name for name in one.columns if name != "row"]
    found = one.join(other, on=by, how="inner", nulls_equal=True, suffix="_other").sort("row")
    return found["row"].to_numpy().astype(np.int64), found["row_other"].to_numpy().astype(np.int64)


def _numbered(keys: pa.Table) -> pl.DataFrame:
    """Return the keys under numbers for names, with each row's number and its number among those of equal keys."""
    plain = with_integer_times(
        pa.table([_cast(column) for column in keys.columns], names=list(map(str, range(keys.num_columns))))
    )
    frame = pl.from_arrow(plain)
    assert isinstance(frame, pl.DataFrame)
    return frame.with_columns(occurrence=pl.int_range(pl.len()).over(frame.columns)).with_row_index("row")


def _cast(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a key column in one Arrow layout for its meaning."""
    plain = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
    if pa.types.is_timestamp(plain.type):
        return plain.cast(pa.timestamp("us"))
    return plain.cast(pa.large_string()) if pa.types.is_string(plain.type) else plain


def _keys(left: pa.Table, right: pa.Table, by: Sequence[str], rows: Int64Array, other_rows: Int64Array) -> KeysDiff:
    removed = np.setdiff1d(np.arange(len(left)), rows)
    added = np.setdiff1d(np.arange(len(right)), other_rows)
    return KeysDiff(
        columns=tuple(by),
        matched=len(rows),
        added=len(added),
        removed=len(removed),
        examples_added=_examples(right, by, added),
        examples_removed=_examples(left, by, removed),
    )


def _examples(table: pa.Table, by: Sequence[str], rows: Int64Array) -> tuple[dict[str, Any], ...]:
    return tuple({name: shown(table[name][int(row)]) for name in by} for row in rows[:EXAMPLES])


def _values(name: str, left: pa.Table, right: pa.Table, by: Sequence[str]) -> ValuesDiff:
    """Compare one column of two tables whose rows match."""
    where = np.flatnonzero(differs(left[name], right[name]))
    first = where[:EXAMPLES]
    examples = zip(
        _examples(left, by, first),
        (shown(left[name][int(row)]) for row in first),
        (shown(right[name][int(row)]) for row in first),
        strict=True,
    )
    return ValuesDiff(name, len(where), _greatest(left[name], right[name], where), tuple(examples))


def _greatest(left: pa.ChunkedArray, right: pa.ChunkedArray, where: Int64Array) -> float | None:
    """Return the greatest absolute difference of two columns of numbers; nulls and NaN do not count."""
    if not (_is_number(left.type) and _is_number(right.type)):
        return None
    both = np.asarray(pc.and_(pc.is_valid(left), pc.is_valid(right)))
    rows = pa.array(where[both[where]])
    apart = _apart(left.take(rows), right.take(rows))
    apart = apart[~np.isnan(apart)]
    return float(apart.max()) if len(apart) else None


def _apart(left: pa.ChunkedArray, right: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    if pa.types.is_signed_integer(left.type) and pa.types.is_signed_integer(right.type):  # exact, and never an overflow
        one, other = (side.cast(pa.int64()).to_numpy() for side in (left, right))
        exact = np.maximum(one, other).view(np.uint64) - np.minimum(one, other).view(np.uint64)
        return np.asarray(exact, np.float64)
    one, other = (side.cast(pa.float64(), safe=False).to_numpy() for side in (left, right))
    with np.errstate(invalid="ignore"):  # infinity from itself
        return np.asarray(np.abs(one - other))


# --- shift ---------------------------------------------------------------------------------------------------------------------------


def _shift(name: str, left: pa.ChunkedArray, right: pa.ChunkedArray) -> Shift:
    if _is_ordered(left.type) and _is_ordered(right.type):
        one, other = _sorted(left), _sorted(right)
        edges = bin_edges(one)
        distance = ks(one, other)
        sides = [
            Distribution(
                len(column), _null_rate(column), tuple(quantiles(numbers, QUANTILES).tolist()) if len(numbers) else ()
            )
            for column, numbers in ((left, one), (right, other))
        ]
        return Shift(
            name, psi(bin_counts(one, edges), bin_counts(other, edges)), distance.statistic, distance.p_value, *sides
        )
    counts, other_counts = _counts(left), _counts(right)
    sides = [
        Distribution(len(column), _null_rate(column), categories=_frequent(found))
        for column, found in ((left, counts), (right, other_counts))
    ]
    if counts is None or other_counts is None:
        return Shift(name, None, None, None, *sides)
    known = list(dict.fromkeys([*counts, *other_counts]))
    index = psi([counts.get(value, 0) for value in known], [other_counts.get(value, 0) for value in known])
    return Shift(name, index, None, None, *sides)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _is_ordered(kind: pa.DataType) -> bool:
    return _is_number(kind) or bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def _sorted(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """Return the values that are there as numbers in ascending order, NaN last."""
    there = column.drop_null()
    if pa.types.is_timestamp(there.type):
        there = there.cast(pa.timestamp("us")).cast(pa.int64())
    elif pa.types.is_date(there.type):
        there = there.cast(pa.date32()).cast(pa.int32())
    elif pa.types.is_decimal(there.type):
        there = there.cast(pa.float64())
    return np.sort(there.to_numpy())


def _null_rate(column: pa.ChunkedArray) -> float:
    return column.null_count / len(column) if len(column) else 0.0


def _counts(column: pa.ChunkedArray) -> dict[Any, int] | None:
    """Return how often each value is there, most often first; None for nested types."""
    if from_arrow(column.type).is_nested:
        return None
    plain = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
    counted = sorted(
        pc.value_counts(plain.drop_null().combine_chunks()).to_pylist(),
        key=lambda one: (-one["counts"], str(one["values"])),
    )
    return {one["values"]: one["counts"] for one in counted}


def _frequent(counts: Mapping[Any, int] | None) -> tuple[tuple[Any, float], ...]:
    total = sum(counts.values()) if counts else 0
    return tuple((value, count / total) for value, count in list((counts or {}).items())[:CATEGORIES])


# --- what they were made from --------------------------------------------------------------------------------------------------------


def _types(table: pa.Table) -> dict[str, Any]:
    return {field.name: type_name(field.type) for field in table.schema}


def _definitions(manifest: Manifest) -> dict[str, Any]:
    """Return what the outputs mean: their references, fingerprints, and the meaning of the views that they come from."""
    features = {feature.name: {"ref": feature.ref, "fingerprint": feature.fingerprint} for feature in manifest.features}
    if manifest.definitions is None:
        return {"features": features}
    views = {}
    for view, versions in manifest.definitions.views.items():
        for number, record in versions.versions.items():
            name = view if len(versions.versions) == 1 else f"{view}@v{number}"
            views[name] = _meaning(record) | {feature.name: _meaning(feature) for feature in _read(manifest, record)}
    return {"features": features, "views": views}


def _read(manifest: Manifest, view: ViewRecord) -> Iterator[FeatureRecord]:
    """Yield the features of a view version that the dataset has, or that its on-demand features are computed from."""
    plan = manifest.read_plan()
    planned: tuple[PlannedView | PlannedOnDemand, ...] = (*plan.views, *plan.on_demand)
    yield from (feature for one in planned if one.record == view for feature in one.features)


def _meaning(record: ViewRecord | FeatureRecord) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(record, str_keys=True)
    meaning = {name: value for name, value in document.items() if name not in _NOT_MEANING}
    if source := meaning.get("source"):
        meaning["source"] = {name: value for name, value in source.items() if name not in _NOT_SOURCE_MEANING}
    if expression := meaning.get("expression"):
        meaning["expression"] = expression["sql"]
    return meaning


def _origin(manifest: Manifest) -> dict[str, Any]:
    return {
        "knowledge": manifest.knowledge,
        "position": manifest.position,
        "engine": manifest.engine,
        "timestamp": manifest.timestamp,
        "libraries": manifest.libraries,
        "python": manifest.python,
        "platform": manifest.platform,
        "commit": manifest.code and manifest.code.commit,
        "dirty": manifest.code and manifest.code.dirty,
        "seed": manifest.seed,
        "revision": manifest.revision,
        "sources": {source.view: source.version for source in manifest.sources},
    }


def _changes(what: str, before: Any, after: Any) -> Iterator[Changed]:
    """Go down two documents together, and yield where they differ."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in dict.fromkeys([*before, *after]):
            yield from _changes(f"{what}.{name}" if what else str(name), before.get(name), after.get(name))
    elif before != after:
        yield Changed(what, before, after)
