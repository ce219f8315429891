"""The `featurestore` command: data on standard output, progress and errors on standard error.

Exit codes: 0 done, 1 the answer is no, 2 usage, 3 definition or config invalid, 4 not found, 5 not allowed, 6 unavailable or timed out,
130 interrupted. What does the work is imported where it is needed, so that `--help` is quick.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from featurestore.errors import (
    AccessDeniedError,
    ConflictError,
    CorruptionError,
    DefinitionError,
    FailedPreconditionError,
    FeatureStoreError,
    InvalidArgumentError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)

if TYPE_CHECKING:
    from featurestore.registry.plan import ChangePlan
    from featurestore.store import FeatureStore

SCHEMA_VERSION = 1
TRACEBACK = "FEATURESTORE_TRACEBACK"
EXIT_CODES: tuple[tuple[type[FeatureStoreError], int], ...] = (
    (DefinitionError, 3),
    (InvalidArgumentError, 2),
    (NotFoundError, 4),
    (AccessDeniedError, 5),
    (UnauthenticatedError, 5),
    (UnavailableError, 6),
    (CorruptionError, 6),
    (FailedPreconditionError, 1),
    (ConflictError, 1),
)

app = typer.Typer(
    name="featurestore",
    help="A feature store that knows who reads what. Start with `featurestore demo`, or `featurestore init`.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
token_app = typer.Typer(help="Tokens of principals, and which consumers each may name.", no_args_is_help=True)
datasets_app = typer.Typer(help="Saved training sets.", no_args_is_help=True)
app.add_typer(token_app, name="token")
app.add_typer(datasets_app, name="datasets")


class Format(StrEnum):
    """How an answer is written."""

    table = "table"
    json = "json"


class Kind(StrEnum):
    """What can be listed."""

    entities = "entities"
    views = "views"
    services = "services"
    consumers = "consumers"
    datasets = "datasets"


Project = Annotated[
    Path | None, typer.Option("--project", help="Project folder; default: FEATURESTORE_PROJECT, or here and above.")
]
Output = Annotated[Format, typer.Option("--format", help="How the answer is written.")]
Move = Annotated[list[str] | None, typer.Option("--move", help="Service or consumer that goes along; may be repeated.")]
View = Annotated[str, typer.Argument(help="weather, or weather@v1 for a version.")]


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="New project folder.")] = Path()) -> None:
    """Make a project folder: featurestore.toml and a first features.py."""
    from featurestore.templates import write_project

    for path in write_project(folder):
        _say(f"wrote {path}")
    _say(
        "features.py reads data/activity.parquet (user_id int64, event_timestamp, score float64): put yours there, or edit it."
    )
    _say(f"Next: `cd {folder} && featurestore plan`.")


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
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """Show what `apply` would do: what is created, which versions appear, who reads what changes."""
    with _store(project) as store:
        _print_plan(store.plan(file), output, done=False)


@app.command()
def apply(
    file: Annotated[Path | None, typer.Argument(help="File of definitions; default: features.py.")] = None,
    message: Annotated[str, typer.Option("--message", "-m", help="Why, for the change log.")] = "",
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """Commit the definitions; a version that changes its meaning appears beside the old one."""
    with _store(project) as store:
        _print_plan(store.apply(file, message=message), output, done=True)


@app.command()
def promote(view: View, move: Move = None, project: Project = None, output: Output = Format.table) -> None:
    """Make a version the current one; readers stay where they are unless moved."""
    with _store(project) as store:
        _print_plan(store.promote(view, move=move or ()), output, done=True)


@app.command()
def deprecate(
    view: View,
    reason: Annotated[str, typer.Option(help="Why, for the change log.")] = "",
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """Mark a version as on its way out and list who reads it."""
    with _store(project) as store:
        _print_plan(store.deprecate(view, reason=reason), output, done=True)


@app.command()
def retire(
    view: View,
    force: Annotated[str, typer.Option(help="Reason to do it although somebody may read it; recorded.")] = "",
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """Take a version out of service; refused while somebody reads it."""
    with _store(project) as store:
        _print_plan(store.retire(view, force=force), output, done=True)


@app.command(name="list")
def list_objects(
    kind: Annotated[Kind, typer.Argument(help="What to list.")] = Kind.views,
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """List what is registered."""
    with _store(project) as store:
        headers, rows = _listing(store, kind)
        _print_rows(headers, rows, output, command=f"list {kind.value}")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A view, version, feature, service, consumer or entity.")],
    project: Project = None,
) -> None:
    """Show one object as JSON, as it is registered."""
    with _store(project) as store:
        _print_json({"object": name, **_object(store, name)})


@app.command()
def search(text: str, project: Project = None, output: Output = Format.table) -> None:
    """Find features by a word in their name, description, unit, owner or tags."""
    with _store(project) as store:
        rows = [row for row in _features(store) if text.lower() in " ".join(map(str, row)).lower()]
        _print_rows(("FEATURE", "DTYPE", "UNIT", "OWNER", "DESCRIPTION"), rows, output, command="search")
        if not rows:
            raise typer.Exit(1)


@app.command()
def ingest(
    views: Annotated[list[str] | None, typer.Argument(help="Views; default: every view that has a source.")] = None,
    known_until: Annotated[str | None, typer.Option(help="Only what was known at this ISO time (UTC).")] = None,
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """Pull views' sources into the offline store; rows that are there already are not taken again."""
    with _store(project) as store:
        reports = [store.ingest(view, known_until=known_until) for view in views or _pulled_views(store)]
        headers = ("VIEW", "READ", "ACCEPTED", "REPEATED", "LATER", "NULL TIMES", "NULL KEYS")
        fields = ("view", "read", "accepted", "repeated", "later", "null_events", "null_keys")
        _print_rows(headers, [[getattr(r, field) for field in fields] for r in reports], output, command="ingest")
        for warning in (warning for report in reports for warning in report.warnings):
            _say(f"warning: {warning}")


@app.command()
def write(
    view: View,
    file: Annotated[Path, typer.Argument(help="Parquet, CSV or JSON lines, with the source's column names.")],
    project: Project = None,
) -> None:
    """Accept rows of a view; when this returns they are durable and visible."""
    from featurestore.offline.files import read_table

    with _store(project) as store:
        report = store.write(view, read_table(file))
        _print_json(
            {"view": view, "accepted": report.accepted, "repeated": report.repeated_rows, "parked": report.parked}
        )


@app.command()
def materialize(
    view: Annotated[str | None, typer.Argument(help="A view; default: every view that has rows.")] = None,
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """Bring the latest rows to the online store."""
    with _store(project) as store:
        rows = [(report.view, report.rows, report.changed) for report in store.materialize(view)]
        _print_rows(("VIEW", "ROWS", "NEW ONLINE"), rows, output, command="materialize")


@app.command()
def get(
    features: Annotated[list[str], typer.Argument(help="A feature service, or references such as weather@v1:temp.")],
    key: Annotated[list[str] | None, typer.Option("--key", "-k", help="column=value; repeat for more rows.")] = None,
    request: Annotated[list[str] | None, typer.Option("--request", "-r", help="column=value of request data.")] = None,
    full: Annotated[bool, typer.Option("--full-feature-names", help="Name outputs view__feature.")] = False,
    consumer: Annotated[str | None, typer.Option(help="What you run, e.g. delay_model@1.")] = None,
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """Read the newest features of some keys, in process."""
    from featurestore.planning import plan_read

    with _store(project, consumer) as store:
        wanted = _wanted(store, features)
        plan = plan_read(store.snapshot(), wanted, full_feature_names=full)
        types = {name: dtype for k in plan.key_sets for name, dtype in zip(k.columns, k.dtypes, strict=True)}
        types |= dict(plan.request)
        rows = store.get_online_features(
            wanted, _columns(key, types), request=_columns(request, types), full_feature_names=full
        )
        _print_online(rows, output)


@app.command(name="training-set")
def training_set(
    spine: Annotated[Path, typer.Argument(help="Keys and times: Parquet, CSV or JSON lines.")],
    features: Annotated[list[str], typer.Argument(help="A feature service, or references.")],
    timestamp: Annotated[str, typer.Option(help="The spine's time column.")] = "event_timestamp",
    knowledge: Annotated[str, typer.Option(help="as_known or latest.")] = "as_known",
    out: Annotated[Path | None, typer.Option(help="Write the training set to this Parquet file.")] = None,
    save: Annotated[str | None, typer.Option(help="Save and register it under this name.")] = None,
    full: Annotated[bool, typer.Option("--full-feature-names", help="Name outputs view__feature.")] = False,
    consumer: Annotated[str | None, typer.Option(help="What you run, e.g. delay_model@1.")] = None,
    project: Project = None,
) -> None:
    """Join features onto a spine as they were known at each of its rows' times."""
    from featurestore.offline.files import read_table, write_table

    with _store(project, consumer) as store:
        result = store.get_historical_features(
            read_table(spine),
            _wanted(store, features),
            timestamp=timestamp,
            knowledge=_one_of("knowledge", knowledge, ("as_known", "latest")),
            full_feature_names=full,
        )
        _say(str(result.report))
        if out:
            write_table(result.to_arrow(), out)
        if save:
            store.save(save, result)
        _print_json({"rows": len(result.to_arrow()), "columns": result.to_arrow().column_names, "saved": save})


@datasets_app.command("list")
def datasets_list(project: Project = None, output: Output = Format.table) -> None:
    """List the saved training sets."""
    list_objects(Kind.datasets, project, output)


@datasets_app.command("verify")
def datasets_verify(name: str, project: Project = None) -> None:
    """Read a saved training set again and compare the digest of its values."""
    with _store(project) as store:
        store.dataset(name).verify()
        _say(f"{name}: every value is as it was saved")


@app.command()
def replay(
    views: Annotated[list[str] | None, typer.Argument(help="Views; default: every view that has a source.")] = None,
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
    with _store(project) as store:
        for moment, rows in store.replay(views or _pulled_views(store), since=first, moments=moments):
            _say(f"{from_micros(moment):%Y-%m-%d %H:%M}Z  {rows} rows")


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address; default: featurestore.toml.")] = None,
    grpc_port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 takes a free one.")] = None,
    http_port: Annotated[
        int | None, typer.Option(min=-1, max=65535, help="0 takes a free one, -1 serves no HTTP.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Reader processes.")] = None,
    auth: Annotated[str | None, typer.Option(help="none (this machine only) or token.")] = None,
    clock: Annotated[str, typer.Option(help="system, or replay to play history.")] = "system",
    project: Project = None,
) -> None:
    """Serve features over gRPC and HTTP until SIGTERM."""
    from featurestore.config import find_project, load_settings
    from featurestore.serving.settings import serve_settings
    from featurestore.serving.supervise import serve as run

    given = {"host": host, "grpc_port": grpc_port, "http_port": http_port, "workers": workers, "auth": auth}
    run(serve_settings(load_settings(project or find_project()), clock=clock, **given))  # type: ignore[arg-type]  # by name


@token_app.command("create")
def token_create(
    name: str,
    principal: Annotated[str, typer.Option(help="Who authenticates with it.")],
    role: Annotated[list[str] | None, typer.Option(help="reader, writer or admin; may be repeated.")] = None,
    days: Annotated[int | None, typer.Option(min=1, help="Days until it expires; default: never.")] = None,
    project: Project = None,
) -> None:
    """Create a token and print its secret, which is shown this once."""
    from featurestore.store import DAY, system_clock

    now = system_clock()
    expires = now + days * DAY if days else None
    with _store(project) as store:
        roles = frozenset(role or ["reader"])
        print(store.registry.create_token(name, principal=principal, roles=roles, now=now, expires_at=expires))


@token_app.command("revoke")
def token_revoke(name: str, project: Project = None) -> None:
    """Revoke a token; servers refuse it within a second."""
    from featurestore.store import system_clock

    with _store(project) as store:
        store.registry.revoke_token(name, now=system_clock())
        _say(f"revoked {name}")


@token_app.command("bind")
def token_bind(principal: str, consumer: str, project: Project = None) -> None:
    """Allow a principal to say that it runs a consumer; `model@*` means every version."""
    from featurestore.store import system_clock

    with _store(project) as store:
        if not consumer.endswith("@*"):
            store.snapshot().consumer(consumer)
        store.registry.bind(principal, consumer, now=system_clock())
        _say(f"{principal} may say that it runs {consumer}")


@token_app.command("unbind")
def token_unbind(principal: str, consumer: str, project: Project = None) -> None:
    """Take a binding back."""
    with _store(project) as store:
        store.registry.unbind(principal, consumer)
        _say(f"{principal} may no longer say that it runs {consumer}")


@token_app.command("list")
def token_list(project: Project = None, output: Output = Format.table) -> None:
    """List tokens, without their secrets, and bindings."""
    with _store(project) as store:
        known = store.registry.credentials()
        rows = [
            (t.name, t.principal, " ".join(sorted(t.roles)), "revoked" if t.revoked_at else "", ", ".join(bound))
            for t in known.tokens.values()
            for bound in [known.bindings.get(t.principal, ())]
        ]
        _print_rows(("TOKEN", "PRINCIPAL", "ROLES", "STATE", "CONSUMERS"), rows, output, command="token list")


@app.command()
def doctor(project: Project = None, output: Output = Format.table) -> None:
    """Check the project: settings, registry, store, server; exit 1 when something is wrong."""
    from featurestore.config import find_project
    from featurestore.doctor import examine

    checks = examine(project or find_project())
    rows = [("ok" if check.ok else "WRONG", check.what, check.detail) for check in checks]
    _print_rows(("STATE", "WHAT", "DETAIL"), rows, output, command="doctor")
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; expected errors are printed with their repair, never as a traceback."""
    try:
        app(list(arguments) if arguments is not None else None)
        code = 0
    except FeatureStoreError as error:
        _say(f"error: {error}".replace("full_feature_names=True", "--full-feature-names"))
        code = exit_code(error)
    except KeyboardInterrupt:
        code = 130
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else 0
    except BrokenPipeError:
        code = 0
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        _say(f"error: {_unexpected(error)}")
        code = 1
    sys.exit(code)


def exit_code(error: FeatureStoreError) -> int:
    """Return the exit code of an error.

    >>> exit_code(NotFoundError("No view 'x'."))
    4
    """
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), 1)


def _unexpected(error: Exception) -> FeatureStoreError:
    """Say what nobody foresaw: in a line of the user's file, if one is to blame, else as a defect."""
    frames = traceback.extract_tb(error.__traceback__)
    roots = (Path(__file__).parent, Path(typer.__file__).parent.parent, Path(os.__file__).parent)
    own = [
        f for f in frames if f.filename.endswith(".py") and not any(Path(f.filename).is_relative_to(r) for r in roots)
    ]
    said = f"{type(error).__name__}: {error}".rstrip(".")
    if own:
        return FeatureStoreError(f"{said}.", place=f"{own[-1].filename}:{own[-1].lineno}")
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else None
    return FeatureStoreError(
        f"{said}.", place=place, repair=f"This was not foreseen; {TRACEBACK}=1 shows the traceback."
    )


def _store(project: Path | None, consumer: str | None = None) -> FeatureStore:
    from featurestore.config import find_project
    from featurestore.errors import nearest_name
    from featurestore.store import FeatureStore

    store = FeatureStore(project or find_project(), consumer=consumer)
    if consumer and consumer not in (known := store.snapshot().document.consumers):
        near = nearest_name(consumer, known)
        hint = f" Did you mean '{near}'?" if near else ""
        _say(f"note: no consumer '{consumer}' is registered; what it reads counts as undeclared.{hint}")
    return store


def _one_of(what: str, given: str, allowed: Sequence[str]) -> Any:
    if given not in allowed:
        raise InvalidArgumentError(f"{what} is {' or '.join(allowed)}, not '{given}'.", place=f"--{what}")
    return given


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _print_json(document: Mapping[str, Any]) -> None:
    print(json.dumps({"schema_version": SCHEMA_VERSION, **document}, indent=2, default=_json_value))


def _json_value(value: Any) -> str:
    """Write a scalar that JSON lacks: an instant or a day in ISO form, a decimal or bytes as text."""
    from datetime import date
    from decimal import Decimal

    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal | Path):
        return str(value)
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _print_rows(headers: Sequence[str], rows: Iterable[Sequence[Any]], output: Format, *, command: str) -> None:
    found = [list(row) for row in rows]
    if output is Format.json:
        names = [header.lower().replace(" ", "_") for header in headers]
        _print_json({"command": command, "rows": [dict(zip(names, row, strict=True)) for row in found]})
    else:
        from lineage.printing import table

        print(table(headers, found) if found else "nothing")


def _print_plan(plan: ChangePlan, output: Format, *, done: bool) -> None:
    if output is Format.json:
        changes = [
            {"kind": c.kind, "object": c.object, "detail": c.detail, "consumers": list(c.consumers)}
            for c in plan.changes
        ]
        _print_json({"base_revision": plan.base_revision, "changes": changes, "notes": list(plan.notes)})
        return
    for change in plan.changes:
        print(f"{change.kind:<12} {change.object}" + (f"  ({change.detail})" if change.detail else ""))
        if change.consumers:
            fate = "moved" if change.kind == "promote" else "read by"
            stay = "" if change.kind == "promote" else "; they keep what they read until they are moved"
            print(f"{'':<12} {fate} {', '.join(change.consumers)}{stay}")
    for note in plan.notes:
        print(f"{'note':<12} {note}")
    if not plan:
        print("Nothing to do: the registry is as the definitions say.")
    elif done:
        _say(f"Applied as revision {plan.base_revision + 1}.")
    else:
        count = f"{len(plan.changes)} change{'s' if len(plan.changes) != 1 else ''}"
        _say(f"{count} on revision {plan.base_revision}. Run `featurestore apply` to commit.")


def _listing(store: FeatureStore, kind: Kind) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
    document = store.snapshot().document
    if kind is Kind.views:
        rows = [
            (
                str(ref),
                record.kind,
                record.entity or "-",
                len(record.features),
                record.status,
                record.access,
                record.owner,
            )
            for ref, record in store.snapshot().view_versions()
        ]
        return ("VIEW", "KIND", "ENTITY", "FEATURES", "STATUS", "ACCESS", "OWNER"), rows
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


def _pulled_views(store: FeatureStore) -> list[str]:
    versions = ((ref, record) for ref, record in store.snapshot().view_versions() if record.status != "retired")
    return [str(ref) for ref, record in versions if record.source is not None and record.source.kind != "push"]


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


def _columns(pairs: Iterable[str] | None, types: Mapping[str, Any]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    for place, pair in enumerate(pairs or ()):
        name, equals, text = pair.partition("=")
        if not equals:
            raise InvalidArgumentError(f"'{pair}' is not column=value.", place=f"--key[{place}]")
        if name not in types:
            raise NotFoundError.of("key or request column", name, types)
        columns.setdefault(name, []).append(_value(types[name].name, text, pair))
    return columns


def _value(dtype: str, text: str, pair: str) -> Any:
    """Read a command-line value as its declared type."""
    from datetime import date, datetime
    from decimal import Decimal

    readers: dict[str, Any] = {
        "string": str,
        "binary": str.encode,
        "bool": lambda t: {"true": True, "false": False}[t.lower()],
        "date": date.fromisoformat,
        "timestamp": datetime.fromisoformat,
        "float32": float,
        "float64": float,
    }
    try:
        return readers.get(dtype, Decimal if dtype.startswith("decimal") else int)(text)
    except (ValueError, KeyError, ArithmeticError) as error:
        raise InvalidArgumentError(f"'{text}' is not {dtype}.", place=pair) from error


def _print_online(rows: Any, output: Format) -> None:
    values = rows.to_dict()
    statuses = {name: rows.status[name].tolist() for name in values}
    if output is Format.json:
        _print_json({"features": values, "statuses": statuses, "time": rows.time, "position": rows.position})
        return
    lines = [
        (name, place, "" if value is None else value, statuses[name][place])
        for name, column in values.items()
        for place, value in enumerate(column)
    ]
    _print_rows(("FEATURE", "ROW", "VALUE", "STATUS"), lines, output, command="get")
