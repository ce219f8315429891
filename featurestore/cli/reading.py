"""Commands that read features: of now, and of the times of a spine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore.cli.terminal import (
    Consumer,
    Features,
    Format,
    FullNames,
    Output,
    Project,
    column_values,
    one_of,
    open_store,
    print_json,
    print_rows,
    say,
)
from featurestore.errors import InvalidArgumentError

if TYPE_CHECKING:
    from featurestore.offline.training_stream import Progress
    from featurestore.store import FeatureStore

app = typer.Typer()


@app.command()
def get(
    features: Features,
    key: Annotated[list[str] | None, typer.Option("--key", "-k", help="column=value; repeat for more rows.")] = None,
    request: Annotated[list[str] | None, typer.Option("--request", "-r", help="column=value of request data.")] = None,
    full: FullNames = False,
    consumer: Consumer = None,
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """Read the newest features of some keys, in process."""
    from featurestore.planning import plan_read

    with open_store(project, consumer) as store:
        wanted = _wanted(store, features)
        plan = plan_read(store.snapshot(), wanted, full_feature_names=full)
        types = {name: dtype for k in plan.key_sets for name, dtype in zip(k.columns, k.dtypes, strict=True)}
        types |= dict(plan.request)
        rows = store.get_online_features(
            wanted, column_values(key, types), request=column_values(request, types), full_feature_names=full
        )
        _print_online(rows, output)


@app.command(name="training-set")
def training_set(
    spine: Annotated[Path, typer.Argument(help="Keys and times: Parquet, CSV or JSON lines.")],
    features: Features,
    timestamp: Annotated[str, typer.Option(help="The spine's time column.")] = "event_timestamp",
    knowledge: Annotated[str, typer.Option(help="as_known or latest.")] = "as_known",
    out: Annotated[Path | None, typer.Option(help="Write the training set to this Parquet file.")] = None,
    save: Annotated[str | None, typer.Option(help="Save and register it under this name.")] = None,
    full: FullNames = False,
    consumer: Consumer = None,
    project: Project = None,
) -> None:
    """Join features onto a spine as they were known at each of its rows' times; without --save it may be larger than memory."""
    from featurestore.offline.files import read_table, write_table

    how: dict[str, Any] = {
        "timestamp": timestamp,
        "knowledge": one_of("knowledge", knowledge, ("as_known", "latest")),
        "full_feature_names": full,
    }
    with open_store(project, consumer) as store:
        wanted = _wanted(store, features)
        if save:
            result = store.get_historical_features(read_table(spine), wanted, **how)
            report, columns = result.report, result.table.column_names
            if out:
                write_table(result.table, out)
            store.save(save, result)
        else:
            batches = spine if spine.suffix == ".parquet" else read_table(spine)
            stream = store.stream_historical_features(batches, wanted, progress=_say_progress, **how)
            report, columns = stream.to_parquet(out) if out else stream.read(), stream.schema.names
        say(str(report))
        print_json({"rows": report.rows, "columns": columns, "saved": save})


def _say_progress(progress: Progress) -> None:
    """Say how far a training set is, once it is worth saying."""
    share = f" of {progress.total:,}" if progress.total else ""
    left = "" if not progress.remaining else f", {progress.remaining:,.0f} s to go"
    if progress.rows != progress.total or progress.seconds > 1:
        say(f"{progress.rows:,}{share} rows, {progress.rate:,.0f} a second{left}")


def _wanted(store: FeatureStore, features: list[str]) -> str | list[str]:
    """Take a single word without a colon for a service."""
    from featurestore.refs import ViewRef

    document = store.snapshot().document
    for name in features:
        view = name.partition("@")[0]
        if ":" not in name and view in document.views and name not in document.services:
            first = store.snapshot().view(store.snapshot().freeze(ViewRef.parse(name))).features[0].name
            raise InvalidArgumentError(
                f"'{name}' is a view, not a service or a feature.", repair=f"Name features: {name}:{first}."
            )
    if len(features) == 1 and ":" not in features[0]:
        store.snapshot().service(features[0])
        return features[0]
    return features


def _print_online(rows: Any, output: Format) -> None:
    values = rows.to_dict()
    statuses = {name: rows.status[name].tolist() for name in values}
    if output is Format.json:
        print_json({"features": values, "statuses": statuses, "time": rows.time, "position": rows.position})
        return
    lines = [
        (name, place, "" if value is None else value, statuses[name][place])
        for name, column in values.items()
        for place, value in enumerate(column)
    ]
    print_rows(("FEATURE", "ROW", "VALUE", "STATUS"), lines, output, command="get")
