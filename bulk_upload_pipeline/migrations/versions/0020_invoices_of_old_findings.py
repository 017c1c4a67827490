"""Findings that are there already belong to their invoice.

Its number is what stands in the cell that is named as in the header of the file. Of millions this takes minutes, in
which everybody reads and loads: only who changes the same findings waits.
"""

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Somebody may be changing a finding just now. To begin again from the first because of it would take longer.
    op.execute("SET LOCAL lock_timeout = 0")
    op.execute("""
        UPDATE bulk_upload.processing_errors AS e
        SET invoice_number = left(btrim(e.row_data ->> header.name), 100)
        FROM (
            SELECT batch_id, layout -> 'header' ->> CAST(layout -> 'mapping' ->> 'invoice_number' AS integer) AS name
            FROM bulk_upload.upload_batches OFFSET 0
        ) AS header
        WHERE header.batch_id = e.batch_id AND e.invoice_number IS NULL AND btrim(e.row_data ->> header.name) <> ''
    """)


def downgrade() -> None:
    pass  # the column goes with 0017
