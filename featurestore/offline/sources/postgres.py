"""Tables and queries of a PostgreSQL server: read-only, stopped after a time, streamed as Arrow by its binary COPY."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import ConfigError, DefinitionError, NotFoundError, UnavailableError
from featurestore.offline.sources.pieces import Columns, Piece, first_misfit, unreadable
from featurestore.offline.sources.query import Limits, quoted
from featurestore.offline.sources.texts import decimals
from featurestore.registry.snapshot import SourceRecord

_CONNECT_SECONDS = 10
_ANY_NUMERIC = pa.decimal128(38, 18)
_STOPPED, _NO_TABLE = "57014", "42P01"
_FIRST_DAY = -2_440_588  # the first day of the calendar of PostgreSQL, in 4714 BC, as days since 1970


@dataclass(frozen=True)
class PostgresRows:
    """A table or query of a PostgreSQL server.

    Args:
        record: The source.
        url: Where the server is: ``postgresql://user@host/database``; a password may also come from ``PGPASSWORD`` or ``~/.pgpass``.
        limits: How long a read may take.
    """

    record: SourceRecord
    url: str
    limits: Limits

    def columns(self) -> Columns:
        """Return the columns as the server describes them, without running the query."""
        return {name: _arrow_type(field) for name, field in self._fields.items()}

    def pieces(self, wanted: Sequence[str], known_until: str | None = None) -> Iterator[Piece]:
        """Go through the rows, as of the moment when the read begins."""
        columns = ", ".join(self._selected(name) for name in wanted)
        where = f" WHERE {known_until}" if known_until else ""
        types = self.columns()
        first = 0
        with self._cursor() as cursor:
            cursor.execute(f"SELECT {columns or '1'} FROM {self._relation}{where}")  # noqa: S608  # names are quoted, the query is the user's own
            for batch in cursor.fetch_record_batch():
                arrays = [self._typed(batch.column(name), types[name], name, first) for name in wanted]
                yield Piece(pa.record_batch(arrays, names=list(wanted)), partial(self._place, first))
                first += len(batch)

    @property
    def _relation(self) -> str:
        if self.record.query:
            return f"({self.record.query}\n) AS source"
        return ".".join(map(quoted, (self.record.path or "").split(".")))

    @cached_property
    def _fields(self) -> Mapping[str, pa.Field]:
        with self._cursor() as cursor:
            schema = cursor.adbc_execute_schema(f"SELECT * FROM {self._relation}")  # noqa: S608  # as above
        if len(set(schema.names)) < len(schema.names):
            twice = next(name for name in schema.names if schema.names.count(name) > 1)
            raise unreadable(self.record.name, f"its query has two columns '{twice}'", repair="Give one another name.")
        return {field.name: field for field in schema}

    def _selected(self, column: str) -> str:
        name = quoted(column)
        return f"{name}::text AS {name}" if _server_type(self._fields[column]) == "uuid" else name

    def _typed(self, array: pa.Array, wanted: pa.DataType, column: str, first: int) -> pa.Array:
        """Return an array in the type that was said for it; numeric comes as text."""
        stored = array.storage if isinstance(array, pa.ExtensionArray) else array
        try:
            return _exactly(stored, wanted)
        except pa.ArrowInvalid as error:
            row = first_misfit(stored, lambda part: _exactly(part, wanted))
            value = f"'{stored[row].as_py()}'" if pa.types.is_string(stored.type) else "infinity"
            raise DefinitionError(
                f"Value {value} of column '{column}' of source '{self.record.name}' is not {wanted}.",
                place=self._place(first, row),
                repair=f"Leave it out or cast it in a query, e.g. CAST({column} AS numeric(12,2)).",
            ) from error

    def _place(self, first: int, row: int) -> str:
        return f"{self.record.connection}:{self.record.path or 'query'}, row {first + row + 1}"

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        """Open a read-only connection for one statement; what goes wrong is said without the URL."""
        try:
            from adbc_driver_manager import Error
            from adbc_driver_postgresql import dbapi
        except ImportError as error:
            raise missing_driver(f"Source '{self.record.name}' reads PostgreSQL") from error
        try:
            with (
                closing(dbapi.connect(_with_options(self.url, self.limits))) as connection,
                connection.cursor() as cursor,
            ):
                yield cursor
        except (Error, OSError, pa.ArrowInvalid) as error:  # a stream of batches has its own
            raise self._explained(error, getattr(error, "sqlstate", None)) from error

    def _explained(self, error: Exception, state: str | None) -> Exception:
        name, server = self.record.name, f"'{self.record.connection}' ({shown(self.url)})"
        if state == _STOPPED or "statement timeout" in str(error):
            return UnavailableError(
                f"The query of source '{name}' took longer than {self.limits.seconds:g} seconds on {server}.",
                place=name,
                repair="Make it cheaper, or raise timeout_seconds under [sources] in featurestore.toml.",
            )
        said = _said(error, self.url)
        if "Failed to connect" in str(error):
            refused = "authentication" in said or "password" in said
            repair = (
                "Set PGPASSWORD or ~/.pgpass, or the whole URL in the environment."
                if refused
                else "Start it, or correct its URL."
            )
            return UnavailableError(f"PostgreSQL connection {server} fails: {said}.", place=name, repair=repair)
        if state == _NO_TABLE and self.record.path:
            missing = NotFoundError.of("table", self.record.path, self._tables())
            return DefinitionError(f"{missing.message.rstrip('.')} on {server}.", place=name)
        return unreadable(name, said, repair=f"Its query runs on {server}, read-only.")

    def _tables(self) -> list[str]:
        known = (
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        )
        with self._cursor() as cursor:
            cursor.execute(known)
            found = cursor.fetchall()
        has_schema = "." in (self.record.path or "")
        return [f"{schema}.{table}" if has_schema else table for schema, table in found]


def missing_driver(what: str) -> ConfigError:
    """Build the error of an installation without PostgreSQL's drivers."""
    return ConfigError(
        f"{what}, and its driver is not installed.", repair="Run `pip install 'featurestore[postgres]'`."
    )


def shown(url: str) -> str:
    """Return a URL without its password and options.

    >>> shown("postgresql://ann:secret@db.example:5433/sales?sslpassword=secret")
    'postgresql://ann@db.example:5433/sales'
    """
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    return urlunsplit((parts.scheme, f"{user.partition(':')[0]}{at}{host}", parts.path, "", ""))


def _with_options(url: str, limits: Limits) -> str:
    """Return the URL with what makes a connection safe to read with: the server refuses writes and stops what takes too long."""
    if not url.startswith(("postgresql://", "postgres://")):
        raise ConfigError("The URL of a PostgreSQL connection begins with postgresql://.", place="connections")
    parts = urlsplit(url)
    given = dict(parse_qsl(parts.query))
    settings = {
        "default_transaction_read_only": "on",
        "statement_timeout": str(max(1, int(limits.seconds * 1000))),
        "timezone": "UTC",
    }
    options = " ".join([given.pop("options", ""), *(f"-c {name}={value}" for name, value in settings.items())])
    query = (
        {"connect_timeout": str(_CONNECT_SECONDS), "application_name": "featurestore"} | given | {"options": options}
    )
    return urlunsplit(parts._replace(query=urlencode(query, quote_via=quote)))


def _said(error: Exception, url: str) -> str:
    """Return what the server said, in one line and without the password."""
    text = str(error).partition("\nQuery was:")[0].partition(". SQLSTATE:")[0]
    text = text.partition("ERROR:  ")[2] or text.partition("FATAL:  ")[2] or text.rpartition("failed: ")[2]
    line = " ".join(line.strip() for line in text.splitlines() if line.strip(" ^"))
    password = urlsplit(url).password
    return (line.replace(password, "***") if password else line).rstrip(".")


def _server_type(field: pa.Field) -> str:
    metadata: Mapping[bytes, bytes] = field.metadata or {}
    return metadata.get(b"POSTGRESQL:type", b"").decode()


def _arrow_type(field: pa.Field) -> pa.DataType:
    """Return the type of a column as it is handed on: numeric as a decimal, uuid and json as strings."""
    kind = _server_type(field)
    if kind == "numeric":
        return _decimal(int((field.metadata or {}).get(b"POSTGRESQL:typmod", b"-1")))
    if kind in ("uuid", "json", "jsonb"):
        return pa.string()
    return field.type


def _decimal(modifier: int) -> pa.DataType:
    """Return the type of a numeric column from its type modifier; -1 is a numeric of any size.

    >>> _decimal(655366), _decimal(-1)
    (Decimal128Type(decimal128(10, 2)), Decimal128Type(decimal128(38, 18)))
    """
    precision, scale = (modifier - 4) >> 16, (modifier - 4) & 0x7FF
    return pa.decimal128(precision, scale) if modifier >= 0 and scale <= precision <= 38 else _ANY_NUMERIC


def _exactly(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Return an array in another type; raises ArrowInvalid for what does not fit, infinite times included.

    The driver shifts times by 30 years and lets infinite ones wrap around: what comes before the calendar's first day is one of them.
    """
    if pa.types.is_timestamp(array.type):
        _check_after(array.cast(pa.int64()), _FIRST_DAY * 86_400_000_000)
    if pa.types.is_date32(array.type):
        _check_after(array.cast(pa.int32()), _FIRST_DAY)
    if pa.types.is_decimal(wanted):
        return decimals(array, wanted)
    return array if array.type == wanted else array.cast(wanted)


def _check_after(numbers: pa.Array, first: int) -> None:
    if pc.any(pc.less(numbers, first)).as_py():
        raise pa.ArrowInvalid("infinity")
