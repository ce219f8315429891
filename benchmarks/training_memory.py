"""Memory of training reads: each contender in a process of its own, whose greatest resident set is the number, and its time beside it.

Three kinds: one to ten views of ten million events in memory; three views of a million beside Feast; and a spine of ten million rows
straight to Parquet, under a memory limit that the answer does not fit into.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pyarrow.parquet as pq
from feast_peer import feast_repository
from measuring import Claim, Effort, in_turn, seconds_of
from memory import greatest_resident_set
from projects import write_rows
from tables import TRAINING, events, spine
from training_read import AS_KNOWN, END, FEATURES, offline_table, opened_table, plan_of_views

from featurestore.offline.engines import kernel
from featurestore.offline.training_set import read_training_set
from featurestore.offline.training_stream import SpineBatches, TrainingStream

LIMIT, DUCKDB_LIMIT = 1_500_000_000, "2GB"
OURS, DUCKDB, FEAST = "featurestore", "DuckDB SQL, same rule", "Feast on DuckDB"


@dataclass(frozen=True, slots=True)
class Data:
    """Files that every process reads.

    Attributes:
        events: Parquet file of the events, as peers read them.
        table: Folder of our offline table of the same events.
        spine: Parquet file of keys and times.
    """

    events: Path
    table: Path
    spine: Path

    @classmethod
    def make(cls, folder: Path, *, rows: int, entities: int, asked: int) -> Data:
        """Make the files."""
        folder.mkdir()
        file = write_rows(events(rows, entities, end=END), folder / "events.parquet")
        offline_table(pq.read_table(file), folder / "table")
        return cls(file, folder / "table", write_rows(spine(asked, entities, end=END), folder / "spine.parquet"))


class GivenUpError(RuntimeError):
    """A contender did not come to its end; what it said last."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a read took: seconds, and the greatest resident set of its process in megabytes."""

    seconds: float
    megabytes: float


def measure(effort: Effort) -> list[Claim]:
    """Measure memory and time."""
    many, few, entities = (40_000, 20_000, 2_000) if effort.small else (10_000_000, 1_000_000, 100_000)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        large = Data.make(folder / "large", rows=many, entities=entities, asked=few)
        wide = Data(large.events, large.table, write_rows(spine(many, entities, end=END), folder / "spine.parquet"))
        small = Data.make(folder / "small", rows=few, entities=entities, asked=few)
        views = {f"{n} view{'s' * (n > 1)}": partial(_ours, large, n) for n in (1, 3, 10)}
        return [
            *_claims(f"Training read, {few:,} rows, {many:,} events a view", {**views, DUCKDB: partial(_duckdb, large, 1)}, effort),
            *_beside_feast(folder, small, few, effort),
            *_to_parquet(f"{many:,} rows, 3 views of {many:,} events", folder, wide, effort),
        ]  # fmt: skip


def _to_parquet(size: str, folder: Path, data: Data, effort: Effort) -> list[Claim]:
    """Measure reads that do not fit into memory; a peer that gives up is told of, and not timed."""
    contenders = {f"{OURS}, limit 1.5 GB": partial(_ours, data, 3, folder / "ours.parquet")}
    remark, begun = "", time.perf_counter()
    try:
        _duckdb(data, 3, folder / "theirs.parquet")
    except GivenUpError as error:
        remark = f"{DUCKDB}, limit {DUCKDB_LIMIT}, gave up after {time.perf_counter() - begun:.0f} s: {error}"
    else:
        contenders[f"{DUCKDB}, limit {DUCKDB_LIMIT}"] = partial(_duckdb, data, 3, folder / "theirs.parquet")
    return _claims(f"Training read to Parquet, {size}", contenders, effort, remark)


def _beside_feast(folder: Path, data: Data, rows: int, effort: Effort) -> list[Claim]:
    online = {"type": "sqlite", "path": str(folder / "unused.db")}

    def theirs() -> Cost:
        place = folder / f"feast-{len(list(folder.glob('feast-*')))}"
        place.mkdir()
        with feast_repository(place, data.events, TRAINING.dtypes, created=True, online=online, views=3) as feast:
            return Cost(feast("historical", spine=str(data.spine), as_known=True), feast("memory"))

    name = f"Training read, {rows:,} rows, 3 views of {rows:,} events"
    return _claims(name, {OURS: partial(_ours, data, 3), FEAST: theirs}, effort)


def _claims(name: str, contenders: Mapping[str, Callable[[], Cost]], effort: Effort, remark: str = "") -> list[Claim]:
    """Return the times and the memory of the same runs; the remark is about all of them."""
    runs = in_turn(contenders, effort.rounds)
    seconds = {contender: [cost.seconds for cost in costs] for contender, costs in runs.items()}
    megabytes = {contender: [cost.megabytes for cost in costs] for contender, costs in runs.items()}
    remarks = {next(iter(runs)): remark}
    return [
        Claim(name, "s", seconds, remarks),
        Claim(f"{name}: greatest resident set", "MB", megabytes),
    ]


def _ours(data: Data, views: int, out: Path | None = None) -> Cost:
    return _in_process("ours", data, views, out)


def _duckdb(data: Data, views: int, out: Path | None = None) -> Cost:
    return _in_process("duckdb", data, views, out)


def _in_process(contender: str, data: Data, views: int, out: Path | None) -> Cost:
    """Let a new process read, and return what it took."""
    arguments = [contender, data.events, data.table, data.spine, views, out or ""]
    command = [sys.executable, __file__, *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise GivenUpError((done.stderr.splitlines() or ["it was killed"])[-1])
    return Cost(**json.loads(done.stdout))


def _read(data: Data, views: int, out: Path | None) -> None:
    table = opened_table(data.table, data.events)
    plan = plan_of_views(FEATURES, views)
    if out is None:
        read_training_set(plan, pq.read_table(data.spine), tables=lambda _: table)
    else:
        stream = TrainingStream(plan, SpineBatches.of(data.spine), tables=lambda _: table, memory_limit=_ROOM)
        stream.to_parquet(out)


# What a process has before it reads: the interpreter and its libraries. The limit is for all of it.
_ROOM = LIMIT - 400_000_000


def _read_duckdb(data: Data, views: int, out: Path | None) -> None:
    with duckdb.connect() as connection:
        connection.sql(f"CREATE VIEW spine AS SELECT * FROM read_parquet('{data.spine}')")
        form = AS_KNOWN.format(file=data.events)
        columns = ", ".join(f"v{n}.{name} AS v{n}_{name}" for n in range(views) for name in FEATURES)
        joins = " ".join(f"JOIN v{n} USING (row)" for n in range(views))
        parts = ", ".join(f"v{n} AS ({form.rpartition('ORDER BY')[0]})" for n in range(views))
        sql = f"WITH {parts} SELECT row, {columns} FROM spine {joins} ORDER BY row"
        if out is None:
            connection.sql(sql).to_arrow_table()
        else:
            connection.sql(f"SET memory_limit = '{DUCKDB_LIMIT}'")
            connection.sql(f"SET temp_directory = '{out}.tmp'")
            connection.sql(f"COPY ({sql}) TO '{out}' (FORMAT parquet, COMPRESSION zstd)")


def _child(arguments: Sequence[str]) -> None:
    """Read once and print the cost."""
    contender, events_file, table, keys, views, out = arguments
    work = {"ours": _read, "duckdb": _read_duckdb}[contender]
    kernel.compile_kernels()  # which reads wait for that is measured elsewhere
    data = Data(Path(events_file), Path(table), Path(keys))
    seconds = seconds_of(lambda: work(data, int(views), Path(out) if out else None))
    print(json.dumps({"seconds": seconds, "megabytes": greatest_resident_set()}))


if __name__ == "__main__":
    _child(sys.argv[1:])
