"""The settings of a project: featurestore.toml, read once; everything below gets what it needs as arguments."""

from __future__ import annotations

import os
import time
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, get_args, get_type_hints

import msgspec

from featurestore.errors import ConfigError, NotFoundError, nearest_name
from featurestore.online.redis_address import RedisAddress, names_password

FILE = "featurestore.toml"


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A section of the file; an unknown key is refused."""


class ProjectSettings(_Section, frozen=True):
    """``[project]``: its name, its file of definitions, and the environment that usage is counted under."""

    name: str
    definitions: str = "features.py"
    environment: str = "dev"


class RegistrySettings(_Section, frozen=True):
    """``[registry]``: an SQLite path relative to the project, or an SQLAlchemy URL."""

    url: str = "store/registry.db"


class OfflineSettings(_Section, frozen=True):
    """``[offline]``: the join engine, and in how many hash buckets a view version lies: a power of two, or what suits its size."""

    engine: Literal["kernel", "duckdb"] = "kernel"
    buckets: Annotated[int, msgspec.Meta(ge=1, le=1024)] | None = None


class OnlineTlsSettings(_Section, frozen=True):
    """``[online.tls]``: PEM files relative to the project, for a ``rediss://`` URL; without a ``ca`` the system's are asked."""

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None


class OnlineSettings(_Section, frozen=True):
    """``[online]``: where online reads find rows: ``lmdb``, the project folder, or ``redis``, which the writer feeds from it.

    The URL of Redis is FEATURESTORE_REDIS_URL, else what ``url_file`` holds (a path relative to the project), else ``url``, which may hold
    no password. All keys begin with the ``namespace``, the project's name unless it is given. With ``expire`` rows of a view with a ttl go
    from Redis when they are too old.
    """

    store: Literal["lmdb", "redis"] = "lmdb"
    url: str | None = None
    url_file: str | None = None
    namespace: str | None = None
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0)] = 0.25
    expire: bool = False
    tls: OnlineTlsSettings = OnlineTlsSettings()


class SourceSettings(_Section, frozen=True):
    """``[sources]``: what one read of a source may take: memory of its query in MiB, and seconds."""

    memory_mb: Annotated[int, msgspec.Meta(ge=16)] = 1024
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0)] = 3600.0


class TlsSettings(_Section, frozen=True):
    """``[serving.tls]``: PEM files relative to the project; with a ``client_ca`` every client needs a certificate of it."""

    certificate: str
    key: str
    client_ca: str | None = None


class JwtFileSettings(_Section, frozen=True):
    """``[serving.jwt]``: JSON Web Tokens are accepted that a key of the JWKS file signed, from the issuer, for the audience."""

    keys: str
    issuer: str
    audience: str
    principal_claim: str = "sub"
    roles_claim: str = "roles"


class ServingSettings(_Section, frozen=True):
    """``[serving]``: where the server listens (port 0 takes a free one, -1 none) and who may call.

    ``auth`` is ``none`` (local mode: callers on this machine are the OS user) or ``required`` (every caller has a registry token, a
    JSON Web Token or a client certificate); ``roles`` are those of principals whose certificate or token says none. Every
    ``usage_seconds`` what was read is folded into the registry. ``insecure`` lets a server listen beyond this machine without
    authentication or TLS. ``log`` is ``text`` or ``json``. ``transport`` is ``grpc_aio``, or ``native`` where its wheel is installed; that
    one leaves streams to ``stream_port``.
    """

    host: str = "127.0.0.1"
    grpc_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 6565
    http_port: Annotated[int, msgspec.Meta(ge=-1, le=65535)] = 6566
    transport: Literal["grpc_aio", "native"] = "grpc_aio"
    stream_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 6567
    workers: int = 1
    auth: Literal["none", "required"] = "none"
    roles: dict[str, tuple[str, ...]] = {}
    tls: TlsSettings | None = None
    jwt: JwtFileSettings | None = None
    insecure: bool = False
    usage_seconds: Annotated[float, msgspec.Meta(gt=0)] = 5.0
    log: Literal["text", "json"] = "text"


class _File(_Section, frozen=True):
    project: ProjectSettings
    registry: RegistrySettings = RegistrySettings()
    offline: OfflineSettings = OfflineSettings()
    online: OnlineSettings = OnlineSettings()
    sources: SourceSettings = SourceSettings()
    connections: dict[str, str] = {}
    serving: ServingSettings = ServingSettings()


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a project, with its folder.

    Attributes:
        root: The project folder, absolute.
        project: See ProjectSettings; likewise the other sections.
        connections: ``[connections]``: name -> URL of a server that sources read.
    """

    root: Path
    project: ProjectSettings
    registry: RegistrySettings
    offline: OfflineSettings
    online: OnlineSettings = OnlineSettings()
    sources: SourceSettings = SourceSettings()
    connections: dict[str, str] = {}
    serving: ServingSettings

    @property
    def store(self) -> Path:
        """The folder that holds everything the store writes."""
        return self.root / "store"

    @property
    def registry_url(self) -> str:
        """The registry as an SQLAlchemy URL, or as an absolute path."""
        url = self.registry.url
        return url if "://" in url else str(self.root / url)

    @property
    def redis(self) -> RedisAddress | None:
        """The Redis that online reads go to, None when they go to the project folder; raises ConfigError."""
        if self.online.store != "redis":
            return None
        if find_spec("redis") is None:
            raise ConfigError(
                "The client of Redis is not installed.",
                place="online.store",
                repair="Install featurestore[redis].",
            )
        pem = {name: getattr(self.online.tls, name) for name in ("ca", "certificate", "key")}
        return RedisAddress(
            self._redis_url(),
            self.online.namespace or self.project.name,
            timeout=self.online.timeout_seconds,
            expire=self.online.expire,
            **{name: None if path is None else self.root / path for name, path in pem.items()},
        )

    def _redis_url(self) -> str:
        variable, online = "FEATURESTORE_REDIS_URL", self.online
        if url := os.environ.get(variable):
            return url
        if online.url_file is not None:
            try:
                return (self.root / online.url_file).read_text("utf-8").strip()
            except OSError as error:
                raise ConfigError(
                    f"The file with the URL of Redis cannot be read: {error}.", place="online.url_file"
                ) from error
        if not online.url:
            raise ConfigError("There is no URL of Redis.", place="online", repair=f"Set {variable}, url_file or url.")
        if names_password(online.url):
            raise ConfigError(
                "A password does not belong into featurestore.toml.",
                place="online.url",
                repair=f"Set {variable}, or name a file by url_file.",
            )
        return online.url

    def connection(self, name: str) -> str:
        """Return the URL of a connection: FEATURESTORE_CONNECTION_<NAME> if it is set, else as in the file; raises ConfigError."""
        variable = f"FEATURESTORE_CONNECTION_{name.upper()}"
        url = os.environ.get(variable) or self.connections.get(name)
        if not url:
            missing = NotFoundError.of("connection", name, self.connections)
            raise ConfigError(
                missing.message,
                place=FILE,
                repair=f'Write {name} = "postgresql://..." under [connections], or set {variable}.',
            )
        return url


def load_settings(root: str | Path) -> Settings:
    """Read featurestore.toml of a project folder.

    Args:
        root: The project folder.

    Raises:
        NotFoundError: There is no featurestore.toml; says how to make one.
        ConfigError: It cannot be read, has an unknown key (says the nearest one), or a value of a wrong type.
    """
    folder = Path(root).resolve()
    path = folder / FILE
    if not path.is_file():
        raise NotFoundError.of(
            "project", str(folder), [], repair=f"Run `featurestore init {root}`, or name another folder."
        )
    try:
        file = msgspec.convert(tomllib.loads(path.read_text("utf-8")), _File)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}.") from error
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}.{_hint(str(error))}") from error
    if file.offline.buckets is not None and file.offline.buckets.bit_count() != 1:
        raise ConfigError(f"{path}: {file.offline.buckets} is not a power of two - at `$.offline.buckets`.")
    environment = os.environ.get("FEATURESTORE_ENVIRONMENT", file.project.environment)
    return Settings(
        root=folder,
        project=msgspec.structs.replace(file.project, environment=environment),
        registry=file.registry,
        offline=file.offline,
        online=file.online,
        sources=file.sources,
        connections=file.connections,
        serving=file.serving,
    )


def find_project(start: str | Path | None = None) -> Path:
    """Return the project folder: FEATURESTORE_PROJECT, or the nearest folder upwards that has a featurestore.toml.

    Args:
        start: Where to begin; None is the current folder.

    Raises:
        NotFoundError: There is none.
    """
    if start is None and (named := os.environ.get("FEATURESTORE_PROJECT")):
        return Path(named)
    folder = Path(start or ".").resolve()
    for candidate in (folder, *folder.parents):
        if (candidate / FILE).is_file():
            return candidate
    raise NotFoundError.of("project", str(folder), [], repair="Run `featurestore init`, or give --project.")


def _hint(error: str) -> str:
    """Name the nearest setting for an unknown one, the values there are for a wrong one, and how a missing one is written."""
    if "missing required field" in error:
        return ' Write at least: [project], and under it name = "...".'
    if "enum value" in error:
        section, _, setting = error.partition("`$.")[2].rstrip("`").partition(".")
        return f" There is: {', '.join(get_args(get_type_hints(get_type_hints(_File)[section])[setting]))}."
    _, _, rest = error.partition("unknown field `")
    known = [field for section in _File.__annotations__ for field in _fields(section)] + list(_File.__annotations__)
    near = nearest_name(rest.partition("`")[0], known) if rest else None
    return f" Did you mean '{near}'?" if near else ""


def _fields(section: str) -> tuple[str, ...]:
    return getattr(get_type_hints(_File)[section], "__struct_fields__", ())


def system_clock() -> int:
    """Return the instant now, microseconds since 1970 UTC."""
    return time.time_ns() // 1000
