"""Rows of a small weather table, and what a process of its own does to one."""

from multiprocessing.connection import Connection
from pathlib import Path

import pyarrow as pa

from featurestore.errors import ConflictError
from featurestore.offline.table import OfflineTable
from featurestore.rows import CREATED, EVENT, RowColumn, RowSchema
from featurestore.types import Float64, Int64, String

SCHEMA = RowSchema(
    keys=(RowColumn("origin", String, "origin"),),
    event_key=(),
    values=(RowColumn("temp", Float64, "temp"), RowColumn("count", Int64, "count")),
    event_timestamp="at",
    created_timestamp="made",
)
WIDER = RowSchema(SCHEMA.keys, (), (*SCHEMA.values, RowColumn("wind", Float64, "wind")), "at", "made")


def rows(*facts, schema=SCHEMA):
    """Rows of (origin, event, created, temp, count, seq)."""
    columns = list(zip(*facts, strict=True)) if facts else [[] for _ in schema.arrow()]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, schema.arrow(), strict=True)], schema=schema.arrow())


def numbered(first, count, *, keys=23):
    """Rows with the sequence numbers from `first`, of some keys, whose values say the number again."""
    return rows(
        *[(f"k{n % keys}", n * 7919 % 1000, None if n % 3 else n, n / 4, n, n) for n in range(first, first + count)]
    )


def facts_in_order(table):
    plain = [table[name].cast(pa.int64()) if name in (EVENT, CREATED) else table[name] for name in table.column_names]
    return list(zip(*(column.to_pylist() for column in plain), strict=True))


def facts(table):
    return sorted(facts_in_order(table), key=lambda row: row[-1])


def work(folder: str, task: str, first: int, count: int, times: int, said: Connection) -> None:
    """Do something to a table several times, after a word; say how often it was done."""
    table = OfflineTable(Path(folder), SCHEMA, buckets=4)
    table.files()
    said.send("ready")
    said.recv()
    done = 0
    for turn in range(times):
        start = first + turn * count
        if task == "append":
            done += table.append(numbered(start, count), fold=start)
        elif task == "load":
            done += table.load(numbered(start, count)).rows > 0
        else:
            try:
                done += table.compact(buckets=int(task) if task.isdigit() else None).rows > 0
            except ConflictError:
                continue
    said.send(done)
