"""Alembic's environment. Connection and transaction belong to ``vantage.storage.metadata.migrate``."""

from __future__ import annotations

from alembic import context

from vantage.storage.metadata.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
