"""Which rows a correction brings, and how many rejected rows of a batch are corrected."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

CORRECTED_ROWS = """
CREATE TABLE IF NOT EXISTS bulk_upload.corrected_rows (
    batch_id varchar(100) NOT NULL,
    row_number bigint NOT NULL,
    root_batch_id varchar(100) NOT NULL,
    identity bigint NOT NULL,
    line_occurrence integer NOT NULL,
    loaded_at timestamptz,
    PRIMARY KEY (batch_id, row_number)
)
"""


def upgrade() -> None:
    op.execute(CORRECTED_ROWS)
    op.execute(
        "CREATE INDEX IF NOT EXISTS corrected_rows_root ON bulk_upload.corrected_rows (root_batch_id, row_number)"
    )
    op.execute(
        "ALTER TABLE bulk_upload.upload_batches ADD COLUMN IF NOT EXISTS rows_corrected bigint NOT NULL DEFAULT 0"
    )
    op.execute(
        "CREATE INDEX IF NOT EXISTS upload_batches_parent ON bulk_upload.upload_batches (parent_batch_id)"
    )


def downgrade() -> None:
    op.execute("DROP INDEX bulk_upload.upload_batches_parent")
    op.execute("ALTER TABLE bulk_upload.upload_batches DROP COLUMN rows_corrected")
    op.execute("DROP TABLE bulk_upload.corrected_rows")
