"""Where a Redis is, without a client of it: settings name it whether or not one is installed."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

from featurestore.errors import ConfigError
from featurestore.online.store import Table

_TAGS: Mapping[str, bytes] = {"rows": b"r:", "order": b"o:"}


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where a Redis is and what of it is ours.

    Args:
        url: ``redis://[user:password@]host:port/db``, ``rediss://`` for TLS, or ``unix://path``; it is never shown.
        namespace: What all our keys begin with; letters, digits, dots, dashes and underscores.
        timeout: Seconds that connecting, and each answer, may take.
        expire: Whether a row of a view with a ttl goes from Redis by itself when it is too old to be read.
        ca: PEM file of who signed the server's certificate; None is the system's.
        certificate: PEM file that says who we are; None sends none.
        key: Its key.

    Raises:
        ConfigError: The URL or namespace is none.
    """

    url: str = field(repr=False)
    namespace: str
    timeout: float = 0.25
    expire: bool = False
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        _split(self.url)
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", self.namespace):
            raise ConfigError(f"'{self.namespace}' cannot begin the keys in Redis.", place="online.namespace")

    def __str__(self) -> str:
        """Where it is, without who we say we are.

        >>> str(RedisAddress("redis://me:secret@cache:6379/1", "demo"))
        'Redis at cache:6379/1'
        """
        parts = urlsplit(self.url)
        return f"Redis at {parts.netloc.rpartition('@')[2]}{parts.path}"

    def options(self) -> dict[str, Any]:
        """Return how a client of redis-py connects: one try, since the breaker decides about others."""
        options: dict[str, Any] = {
            "socket_timeout": self.timeout,
            "socket_connect_timeout": self.timeout,
            "protocol": 2,
        }
        if urlsplit(self.url).scheme == "rediss":
            context = {"ssl_ca_certs": self.ca, "ssl_certfile": self.certificate, "ssl_keyfile": self.key}
            options |= {name: str(path) for name, path in context.items() if path is not None}
            options |= {"ssl_cert_reqs": "required", "ssl_min_version": ssl.TLSVersion.TLSv1_2}
        return options

    def prefix(self, table: Table) -> bytes:
        """Return what the keys of a table's entries begin with."""
        return f"{self.namespace}:".encode() + (_TAGS.get(table) or f"{table}:".encode())

    def index(self, table: Table) -> bytes:
        """Return the key under which the keys of a table stand sorted; empty for those that have no order."""
        return b"" if table in _TAGS else f"{self.namespace}:{table}".encode()


def names_password(url: str) -> bool:
    """Say whether a URL of Redis holds a password; raises ConfigError as `RedisAddress` does.

    >>> names_password("redis://cache:6379/0"), names_password("redis://cache:6379/0?password=secret")
    (False, True)
    """
    parts = _split(url)
    return bool(parts.password or "password" in parse_qs(parts.query))


def _split(url: str) -> SplitResult:
    """Return the parts of a URL; one that a password which is not encoded has torn apart is refused, and not shown."""
    if url.partition("://")[0] not in {"redis", "rediss", "unix"}:
        raise ConfigError("The URL of Redis begins with none of redis://, rediss:// and unix://.", place="online.url")
    with suppress(ValueError):  # a port that is no number, or a bracket
        parts = urlsplit(url)
        has_place = parts.scheme == "unix" or (parts.hostname and parts.port != 0)
        if has_place and "@" not in parts.path + parts.query + parts.fragment:
            return parts
    raise ConfigError(
        "The URL of Redis cannot be read.", place="online.url", repair="Name the host, and percent-encode the password."
    )
