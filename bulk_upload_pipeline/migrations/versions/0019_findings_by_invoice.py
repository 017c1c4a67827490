"""The findings of an invoice have an index."""

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE INDEX IF NOT EXISTS processing_errors_invoice ON bulk_upload.processing_errors
        USING brin (invoice_number text_bloom_ops(n_distinct_per_range=512, false_positive_rate=0.001))
        WITH (pages_per_range=64, autosummarize=on)
    """)


def downgrade() -> None:
    op.execute("DROP INDEX bulk_upload.processing_errors_invoice")
