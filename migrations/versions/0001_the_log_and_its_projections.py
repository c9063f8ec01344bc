"""The log and its projections.

Expand: the first schema; nothing runs beside it.
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

U64_MAX = 2**64 - 1

LOG = (
    f"""
    CREATE TABLE events (
        stream_id         text        NOT NULL,
        position          bigint      NOT NULL CONSTRAINT position_from_1 CHECK (position >= 1),
        type              text        NOT NULL,
        schema_version    integer     NOT NULL,
        payload           bytea       NOT NULL,
        prev_hash         bytea       NOT NULL CONSTRAINT prev_hash_32_bytes CHECK (octet_length(prev_hash) = 32),
        hash              bytea       NOT NULL CONSTRAINT hash_32_bytes CHECK (octet_length(hash) = 32),
        event_id          uuid        NOT NULL,
        seller_id         text        NOT NULL,
        cumulative_amount numeric(20, 0)
            CONSTRAINT cumulative_amount_u64 CHECK (cumulative_amount BETWEEN 0 AND {U64_MAX}),
        recorded_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
        tx_id             xid8        NOT NULL DEFAULT pg_current_xact_id(),
        feed_id           bigint      GENERATED ALWAYS AS IDENTITY,
        PRIMARY KEY (stream_id, position)
    )
    """,
    "CREATE UNIQUE INDEX events_voucher ON events (stream_id, cumulative_amount) WHERE cumulative_amount IS NOT NULL",
    "CREATE INDEX events_feed ON events (seller_id, tx_id, feed_id)",
    """
    CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'the event log is append-only: % is refused', TG_OP USING ERRCODE = 'restrict_violation';
    END $$
    """,
    "CREATE TRIGGER events_append_only BEFORE UPDATE OR DELETE ON events FOR EACH ROW EXECUTE FUNCTION refuse_change()",
    "CREATE TRIGGER events_no_truncate BEFORE TRUNCATE ON events FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()",
    """
    -- ALWAYS: also where a session says session_replication_role = replica.
    ALTER TABLE events ENABLE ALWAYS TRIGGER events_append_only
    """,
    "ALTER TABLE events ENABLE ALWAYS TRIGGER events_no_truncate",
)

PROJECTIONS = (
    """
    CREATE TABLE streams (
        stream_id  text   PRIMARY KEY,
        kind       text   NOT NULL,
        seller_id  text   NOT NULL,
        position   bigint NOT NULL,
        head_hash  bytea  NOT NULL,
        projection bytea  NOT NULL
    ) WITH (fillfactor = 60)
    """,
    """
    CREATE TABLE sessions (
        stream_id  text   PRIMARY KEY,
        seller_id  text   NOT NULL,
        channel_id text   NOT NULL,
        state      text   NOT NULL,
        payer      text   NOT NULL,
        opened_at  bigint NOT NULL
    )
    """,
    "CREATE INDEX sessions_listing ON sessions (seller_id, opened_at, stream_id)",
    "CREATE INDEX sessions_by_payer ON sessions (seller_id, payer, opened_at, stream_id)",
    f"""
    CREATE TABLE settlements (
        settlement_id text   PRIMARY KEY,
        stream_id     text   NOT NULL UNIQUE,
        seller_id     text   NOT NULL,
        status        text   NOT NULL,
        amount        numeric(20, 0) NOT NULL CONSTRAINT amount_u64 CHECK (amount BETWEEN 0 AND {U64_MAX}),
        intended_at   bigint NOT NULL,
        lease_holder  uuid,
        leased_until  timestamptz
    )
    """,
    """
    CREATE INDEX settlements_open ON settlements (intended_at)
        WHERE status NOT IN ('settled', 'failed', 'abandoned')
    """,
    """
    CREATE TABLE attempts (
        stream_id text    NOT NULL,
        number    integer NOT NULL,
        signature text    NOT NULL,
        state     text    NOT NULL,
        PRIMARY KEY (stream_id, number),
        CONSTRAINT attempts_signature UNIQUE (stream_id, signature)
    )
    """,
    "CREATE UNIQUE INDEX attempts_one_live ON attempts (stream_id) WHERE state IN ('signed', 'in_flight')",
    """
    CREATE TABLE sellers (
        seller_id        text    PRIMARY KEY,
        name             text    NOT NULL,
        recipient        text    NOT NULL,
        network          text    NOT NULL,
        shared_recipient boolean NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX sellers_recipient ON sellers (recipient, network) WHERE NOT shared_recipient",
    """
    CREATE TABLE seller_keys (
        key_id    text    PRIMARY KEY,
        seller_id text    NOT NULL,
        key_hash  bytea   NOT NULL,
        revoked   boolean NOT NULL
    )
    """,
    "CREATE INDEX ix_seller_keys_seller_id ON seller_keys (seller_id)",
)

BESIDE_THE_LOG = (
    """
    CREATE TABLE claims (
        scope        text  NOT NULL,
        key          text  NOT NULL,
        request_hash bytea NOT NULL,
        response     bytea,
        created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (scope, key)
    )
    """,
    """
    CREATE TABLE rejections (
        seller_id  text   NOT NULL,
        channel_id text   NOT NULL,
        reason     text   NOT NULL,
        count      bigint NOT NULL,
        last_at    bigint NOT NULL,
        PRIMARY KEY (seller_id, channel_id, reason)
    )
    """,
    """
    CREATE TABLE recent_rejections (
        seller_id  text    NOT NULL,
        channel_id text    NOT NULL,
        slot       integer NOT NULL,
        number     bigint  NOT NULL,
        reason     text    NOT NULL,
        error      text    NOT NULL,
        voucher    bytea   NOT NULL,
        at         bigint  NOT NULL,
        PRIMARY KEY (seller_id, channel_id, slot)
    )
    """,
    """
    CREATE TABLE deployment (
        id        integer PRIMARY KEY CONSTRAINT one_row CHECK (id = 1),
        nonce_key bytea   NOT NULL,
        chain_id  text
    )
    """,
    """
    INSERT INTO deployment (id, nonce_key)
        VALUES (1, sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')))
    """,
)

# The service works as this role, which can only read and append the log. Where the migrating user
# may not create roles, an operator does (docs/runbook.md) and `session-ledger doctor` says so.
ROLE = """
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'session_ledger_app') THEN
        BEGIN
            CREATE ROLE session_ledger_app NOLOGIN;
        EXCEPTION
            WHEN insufficient_privilege THEN RAISE NOTICE 'role session_ledger_app was not created';
            WHEN duplicate_object OR unique_violation THEN NULL;  -- another database, just now
        END;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'session_ledger_app') THEN
        GRANT SELECT, INSERT ON events TO session_ledger_app;
        GRANT SELECT, INSERT, UPDATE, DELETE ON streams, sessions, settlements, attempts, sellers, seller_keys,
            claims, rejections, recent_rejections TO session_ledger_app;
        GRANT SELECT, UPDATE ON deployment TO session_ledger_app;
        BEGIN
            EXECUTE format('GRANT session_ledger_app TO %I', current_user);
        EXCEPTION
            WHEN insufficient_privilege THEN RAISE NOTICE 'role session_ledger_app was not granted';
        END;
    END IF;
END $$;
"""


def upgrade() -> None:
    for statement in (*LOG, *PROJECTIONS, *BESIDE_THE_LOG, ROLE):
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("the log is never dropped by a migration; restore a backup instead")
