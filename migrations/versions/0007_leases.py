"""Who streams on a channel at the moment. No money: a lease that is lost ends by itself.

Expand: a new table, of which older versions of the service know nothing.
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE leases (
        seller_id  text        NOT NULL,
        channel_id text        NOT NULL,
        holder     text        NOT NULL,
        expires_at timestamptz NOT NULL,
        PRIMARY KEY (seller_id, channel_id)
    )
    """,
    "CREATE INDEX leases_ended ON leases (expires_at)",
    """
    DO $$
    BEGIN
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'session_ledger_app') THEN
            GRANT SELECT, INSERT, UPDATE, DELETE ON leases TO session_ledger_app;
        END IF;
    END $$;
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("migrations only go forward: docs/adr/0012-no-downgrades.md")
