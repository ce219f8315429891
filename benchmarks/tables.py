"""Made data: the same columns and rows for every contender; runs in our environment and in Feast's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

VIEW, KEY, EVENT, CREATED = "activity", "user_id", "event_timestamp", "created_timestamp"

HOUR = 3_600_000_000  # microseconds
DAY = 24 * HOUR
TTL_DAYS = 30

Micros = np.ndarray


@dataclass(frozen=True, slots=True)
class Columns:
    """How many features of each type a view has, and which share of their values is null."""

    floats: int
    integers: int
    strings: int
    nulls: float

    @property
    def dtypes(self) -> dict[str, str]:
        """Feature -> type."""
        counts = {"float64": self.floats, "int64": self.integers, "string": self.strings}
        return {f"{dtype}_{n}": dtype for dtype, count in counts.items() for n in range(count)}

    def values(self, rows: int, random: np.random.Generator) -> dict[str, pa.Array]:
        """Return values for so many rows."""
        return {name: _values(dtype, rows, random, self.nulls) for name, dtype in self.dtypes.items()}


TRAINING = Columns(floats=6, integers=2, strings=2, nulls=0.02)
ONLINE = Columns(floats=6, integers=3, strings=1, nulls=0.05)


def events(rows: int, entities: int, *, end: int, corrections: float = 0.005) -> pa.Table:
    """Return 90 days of events, created up to an hour later; a share of them is corrected up to three days after."""
    random = np.random.default_rng(1)
    late = int(rows * corrections)
    first = rows - late
    key = random.integers(0, entities, first)
    event = np.sort(random.integers(end - 90 * DAY, end, first))
    created = event + random.integers(0, HOUR, first)
    corrected = random.choice(first, late, replace=False)
    rewritten = created[corrected] + random.integers(HOUR, 3 * DAY, late)
    times = {
        EVENT: instants(np.concatenate([event, event[corrected]])),
        CREATED: instants(np.concatenate([created, rewritten])),
    }
    keys = pa.array(np.concatenate([key, key[corrected]]))
    return pa.table({KEY: keys, **times, **TRAINING.values(rows, random)})


def spine(rows: int, entities: int, *, end: int) -> pa.Table:
    """Return keys and times of the last 60 days, and the number of each row."""
    random = np.random.default_rng(2)
    at = random.integers(end - 60 * DAY, end, rows)
    return pa.table({KEY: random.integers(0, entities, rows), EVENT: instants(at), "row": np.arange(rows)})


def newest(entities: int, *, now: int) -> pa.Table:
    """Return one row for each entity, from the last day."""
    random = np.random.default_rng(3)
    times = instants(np.sort(now - random.integers(0, DAY, entities)))
    return pa.table({KEY: random.permutation(entities), EVENT: times, **ONLINE.values(entities, random)})


def keys_to_read(count: int, entities: int) -> list[int]:
    """Return random keys, of which one in twenty does not exist on average."""
    return np.random.default_rng(count).integers(0, round(entities / 0.95), count).tolist()


def instants(micros: Micros) -> pa.Array:
    """Return microseconds as instants in UTC."""
    return pa.array(micros, pa.int64()).cast(pa.timestamp("us", tz="UTC"))


def _values(dtype: str, rows: int, random: np.random.Generator, nulls: float) -> pa.Array:
    mask = random.random(rows) < nulls
    if dtype == "float64":
        return pa.array(random.normal(size=rows), mask=mask)
    if dtype == "int64":
        return pa.array(random.integers(0, 10_000, rows), mask=mask)
    words = pa.array([f"category_{n:04d}" for n in range(1000)])
    return words.take(pa.array(random.integers(0, 1000, rows), mask=mask))
