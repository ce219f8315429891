"""Commands that run and look after a server."""

from __future__ import annotations

from typing import Annotated

import typer

from featurestore.cli.terminal import Format, Output, Project, print_rows

app = typer.Typer()


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address; default: featurestore.toml.")] = None,
    grpc_port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 takes a free one.")] = None,
    http_port: Annotated[
        int | None, typer.Option(min=-1, max=65535, help="0 takes a free one, -1 serves no HTTP.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Reader processes.")] = None,
    auth: Annotated[str | None, typer.Option(help="none (this machine only) or required.")] = None,
    transport: Annotated[str | None, typer.Option(help="grpc_aio, or native where its wheel is installed.")] = None,
    clock: Annotated[str, typer.Option(help="system, or replay to play history.")] = "system",
    project: Project = None,
) -> None:
    """Serve features over gRPC and HTTP until SIGTERM."""
    from featurestore.config import find_project, load_settings
    from featurestore.serving.settings import serve_settings
    from featurestore.serving.supervise import serve as run

    ports = {"grpc_port": grpc_port, "http_port": http_port}
    given = {"host": host, **ports, "workers": workers, "auth": auth, "transport": transport}
    run(serve_settings(load_settings(project or find_project()), clock=clock, **given))  # type: ignore[arg-type]  # by name


@app.command()
def doctor(project: Project = None, output: Output = Format.table) -> None:
    """Check the project: settings, registry, store, server; exit 1 when something is wrong."""
    from featurestore.config import find_project
    from featurestore.doctor import examine

    checks = examine(project or find_project())
    rows = [("ok" if check.ok else "WRONG", check.what, check.detail) for check in checks]
    print_rows(("STATE", "WHAT", "DETAIL"), rows, output, command="doctor")
    if not all(check.ok for check in checks):
        raise typer.Exit(1)
