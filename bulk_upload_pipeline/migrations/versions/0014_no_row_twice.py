"""No receipt counts a row twice.

One that failed between being judged anew and its load counted what was loaded under the verdict of before, and took
the rest off the rows that were not processed: there were fewer than none of them.
"""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

FINAL = (
    "'duplicate', 'failed', 'loaded', 'partially_loaded', 'rejected', 'reverted', 'unpacked', 'unreadable'"
)
COUNTS = "rows_inserted + rows_updated + rows_unchanged + rows_rejected + rows_unprocessed"


def upgrade() -> None:
    op.execute("""
        UPDATE bulk_upload.upload_batches SET rows_inserted = 0, rows_updated = 0, rows_unchanged = 0,
            rows_rejected = least(rows_rejected, rows_read),
            rows_unprocessed = rows_read - least(rows_rejected, rows_read)
        WHERE rows_unprocessed < 0
    """)
    _replace_law(f"state NOT IN ({FINAL}) OR rows_unprocessed >= 0 AND rows_read = {COUNTS}")


def downgrade() -> None:
    _replace_law(f"state NOT IN ({FINAL}) OR rows_read = {COUNTS}")


def _replace_law(law: str) -> None:
    op.execute(f"""
        ALTER TABLE bulk_upload.upload_batches
        DROP CONSTRAINT IF EXISTS conservation_law, ADD CONSTRAINT conservation_law CHECK ({law})
    """)
