"""When each session is looked at next, and indexes over what is not settled.

Expand: columns with defaults and indexes, of which older versions of the service know nothing.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STATEMENTS = (
    # A session is due from its opening on; now() stays a constant, so no row is rewritten.
    "ALTER TABLE sessions ADD COLUMN check_at timestamptz DEFAULT now(), ADD COLUMN source text",
    """
    CREATE INDEX sessions_due ON sessions (check_at)
        WHERE (state = 'open' OR opened_by = 'buyer' AND state IN ('settled', 'failed', 'removed'))
          AND check_at IS NOT NULL
    """,
    "CREATE INDEX sessions_unsettled_by_buyer ON sessions (payer) WHERE state IN ('open', 'closing')",
    "CREATE INDEX sessions_unsettled_by_seller ON sessions (seller_id, payer) WHERE state IN ('open', 'closing')",
    "CREATE INDEX sessions_unsettled_by_source ON sessions (source) WHERE state IN ('open', 'closing')",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("migrations only go forward: docs/adr/0012-no-downgrades.md")
