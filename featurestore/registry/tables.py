"""The tables of the registry database; docs/reference/registry-json.md is their published description."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, MetaData, PrimaryKeyConstraint, String, Table, Text

metadata = MetaData()

commits = Table(
    "commits",
    metadata,
    Column("revision", Integer, primary_key=True, autoincrement=False),
    Column("committed_at", BigInteger, nullable=False),
    Column("principal", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("document", Text, nullable=False),
)

changes = Table(
    "changes",
    metadata,
    Column("revision", Integer, nullable=False),
    Column("position", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("object", Text, nullable=False),
    Column("detail", Text, nullable=False),
    PrimaryKeyConstraint("revision", "position"),
)

bindings = Table(
    "bindings",
    metadata,
    Column("principal", String(255), nullable=False),
    Column("consumer", String(255), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("principal", "consumer"),
)

tokens = Table(
    "tokens",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("principal", String(255), nullable=False),
    Column("roles", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
)

usage_daily = Table(
    "usage_daily",
    metadata,
    Column("day", String(10), nullable=False),
    Column("view", String(128), nullable=False),
    Column("version", Integer, nullable=False),
    Column("feature", String(128), nullable=False),
    Column("principal", String(255), nullable=False),
    Column("consumer", String(255), nullable=False),
    Column("binding", String(16), nullable=False),
    Column("environment", String(64), nullable=False),
    Column("mode", String(16), nullable=False),
    Column("client", String(255), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("calls", BigInteger, nullable=False),
    Column("entity_rows", BigInteger, nullable=False),
    Column("first_read", BigInteger, nullable=False),
    Column("last_read", BigInteger, nullable=False),
    PrimaryKeyConstraint(
        "day",
        "view",
        "version",
        "feature",
        "principal",
        "consumer",
        "binding",
        "environment",
        "mode",
        "client",
        "outcome",
    ),
)

usage_segments = Table(
    "usage_segments",
    metadata,
    Column("worker", String(64), nullable=False),
    Column("number", Integer, nullable=False),
    Column("environment", String(64), nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger, nullable=False),
    Column("closed", Integer, nullable=False),
    Column("dropped", BigInteger, nullable=False),
    PrimaryKeyConstraint("worker", "number"),
)
