"""The findings of an invoice, and what its lines were before, are found without reading those of all others.

Of findings that are there already the number is what stands in the cell, which is named as in the header of the file.
"""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "ALTER TABLE bulk_upload.processing_errors ADD COLUMN IF NOT EXISTS invoice_number varchar(100)"
    )
    op.execute("""
        UPDATE bulk_upload.processing_errors AS e
        SET invoice_number = left(btrim(e.row_data ->> header.name), 100)
        FROM (
            SELECT batch_id, layout -> 'header' ->> CAST(layout -> 'mapping' ->> 'invoice_number' AS integer) AS name
            FROM bulk_upload.upload_batches OFFSET 0
        ) AS header
        WHERE header.batch_id = e.batch_id AND btrim(e.row_data ->> header.name) <> ''
    """)
    op.execute("""
        CREATE INDEX IF NOT EXISTS processing_errors_invoice ON bulk_upload.processing_errors
        USING brin (invoice_number text_bloom_ops(n_distinct_per_range=512, false_positive_rate=0.001))
        WITH (pages_per_range=64, autosummarize=on)
    """)
    op.execute("CREATE INDEX IF NOT EXISTS former_rows_target ON bulk_upload.former_rows (target_id)")


def downgrade() -> None:
    op.execute("DROP INDEX bulk_upload.former_rows_target")
    op.execute("ALTER TABLE bulk_upload.processing_errors DROP COLUMN invoice_number")
