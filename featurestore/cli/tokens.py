"""`featurestore token`: tokens of principals, and which consumers each may name."""

from __future__ import annotations

from typing import Annotated

import typer

from featurestore.cli.terminal import Format, Output, Project, open_store, print_rows, say

app = typer.Typer(help="Tokens of principals, and which consumers each may name.", no_args_is_help=True)


@app.command("create")
def token_create(
    name: str,
    principal: Annotated[str, typer.Option(help="Who authenticates with it.")],
    role: Annotated[list[str] | None, typer.Option(help="reader, writer or admin; may be repeated.")] = None,
    days: Annotated[int | None, typer.Option(min=1, help="Days until it expires; default: never.")] = None,
    project: Project = None,
) -> None:
    """Create a token and print its secret, which is shown this once."""
    from featurestore.config import system_clock
    from featurestore.store import DAY

    now = system_clock()
    expires = now + days * DAY if days else None
    with open_store(project) as store:
        roles = frozenset(role or ["reader"])
        print(store.registry.create_token(name, principal=principal, roles=roles, now=now, expires_at=expires))


@app.command("revoke")
def token_revoke(name: str, project: Project = None) -> None:
    """Revoke a token; servers refuse it within a second."""
    from featurestore.config import system_clock

    with open_store(project) as store:
        store.registry.revoke_token(name, now=system_clock())
        say(f"revoked {name}")


@app.command("bind")
def token_bind(principal: str, consumer: str, project: Project = None) -> None:
    """Allow a principal to say that it runs a consumer; `model@*` means every version."""
    from featurestore.config import system_clock

    with open_store(project) as store:
        if not consumer.endswith("@*"):
            store.snapshot().consumer(consumer)
        store.registry.bind(principal, consumer, now=system_clock())
        say(f"{principal} may say that it runs {consumer}")


@app.command("unbind")
def token_unbind(principal: str, consumer: str, project: Project = None) -> None:
    """Take a binding back."""
    with open_store(project) as store:
        store.registry.unbind(principal, consumer)
        say(f"{principal} may no longer say that it runs {consumer}")


@app.command("list")
def token_list(project: Project = None, output: Output = Format.table) -> None:
    """List tokens, without their secrets, and bindings."""
    with open_store(project) as store:
        known = store.registry.credentials()
        rows = [
            (t.name, t.principal, " ".join(sorted(t.roles)), "revoked" if t.revoked_at else "", ", ".join(bound))
            for t in known.tokens.values()
            for bound in [known.bindings.get(t.principal, ())]
        ]
        print_rows(("TOKEN", "PRINCIPAL", "ROLES", "STATE", "CONSUMERS"), rows, output, command="token list")
