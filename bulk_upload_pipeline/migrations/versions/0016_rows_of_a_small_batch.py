"""The rows of a batch are found among those of many small ones, too.

A megabyte of rows is of hundreds of batches where files are small. The index took it for 32 of them, so that it held
every batch possible everywhere, and each file was held against the whole table.
"""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _replace("text_bloom_ops(n_distinct_per_range=256)) WITH (pages_per_range=32)")


def downgrade() -> None:
    _replace("text_bloom_ops(n_distinct_per_range=32))")


def _replace(how: str) -> None:
    # The drop keeps readers out until the transaction ends, so it comes after what takes long.
    op.execute(f"""
        CREATE INDEX mangalam_invoices_upload_batch_small ON public.mangalam_invoices
        USING brin (upload_batch_id {how}
    """)
    op.execute("DROP INDEX IF EXISTS public.mangalam_invoices_upload_batch")
    op.execute(
        "ALTER INDEX public.mangalam_invoices_upload_batch_small RENAME TO mangalam_invoices_upload_batch"
    )
