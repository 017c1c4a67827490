"""Resolved findings are found without reading those that are open.

Nearly always a batch has none, which is asked whenever its receipt is written: of half a million open findings each
was looked at.
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE INDEX IF NOT EXISTS processing_errors_resolved ON bulk_upload.processing_errors (batch_id)
        WHERE is_resolved
    """)


def downgrade() -> None:
    op.execute("DROP INDEX bulk_upload.processing_errors_resolved")
