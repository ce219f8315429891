"""What a server is told when it starts."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from featurestore.config import Settings
from featurestore.errors import ConfigError
from featurestore.serving.authentication import JwtSettings
from featurestore.serving.logs import LogStyle

MAX_REQUEST_BYTES = 4 << 20
MAX_RESPONSE_BYTES = 16 << 20
MAX_KEYS = 1000
METRICS = "metrics"  # folder in the store that the processes of a server share their numbers in


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files for TLS.

    Args:
        certificate: The server's chain.
        key: Its key.
        client_ca: Whose client certificates are accepted; every client needs one then. None asks for none.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def read(self) -> tuple[bytes, bytes, bytes | None]:
        """Return what the files hold now: certificate, key, client CA."""
        ca = None if self.client_ca is None else self.client_ca.read_bytes()
        return self.certificate.read_bytes(), self.key.read_bytes(), ca


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """Settings of one server: a supervisor, its writer and its workers.

    Args:
        project: The project folder.
        store_dir: The folder that holds everything the store writes.
        registry_url: An SQLAlchemy URL, or the path of an SQLite file.
        name: Name of the project.
        host: Where to listen; other than loopback needs authentication and TLS.
        grpc_port: 0 takes a free port.
        transport: What serves unary calls on it: ``grpc_aio``, or ``native`` where its wheel is installed.
        stream_port: Where the native transport leaves streams to grpc.aio; 0 takes a free port. Not used by ``grpc_aio``.
        http_port: 0 takes a free port; None serves no HTTP.
        workers: Reading processes, at least 1.
        auth: ``none`` (callers on this machine are the OS user) or ``required`` (a registry token, a JSON Web Token or a certificate).
        roles: Principal -> roles, for those whose certificate or token says none.
        jwt: How JSON Web Tokens are checked; None takes none.
        insecure: Whether to listen beyond this machine without authentication or TLS all the same.
        environment: What usage is counted under.
        clock: ``system``, or ``replay``: the store's own clock, which only `AdvanceClock` moves.
        tls: Certificate and key; None serves plain text.
        drain_seconds: How long calls in flight may take at the end.
        poll_seconds: How often workers look for a new registry revision.
        usage_seconds: How often usage is handed over and collected.
        log: How processes log: ``text`` or ``json``.

    Raises:
        ConfigError: A value that cannot be served safely.
    """

    project: Path
    store_dir: Path
    registry_url: str
    name: str = "default"
    host: str = "127.0.0.1"
    grpc_port: int = 0
    transport: Literal["grpc_aio", "native"] = "grpc_aio"
    stream_port: int = 0
    http_port: int | None = None
    workers: int = 1
    auth: Literal["none", "required"] = "none"
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    jwt: JwtSettings | None = None
    insecure: bool = False
    environment: str = "dev"
    clock: Literal["system", "replay"] = "system"
    tls: TlsFiles | None = None
    drain_seconds: float = 10.0
    poll_seconds: float = 0.25
    usage_seconds: float = 5.0
    log: LogStyle = "text"

    def __post_init__(self) -> None:
        missing = [
            what
            for what, there in (("authentication", self.auth != "none"), ("TLS", self.tls is not None))
            if not there
        ]
        if missing and not is_loopback(self.host) and not self.insecure:
            raise ConfigError(
                f"The server would listen on {self.host} without {' and '.join(missing)}.",
                place="serving.host",
                repair='Set auth = "required" and [serving.tls], listen on 127.0.0.1, or say insecure = true.',
            )
        if self.workers < 1:
            raise ConfigError(f"A server needs at least one worker, not {self.workers}.", place="serving.workers")

    @property
    def is_replay(self) -> bool:
        """Whether time is the store's own."""
        return self.clock == "replay"

    def to_json(self) -> str:
        """Return the settings as one line for a child process."""
        return msgspec.json.encode(self, enc_hook=str).decode()

    @classmethod
    def from_json(cls, text: str) -> ServeSettings:
        """Read what `to_json` wrote.

        >>> settings = ServeSettings(project=Path("p"), store_dir=Path("p/store"), registry_url="p/store/registry.db")
        >>> ServeSettings.from_json(settings.to_json()) == settings
        True
        """
        return msgspec.json.decode(text, type=cls, dec_hook=lambda kind, value: kind(value))


def serve_settings(
    settings: Settings,
    *,
    clock: str = "system",
    host: str | None = None,
    grpc_port: int | None = None,
    http_port: int | None = None,
    workers: int | None = None,
    auth: str | None = None,
    transport: str | None = None,
) -> ServeSettings:
    """Return what a server of a project is told: featurestore.toml, with what was given for this start.

    Args:
        settings: The project's settings.
        clock: ``system`` or ``replay``.
        host: None takes the file's, likewise below.
        grpc_port: 0 takes a free one.
        http_port: 0 takes a free one, -1 serves no HTTP.
        workers: Reading processes.
        auth: ``none`` or ``required``.
        transport: ``grpc_aio`` or ``native``.

    Raises:
        ConfigError: A value that is none of the known ones, or cannot be served safely.
    """
    file = settings.serving
    chosen = _one_of("transport", transport or file.transport, ("grpc_aio", "native"))
    http = file.http_port if http_port is None else http_port
    return ServeSettings(
        project=settings.root,
        store_dir=settings.store,
        registry_url=settings.registry_url,
        name=settings.project.name,
        host=host or file.host,
        grpc_port=file.grpc_port if grpc_port is None else grpc_port,
        transport=chosen,
        stream_port=file.stream_port if chosen == "native" else 0,
        http_port=None if http < 0 else http,
        workers=file.workers if workers is None else workers,
        auth=_one_of("auth", auth or file.auth, ("none", "required")),
        roles={principal: tuple(roles) for principal, roles in file.roles.items()},
        jwt=_jwt(settings),
        insecure=file.insecure,
        environment=settings.project.environment,
        clock=_one_of("clock", clock, ("system", "replay")),
        tls=_tls(settings),
        usage_seconds=file.usage_seconds,
        log=file.log,
    )


def is_loopback(host: str) -> bool:
    """Say whether an address can be reached from this machine only.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _one_of(what: str, value: str, known: tuple[str, ...]) -> Any:
    if value not in known:
        raise ConfigError(f"No {what} '{value}'. There is: {', '.join(known)}.", place=f"serving.{what}")
    return value


def _tls(settings: Settings) -> TlsFiles | None:
    given, root = settings.serving.tls, settings.root
    if given is None:
        return None
    files = TlsFiles(
        root / given.certificate, root / given.key, None if given.client_ca is None else root / given.client_ca
    )
    for path in (files.certificate, files.key, files.client_ca):
        if path is not None and not path.is_file():
            raise ConfigError(f"There is no file {path}.", place="serving.tls")
    return files


def _jwt(settings: Settings) -> JwtSettings | None:
    given = settings.serving.jwt
    if given is None:
        return None
    keys = settings.root / given.keys
    return JwtSettings(keys, given.issuer, given.audience, given.principal_claim, given.roles_claim)
