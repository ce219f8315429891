"""Who may call what: the permission of every RPC and route, and who a call comes from.

Deny by default: a method that is not in `METHODS` is refused, and a test walks every RPC and route to see that it is there.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from featurestore.errors import AccessDeniedError, NotFoundError
from featurestore.identity import Identity, Principal, check_declared, identify
from featurestore.planning import ReadPlan
from featurestore.registry.snapshot import RegistrySnapshot
from featurestore.serving.authentication import Authenticator
from featurestore.serving.call import Call

Permission = Literal["public", "read", "write", "tell", "status", "admin"]

SERVICE = "featurestore.v1.FeatureStore"
CONSUMER = "featurestore-consumer"

PUBLIC: Mapping[str, Permission] = {
    "/grpc.health.v1.Health/Check": "public",
    "/grpc.health.v1.Health/List": "public",
    "/grpc.health.v1.Health/Watch": "public",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": "public",
    "GET /healthz": "public",
    "GET /readyz": "public",
    "GET /openapi.json": "public",
    "GET /docs": "public",
}
RPCS: Mapping[str, Permission] = {
    f"/{SERVICE}/GetSchema": "read",
    f"/{SERVICE}/GetOnlineFeatures": "read",
    f"/{SERVICE}/GetWriteSchema": "write",
    f"/{SERVICE}/Write": "write",
    f"/{SERVICE}/AdvanceClock": "admin",
    f"/{SERVICE}/GetStatus": "status",
    f"/{SERVICE}/StreamOnlineFeatures": "read",
    f"/{SERVICE}/StreamWrite": "write",
    f"/{SERVICE}/GetHistoricalFeatures": "read",
}
ROUTES: Mapping[str, str] = {
    "POST /v1/schema": "GetSchema",
    "POST /v1/get-online-features": "GetOnlineFeatures",
    "POST /v1/write-schema": "GetWriteSchema",
    "POST /v1/write": "Write",
    "POST /v1/clock": "AdvanceClock",
    "GET /v1/status": "GetStatus",
}
PAGES: Mapping[str, Permission] = {"GET /metrics": "status"}
_QUESTIONS = ("consumers", "upstream", "downstream", "path", "impact", "usage", "check", "explain/{finding}", "cells")
LINEAGE: Mapping[str, Permission] = {
    **{f"GET /lineage/{question}": "status" for question in (*_QUESTIONS, "log", "select", "graph")},
    "POST /lineage/openlineage": "tell",
}
METHODS: Mapping[str, Permission] = {
    **PUBLIC,
    **RPCS,
    **PAGES,
    **LINEAGE,
    **{route: RPCS[f"/{SERVICE}/{rpc}"] for route, rpc in ROUTES.items()},
}


def rpc_of(method: str) -> str:
    """Return the name of the RPC that a method path or route stands for.

    >>> rpc_of("POST /v1/write"), rpc_of("/featurestore.v1.FeatureStore/Write")
    ('Write', 'Write')
    """
    return ROUTES.get(method) or method.rpartition("/")[2]


_ROLES: Mapping[Permission, tuple[str, ...]] = {
    "read": ("reader",),
    "write": ("writer",),
    "tell": ("writer",),  # for every view: events tell of all of them
    "status": ("reader", "writer"),
    "admin": ("admin",),
}


def roles_of(method: str) -> tuple[str, ...]:
    """Return the roles of which a caller needs one; none for a public method.

    >>> roles_of("GET /v1/status"), roles_of("GET /healthz")
    (('reader', 'writer'), ())
    """
    return _ROLES.get(METHODS[method], ())


@dataclass(frozen=True, slots=True)
class Decision:
    """What came of checking a plan against a consumer's manifest: the refusal, or the warnings of a read that goes on."""

    refusal: AccessDeniedError | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a call comes from, as far as it could be established.

    Attributes:
        principal: Who authenticated.
        identity: The consumer it runs, as usage records it.
        refusal: Why the consumer it names was not accepted; reads are refused with it.
        valid_until: From this instant on (microseconds UTC) it must be established again; None for never.
        decisions: Plan fingerprint -> what its manifest says; filled as plans are read.
        allowed: Methods that it was found to have the role for.
    """

    principal: Principal
    identity: Identity
    refusal: AccessDeniedError | NotFoundError | None
    valid_until: int | None
    decisions: dict[bytes, Decision] = field(default_factory=dict)
    allowed: set[str] = field(default_factory=set)


class Gate:
    """Authenticates and authorizes calls against one state of the registry.

    Nothing is looked up twice: callers are kept by what they sent, for as long as this gate is in use.

    Args:
        authenticator: Finds out who calls; it holds the tokens and bindings of that state.
        snapshot: The registry with its manifests.
        environment: Where this server stands; manifests for another do not count here.
    """

    def __init__(self, authenticator: Authenticator, snapshot: RegistrySnapshot, *, environment: str) -> None:
        self.credentials = authenticator.credentials
        self.snapshot = snapshot
        self.environment = environment
        self._authenticator = authenticator
        self._callers: dict[tuple[str, str, str], Caller] = {}

    def admit(self, call: Call) -> Caller:
        """Return who calls.

        Raises:
            UnauthenticatedError: No token, or one that is unknown, expired or revoked.
            AccessDeniedError: The principal lacks the role, or the method is not declared.
        """
        caller = self._caller(call)
        if call.method in caller.allowed:
            return caller
        permission = METHODS.get(call.method)
        if permission is None:
            raise AccessDeniedError(f"{call.method} declares no permission.")
        may = caller.principal.may if permission == "tell" else caller.principal.may_somewhere
        if permission != "public" and not any(may(role) for role in _ROLES[permission]):
            raise AccessDeniedError(
                f"Principal '{caller.principal.name}' may not call {call.method}.",
                repair=f"It needs a token with role {' or '.join(_ROLES[permission])}: `featurestore token create`.",
            )
        caller.allowed.add(call.method)
        return caller

    def decide(self, caller: Caller, plan: ReadPlan) -> Decision:
        """Return what the manifest of the caller's consumer says about a plan."""
        decision = caller.decisions.get(plan.fingerprint)
        if decision is None:
            try:
                warnings = check_declared(
                    self.snapshot, plan, caller.identity, environment=self.environment, now=_now()
                )
                self._check_roles(caller, plan)
                decision = Decision(None, warnings)
            except AccessDeniedError as error:
                decision = Decision(error, ())
            caller.decisions[plan.fingerprint] = decision
        return decision

    def check_view(self, caller: Caller, role: str, view: str) -> None:
        """Refuse a principal whose role does not reach a view; raises AccessDeniedError."""
        if not caller.principal.may(role, view):
            raise AccessDeniedError(
                f"Principal '{caller.principal.name}' is no {role} of '{view}'.",
                repair=f"It needs the role {role} or {role}:{view}: `featurestore token create`.",
            )

    def _check_roles(self, caller: Caller, plan: ReadPlan) -> None:
        for ref in (*(view.ref for view in plan.views), *(view.ref for view in plan.on_demand)):
            self.check_view(caller, "reader", ref.view)

    def _caller(self, call: Call) -> Caller:
        sent = (call.metadata.get("authorization", ""), call.metadata.get(CONSUMER, ""), call.certificate)
        caller = self._callers.get(sent)
        if caller is None or (caller.valid_until is not None and caller.valid_until <= _now()):
            caller = self._establish(call, sent[1])
            self._callers[sent] = caller
            if len(self._callers) > _MAX_CALLERS:
                del self._callers[next(iter(self._callers))]
        return caller

    def _establish(self, call: Call, named: str) -> Caller:
        principal, token_end = self._authenticator.establish(call)
        refusal: AccessDeniedError | NotFoundError | None = None
        try:
            identity = identify(principal, named, self.credentials)
        except AccessDeniedError as error:
            consumers = self.snapshot.document.consumers
            refusal = error if named in consumers else NotFoundError.of("consumer", named, consumers)
            identity = identify(principal, "", self.credentials)
        return Caller(principal, identity, refusal, _earliest(token_end, self._manifest_end(identity)))

    def _manifest_end(self, identity: Identity) -> int | None:
        manifest = self.snapshot.document.consumers.get(identity.consumer)
        end = manifest.expires_at if manifest else None
        return end if end is not None and end > _now() else None


_MAX_CALLERS = 10_000  # a caller may send any consumer name: what is kept of them is bounded


def _earliest(*instants: int | None) -> int | None:
    return min((instant for instant in instants if instant is not None), default=None)


def _now() -> int:
    """Tokens and manifests end by the time of day, also where the store replays history."""
    return time.time_ns() // 1000
