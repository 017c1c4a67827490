"""The parts of a file that several workers share."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE IF NOT EXISTS bulk_upload.file_parts (
            batch_id varchar(100) NOT NULL,
            part integer NOT NULL,
            plan varchar(64) NOT NULL,
            place jsonb NOT NULL,
            in_doubt boolean NOT NULL DEFAULT false,
            date_orders jsonb,
            staged text,
            verdict jsonb,
            first_chunk integer,
            loaded boolean NOT NULL DEFAULT false,
            PRIMARY KEY (batch_id, part)
        )
    """)


def downgrade() -> None:
    op.execute("DROP TABLE bulk_upload.file_parts")
