"""Small appends to an offline table: each a durable commit of a hundred rows, beside Delta's own writer and a DuckDB file.

A round is forty commits to a table of its own; its number is the median of their times. Before anything is timed, two processes of twenty
commits each must lose nothing.
"""

from __future__ import annotations

import multiprocessing
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import deltalake
import duckdb
import numpy as np
import pyarrow as pa
from measuring import Claim, Effort, in_turn, seconds_of
from tables import CREATED, DAY, EVENT, KEY, TRAINING, instants

from featurestore.offline.table import OfflineTable
from featurestore.rows import SEQ, RowColumn, RowSchema
from featurestore.types import DType, Int64

ROWS = 100
OURS, DELTA, DUCKDB = "featurestore", "deltalake's writer", "DuckDB file"

SCHEMA = RowSchema(
    keys=(RowColumn(KEY, Int64, KEY),),
    event_key=(),
    values=tuple(RowColumn(name, DType(dtype), name) for name, dtype in TRAINING.dtypes.items()),
    event_timestamp=EVENT,
    created_timestamp=CREATED,
)


def measure(effort: Effort) -> list[Claim]:
    """Measure the median commit of forty."""
    commits = 10 if effort.small else 40
    batches = [_batch(number) for number in range(1, commits + 1)]
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _demand_nothing_lost(folder / "two-writers")
        contenders: Mapping[str, Callable[[], float]] = {
            OURS: lambda: _ours(folder / uuid.uuid4().hex, batches),
            DELTA: lambda: _delta(folder / uuid.uuid4().hex, batches),
            DUCKDB: lambda: _duckdb(folder / uuid.uuid4().hex, batches),
        }
        runs = in_turn(contenders, effort.rounds)
    remarks = {OURS: "two processes of 20 commits: none lost", DUCKDB: "one process alone may write"}
    return [
        Claim(
            f"Append of {ROWS} rows x {len(TRAINING.dtypes)} features, median of {commits} commits", "s", runs, remarks
        )
    ]


def _ours(folder: Path, batches: list[pa.Table]) -> float:
    table = OfflineTable(folder, SCHEMA)
    table.append(_batch(0), fold=1)
    return median(seconds_of(lambda b=b, n=n: table.append(b, fold=n)) for n, b in enumerate(batches, start=2))


def _delta(folder: Path, batches: list[pa.Table]) -> float:
    deltalake.write_deltalake(str(folder), _batch(0))
    return median(seconds_of(lambda b=b: deltalake.write_deltalake(str(folder), b, mode="append")) for b in batches)


def _duckdb(file: Path, batches: list[pa.Table]) -> float:
    with duckdb.connect(str(file)) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("first", _batch(0))
        connection.execute("CREATE TABLE rows AS SELECT * FROM first")

        def append(batch: pa.Table) -> None:
            connection.register("batch", batch)
            connection.execute("INSERT INTO rows SELECT * FROM batch")

        return median(seconds_of(lambda b=b: append(b)) for b in batches)


def _batch(number: int) -> pa.Table:
    random = np.random.default_rng(number)
    first = number * ROWS
    event = instants(number * DAY + np.arange(ROWS))
    columns = {KEY: pa.array(random.integers(0, 1000, ROWS)), EVENT: event, CREATED: event}
    rows = SCHEMA.canonical(pa.table({**columns, **TRAINING.values(ROWS, random)})).rows
    return rows.append_column(SEQ, pa.array(np.arange(first, first + ROWS)))


def append_twenty(folder: str, first: int) -> None:
    """Load twenty batches, in a process of its own."""
    table = OfflineTable(Path(folder), SCHEMA, buckets=1)
    for number in range(first, first + 20):
        table.load(_batch(number))


def _demand_nothing_lost(folder: Path) -> None:
    """Refuse to time what loses rows when two processes write."""
    processes = multiprocessing.get_context("spawn")
    writers = [processes.Process(target=append_twenty, args=(str(folder), first)) for first in (1, 101)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = OfflineTable(folder, SCHEMA).read([SEQ])[SEQ].to_pylist()
    if len(found) != 40 * ROWS or len(set(found)) != len(found):
        raise RuntimeError(f"Two writers of 20 commits left {len(set(found))} of {40 * ROWS} rows; nothing was timed.")
