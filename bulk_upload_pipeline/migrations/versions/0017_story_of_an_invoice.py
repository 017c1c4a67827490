"""The findings of an invoice, and what its lines were before, are found without reading those of all others.

The index on the new column (0019) and the numbers of findings that are there already (0020) come later: to make them
takes long, and the table is locked until this is done.
"""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX IF NOT EXISTS former_rows_target ON bulk_upload.former_rows (target_id)")
    # Keeps readers out until the transaction ends, so it comes after what takes long.
    op.execute(
        "ALTER TABLE bulk_upload.processing_errors ADD COLUMN IF NOT EXISTS invoice_number varchar(100)"
    )


def downgrade() -> None:
    op.execute("DROP INDEX bulk_upload.former_rows_target")
    op.execute("ALTER TABLE bulk_upload.processing_errors DROP COLUMN invoice_number")
