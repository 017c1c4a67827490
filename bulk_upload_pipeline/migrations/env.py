"""Alembic's entry: runs the migrations on the connection that `schema.migrate` hands over."""

from alembic import context

from bulk_upload_pipeline.tables import SCHEMA, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # Not in `public`: that schema belongs to the dashboards, and may have an Alembic of its own.
    version_table_schema=SCHEMA,
    include_schemas=True,
)
with context.begin_transaction():
    context.run_migrations()
