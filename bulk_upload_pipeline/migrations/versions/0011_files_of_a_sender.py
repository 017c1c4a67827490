"""The last files of a sender are found without reading all that were ever loaded.

Each file is compared with the twenty before it. Thousands of small files at once made that the dearest question
of all: it read every batch that is loaded, once a file.
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE INDEX IF NOT EXISTS upload_batches_profile ON bulk_upload.upload_batches (profile, received_at, batch_id)
    """)


def downgrade() -> None:
    op.execute("DROP INDEX bulk_upload.upload_batches_profile")
