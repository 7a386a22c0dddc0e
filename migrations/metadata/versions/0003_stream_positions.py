"""Where each partition of a broker's topic is: what is stored, and which range is being written."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "stream_position",
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.BigInteger(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("next_offset", sa.BigInteger()),
        sa.Column("claimed_last", sa.BigInteger()),
        sa.PrimaryKeyConstraint("topic", "partition", name="pk_stream_position"),
    )
