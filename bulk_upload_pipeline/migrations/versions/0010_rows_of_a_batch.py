"""The rows of a batch are found without reading those of others.

Runs that load at the same time write their batches among each other, so that every stretch of the table spans
nearly all batch ids: an index of the least and the largest is no help, one of which ids occur (bloom) is. It
knows new pages after a vacuum only, for which PostgreSQL by itself would wait for a fifth of the table.
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The drop keeps readers out until the transaction ends, so it comes after what takes long.
    op.execute("""
        CREATE INDEX mangalam_invoices_upload_batch_bloom ON public.mangalam_invoices
        USING brin (upload_batch_id text_bloom_ops(n_distinct_per_range=32))
    """)
    op.execute("DROP INDEX IF EXISTS public.mangalam_invoices_upload_batch")
    op.execute(
        "ALTER INDEX public.mangalam_invoices_upload_batch_bloom RENAME TO mangalam_invoices_upload_batch"
    )
    op.execute("""
        ALTER TABLE public.mangalam_invoices
        SET (autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 20000)
    """)


def downgrade() -> None:
    op.execute("""
        ALTER TABLE public.mangalam_invoices
        RESET (autovacuum_vacuum_insert_scale_factor, autovacuum_vacuum_insert_threshold)
    """)
    op.execute("DROP INDEX public.mangalam_invoices_upload_batch")
    op.execute("""
        CREATE INDEX mangalam_invoices_upload_batch ON public.mangalam_invoices USING brin (upload_batch_id)
    """)
