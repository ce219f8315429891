"""Whether the expectations of a view hold of a batch: every row at once, by Arrow, NumPy and DuckDB.

Values are judged on the rows that are new to the store; freshness and size on the batch as it was offered, because an unchanged source that
is pulled again brings nothing new. Nulls are left to NotNull; NaN is a value that lies in no range and in no set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.definitions.expectation import (
    Expectation,
    Fresh,
    InRange,
    Matches,
    NoShift,
    NotNull,
    OneOf,
    RowCount,
    RowCountNear,
    Unique,
    expectation_of,
    value_of,
)
from featurestore.errors import FailedPreconditionError, NotFoundError
from featurestore.offline.profiles import FeatureProfile, ProfileLog, profile_values, shift_of
from featurestore.offline.relations import query, with_integer_times
from featurestore.refs import FeatureRef, ViewRef
from featurestore.registry.snapshot import ViewRecord
from featurestore.rows import EVENT, RowSchema
from featurestore.types import MICROSECOND, DType, instant, to_arrow, to_micros

ROWS = "rows"  # what an expectation of a whole view is about
EXAMPLES = 5

_TEXT = 200


class Example(msgspec.Struct, frozen=True):
    """A row that breaks an expectation: its place in the quarantined batch, its keys, and the value."""

    place: str
    keys: dict[str, Any]
    value: Any


class Breach(msgspec.Struct, frozen=True, kw_only=True):
    """An expectation that does not hold of a batch.

    Attributes:
        subject: Name of the feature (of a windowed view: of the column), or ``rows``.
        expectation: Its neutral JSON form.
        severity: ``refuse`` or ``warn``.
        rows: How many rows break it; all of them for one of a whole batch.
        observed: What was found, in words.
        examples: The first rows that break it; none for one of a whole batch.
    """

    subject: str
    expectation: dict[str, Any]
    severity: str
    rows: int
    observed: str
    examples: tuple[Example, ...] = ()

    def __str__(self) -> str:
        first = f", first at {self.examples[0].place}" if self.examples else ""
        return f"{self.subject}: {expectation_of(self.expectation)} - {self.observed}{first}"


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows before they are accepted.

    Attributes:
        ref: The view version.
        record: Its record.
        new: The rows that would be accepted, in canonical form.
        offered: How many rows were offered, those included that the store has already.
        newest: The newest event time that was offered (microseconds UTC), None without rows.
        now: The store's time (microseconds UTC).
    """

    ref: ViewRef
    record: ViewRecord
    new: pa.Table
    offered: int
    newest: int | None
    now: int

    @classmethod
    def of(cls, ref: ViewRef, record: ViewRecord, new: pa.Table, offered: pa.Table, *, now: int) -> Batch:
        """Return a batch of the rows that are new among those that were offered, both in canonical form."""
        newest = pc.max(offered[EVENT].cast(pa.int64())).as_py()
        return cls(ref, record, new, len(offered), newest, now)


@dataclass(frozen=True, slots=True)
class References:
    """What batches are compared with.

    Args:
        profiles: Folder of all profiles.
        datasets: Folder of all datasets.
    """

    profiles: Path
    datasets: Path

    def log(self, ref: ViewRef) -> ProfileLog:
        """Return the kept profiles of a view version."""
        return ProfileLog(self.profiles, ref)

    def of(self, shift: NoShift, batch: Batch, name: str) -> FeatureProfile | None:
        """Return the profile that a feature is compared with; None while there are no rows before.

        Raises:
            NotFoundError: There is no such dataset, or it lacks the feature.
            FailedPreconditionError: No profile of the version was taken by then.
        """
        if shift.dataset is not None:
            return self._of_dataset(shift.dataset, batch.ref, name)
        ref = ViewRef(batch.ref.view, shift.version or batch.ref.version)
        profile = self.log(ref).newest(None if shift.at is None else to_micros(shift.at))
        if profile is None and ref == batch.ref and shift.at is None:
            return None
        found = profile.feature(name) if profile else None
        if found is None:
            when = f" taken up to {shift.at.isoformat()}" if shift.at else ""
            raise FailedPreconditionError(
                f"{batch.ref.feature(name)} is compared with a profile of {ref}{when}, and there is none.",
                repair=f"Run `featurestore profile {ref}`, or change the reference of {shift}.",
            )
        return found

    def _of_dataset(self, name: str, ref: ViewRef, feature: str) -> FeatureProfile:
        from featurestore.offline.datasets import load_dataset

        dataset = load_dataset(name, self.datasets)
        for output in dataset.manifest.features:
            found = FeatureRef.parse(output.ref)
            if (found.view, found.feature) == (ref.view, feature):
                return profile_values(feature, DType(output.dtype), [dataset.to_arrow()[output.name]])
        wanted = f"{ref.view}:{feature}"
        raise NotFoundError.of(f"feature of dataset '{name}'", wanted, [f.ref for f in dataset.manifest.features])


def compares_sizes(record: ViewRecord) -> bool:
    """Say whether the sizes of batches are compared, so that they have to be noted."""
    return any(document["kind"] == RowCountNear.__name__ for document in record.expectations)


def breaches(batch: Batch, references: References) -> tuple[Breach, ...]:
    """Return every expectation of a view that does not hold of a batch, those of the whole view first.

    Args:
        batch: The rows.
        references: What they are compared with.

    Raises:
        NotFoundError: A dataset to compare with is not there; likewise FailedPreconditionError for a profile.
    """
    expected = list(_expected(batch.record))
    if not expected:
        return ()
    judge = _Judge(batch, RowSchema.of(batch.record), references)
    return tuple(found for subject, expectation in expected if (found := judge.breach(subject, expectation)))


def _expected(record: ViewRecord) -> Iterator[tuple[str, Expectation]]:
    """Go through what is expected of rows, and of each column once."""
    yield from ((ROWS, expectation_of(document)) for document in record.expectations)
    seen = []
    for feature in record.features:
        subject = feature.aggregation.column if feature.aggregation else feature.name
        for document in feature.expectations:
            if (subject, document) not in seen:
                seen.append((subject, document))
                yield subject, expectation_of(document)


@dataclass(frozen=True, slots=True)
class _Judge:
    """Judges one expectation after the other; a row breaks one of values, a batch one of a whole batch."""

    batch: Batch
    schema: RowSchema
    references: References

    def breach(self, subject: str, expectation: Expectation) -> Breach | None:
        if isinstance(expectation, Unique):
            names = self._identity() if subject == ROWS else (subject,)
            repeats = _repeats(self.batch.new, names)
            return self._of_rows(subject, expectation, repeats, f"{len(repeats)} rows repeat one before them")
        if subject == ROWS:
            return self._of_batch(subject, expectation, _BATCH[type(expectation)](self, expectation))
        column, dtype = self.batch.new[subject], self._dtype(subject)
        if isinstance(expectation, NoShift):
            return self._of_batch(subject, expectation, self._shifted(expectation, subject, column, dtype))
        broken = np.flatnonzero(_VALUES[type(expectation)](column, dtype, expectation).to_numpy())
        share = len(broken) / (len(column) or 1)
        if isinstance(expectation, NotNull) and share <= expectation.max_share:
            return None
        return self._of_rows(subject, expectation, broken, f"{len(broken)} of {len(column)} rows ({share:.2%})")

    def _dtype(self, subject: str) -> DType:
        return next(column.dtype for column in self.schema.values if column.name == subject)

    def _identity(self) -> tuple[str, ...]:
        return (*(column.name for column in (*self.schema.keys, *self.schema.event_key)), EVENT)

    def _of_rows(self, subject: str, expectation: Expectation, broken: Any, observed: str) -> Breach | None:
        if not len(broken):
            return None
        first = self.batch.new.take(pa.array(broken[:EXAMPLES], pa.int64()))
        names = [column.name for column in (*self.schema.keys, *self.schema.event_key)]
        examples = tuple(
            Example(
                f"$.rows[{row}]",
                {name: told(first[name][i]) for name in (*names, EVENT)},
                None if subject == ROWS else told(first[subject][i]),
            )
            for i, row in enumerate(broken[:EXAMPLES].tolist())
        )
        return Breach(
            subject=subject,
            expectation=expectation.document(),
            severity=expectation.severity,
            rows=len(broken),
            observed=observed,
            examples=examples,
        )

    def _of_batch(self, subject: str, expectation: Expectation, observed: str | None) -> Breach | None:
        if observed is None:
            return None
        return Breach(
            subject=subject,
            expectation=expectation.document(),
            severity=expectation.severity,
            rows=len(self.batch.new),
            observed=observed,
        )

    def _shifted(self, limit: NoShift, name: str, column: pa.ChunkedArray, dtype: DType) -> str | None:
        if (
            len(column) - column.null_count < limit.min_rows
            or (known := self.references.of(limit, self.batch, name)) is None
        ):
            return None
        found = shift_of(known, dtype, column)
        said = [f"PSI {found.psi:.3f}"] if limit.max_psi is not None and found.psi > limit.max_psi else []
        if limit.max_ks is not None and found.ks is not None and found.ks > limit.max_ks:
            said.append(f"Kolmogorov-Smirnov distance {found.ks:.3f}")
        return f"{' and '.join(said)} against {known.rows} rows" if said else None

    def stale(self, limit: Fresh) -> str | None:
        if self.batch.newest is None or self.batch.newest >= self.batch.now - limit.within // MICROSECOND:
            return None
        age = (self.batch.now - self.batch.newest) * MICROSECOND
        return f"the newest event is of {instant(self.batch.newest)}, {age} ago"

    def miscounted(self, limit: RowCount) -> str | None:
        is_in = (
            (limit.minimum or 0)
            <= self.batch.offered
            <= (self.batch.offered if limit.maximum is None else limit.maximum)
        )
        return None if is_in else f"{self.batch.offered} rows"

    def unlike_before(self, limit: RowCountNear) -> str | None:
        before = self.references.log(self.batch.ref).noted_rows(limit.last)
        if not before:
            return None
        usual = median(before)
        low = 0.0 if limit.minimum is None else limit.minimum * usual
        is_in = low <= self.batch.offered and (limit.maximum is None or self.batch.offered <= limit.maximum * usual)
        return (
            None
            if is_in
            else f"{self.batch.offered} rows, and the median of the {len(before)} batches before is {usual:g}"
        )


_BATCH: dict[type[Expectation], Callable[[_Judge, Any], str | None]] = {
    Fresh: _Judge.stale,
    RowCount: _Judge.miscounted,
    RowCountNear: _Judge.unlike_before,
}


def _outside(column: pa.ChunkedArray, dtype: DType, limit: InRange) -> pa.ChunkedArray:
    inside = []
    if limit.minimum is not None:
        above = pc.greater_equal if limit.include_minimum else pc.greater
        inside.append(above(column, _scalar(limit.minimum, dtype)))
    if limit.maximum is not None:
        below = pc.less_equal if limit.include_maximum else pc.less
        inside.append(below(column, _scalar(limit.maximum, dtype)))
    return _not(inside[0] if len(inside) == 1 else pc.and_(*inside))


def _not_among(column: pa.ChunkedArray, dtype: DType, limit: OneOf) -> pa.ChunkedArray:
    allowed = pa.array([value_of(value, dtype) for value in limit.values], to_arrow(dtype))
    if dtype.lane == "doubles":  # zero has one sign
        column, allowed = (pc.add(each, pa.scalar(0.0, each.type)) for each in (column, allowed))
    return pc.and_(pc.is_valid(column), pc.invert(pc.is_in(column, allowed)))


def _unlike(column: pa.ChunkedArray, _: DType, limit: Matches) -> pa.ChunkedArray:
    return _not(pc.match_substring_regex(column, limit.whole))


def _null(column: pa.ChunkedArray, _: DType, __: NotNull) -> pa.ChunkedArray:
    return pc.is_null(column)


_VALUES: dict[type[Expectation], Callable[[pa.ChunkedArray, DType, Any], pa.ChunkedArray]] = {
    InRange: _outside,
    OneOf: _not_among,
    Matches: _unlike,
    NotNull: _null,
}


def _not(holds: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return where an expectation does not hold; of a null it says nothing."""
    return pc.fill_null(pc.invert(holds), False)


def _repeats(rows: pa.Table, names: Sequence[str]) -> Any:
    """Return the numbers of the rows that repeat an earlier one in some columns; nulls repeat nothing."""
    columns = [f'"c{i}"' for i in range(len(names))]
    offered = with_integer_times(rows.select(names)).rename_columns([f"c{i}" for i in range(len(names))])
    offered = offered.append_column("row", pa.array(np.arange(len(rows))))
    by, same = ", ".join(columns), " AND ".join(f"o.{column} = d.{column}" for column in columns)
    found = query(
        f"SELECT o.row FROM offered o JOIN (SELECT {by}, min(row) AS first FROM offered GROUP BY {by} HAVING count(*) > 1) d "  # noqa: S608
        f"ON {same} WHERE o.row > d.first ORDER BY 1",
        offered=offered,
    )
    return found["row"].to_numpy()


def _scalar(value: Any, dtype: DType) -> pa.Scalar:
    return pa.scalar(value_of(value, dtype), to_arrow(dtype))


def told(scalar: pa.Scalar) -> Any:
    """Return a value as JSON has it: times in ISO form; decimals, bytes and what is not finite as text."""
    from featurestore.offline.datasets.digest import shown

    value = shown(scalar)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else str(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value[: _TEXT // 2].hex()
    return str(value)[:_TEXT] if isinstance(value, str | Decimal) else repr(value)[:_TEXT]
