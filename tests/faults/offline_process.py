"""Processes to be killed while they ingest, fold, compact and materialize.

Run as a program it is a nursery, in which everything is imported: each line on standard input, ``folder first buckets``, makes it fork
a process that works. Standard output has the lines of them all: ``process PID``, ``ingested N`` and ``online N`` as they are
acknowledged, and ``end``.
"""

import itertools
import os
import resource
import sys
import tempfile
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import pyarrow as pa
from writer_process import NOW, READINGS, SENSORS, batch_rows

from featurestore.errors import FeatureStoreError
from featurestore.flow.erased import erasures_of
from featurestore.flow.ingest import ingest_rows
from featurestore.offline.buckets import buckets_of
from featurestore.offline.data_files import write_data_file
from featurestore.refs import ViewRef
from featurestore.rows import SEQ, RowColumn, RowSchema
from featurestore.testing.projects import ScratchProject
from featurestore.types import String

VIEW = ViewRef("readings", 1)


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())  # whole lines, whoever else writes


def ingest(project: ScratchProject, batch: int) -> None:
    """Pull a batch; one that is there already is not taken again."""
    table = project.table(VIEW)
    ingest_rows(
        "readings", table.schema.canonical(batch_rows(batch)), table=table, sequence=project.writer,
        known_until=None, backfilled_until=None, admit=lambda _new, _offered: (),
        erased=partial(erasures_of(project.root).ledger().find, (("sensor", "int64"),)),
    )  # fmt: skip


def work_offline(folder: str, first: int, buckets: int) -> None:
    """Bring batch after batch in and online, and rewrite the files in between. Runs until it is killed."""
    with ScratchProject(Path(folder), READINGS, now=NOW) as project:
        for batch in itertools.count(first):
            if batch % 3:
                ingest(project, batch)
            else:
                project.writer.write(VIEW, batch_rows(batch))
                project.writer.fold()
            say(f"ingested {batch}")
            if batch % 4 == 0:
                project.table(VIEW).compact(buckets=buckets if batch % 8 else 2 * buckets)
            if batch % 2 == 0:
                project.writer.materialize(VIEW, full=batch % 16 == 0)
                say(f"online {batch}")


def fill_the_disk(folder: str, limit: int, said: Connection) -> None:
    """Try everything that writes with files that may not grow beyond a limit; say how each ended."""
    with ScratchProject(Path(folder), READINGS, now=NOW) as project:
        table = project.table(VIEW)
        accepted = table.schema.canonical(batch_rows(900)).rows.append_column(
            SEQ, pa.array(range(9001, 9001 + SENSORS))
        )
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        for name, step in {
            "load": lambda: table.load(accepted),
            "append": lambda: table.append(accepted, fold=9001),
            "fold": lambda: table.append(accepted.slice(0, 0), fold=9001),
            "compact": lambda: table.compact(buckets=8),
        }.items():
            try:
                step()
            except FeatureStoreError as error:
                said.send((name, type(error).__name__, str(error)))
            else:
                said.send((name, "done", ""))


def load_compiled_code() -> None:
    """Run what is compiled once, so that forked processes have it at hand; nothing of this starts a thread."""
    buckets_of([pa.chunked_array([["a"]])], 1)
    schema = RowSchema((RowColumn("a", String, "a"),), (), (), "at", None)
    columns = [pa.array(["a"]), *(pa.array([0]).cast(field.type) for field in list(schema.arrow())[1:])]
    with tempfile.TemporaryDirectory() as folder:
        write_data_file(Path(folder), pa.table(columns, schema=schema.arrow()), schema)


def main() -> None:
    load_compiled_code()
    for line in sys.stdin:
        folder, first, buckets = line.split()
        process = os.fork()
        if process == 0:
            work_offline(folder, int(first), int(buckets))
        say(f"process {process}")
        os.waitpid(process, 0)
        say("end")


if __name__ == "__main__":
    main()
