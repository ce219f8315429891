"""Who reads: the principal that authenticated, the consumer it says it runs, and whether a manifest declares the read.

The same rules serve a call over the wire and a read in process, so that they live below both.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from featurestore.errors import AccessDeniedError
from featurestore.planning import ReadPlan
from featurestore.refs import FeatureRef
from featurestore.registry.credentials import Credentials
from featurestore.registry.snapshot import ConsumerRecord, RegistrySnapshot

Binding = Literal["bound", "local", "undeclared", "ambiguous", "anonymous"]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who authenticated.

    Attributes:
        name: The principal, e.g. ``svc-delay`` or ``local:ann``; empty for nobody.
        roles: What it may do: reader, writer, admin (which implies all), or ``reader:weather`` for one view.
        local: Whether it is the OS user in local mode, who may name any consumer.
    """

    name: str
    roles: frozenset[str]
    local: bool = False

    def may(self, role: str, view: str = "") -> bool:
        """Say whether the principal has a role, for every view or for the one that is named.

        >>> Principal("ops", frozenset({"admin"})).may("writer"), Principal("w", frozenset({"writer:weather"})).may("writer", "weather")
        (True, True)
        """
        return role in self.roles or "admin" in self.roles or (bool(view) and f"{role}:{view}" in self.roles)

    def may_somewhere(self, role: str) -> bool:
        """Say whether the principal has a role for any view at all."""
        return self.may(role) or any(held.startswith(f"{role}:") for held in self.roles)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who reads, as usage records it; `consumer` is empty when none is established."""

    principal: str
    consumer: str
    binding: Binding


def identify(principal: Principal, named: str, credentials: Credentials) -> Identity:
    """Establish which consumer a principal runs.

    Args:
        principal: Who authenticated.
        named: The consumer the caller names; empty for none.
        credentials: The bindings.

    Raises:
        AccessDeniedError: The principal names a consumer that it is not bound to.

    >>> bound = Credentials(bindings={"svc": ("delay_model@*",)})
    >>> identify(Principal("svc", frozenset({"reader"})), "delay_model@3", bound).binding
    'bound'
    """
    if principal.local:
        return Identity(principal.name, named, "local" if named else "undeclared")
    bindings = credentials.bindings.get(principal.name, ())
    if named:
        if not any(_covers(binding, named) for binding in bindings):
            raise AccessDeniedError(
                f"Principal '{principal.name}' is not bound to consumer '{named}'.",
                repair=f"Run `featurestore token bind {principal.name} {named}`.",
            )
        return Identity(principal.name, named, "bound")
    exact = [binding for binding in bindings if not binding.endswith("@*")]
    if len(bindings) == 1 and exact:
        return Identity(principal.name, exact[0], "bound")
    if bindings:
        return Identity(principal.name, "", "ambiguous")
    return Identity(principal.name, "", "undeclared" if principal.name else "anonymous")


def undeclared_refs(
    snapshot: RegistrySnapshot, plan: ReadPlan, identity: Identity, *, environment: str, now: int
) -> tuple[str, ...]:
    """Return the frozen references of a plan that the consumer's manifest does not declare.

    Args:
        snapshot: The registry.
        plan: What is read; another version than the declared one is not declared.
        identity: Who reads.
        environment: Where it reads; a manifest for another environment declares nothing here.
        now: Microseconds UTC; an expired manifest declares nothing.
    """
    manifest = snapshot.document.consumers.get(identity.consumer)
    counts = manifest is not None and _counts(manifest, environment, now)
    declared = _declared(snapshot, manifest.reads) if manifest and counts else frozenset()
    return tuple(ref for ref in plan.counted if ref not in declared)


def check_declared(
    snapshot: RegistrySnapshot, plan: ReadPlan, identity: Identity, *, environment: str, now: int
) -> tuple[str, ...]:
    """Apply the access modes of the views to a read, and return the warnings for the caller; arguments as `undeclared_refs`.

    Raises:
        AccessDeniedError: A view under ``enforce`` is read by somebody who does not declare it; the whole read is refused.
    """
    undeclared = undeclared_refs(snapshot, plan, identity, environment=environment, now=now)
    refused = [ref for ref in undeclared if _access(snapshot, ref) == "enforce"]
    if refused:
        who = f"Consumer '{identity.consumer}'" if identity.consumer else f"Principal '{identity.principal}'"
        manifest = snapshot.document.consumers.get(identity.consumer)
        elsewhere = manifest.environment if manifest and manifest.environment != environment else ""
        here = f" in '{environment}'" if elsewhere else ""
        repair = _repair(identity, refused, elsewhere)
        raise AccessDeniedError(f"{who} does not declare {', '.join(refused)}{here}.", repair=repair)
    return tuple(f"{ref} is read undeclared" for ref in undeclared if _access(snapshot, ref) == "warn")


def _counts(manifest: ConsumerRecord, environment: str, now: int) -> bool:
    """Say whether a manifest declares anything in an environment at an instant."""
    return manifest.environment in ("", environment) and (manifest.expires_at is None or now < manifest.expires_at)


def _declared(snapshot: RegistrySnapshot, reads: Iterable[str]) -> frozenset[str]:
    """Return what a manifest covers: its references, and the inputs of its on-demand features."""
    refs = [FeatureRef.parse(text).plain() for text in reads]
    inputs = (text for ref in refs for text in snapshot.view(ref.view_ref).inputs)
    return frozenset((*map(str, refs), *inputs))


def _access(snapshot: RegistrySnapshot, ref: str) -> str:
    return snapshot.view(FeatureRef.parse(ref).view_ref).access


def _repair(identity: Identity, refs: Iterable[str], elsewhere: str) -> str:
    if not identity.consumer and identity.principal.startswith("local:"):
        return (
            "Say which consumer you run: --consumer NAME, FeatureStore(..., consumer=NAME), or FEATURESTORE_CONSUMER."
        )
    if not identity.consumer:
        return f"Run `lineage declare {identity.principal}`, apply the manifest, then `featurestore token bind` it."
    if elsewhere:
        return f"The manifest of '{identity.consumer}' is for '{elsewhere}': widen its environment, then `featurestore apply`."
    return f"Add {', '.join(repr(ref) for ref in refs)} to reads of '{identity.consumer}', then `featurestore apply`."


def _covers(binding: str, consumer: str) -> bool:
    return binding == consumer or (binding.endswith("@*") and consumer.partition("@")[0] == binding[:-2])
