"""Payments that buyers send themselves: where they are found again, and our own signatures.

Expand: a new table and an index, of which older versions of the service know nothing.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

U64_MAX = 2**64 - 1

STATEMENTS = (
    f"""
    CREATE TABLE direct_payments (
        signature      text        PRIMARY KEY,
        stream_id      text        NOT NULL UNIQUE,
        seller_id      text        NOT NULL,
        resource       text        NOT NULL,
        payer          text        NOT NULL,
        amount         numeric(20, 0) NOT NULL
            CONSTRAINT direct_amount_u64 CHECK (amount BETWEEN 1 AND {U64_MAX}),
        asset          text        NOT NULL,
        status         text        NOT NULL,
        slot           bigint      NOT NULL,
        accepted_at    bigint      NOT NULL,
        check_at       timestamptz DEFAULT now() + interval '10 seconds',
        missing_height bigint
    )
    """,
    "CREATE INDEX direct_payments_due ON direct_payments (check_at) WHERE status = 'accepted'",
    "CREATE INDEX direct_payments_listing ON direct_payments (seller_id, accepted_at, signature)",
    "CREATE INDEX attempts_by_signature ON attempts (signature)",
    """
    DO $$
    BEGIN
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'session_ledger_app') THEN
            GRANT SELECT, INSERT, UPDATE, DELETE ON direct_payments TO session_ledger_app;
        END IF;
    END $$;
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("migrations only go forward: docs/adr/0012-no-downgrades.md")
