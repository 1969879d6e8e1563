"""alembic's entry point: it uses the caller's connection, which is in a transaction already."""

from __future__ import annotations

from alembic import context

from azaion_imagebuild.ledger.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
)
context.run_migrations()
