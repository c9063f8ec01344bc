"""The database cluster on which settlements may be signed.

Expand: a column that older versions of the service do not read.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE deployment ADD COLUMN cluster_id text")


def downgrade() -> None:
    raise NotImplementedError("migrations only go forward: docs/adr/0012-no-downgrades.md")
