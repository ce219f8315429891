"""The registry database: SQLite in WAL mode, or PostgreSQL, through SQLAlchemy; every commit keeps the whole snapshot as neutral JSON.

A commit names the revision it was planned from; the primary key of the next revision refuses the second of two: commits are serializable.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DatabaseError, IntegrityError, OperationalError

from featurestore.errors import (
    ConfigError,
    ConflictError,
    CorruptionError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from featurestore.registry.credentials import Credentials, Token, check_roles, digest, new_secret
from featurestore.registry.snapshot import Document, RegistrySnapshot
from featurestore.registry.tables import bindings, changes, commits, tokens

HEAD = "0001"
MIGRATIONS = Path(__file__).parent / "migrations"

_ONE_AT_A_TIME = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "SELECT pg_advisory_xact_lock(6382015907315)"}
# What readers go by, in one number: the newest revision, and all of the two tables of credentials, which are small.
_POSTGRES_STATE = sa.text(
    "SELECT hashtextextended(concat((SELECT max(revision) FROM commits), "
    "(SELECT string_agg(CAST(t AS text), ' ' ORDER BY name) FROM tokens t), "
    "(SELECT string_agg(CAST(b AS text), ' ' ORDER BY principal, consumer) FROM bindings b)), 0)"
)


@dataclass(frozen=True, slots=True)
class LoggedChange:
    """One line of the change log: what a commit did to which object."""

    kind: str
    object: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class LoggedCommit:
    """Who committed when, in microseconds since 1970 UTC, and the message."""

    revision: int
    committed_at: int
    principal: str
    message: str


def open_registry(url: str | Path, *, project: str = "default") -> Registry:
    """Open the registry database, creating or migrating it if needed.

    Args:
        url: An SQLAlchemy URL, or the path of an SQLite file.
        project: Name of the project, for a registry that has no commit yet.

    Raises:
        ConfigError: The URL is not one, or its driver is not installed; says how to install it.
        CorruptionError: The database is not a registry, or was written by a newer program.
        UnavailableError: The database server does not answer.
    """
    engine = _engine(url)
    try:
        _migrate(engine)
    except DatabaseError as error:
        engine.dispose()
        raise CorruptionError(
            f"{_shown(engine)} is not a registry database: {error.orig}.",
            repair="Restore it, or name another one in featurestore.toml.",
        ) from error
    return Registry(engine, project)


class Registry(AbstractContextManager["Registry"]):
    """The registry database; safe to share between threads.

    Args:
        engine: An SQLAlchemy engine on a migrated database (see `open_registry`).
        project: Name of the project, for the empty snapshot at revision 0.
    """

    def __init__(self, engine: sa.Engine, project: str) -> None:
        self.engine = engine
        self.project = project
        self._newest: RegistrySnapshot | None = None
        self._counter: int | None = None
        self._watch: sa.Connection | None = None

    def revision(self) -> int:
        """Return the newest revision; 0 before the first commit."""
        with self.engine.connect() as connection:
            return connection.scalar(sa.select(sa.func.max(commits.c.revision))) or 0

    def snapshot(self, revision: int | None = None) -> RegistrySnapshot:
        """Return the registry at a revision; None is the newest.

        Raises:
            NotFoundError: There is no such revision.
        """
        if revision is not None:
            return self._load(revision)
        counter = self.change_counter()
        if self._newest is None or counter != self._counter:
            self._newest, self._counter = self._load(self.revision()), counter
        return self._newest

    def commit(
        self,
        document: Document,
        *,
        expected_revision: int,
        log: Sequence[LoggedChange],
        principal: str,
        now: int,
        message: str = "",
    ) -> RegistrySnapshot:
        """Make a document the next revision.

        Args:
            document: The whole registry as it shall be; revision and time are set here.
            expected_revision: The revision the change was planned from.
            log: What changed, for the change log.
            principal: Who commits.
            now: Microseconds UTC.
            message: Why, for people.

        Raises:
            ConflictError: Somebody committed in between; nothing was changed.
        """
        revision = expected_revision + 1
        stamped = msgspec.structs.replace(document, revision=revision, committed_at=now)
        snapshot = RegistrySnapshot(stamped)
        row = {"revision": revision, "committed_at": now, "principal": principal, "message": message}
        lines = [
            {"revision": revision, "position": n, "kind": line.kind, "object": line.object, "detail": line.detail}
            for n, line in enumerate(log)
        ]
        newest = self.revision()
        if newest != expected_revision:
            raise _stale(expected_revision, newest)
        try:
            with self.engine.begin() as connection:
                connection.execute(commits.insert(), row | {"document": snapshot.to_json()})
                if lines:
                    connection.execute(changes.insert(), lines)
        except IntegrityError as error:
            raise _stale(expected_revision, self.revision()) from error
        return snapshot

    def log(self, *, since: int = 0) -> list[tuple[int, LoggedChange]]:
        """Return the change log after a revision, oldest first, as (revision, change)."""
        return [(commit.revision, change) for commit, change in self.history(since=since)]

    def history(self, *, since: int = 0) -> list[tuple[LoggedCommit, LoggedChange]]:
        """Return the change log after a revision, oldest first, each line with the commit that did it."""
        query = (
            sa.select(changes, commits.c.committed_at, commits.c.principal, commits.c.message)
            .join(commits, commits.c.revision == changes.c.revision)
            .where(changes.c.revision > since)
            .order_by(changes.c.revision, changes.c.position)
        )
        with self.engine.connect() as connection:
            return [
                (
                    LoggedCommit(row.revision, row.committed_at, row.principal, row.message),
                    LoggedChange(row.kind, row.object, row.detail),
                )
                for row in connection.execute(query)
            ]

    def credentials(self) -> Credentials:
        """Return all tokens (hashed) and bindings."""
        with self.engine.connect() as connection:
            known = {bytes.fromhex(row.digest): _token(row) for row in connection.execute(sa.select(tokens))}
            bound: dict[str, list[str]] = {}
            for row in connection.execute(sa.select(bindings).order_by(bindings.c.principal, bindings.c.consumer)):
                bound.setdefault(row.principal, []).append(row.consumer)
        return Credentials(known, {principal: tuple(names) for principal, names in bound.items()})

    def create_token(
        self, name: str, *, principal: str, roles: frozenset[str], now: int, expires_at: int | None = None
    ) -> str:
        """Create a token and return its secret, which is shown this once; raises InvalidArgumentError if the name is taken."""
        check_roles(roles)
        secret = new_secret()
        row = {"name": name, "digest": digest(secret).hex(), "principal": principal, "roles": json.dumps(sorted(roles))}
        try:
            with self.engine.begin() as connection:
                connection.execute(tokens.insert(), row | {"created_at": now, "expires_at": expires_at})
        except IntegrityError as error:
            raise InvalidArgumentError(
                f"There is a token '{name}' already.",
                repair=f"Run `featurestore token revoke {name}`, or take another name.",
            ) from error
        return secret

    def revoke_token(self, name: str, *, now: int) -> None:
        """Revoke a token; raises NotFoundError with the nearest name."""
        with self.engine.begin() as connection:
            done = connection.execute(tokens.update().where(tokens.c.name == name).values(revoked_at=now))
        if not done.rowcount:
            raise NotFoundError.of("token", name, [token.name for token in self.credentials().tokens.values()])

    def bind(self, principal: str, consumer: str, *, now: int) -> None:
        """Allow a principal to say that it runs a consumer (``model@*`` for every version); once is enough."""
        if consumer in self.credentials().bindings.get(principal, ()):
            return
        with suppress(IntegrityError), self.engine.begin() as connection:  # somebody may do the same at this moment
            connection.execute(bindings.insert(), {"principal": principal, "consumer": consumer, "created_at": now})

    def unbind(self, principal: str, consumer: str) -> None:
        """Take a binding back; raises NotFoundError when there is none."""
        where = (bindings.c.principal == principal) & (bindings.c.consumer == consumer)
        with self.engine.begin() as connection:
            done = connection.execute(bindings.delete().where(where))
        if not done.rowcount:
            raise NotFoundError.of("binding", consumer, self.credentials().bindings.get(principal, ()))

    def change_counter(self) -> int:
        """Return a number that differs after any change by anybody; cheap enough to ask four times a second."""
        if self.engine.dialect.name == "postgresql":
            with self.engine.connect() as connection:
                return int(connection.scalar(_POSTGRES_STATE))
        if self._watch is None:
            self._watch = self.engine.connect()
        driver: Any = self._watch.connection.driver_connection
        return int(driver.execute("PRAGMA data_version").fetchone()[0])

    def sqlite_path(self) -> Path:
        """Return the path of the SQLite file; raises InvalidArgumentError for another database."""
        if self.engine.dialect.name != "sqlite" or not self.engine.url.database:
            raise InvalidArgumentError("Usage is folded into SQLite registries only, for now.")
        return Path(self.engine.url.database)

    def close(self) -> None:
        """Close every connection."""
        if self._watch is not None:
            self._watch.close()
        self.engine.dispose()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _load(self, revision: int) -> RegistrySnapshot:
        if revision == 0:
            return RegistrySnapshot(Document(project=self.project))
        with self.engine.connect() as connection:
            text = connection.scalar(sa.select(commits.c.document).where(commits.c.revision == revision))
        if text is None:
            raise NotFoundError.of("revision", str(revision), [str(self.revision())])
        return RegistrySnapshot.from_json(text)


def _stale(expected: int, newest: int) -> ConflictError:
    return ConflictError(
        f"The plan was made from revision {expected}, the registry is at {newest}.", repair="Plan again, then apply."
    )


def _token(row: Any) -> Token:
    return Token(
        row.name, row.principal, frozenset(json.loads(row.roles)), row.created_at, row.expires_at, row.revoked_at
    )


def _engine(url: str | Path) -> sa.Engine:
    """Return an engine for an SQLite file or a URL; nothing is opened yet."""
    if isinstance(url, Path) or "://" not in url:
        Path(url).parent.mkdir(parents=True, exist_ok=True)
        url = f"sqlite:///{url}"
    try:
        parsed = sa.make_url(url)
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        engine = sa.create_engine(parsed, pool_pre_ping=parsed.get_backend_name() == "postgresql")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"The registry is a {parsed.get_backend_name()} database, and its driver '{error.name}' is not installed.",
            repair="Run `pip install 'featurestore[postgres]'`.",
        ) from error
    except (ArgumentError, ValueError) as error:
        raise ConfigError(
            f"The URL of the registry, of '{url.partition('://')[0]}', is not one that is known.",  # its rest may hold a password
            place="registry.url",
            repair="Write postgresql://user@host/database, or the path of an SQLite file.",
        ) from error
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _prepare_sqlite)
    else:
        sa.event.listen(engine, "handle_error", partial(_server_error, engine))
    return engine


def _prepare_sqlite(connection: Any, _: Any) -> None:
    """Make commits durable and readers independent of the writer."""
    for pragma in ("busy_timeout=10000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _server_error(engine: sa.Engine, context: sa.ExceptionContext) -> None:
    """Say it when the server does not answer."""
    if isinstance(context.sqlalchemy_exception, OperationalError) and not context.is_pre_ping:
        said = str(context.original_exception).strip().partition("\n")[0].rstrip(".")
        raise UnavailableError(
            f"The registry {_shown(engine)} does not answer: {said}.", repair="Start it, or correct registry.url."
        ) from context.original_exception


def _shown(engine: sa.Engine) -> str:
    """Return the file of a registry, or its URL without the password."""
    if engine.dialect.name == "sqlite":
        return str(engine.url.database)
    return engine.url.set(drivername=engine.dialect.name, query={}).render_as_string()


def _migrate(engine: sa.Engine) -> None:
    """Bring the database to HEAD; alembic is imported only when there is something to do."""
    with engine.connect() as connection:
        at, tables = _format(connection)
    if at == HEAD:
        return
    if at is None and tables:
        raise CorruptionError(
            f"{_shown(engine)} is a database of something else: it has table '{min(tables)}'.",
            repair="Name another one in featurestore.toml.",
        )
    if at is not None and at > HEAD:
        raise CorruptionError(
            f"The registry has format {at}, this program knows up to {HEAD}.", repair="Upgrade featurestore."
        )
    _upgrade(engine)


def _format(connection: sa.Connection) -> tuple[str | None, set[str]]:
    """Return the format of the database, None for none, and its tables."""
    tables = set(sa.inspect(connection).get_table_names())
    if "alembic_version" not in tables:
        return None, tables
    return connection.scalar(sa.text("SELECT version_num FROM alembic_version")), tables


def _upgrade(engine: sa.Engine) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    with engine.begin() as connection:  # two processes may open a new project at once: one migrates, the other waits
        connection.exec_driver_sql(_ONE_AT_A_TIME[engine.dialect.name])
        if _format(connection)[0] is None:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
