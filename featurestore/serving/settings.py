"""What a server is told when it starts."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from featurestore.config import Settings
from featurestore.errors import ConfigError

MAX_REQUEST_BYTES = 4 << 20
MAX_RESPONSE_BYTES = 16 << 20
MAX_KEYS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """Settings of one server: a supervisor, its writer and its workers.

    Args:
        project: The project folder.
        store_dir: The folder that holds everything the store writes.
        registry_url: An SQLAlchemy URL, or the path of an SQLite file.
        name: Name of the project.
        host: Where to listen; other than loopback needs ``auth="token"``.
        grpc_port: 0 takes a free port.
        http_port: 0 takes a free port; None serves no HTTP.
        workers: Reading processes, at least 1.
        auth: ``none`` (callers on this machine are the OS user) or ``token`` (registry tokens).
        environment: What usage is counted under.
        clock: ``system``, or ``replay``: the store's own clock, which only `AdvanceClock` moves.
        tls_certificate: PEM file with the chain; None serves plain text.
        tls_key: PEM file with its key.
        drain_seconds: How long calls in flight may take at the end.
        poll_seconds: How often workers look for a new registry revision.
        usage_seconds: How often usage is handed over and collected.

    Raises:
        ConfigError: A value that cannot be served safely.
    """

    project: Path
    store_dir: Path
    registry_url: str
    name: str = "default"
    host: str = "127.0.0.1"
    grpc_port: int = 0
    http_port: int | None = None
    workers: int = 1
    auth: Literal["none", "token"] = "none"
    environment: str = "dev"
    clock: Literal["system", "replay"] = "system"
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    drain_seconds: float = 10.0
    poll_seconds: float = 0.25
    usage_seconds: float = 5.0

    def __post_init__(self) -> None:
        if self.auth == "none" and not is_loopback(self.host):
            raise ConfigError(
                f"The server would listen on {self.host} without authentication.",
                place="serving.host",
                repair='Set auth = "token" in [serving], or listen on 127.0.0.1.',
            )
        if self.workers < 1:
            raise ConfigError(f"A server needs at least one worker, not {self.workers}.", place="serving.workers")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ConfigError("TLS needs both a certificate and its key.", place="serving.tls_certificate")

    @property
    def is_replay(self) -> bool:
        """Whether time is the store's own."""
        return self.clock == "replay"

    def to_json(self) -> str:
        """Return the settings as one line for a child process."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> ServeSettings:
        """Read what `to_json` wrote.

        >>> settings = ServeSettings(project=Path("p"), store_dir=Path("p/store"), registry_url="p/store/registry.db")
        >>> ServeSettings.from_json(settings.to_json()) == settings
        True
        """
        values: dict[str, Any] = json.loads(text)
        paths = {
            name: Path(values[name])
            for name in ("project", "store_dir", "tls_certificate", "tls_key")
            if values[name] is not None
        }
        return cls(**(values | paths))


def serve_settings(
    settings: Settings,
    *,
    clock: str = "system",
    host: str | None = None,
    grpc_port: int | None = None,
    http_port: int | None = None,
    workers: int | None = None,
    auth: str | None = None,
) -> ServeSettings:
    """Return what a server of a project is told: featurestore.toml, with what was given for this start.

    Args:
        settings: The project's settings.
        clock: ``system`` or ``replay``.
        host: None takes the file's, likewise below.
        grpc_port: 0 takes a free one.
        http_port: 0 takes a free one, -1 serves no HTTP.
        workers: Reading processes.
        auth: ``none`` or ``token``.

    Raises:
        ConfigError: A value that is none of the known ones, or cannot be served safely.
    """
    file = settings.serving
    http = file.http_port if http_port is None else http_port
    return ServeSettings(
        project=settings.root,
        store_dir=settings.store,
        registry_url=settings.registry_url,
        name=settings.project.name,
        host=host or file.host,
        grpc_port=file.grpc_port if grpc_port is None else grpc_port,
        http_port=None if http < 0 else http,
        workers=file.workers if workers is None else workers,
        auth=_one_of("auth", auth or file.auth, ("none", "token")),
        environment=settings.project.environment,
        clock=_one_of("clock", clock, ("system", "replay")),
        tls_certificate=_file(settings.root, file.tls_certificate),
        tls_key=_file(settings.root, file.tls_key),
        usage_seconds=file.usage_seconds,
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


def _file(root: Path, name: str | None) -> Path | None:
    return None if name is None else root / name
