"""Who a call comes from: a registry token, a JSON Web Token, or the client certificate of its connection.

A bearer token decides where one is sent; a certificate speaks for callers that send none. Nothing is fetched: the keys that JSON Web
Tokens are checked with come from a file, which is read again when it changes.
"""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featurestore.errors import ConfigError, InvalidArgumentError, UnauthenticatedError
from featurestore.identity import Principal
from featurestore.registry.credentials import Credentials, check_roles
from featurestore.serving.call import Call

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
LEEWAY_SECONDS = 30

Established = tuple[Principal, int | None]
"""A principal, and until when that holds: microseconds since 1970 UTC, None for ever."""


@dataclass(frozen=True, slots=True)
class JwtSettings:
    """How JSON Web Tokens are checked.

    Args:
        keys: A JWKS file with public keys.
        issuer: What ``iss`` must be.
        audience: What ``aud`` must hold.
        principal_claim: The claim that names the principal.
        roles_claim: The claim that lists its roles, as a list or separated by spaces; others than the store's are left out.
    """

    keys: Path
    issuer: str
    audience: str
    principal_claim: str = "sub"
    roles_claim: str = "roles"


class JwtVerifier:
    """Checks JSON Web Tokens with the keys of a file.

    Args:
        settings: How.

    Raises:
        ConfigError: The file is missing or no JWKS, or PyJWT is not installed.
    """

    def __init__(self, settings: JwtSettings) -> None:
        self._settings = settings
        self._changed: int | None = None
        self._keys: dict[str | None, Any] = {}
        self.refresh()

    def refresh(self) -> bool:
        """Read the keys again if their file has changed; say whether it had. A file that is damaged now leaves the keys as they are.

        Raises:
            ConfigError: The file cannot be read.
        """
        try:
            changed = self._settings.keys.stat().st_mtime_ns
            if changed == self._changed:
                return False
            keys = _keys(self._settings.keys)
        except OSError as error:
            raise ConfigError(
                f"{self._settings.keys} cannot be read: {error.strerror}.", place="serving.jwt"
            ) from error
        self._keys, self._changed = keys, changed
        return True

    def verify(self, token: str) -> tuple[str, frozenset[str], int]:
        """Return the principal of a token, its roles, and when it ends (microseconds since 1970 UTC).

        Raises:
            UnauthenticatedError: It is no token, was not signed by a known key, is over, or was made for somebody else.
        """
        import jwt

        at = self._settings
        try:
            key = self._keys.get(jwt.get_unverified_header(token).get("kid"))
            if key is None:
                raise UnauthenticatedError("The JSON Web Token was signed by a key that is not known here.")
            claims = jwt.decode(
                token, key, algorithms=list(ALGORITHMS), issuer=at.issuer, audience=at.audience, leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud", at.principal_claim]},
            )  # fmt: skip
        except jwt.PyJWTError as error:
            raise UnauthenticatedError(f"The JSON Web Token does not count: {error}.") from error
        principal = claims[at.principal_claim]
        if not isinstance(principal, str) or not principal:
            raise UnauthenticatedError(f"The claim '{at.principal_claim}' of the JSON Web Token names nobody.")
        return principal, _roles(claims.get(at.roles_claim)), int(claims["exp"] + LEEWAY_SECONDS) * 1_000_000


@dataclass(frozen=True, slots=True)
class Authenticator:
    """Finds out who calls.

    Args:
        credentials: Registry tokens.
        local: Local mode: every caller is the OS user.
        jwt: Checks JSON Web Tokens; None takes none.
        roles: Principal -> roles, for those whose certificate or token says none.
    """

    credentials: Credentials
    local: bool
    jwt: JwtVerifier | None = None
    roles: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def establish(self, call: Call) -> Established:
        """Return who calls.

        Raises:
            UnauthenticatedError: Nothing was sent that says who, or it does not count.
        """
        if self.local:
            return Principal(f"local:{getpass.getuser()}", frozenset({"admin"}), local=True), None
        scheme, _, secret = call.metadata.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and secret.strip():
            return self._bearer(secret.strip())
        if call.certificate:
            return Principal(call.certificate, self.roles.get(call.certificate, frozenset())), None
        raise UnauthenticatedError(
            "This server wants a token.", repair="Send one as `authorization: Bearer ...`; `featurestore token create`."
        )

    def _bearer(self, secret: str) -> Established:
        if self.jwt is not None and secret.count(".") == 2:  # header, claims, signature
            name, roles, until = self.jwt.verify(secret)
            return Principal(name, roles or self.roles.get(name, frozenset())), until
        token = self.credentials.token(secret)
        if token is None or not token.is_valid(time.time_ns() // 1000):
            why = "not known" if token is None else "revoked" if token.revoked_at is not None else "expired"
            raise UnauthenticatedError(f"The token is {why}.", repair="Make a new one: `featurestore token create`.")
        return Principal(token.principal, token.roles), token.expires_at


def _roles(claimed: Any) -> frozenset[str]:
    named = claimed.split() if isinstance(claimed, str) else claimed if isinstance(claimed, list) else []
    return frozenset(role for role in named if isinstance(role, str) and _is_role(role))


def _is_role(name: str) -> bool:
    try:
        check_roles(frozenset({name}))
    except InvalidArgumentError:
        return False
    return True


def _keys(path: Path) -> dict[str | None, Any]:
    try:
        import jwt
    except ImportError as error:
        raise ConfigError(
            "JSON Web Tokens need PyJWT.", place="serving.jwt", repair="Run `pip install 'featurestore[jwt]'`."
        ) from error
    try:
        found = jwt.PyJWKSet.from_dict(json.loads(path.read_text("utf-8")))
    except (ValueError, jwt.PyJWTError, AttributeError) as error:
        raise ConfigError(f"{path} is no JWKS file with public keys: {error}.", place="serving.jwt") from error
    return {key.key_id: key for key in found.keys if key.algorithm_name in ALGORITHMS}
