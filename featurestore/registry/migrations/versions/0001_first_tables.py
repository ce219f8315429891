"""The first tables: commits, changes, bindings, tokens, usage."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create every table as of store format 1; later formats alter them, so the columns are spelled out here."""
    op.create_table(
        "commits",
        sa.Column("revision", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("committed_at", sa.BigInteger, nullable=False),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
    )
    op.create_table(
        "changes",
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("object", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("revision", "position"),
    )
    op.create_table(
        "bindings",
        sa.Column("principal", sa.String(255), nullable=False),
        sa.Column("consumer", sa.String(255), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("principal", "consumer"),
    )
    op.create_table(
        "tokens",
        sa.Column("name", sa.String(255), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("principal", sa.String(255), nullable=False),
        sa.Column("roles", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("revoked_at", sa.BigInteger),
    )
    usage_key = (
        *(("day", sa.String(10)), ("view", sa.String(128)), ("version", sa.Integer), ("feature", sa.String(128))),
        *(("principal", sa.String(255)), ("consumer", sa.String(255)), ("binding", sa.String(16))),
        *(
            ("environment", sa.String(64)),
            ("mode", sa.String(16)),
            ("client", sa.String(255)),
            ("outcome", sa.String(16)),
        ),
    )
    op.create_table(
        "usage_daily",
        *(sa.Column(name, kind, nullable=False) for name, kind in usage_key),
        *(
            sa.Column(name, sa.BigInteger, nullable=False)
            for name in ("calls", "entity_rows", "first_read", "last_read")
        ),
        sa.PrimaryKeyConstraint(*(name for name, _ in usage_key)),
    )
    op.create_table(
        "usage_segments",
        sa.Column("worker", sa.String(64), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("environment", sa.String(64), nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger, nullable=False),
        sa.Column("closed", sa.Integer, nullable=False),
        sa.Column("dropped", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("worker", "number"),
    )
