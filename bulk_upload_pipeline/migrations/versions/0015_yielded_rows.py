"""What a batch says of rows that stand as a later one says them.

When the load of the later one is undone, they are as this batch says them.
"""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

YIELDED_ROWS = """
CREATE TABLE IF NOT EXISTS bulk_upload.yielded_rows (
    target_id bigint NOT NULL,
    batch_id varchar(100) NOT NULL,
    chunk_index integer NOT NULL,
    says jsonb NOT NULL,
    PRIMARY KEY (target_id, batch_id),
    CONSTRAINT yielded_rows_chunk_fkey FOREIGN KEY (batch_id, chunk_index)
        REFERENCES bulk_upload.load_chunks (batch_id, chunk_index)
        ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED
)
"""


def upgrade() -> None:
    op.execute(YIELDED_ROWS)
    op.execute(
        "CREATE INDEX IF NOT EXISTS yielded_rows_chunk ON bulk_upload.yielded_rows (batch_id, chunk_index)"
    )


def downgrade() -> None:
    op.execute("DROP TABLE bulk_upload.yielded_rows")
