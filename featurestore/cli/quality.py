"""Commands about the quality of rows: batches in quarantine, and profiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore.cli.terminal import Format, Output, Project, View, open_store, print_json, print_rows, say

if TYPE_CHECKING:
    from featurestore.offline.profiles import FeatureProfile, Profile
    from featurestore.store import FeatureStore

app = typer.Typer()
quarantine = typer.Typer(help="Batches that are held because an expectation did not hold.", no_args_is_help=True)

Batch = Annotated[str, typer.Argument(help="Id of the batch, or how it begins.")]
Reason = Annotated[str, typer.Option(help="Why; it is recorded.")]


@app.command()
def profile(view: View, project: Project = None, output: Output = Format.table) -> None:
    """Take a profile of a view version as its offline table is now, and keep it."""
    with open_store(project) as store:
        store.profile(view)
        print_profile(store, view, output)


@app.command()
def revisions(
    view: Annotated[
        str | None, typer.Argument(help="A view, or a version of it; default: all that can be told.")
    ] = None,
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """Count how often rows came again with something else: how far a source revises its history."""
    with open_store(project) as store:
        found = store.revisions(view)
        rows = [(r.view, m.month, m.rows, m.revised, f"{m.revised / m.rows:.2%}") for r in found for m in r.months]
        print_rows(("VIEW", "MONTH", "ROWS", "REVISED", "SHARE"), rows, output, command="revisions")


@quarantine.command("list")
def quarantine_list(
    everything: Annotated[bool, typer.Option("--all", help="Those that were released or dropped as well.")] = False,
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """List the batches that wait for a decision."""
    from featurestore.types import from_micros

    with open_store(project) as store:
        waiting = [held for held in store.quarantined() if everything or held.state in ("held", "releasing")]
        rows = [
            (held.id, held.report.view, held.report.way, held.report.rows, held.state,
             from_micros(held.report.held_at).isoformat(), "; ".join(map(str, held.report.breaches)))
            for held in waiting
        ]  # fmt: skip
        headers = ("ID", "VIEW", "WAY", "ROWS", "STATE", "HELD AT", "WHY")
        print_rows(headers, rows, output, command="quarantine list")


@quarantine.command("show")
def quarantine_show(batch: Batch, project: Project = None) -> None:
    """Show why a batch is held, with the first rows of each breach, and what was decided, as JSON."""
    import msgspec

    with open_store(project) as store:
        held = store.quarantined_batch(batch)
        report: dict[str, Any] = msgspec.to_builtins(held.report)
        history = [msgspec.to_builtins(decision) for decision in held.history]
        print_json({**report, "state": held.state, "history": history, "directory": str(held.directory)})


@quarantine.command("release")
def quarantine_release(batch: Batch, reason: Reason, project: Project = None) -> None:
    """Accept the rows of a batch although an expectation does not hold."""
    with open_store(project) as store:
        held = store.quarantined_batch(batch)
        accepted = store.release(held.id, reason=reason)
        say(f"{held.id}: {accepted} of {held.report.rows} rows accepted")


@quarantine.command("drop")
def quarantine_drop(batch: Batch, reason: Reason, project: Project = None) -> None:
    """Delete the rows of a batch; its report stays."""
    with open_store(project) as store:
        held = store.quarantined_batch(batch)
        store.drop(held.id, reason=reason)
        say(f"{held.id}: {held.report.rows} rows deleted; the report stays")


def print_profile(store: FeatureStore, view: str, output: Format) -> None:
    """Print the newest profile of a view, and how it moved against the one before."""
    import msgspec

    from featurestore.errors import NotFoundError

    kept = store.profiles(view)
    if not kept:
        raise NotFoundError.of("profile", view, [], repair=f"Run `featurestore profile {view}`.")
    newest, before = kept[-1], kept[-2] if len(kept) > 1 else None
    if output is Format.json:
        previous = None if before is None else {"taken_at": before.taken_at, "delta_version": before.delta_version}
        print_json({"profile": msgspec.to_builtins(newest), "before": previous, "moved": _moved(newest, before)})
        return
    from featurestore.types import from_micros

    say(
        f"{newest.view}: {newest.rows} rows at {from_micros(newest.taken_at).isoformat()}, "
        f"version {newest.delta_version} of the log; profile {len(kept)} of {len(kept)}"
    )
    moves = {move["name"]: move for move in _moved(newest, before)}
    headers = (
        "FEATURE",
        "NULLS",
        "DISTINCT",
        "MIN",
        "MEDIAN",
        "MAX",
        "MEAN",
        "STDDEV",
        "MOST FREQUENT",
        "PSI",
        "NULLS MOVED",
    )
    print_rows(headers, [_row(f, moves.get(f.name)) for f in newest.features], output, command="profile")


def _moved(newest: Profile, before: Profile | None) -> list[dict[str, Any]]:
    """Say for each feature that the profile before has how far it moved."""
    if before is None:
        return []
    pairs = [(f, known) for f in newest.features if (known := before.feature(f.name))]
    return [{"name": f.name, "psi": f.psi, "null_share": f.null_share - known.null_share} for f, known in pairs]


def _row(f: FeatureProfile, move: dict[str, Any] | None) -> tuple[str, ...]:
    top = ", ".join(f"{value.value} ({value.rows})" for value in f.top[:3])
    psi = _number(move["psi"]) if move else ""
    nulls = f"{move['null_share']:+.2%}" if move else ""
    facts = (f.distinct, f.minimum, f.median, f.maximum, f.mean, f.stddev)
    return (f.name, f"{f.null_share:.2%}", *map(_number, facts), top, psi, nulls)


def _number(value: float | str | None) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
