"""Commands that bring rows into the store and keep it in order."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featurestore.cli.terminal import (
    Format,
    Output,
    Project,
    View,
    Views,
    column_values,
    open_store,
    print_json,
    print_rows,
    pulled_views,
    say,
)
from featurestore.errors import InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    import pyarrow as pa

    from featurestore.store import FeatureStore

app = typer.Typer()


@app.command()
def ingest(
    views: Views = None,
    known_until: Annotated[str | None, typer.Option(help="Only what was known at this ISO time (UTC).")] = None,
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """Pull views' sources into the offline store; rows that are there already are not taken again."""
    with open_store(project) as store:
        reports = [store.ingest(view, known_until=known_until) for view in views or pulled_views(store)]
        headers = ("VIEW", "READ", "ACCEPTED", "REPEATED", "LATER", "NULL TIMES", "NULL KEYS", "ERASED")
        fields = ("view", "read", "accepted", "repeated", "later", "null_events", "null_keys", "erased")
        print_rows(headers, [[getattr(r, field) for field in fields] for r in reports], output, command="ingest")
        for warning in (warning for report in reports for warning in report.warnings):
            say(f"warning: {warning}")


@app.command()
def write(
    view: View,
    file: Annotated[Path, typer.Argument(help="Parquet, CSV or JSON lines, with the source's column names.")],
    project: Project = None,
) -> None:
    """Accept rows of a view; when this returns they are durable and visible."""
    from featurestore.offline.files import read_table

    with open_store(project) as store:
        report = store.write(view, read_table(file))
        print_json(
            {"view": view, "accepted": report.accepted, "repeated": report.repeated_rows, "parked": report.parked}
        )


@app.command()
def materialize(
    view: Annotated[str | None, typer.Argument(help="A view; default: every view that has rows.")] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Read everything, not only what came since the last time.")
    ] = False,
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """Bring the latest rows to the online store."""
    with open_store(project) as store:
        rows = [(report.view, report.rows, report.changed) for report in store.materialize(view, full=full)]
        print_rows(("VIEW", "ROWS", "NEW ONLINE"), rows, output, command="materialize")


@app.command()
def compact(
    view: Annotated[str | None, typer.Argument(help="A view; default: every view that has rows.")] = None,
    buckets: Annotated[int | None, typer.Option(help="Hash buckets from now on: a power of two up to 1024.")] = None,
    vacuum: Annotated[
        bool,
        typer.Option("--vacuum", help="Also remove files replaced over seven days ago, unless a dataset lists them."),
    ] = False,
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """Make one sorted file a bucket of the offline rows; readers and writers go on beside it."""
    with open_store(project) as store:
        reports = store.compact(view, buckets=buckets, vacuum=vacuum)
        headers = ("VIEW", "REWRITTEN", "FILES BEFORE", "FILES", "BUCKETS", "REMOVED")
        fields = ("view", "rows", "files_before", "files", "buckets", "removed")
        print_rows(headers, [[getattr(r, field) for field in fields] for r in reports], output, command="compact")


@app.command()
def erase(
    entity: Annotated[str, typer.Argument(help="Name of the entity.")],
    keys: Annotated[list[str] | None, typer.Argument(help="column=value of a join key; repeat for more keys.")] = None,
    file: Annotated[
        Path | None, typer.Option("--keys", help="More keys: Parquet, CSV or JSON lines with the join keys.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; the receipt keeps it. Do not name the key.")] = "",
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """Erase keys of an entity from everything that the store holds, for ever; exit code 1 if something of them is left."""
    import msgspec

    with open_store(project) as store:
        receipt = store.erase(entity, _keys(store, entity, keys, file), reason=reason)
    if output is Format.json:
        print_json({"receipt": msgspec.to_builtins(receipt, str_keys=True)})
    else:
        print_rows(("PLACE", "ERASED"), sorted(receipt.counts.items()), output, command="erase")
    say(
        f"receipt {receipt.number}: {len(receipt.keys)} keys, {receipt.rows} rows; {receipt.proof.files} files looked through"
    )
    for trace in receipt.proof.found:
        say(
            f"look at: {trace.file} has the bytes of a key ({trace.how}); they may be of a longer key, or a value by right"
        )
    for what in receipt.unknown:
        say(f"not known: {what}")
    if receipt.proof.rows:
        say(f"error: rows are left in {', '.join(trace.file for trace in receipt.proof.rows)}")
        raise typer.Exit(1)


def _keys(store: FeatureStore, entity: str, pairs: list[str] | None, file: Path | None) -> pa.Table:
    """Return the keys that stand on the command line and in a file, as columns of their types."""
    import pyarrow as pa

    from featurestore.offline.files import read_table
    from featurestore.subject import Subject
    from featurestore.types import DType, to_arrow

    entities = store.snapshot().document.entities
    if entity not in entities:
        raise NotFoundError.of("entity", entity, entities)
    types = {name: DType(dtype) for name, dtype in entities[entity].join_keys}
    columns = column_values(pairs, types, place="keys")
    arrays = [pa.array(columns.get(name, []), to_arrow(dtype)) for name, dtype in types.items()]
    if len(set(map(len, arrays))) > 1:
        raise InvalidArgumentError(f"Say {' and '.join(types)} for each key.", place="$.keys")
    given = pa.table(arrays, names=list(types))
    if file is None:
        return given
    more = read_table(file)
    return (
        pa.concat_tables([given, Subject.of(entity, entities[entity].join_keys, more).values]) if len(more) else given
    )


@app.command()
def replay(
    views: Views = None,
    since: Annotated[str, typer.Option(help="Start after this ISO time (UTC).")] = "",
    until: Annotated[str, typer.Option(help="Stop at this ISO time (UTC).")] = "",
    step_minutes: Annotated[int, typer.Option(min=1, help="Minutes of replay time between stops of the clock.")] = 60,
    project: Project = None,
) -> None:
    """Play history through the store: each row enters by write when it became known, and the clock follows."""
    from featurestore.types import from_micros, to_micros

    if not since or not until:
        raise InvalidArgumentError("A replay needs --since and --until.")
    first, last, step = to_micros(since), to_micros(until), timedelta(minutes=step_minutes) // timedelta(microseconds=1)
    moments = [*range(first + step, last, step), last]
    with open_store(project) as store:
        for moment, rows in store.replay(views or pulled_views(store), since=first, moments=moments):
            say(f"{from_micros(moment):%Y-%m-%d %H:%M}Z  {rows} rows")
