"""alembic's way in: the caller's connection, already in a transaction."""

from __future__ import annotations

from alembic import context

from azaion_imagebuild.ledger.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
)
context.run_migrations()
