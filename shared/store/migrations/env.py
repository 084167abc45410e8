"""Alembic's entry: runs on the connection that ``shared.store.migrate`` hands over."""

from alembic import context

from shared.store.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
context.run_migrations()
