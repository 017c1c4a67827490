"""When a batch was judged, so that the time of each stage can be told."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE bulk_upload.upload_batches ADD COLUMN IF NOT EXISTS validated_at timestamptz")


def downgrade() -> None:
    op.execute("ALTER TABLE bulk_upload.upload_batches DROP COLUMN validated_at")
