"""The batches that came later than one are found without reading all that there ever were.

Every merge asks for them. An index that holds all of the answer is read from there on; of another one the planner
thinks that a third of the table is sooner read as a whole.
"""

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _replace("received_at, batch_id")


def downgrade() -> None:
    _replace("received_at")


def _replace(columns: str) -> None:
    # The drop keeps readers out until the transaction ends, so it comes after what takes long.
    op.execute(f"CREATE INDEX upload_batches_received_new ON bulk_upload.upload_batches ({columns})")
    op.execute("DROP INDEX IF EXISTS bulk_upload.upload_batches_received")
    op.execute("ALTER INDEX bulk_upload.upload_batches_received_new RENAME TO upload_batches_received")
