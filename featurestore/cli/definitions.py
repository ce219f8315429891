"""Commands over what is registered: a new project, plans, versions, and what there is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore.cli.quality import print_profile
from featurestore.cli.terminal import Format, Output, Project, View, open_store, print_json, print_rows, say
from featurestore.errors import InvalidArgumentError, NotFoundError
from featurestore.types import from_micros

if TYPE_CHECKING:
    from featurestore.registry.plan import ChangePlan
    from featurestore.store import FeatureStore
    from lineage import Impact

app = typer.Typer()


class Kind(StrEnum):
    """What can be listed."""

    entities = "entities"
    views = "views"
    services = "services"
    consumers = "consumers"
    datasets = "datasets"


Force = Annotated[str, typer.Option(help="Reason to do it although somebody may read it; recorded.")]
Remove = Annotated[
    list[str] | None, typer.Option("--remove", help="View that left the file and shall go; may be repeated.")
]
Move = Annotated[list[str] | None, typer.Option("--move", help="Service or consumer that goes along; may be repeated.")]


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="New project folder.")] = Path()) -> None:
    """Make a project folder: featurestore.toml and a first features.py."""
    from featurestore.templates import write_project

    for path in write_project(folder):
        say(f"wrote {path}")
    say(
        "features.py reads data/activity.parquet (user_id int64, event_timestamp, score float64): put yours there, or edit it."
    )
    say(f"Next: `cd {folder} && featurestore plan`.")


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where the demo's project folder is made.")] = Path("demo-project"),
) -> None:
    """Run the flights example: plan, train, serve, replay a day, and see who reads what."""
    from featurestore.templates import run_demo

    raise typer.Exit(run_demo(folder))


@app.command()
def plan(
    file: Annotated[Path | None, typer.Argument(help="File of definitions; default: features.py.")] = None,
    remove: Remove = None,
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """Show what `apply` would do: what is created, which versions appear, who reads what changes."""
    with open_store(project) as store:
        planned = store.plan(file, remove=remove or ())
        _print_plan(planned, output, done=False, hits=_hits(store, planned))


@app.command()
def apply(
    file: Annotated[Path | None, typer.Argument(help="File of definitions; default: features.py.")] = None,
    message: Annotated[str, typer.Option("--message", "-m", help="Why, for the change log.")] = "",
    remove: Remove = None,
    force: Force = "",
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """Commit the definitions; a version that changes its meaning appears beside the old one."""
    with open_store(project) as store:
        _print_plan(store.apply(file, message=message, remove=remove or (), force=force), output, done=True)


@app.command()
def promote(
    view: View,
    move: Move = None,
    canary: Annotated[str, typer.Option(help="Only for this share of the keys at first, such as 10%.")] = "",
    shadow: Annotated[bool, typer.Option("--shadow", help="Only read it as well, and count differences.")] = False,
    force: Force = "",
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """Make a version the current one; readers stay where they are unless moved."""
    if canary and shadow:
        raise InvalidArgumentError("A version is read by some keys or in the shadow, not both.", place="--canary")
    with open_store(project) as store:
        if canary or shadow:
            share = _share(canary) if canary else None
            _print_plan(store.roll_out(view, share=share, move=move or ()), output, done=True)
        else:
            _print_plan(store.promote(view, move=move or (), force=force), output, done=True)


def _share(text: str) -> float:
    """Read ``10%``, or ``0.1``."""
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError as error:
        raise InvalidArgumentError(f"'{text}' is no share.", place="--canary", repair="Write 10% or 0.1.") from error


@app.command()
def deprecate(
    view: View,
    reason: Annotated[str, typer.Option(help="Why, for the change log.")] = "",
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """Mark a version as on its way out and list who reads it."""
    with open_store(project) as store:
        _print_plan(store.deprecate(view, reason=reason), output, done=True)


@app.command()
def retire(
    view: View,
    force: Force = "",
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """Take a version out of service; refused while somebody reads it."""
    with open_store(project) as store:
        _print_plan(store.retire(view, force=force), output, done=True)


@app.command()
def log(
    view: Annotated[str, typer.Argument(metavar="OBJECT", help="Only lines about this; default: all.")] = "",
    since: Annotated[int, typer.Option(help="Only commits after this revision.")] = 0,
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """Show what was committed, by whom and why, and what was forced although somebody read it."""
    with open_store(project) as store:
        rows = [
            (
                commit.revision,
                f"{from_micros(commit.committed_at):%Y-%m-%d %H:%M:%S}",
                commit.principal,
                change.kind,
                change.object,
                change.detail or commit.message,
            )
            for commit, change in store.registry.history(since=since)
            if view in change.object
        ]
        print_rows(("REVISION", "TIME", "PRINCIPAL", "KIND", "OBJECT", "DETAIL"), rows, output, command="log")


@app.command(name="list")
def list_objects(
    kind: Annotated[Kind, typer.Argument(help="What to list.")] = Kind.views,
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """List what is registered."""
    with open_store(project) as store:
        headers, rows = _listing(store, kind)
        print_rows(headers, rows, output, command=f"list {kind.value}")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A view, version, feature, service, consumer or entity.")],
    profile: Annotated[
        bool, typer.Option("--profile", help="Of a view: what its values are like, now and before.")
    ] = False,
    project: Project = None,
    output: Annotated[Format, typer.Option("--format", help="How a profile is written.")] = Format.table,
) -> None:
    """Show one object as JSON, as it is registered; or the newest profile of a view."""
    with open_store(project) as store:
        if profile:
            print_profile(store, name, output)
            return
        print_json({"object": name, **_object(store, name)})


@app.command()
def search(text: str, project: Project = None, output: Output = Format.table) -> None:
    """Find features by a word in their name, description, unit, owner or tags."""
    with open_store(project) as store:
        rows = [row for row in _features(store) if text.lower() in " ".join(map(str, row)).lower()]
        print_rows(("FEATURE", "DTYPE", "UNIT", "OWNER", "DESCRIPTION"), rows, output, command="search")
        if not rows:
            raise typer.Exit(1)


def _hits(store: FeatureStore, plan: ChangePlan) -> dict[str, Impact]:
    """Return view -> what a change of it hits, for the views of a plan that are there already."""
    known = store.snapshot().document.views
    views = {c.object.removeprefix("view ").partition("@")[0] for c in plan.changes if c.object.startswith("view ")}
    try:
        return {view: store.lineage.impact(f"view:{view}", change="meaning") for view in sorted(views & set(known))}
    except InvalidArgumentError as error:  # a registry that keeps no usage
        say(f"note: who reads it is not known. {error}")
        return {}


def _live(hit: Impact) -> list[str]:
    """Say who was seen to read a view: reader, version and environment, once each."""
    reads = ((live.reader, live.read.feature.partition(":")[0], live.read.environment or "-") for live in hit.live)
    return [f"{reader} ({version}, {environment})" for reader, version, environment in dict.fromkeys(reads)]


def _print_plan(plan: ChangePlan, output: Format, *, done: bool, hits: Mapping[str, Impact] | None = None) -> None:
    if output is Format.json:
        changes = [
            {"kind": c.kind, "object": c.object, "detail": c.detail, "consumers": list(c.consumers)}
            for c in plan.changes
        ]
        impact = {
            view: {"live": _live(hit), "tell": [contact.owner for contact in hit.contacts]}
            for view, hit in (hits or {}).items()
        }
        answer = {"base_revision": plan.base_revision, "changes": changes, "notes": list(plan.notes)}
        print_json({**answer, "impact": impact} if impact else answer)
        return
    for change in plan.changes:
        print(f"{change.kind:<12} {change.object}" + (f"  ({change.detail})" if change.detail else ""))
        if change.consumers:
            fate = "moved" if change.kind == "promote" else "read by"
            stay = "" if change.kind == "promote" else "; they keep what they read until they are moved"
            print(f"{'':<12} {fate} {', '.join(change.consumers)}{stay}")
    for view, hit in (hits or {}).items():
        told = [contact.owner for contact in hit.contacts]
        facts = {
            "seen to read it": _live(hit),
            "predictions": hit.predictions,
            "datasets": hit.datasets,
            "through predictions": [str(found.reader) for found in hit.transitive],
            "tell": told,
        }
        shown = [f"{what} {', '.join(names)}" for what, names in facts.items() if names]
        if shown:
            print(f"{'impact':<12} view {view}: {'; '.join(shown)}")
    for note in plan.notes:
        print(f"{'note':<12} {note}")
    if not plan:
        print("Nothing to do: the registry is as the definitions say.")
    elif done:
        say(f"Applied as revision {plan.base_revision + 1}.")
    else:
        count = f"{len(plan.changes)} change{'s' if len(plan.changes) != 1 else ''}"
        say(f"{count} on revision {plan.base_revision}. Run `featurestore apply` to commit.")


def _listing(store: FeatureStore, kind: Kind) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
    from featurestore.registry.rollout import role

    document = store.snapshot().document
    if kind is Kind.views:
        rows = [
            (
                str(ref),
                record.kind,
                record.entity or "-",
                len(record.features),
                record.status,
                role(document, ref),
                record.access,
                record.owner,
            )
            for ref, record in store.snapshot().view_versions()
        ]
        return ("VIEW", "KIND", "ENTITY", "FEATURES", "STATUS", "READ AS", "ACCESS", "OWNER"), rows
    if kind is Kind.entities:
        keys = [
            (name, ", ".join(f"{k}: {t}" for k, t in e.join_keys), e.owner) for name, e in document.entities.items()
        ]
        return ("ENTITY", "JOIN KEYS", "OWNER"), keys
    if kind is Kind.services:
        return ("SERVICE", "FEATURES", "OWNER"), [(n, len(s.features), s.owner) for n, s in document.services.items()]
    if kind is Kind.consumers:
        consumers = [(key, c.kind, len(c.reads), ", ".join(c.writes), c.owner) for key, c in document.consumers.items()]
        return ("CONSUMER", "KIND", "READS", "WRITES", "OWNER"), consumers
    saved = [(name, d.rows, len(d.refs), d.consumer or "", d.digest[:16]) for name, d in document.datasets.items()]
    return ("DATASET", "ROWS", "FEATURES", "CONSUMER", "DIGEST"), saved


def _object(store: FeatureStore, name: str) -> Mapping[str, Any]:
    import msgspec

    from featurestore.refs import FeatureRef, ViewRef

    snapshot, document = store.snapshot(), store.snapshot().document
    if ":" in name:
        return {"feature": msgspec.to_builtins(snapshot.feature(FeatureRef.parse(name)), str_keys=True)}
    groups: dict[str, Mapping[str, Any]] = {
        "service": document.services,
        "consumer": document.consumers,
        "dataset": document.datasets,
    }
    groups |= {"entity": document.entities} if name not in document.views else {}
    for kind, group in groups.items():
        if name in group:
            return {kind: msgspec.to_builtins(group[name], str_keys=True)}
    if name.partition("@")[0] not in document.views:
        raise NotFoundError.of(
            "object", name, [*document.views, *document.services, *document.consumers, *document.entities]
        )
    ref = snapshot.freeze(ViewRef.parse(name))
    return {"view": str(ref), "definition": msgspec.to_builtins(snapshot.view(ref), str_keys=True)}


def _features(store: FeatureStore) -> Iterable[Sequence[Any]]:
    for ref, record in store.snapshot().view_versions():
        for feature in record.features:
            tags = " ".join(record.tags.values())
            yield (
                str(ref.feature(feature.name)),
                feature.dtype,
                feature.unit,
                record.owner,
                f"{feature.description} {tags}".strip(),
            )
