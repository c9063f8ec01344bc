"""What the buyers' routes keep beside the log and look up in it.

Expand: new tables and indexes, and a column that older versions of the service leave at its default.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

U64_MAX = 2**64 - 1

PAYMENTS = (
    f"""
    CREATE TABLE payments (
        payment_id   text   PRIMARY KEY,
        stream_id    text   NOT NULL UNIQUE,
        seller_id    text   NOT NULL,
        dialect      text   NOT NULL,
        payer        text   NOT NULL,
        recipient    text   NOT NULL,
        amount       numeric(20, 0) NOT NULL
            CONSTRAINT payment_amount_u64 CHECK (amount BETWEEN 1 AND {U64_MAX}),
        signature    text   NOT NULL,
        status       text   NOT NULL,
        submitted_at bigint NOT NULL
    )
    """,
    "CREATE INDEX payments_by_time ON payments (submitted_at)",
    "CREATE INDEX payments_of_recipient ON payments (recipient, submitted_at)",
    """
    CREATE TABLE tallies (
        name  text    NOT NULL,
        day   integer NOT NULL,
        count bigint  NOT NULL,
        PRIMARY KEY (name, day)
    )
    """,
)

SESSIONS = (
    "ALTER TABLE sessions ADD COLUMN opened_by text NOT NULL DEFAULT 'seller'",
    "CREATE UNIQUE INDEX sessions_of_buyers ON sessions (channel_id) WHERE opened_by = 'buyer'",
    "CREATE INDEX sellers_by_recipient ON sellers (recipient, network)",
    """
    CREATE TABLE session_keys (
        stream_id      text        PRIMARY KEY,
        session_pubkey text        NOT NULL,
        key_id         text        NOT NULL,
        sealed         bytea       NOT NULL,
        created_at     timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    "CREATE INDEX ix_session_keys_key_id ON session_keys (key_id)",
)

GRANT = """
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'session_ledger_app') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON payments, tallies, session_keys TO session_ledger_app;
    END IF;
END $$;
"""


def upgrade() -> None:
    for statement in (*PAYMENTS, *SESSIONS, GRANT):
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("migrations only go forward: docs/adr/0012-no-downgrades.md")
