"""The source of a deployment is ``detected`` or ``reported``; it was ``seen`` or ``told``."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("uq_deployment_seen", table_name="deployment")
    op.execute("UPDATE deployment SET source = 'detected' WHERE source = 'seen'")
    op.execute("UPDATE deployment SET source = 'reported' WHERE source = 'told'")
    op.create_index(
        "uq_deployment_detected",
        "deployment",
        ["service", "environment", "version"],
        unique=True,
        sqlite_where=sa.text("source = 'detected'"),
        postgresql_where=sa.text("source = 'detected'"),
    )
