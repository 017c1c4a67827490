"""An archive of several files has an exit of its own, which the conservation law covers, too."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def _law(states: str) -> None:
    op.execute("ALTER TABLE bulk_upload.upload_batches DROP CONSTRAINT conservation_law")
    op.execute(
        "ALTER TABLE bulk_upload.upload_batches ADD CONSTRAINT conservation_law CHECK "
        f"(state NOT IN ({states}) OR rows_read = "
        "rows_inserted + rows_updated + rows_unchanged + rows_rejected + rows_unprocessed)"
    )


def upgrade() -> None:
    _law(
        "'duplicate', 'failed', 'loaded', 'partially_loaded', 'rejected', 'reverted', 'unpacked', 'unreadable'"
    )


def downgrade() -> None:
    _law("'duplicate', 'failed', 'loaded', 'partially_loaded', 'rejected', 'reverted', 'unreadable'")
