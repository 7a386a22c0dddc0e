"""Service level objectives, heartbeats and HTTP checks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def _stored() -> list[sa.Column[object]]:
    return [
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
    ]


def upgrade() -> None:
    op.create_table("slo", *_stored(), sa.PrimaryKeyConstraint("name", name="pk_slo"))
    op.create_table(
        "heartbeat",
        *_stored(),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_ms", sa.BigInteger(), nullable=True),
        sa.Column("started_ms", sa.BigInteger(), nullable=True),
        sa.Column("failed_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_heartbeat"),
        sa.UniqueConstraint("token", name="uq_heartbeat_token"),
    )
    op.create_table(
        "http_check",
        *_stored(),
        sa.Column("due_ms", sa.BigInteger(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("failures", sa.BigInteger(), nullable=False),
        sa.Column("since_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_http_check"),
    )
    op.create_index("ix_http_check_due_ms", "http_check", ["due_ms"])
