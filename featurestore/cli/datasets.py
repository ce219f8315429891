"""`featurestore datasets`: saved training sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore.cli.definitions import Kind, list_objects
from featurestore.cli.terminal import Format, Output, Project, open_store, print_json, print_rows, say

if TYPE_CHECKING:
    from featurestore.offline.datasets import DatasetDiff, Manifest

app = typer.Typer(help="Saved training sets.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of a saved training set.")]


@app.command("list")
def datasets_list(project: Project = None, output: Output = Format.table) -> None:
    """List the saved training sets."""
    list_objects(Kind.datasets, project, output)


@app.command("show")
def datasets_show(name: Name, project: Project = None, output: Output = Format.table) -> None:
    """Show what a saved training set was made from: features, files, versions, commit and seed."""
    import msgspec

    with open_store(project) as store:
        manifest = store.dataset(name).manifest
    if output is Format.json:
        print_json({"dataset": msgspec.to_builtins(manifest, str_keys=True)})
        return
    print_rows(("FACT", "VALUE"), list(_facts(manifest)), output, command="datasets show")


@app.command("verify")
def datasets_verify(
    name: Name,
    engine: Annotated[str | None, typer.Option(help="Engine that joins; default: the one it was saved with.")] = None,
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """Read a saved training set again, rebuild it from its frozen plan and files, and compare; exit code 1 if it differs."""
    with open_store(project) as store:
        found = store.dataset(name).rebuild(engine=engine)
    lines = [(d.column, d.rows, d.first, d.saved, d.rebuilt) for d in found.differences]
    if output is Format.json:
        differences = [dict(zip(("column", "rows", "first", "saved", "rebuilt"), line, strict=True)) for line in lines]
        facts = {"dataset": name, "rows": found.rows, "equal": found.equal, "engine": found.engine}
        print_json(
            _document(facts | {"columns": found.columns, "differences": differences, "libraries": found.libraries})
        )
    elif lines:
        print_rows(("COLUMN", "ROWS", "FIRST ROW", "SAVED", "REBUILT"), lines, output, command="datasets verify")
    for library, (then, now) in found.libraries.items():
        say(f"note: {library} was {then} at the save, is {now} now")
    if not found.equal:
        say(f"{name}: a rebuild gives other values")
        raise typer.Exit(1)
    for erased in found.erased:
        say(f"note: {erased}")
    say(f"{name}: every value is as it was saved, and a rebuild of {found.rows} rows gives the same")


@app.command("diff")
def datasets_diff(
    before: Annotated[str, typer.Argument(help="The dataset that counts as the reference.")],
    after: Annotated[str, typer.Argument(help="The dataset that is compared with it.")],
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 1 if they differ.")] = False,
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """Compare two saved training sets: columns, definitions, keys, values, and how far each feature moved."""
    import msgspec

    from featurestore.offline.datasets import diff_datasets

    with open_store(project) as store:
        found = diff_datasets(store.dataset(before), store.dataset(after))
    if output is Format.json:
        print_json({"equal": found.equal, "diff": _document(msgspec.to_builtins(found))})
    else:
        _print_diff(found)
    if exit_code and not found.equal:
        raise typer.Exit(1)


@app.command("delete")
def datasets_delete(
    name: Name,
    force: Annotated[str, typer.Option("--force", help="Reason to delete it although a manifest names it.")] = "",
    project: Project = None,
) -> None:
    """Delete a saved training set; refused while the manifest of a consumer names it."""
    with open_store(project) as store:
        store.delete_dataset(name, force=force)
    say(f"deleted dataset {name}")


def _facts(manifest: Manifest) -> Iterator[tuple[str, Any]]:
    from featurestore.types import from_micros

    yield "rows", manifest.rows
    yield "digest", manifest.digest
    yield "saved at", from_micros(manifest.saved_at).isoformat()
    yield "consumer", manifest.consumer or "-"
    yield "registry revision", manifest.revision
    yield "knowledge", manifest.knowledge
    yield "engine", manifest.engine
    yield "python", f"{manifest.python} on {manifest.platform}"
    yield "libraries", ", ".join(f"{library} {version}" for library, version in manifest.libraries.items())
    yield "commit", f"{manifest.code.commit}{' and changes' if manifest.code.dirty else ''}" if manifest.code else "-"
    yield "seed", "-" if manifest.seed is None else manifest.seed
    for source in manifest.sources:
        yield "source", f"{source.view} at log version {source.version}, {len(source.files)} files"
    for feature in manifest.features:
        yield "feature", f"{feature.name} = {feature.ref} ({feature.dtype}, {feature.fingerprint[:12]})"


def _print_diff(found: DatasetDiff) -> None:
    for title, changes in (("COLUMN", found.schema), ("DEFINITION", found.definitions), ("MADE WITH", found.origin)):
        _section((title, "BEFORE", "AFTER"), [(c.what, _cell(c.before), _cell(c.after)) for c in changes])
    keys = found.keys
    print(f"rows by {', '.join(keys.columns)}: {keys.matched} matched, {keys.added} added, {keys.removed} removed")
    for sign, examples in (("+", keys.examples_added), ("-", keys.examples_removed)):
        for example in examples:
            print(f"  {sign} {_cell(example)}")
    print()
    values = [(v.column, v.changed, _cell(v.greatest), _example(v.examples)) for v in found.values]
    _section(("VALUES OF", "CHANGED", "MOST BY", "FIRST"), values)
    moved = [
        (s.column, _cell(s.psi), _cell(s.ks), _cell(s.p_value), _cell(s.before.null_rate), _cell(s.after.null_rate))
        for s in found.shift
    ]
    _section(("SHIFT OF", "PSI", "KS", "P", "NULLS BEFORE", "NULLS AFTER"), moved)
    print("equal" if found.equal else "different")


def _section(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    if rows:
        print_rows(headers, rows, Format.table, command="datasets diff")
        print()


def _example(examples: Sequence[tuple[dict[str, Any], Any, Any]]) -> str:
    keys, before, after = examples[0]
    return f"{_cell(keys)}: {_cell(before)} -> {_cell(after)}"


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={_cell(one)}" for name, one in value.items())
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _document(value: Any) -> Any:
    """Return a JSON document without the numbers that JSON lacks: they are text there."""
    if isinstance(value, dict):
        return {name: _document(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_document(one) for one in value]
    return str(value) if isinstance(value, float) and value - value != 0 else value
