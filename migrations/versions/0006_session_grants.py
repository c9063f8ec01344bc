"""Session grants: where an owner's grants are found.

Expand: a new table, of which older versions of the service know nothing.
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE grants (
        grant_id      text   PRIMARY KEY,
        stream_id     text   NOT NULL UNIQUE,
        owner         text   NOT NULL,
        registered_at bigint NOT NULL
    )
    """,
    "CREATE INDEX grants_listing ON grants (owner, registered_at, grant_id)",
    """
    DO $$
    BEGIN
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'session_ledger_app') THEN
            GRANT SELECT, INSERT, UPDATE, DELETE ON grants TO session_ledger_app;
        END IF;
    END $$;
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("migrations only go forward: docs/adr/0012-no-downgrades.md")
