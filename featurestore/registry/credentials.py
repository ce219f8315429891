"""Who may call: registry tokens (stored hashed) and the bindings of principals to consumers."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from featurestore.errors import InvalidArgumentError
from featurestore.refs import NAME

ROLES = frozenset({"reader", "writer", "admin"})
_PREFIX = "fst_"


@dataclass(frozen=True, slots=True)
class Token:
    """A registry token without its secret; instants in microseconds UTC, None for never."""

    name: str
    principal: str
    roles: frozenset[str]
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None

    def is_valid(self, now: int) -> bool:
        """Say whether the token counts at that instant (microseconds UTC)."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Tokens by the SHA-256 of their secret, and the consumers each principal may name."""

    tokens: Mapping[bytes, Token] = field(default_factory=dict)
    bindings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def token(self, secret: str) -> Token | None:
        """Return the token with that secret, or None."""
        return self.tokens.get(digest(secret))


def new_secret() -> str:
    """Return a fresh secret of 256 random bits, told apart from other strings by its prefix."""
    return _PREFIX + secrets.token_urlsafe(32)


def digest(secret: str) -> bytes:
    """Return what is stored in place of a secret; it has full entropy, so a plain SHA-256 suffices."""
    return sha256(secret.encode()).digest()


def check_roles(roles: frozenset[str]) -> None:
    """Refuse an unknown role; raises InvalidArgumentError.

    ``reader`` and ``writer`` may be given for one view alone, as ``reader:weather``.

    >>> check_roles(frozenset({"reader", "writer:weather"}))
    """
    unknown = {role for role in roles if role not in ROLES and not _is_for_a_view(role)}
    if unknown or not roles:
        raise InvalidArgumentError(
            f"No role '{', '.join(sorted(unknown))}'. There is: {', '.join(sorted(ROLES))}; reader:VIEW and writer:VIEW for one view."
        )


def _is_for_a_view(role: str) -> bool:
    kind, colon, view = role.partition(":")
    return bool(colon) and kind in ("reader", "writer") and NAME.fullmatch(view) is not None
