"""What rows were before a batch changed them, so that a load can be undone."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

FORMER_ROWS = """
CREATE TABLE IF NOT EXISTS bulk_upload.former_rows (
    batch_id varchar(100) NOT NULL,
    target_id bigint NOT NULL,
    former_batch_id varchar(100),
    former jsonb NOT NULL,
    kept_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (batch_id, target_id)
)
"""


def upgrade() -> None:
    op.execute(FORMER_ROWS)
    op.execute(
        "CREATE INDEX IF NOT EXISTS former_rows_former_batch ON bulk_upload.former_rows (former_batch_id)"
    )


def downgrade() -> None:
    op.execute("DROP TABLE bulk_upload.former_rows")
