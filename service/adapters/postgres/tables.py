"""The schema, as the migrations leave it. `alembic check` holds the two together.

`events` is the log. Everything else is derived from it (`streams` and its lookup tables, remade by
`session-ledger replay --rebuild`) or stands beside it (`claims`, `rejections`, `deployment`).
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.types import UserDefinedType

metadata = sa.MetaData()

U64_MAX = 2**64 - 1
AMOUNT = sa.Numeric(20, 0)  # u64 does not fit bigint


class Xid8(UserDefinedType[Any]):
    """Postgres' 64-bit transaction id: the order in which a feed may be read without gaps."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """The type's name in DDL."""
        return "xid8"


def _moment(name: str, *, default: bool = False) -> sa.Column[Any]:
    server_default = sa.text("clock_timestamp()") if default else None
    return sa.Column(
        name, sa.DateTime(timezone=True), nullable=not default, server_default=server_default
    )


events = sa.Table(
    "events",
    metadata,
    sa.Column("stream_id", sa.Text, primary_key=True),
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("schema_version", sa.Integer, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("prev_hash", sa.LargeBinary, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
    sa.Column("event_id", sa.Uuid, nullable=False),
    sa.Column("seller_id", sa.Text, nullable=False),
    sa.Column("cumulative_amount", AMOUNT),
    _moment("recorded_at", default=True),
    sa.Column("tx_id", Xid8, nullable=False, server_default=sa.text("pg_current_xact_id()")),
    sa.Column("feed_id", sa.BigInteger, sa.Identity(always=True), nullable=False),
    sa.CheckConstraint("position >= 1", name="position_from_1"),
    sa.CheckConstraint("octet_length(hash) = 32", name="hash_32_bytes"),
    sa.CheckConstraint("octet_length(prev_hash) = 32", name="prev_hash_32_bytes"),
    sa.CheckConstraint(f"cumulative_amount BETWEEN 0 AND {U64_MAX}", name="cumulative_amount_u64"),
    # No two accepted vouchers of one channel promise the same total.
    sa.Index(
        "events_voucher",
        "stream_id",
        "cumulative_amount",
        unique=True,
        postgresql_where=sa.text("cumulative_amount IS NOT NULL"),
    ),
    sa.Index("events_feed", "seller_id", "tx_id", "feed_id"),
)

streams = sa.Table(
    "streams",
    metadata,
    sa.Column("stream_id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("seller_id", sa.Text, nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("head_hash", sa.LargeBinary, nullable=False),
    sa.Column("projection", sa.LargeBinary, nullable=False),
    postgresql_with={"fillfactor": "60"},  # room for updates in place
)

WATCHED = "(state = 'open' OR opened_by = 'buyer' AND state IN ('settled', 'failed', 'removed'))"
"""Open sessions, and buyers' ones that have ended: a deposit is to be released."""
_UNSETTLED = sa.text("state IN ('open', 'closing')")

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("stream_id", sa.Text, primary_key=True),
    sa.Column("seller_id", sa.Text, nullable=False),
    sa.Column("channel_id", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("payer", sa.Text, nullable=False),
    sa.Column("opened_at", sa.BigInteger, nullable=False),
    sa.Column("opened_by", sa.Text, nullable=False, server_default="seller"),
    # When to look at it next, and the token account that the last look found. Not of the log.
    sa.Column("check_at", sa.DateTime(timezone=True), server_default=sa.text("now()")),
    sa.Column("source", sa.Text),
    sa.Index(
        "sessions_due",
        "check_at",
        postgresql_where=sa.text(f"{WATCHED} AND check_at IS NOT NULL"),
    ),
    sa.Index("sessions_unsettled_by_buyer", "payer", postgresql_where=_UNSETTLED),
    sa.Index("sessions_unsettled_by_seller", "seller_id", "payer", postgresql_where=_UNSETTLED),
    sa.Index("sessions_unsettled_by_source", "source", postgresql_where=_UNSETTLED),
    sa.Index("sessions_listing", "seller_id", "opened_at", "stream_id"),
    sa.Index("sessions_by_payer", "seller_id", "payer", "opened_at", "stream_id"),
    # The ids that we make for buyers are in no two streams.
    sa.Index(
        "sessions_of_buyers",
        "channel_id",
        unique=True,
        postgresql_where=sa.text("opened_by = 'buyer'"),
    ),
)

settlements = sa.Table(
    "settlements",
    metadata,
    sa.Column("settlement_id", sa.Text, primary_key=True),
    sa.Column("stream_id", sa.Text, nullable=False, unique=True),
    sa.Column("seller_id", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("amount", AMOUNT, nullable=False),
    sa.Column("intended_at", sa.BigInteger, nullable=False),
    # A lease only spares work: two workers on one settlement are harmless.
    sa.Column("lease_holder", sa.Uuid),
    _moment("leased_until"),
    sa.CheckConstraint(f"amount BETWEEN 0 AND {U64_MAX}", name="amount_u64"),
    sa.Index(
        "settlements_open",
        "intended_at",
        postgresql_where=sa.text("status NOT IN ('settled', 'failed', 'abandoned')"),
    ),
)

attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("stream_id", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("signature", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.UniqueConstraint("stream_id", "signature", name="attempts_signature"),
    sa.Index("attempts_by_signature", "signature"),
    sa.Index(
        "attempts_one_live",
        "stream_id",
        unique=True,
        postgresql_where=sa.text("state IN ('signed', 'in_flight')"),
    ),
)

sellers = sa.Table(
    "sellers",
    metadata,
    sa.Column("seller_id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("recipient", sa.Text, nullable=False),
    sa.Column("network", sa.Text, nullable=False),
    sa.Column("shared_recipient", sa.Boolean, nullable=False),
    sa.Index(
        "sellers_recipient",
        "recipient",
        "network",
        unique=True,
        postgresql_where=sa.text("NOT shared_recipient"),
    ),
    sa.Index("sellers_by_recipient", "recipient", "network"),
)

seller_keys = sa.Table(
    "seller_keys",
    metadata,
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("seller_id", sa.Text, nullable=False, index=True),
    sa.Column("key_hash", sa.LargeBinary, nullable=False),
    sa.Column("revoked", sa.Boolean, nullable=False),
)

payments = sa.Table(
    "payments",
    metadata,
    sa.Column("payment_id", sa.Text, primary_key=True),
    sa.Column("stream_id", sa.Text, nullable=False, unique=True),
    sa.Column("seller_id", sa.Text, nullable=False),  # '' for a recipient who is no seller here
    sa.Column("dialect", sa.Text, nullable=False),
    sa.Column("payer", sa.Text, nullable=False),
    sa.Column("recipient", sa.Text, nullable=False),
    sa.Column("amount", AMOUNT, nullable=False),
    sa.Column("signature", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("submitted_at", sa.BigInteger, nullable=False),
    sa.CheckConstraint(f"amount BETWEEN 1 AND {U64_MAX}", name="payment_amount_u64"),
    sa.Index("payments_by_time", "submitted_at"),
    sa.Index("payments_of_recipient", "recipient", "submitted_at"),
)

direct_payments = sa.Table(
    "direct_payments",
    metadata,
    sa.Column("signature", sa.Text, primary_key=True),
    sa.Column("stream_id", sa.Text, nullable=False, unique=True),
    sa.Column("seller_id", sa.Text, nullable=False),
    sa.Column("resource", sa.Text, nullable=False),
    sa.Column("payer", sa.Text, nullable=False),
    sa.Column("amount", AMOUNT, nullable=False),
    sa.Column("asset", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("slot", sa.BigInteger, nullable=False),
    sa.Column("accepted_at", sa.BigInteger, nullable=False),
    # When to look for it on the chain again (finality takes a while), and the tip's height when it
    # was first missing there. Not of the log.
    sa.Column(
        "check_at",
        sa.DateTime(timezone=True),
        server_default=sa.text("now() + interval '10 seconds'"),
    ),
    sa.Column("missing_height", sa.BigInteger),
    sa.CheckConstraint(f"amount BETWEEN 1 AND {U64_MAX}", name="direct_amount_u64"),
    sa.Index("direct_payments_due", "check_at", postgresql_where=sa.text("status = 'accepted'")),
    sa.Index("direct_payments_listing", "seller_id", "accepted_at", "signature"),
)

grants = sa.Table(
    "grants",
    metadata,
    sa.Column("grant_id", sa.Text, primary_key=True),
    sa.Column("stream_id", sa.Text, nullable=False, unique=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("registered_at", sa.BigInteger, nullable=False),
    sa.Index("grants_listing", "owner", "registered_at", "grant_id"),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("seller_id", sa.Text, primary_key=True),
    sa.Column("channel_id", sa.Text, primary_key=True),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
    sa.Index("leases_ended", "expires_at"),
)

claims = sa.Table(
    "claims",
    metadata,
    sa.Column("scope", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("request_hash", sa.LargeBinary, nullable=False),
    sa.Column("response", sa.LargeBinary),
    _moment("created_at", default=True),
)

rejections = sa.Table(
    "rejections",
    metadata,
    sa.Column("seller_id", sa.Text, primary_key=True),
    sa.Column("channel_id", sa.Text, primary_key=True),  # '' for channels that are not known
    sa.Column("reason", sa.Text, primary_key=True),
    sa.Column("count", sa.BigInteger, nullable=False),
    sa.Column("last_at", sa.BigInteger, nullable=False),
)

recent_rejections = sa.Table(
    "recent_rejections",
    metadata,
    sa.Column("seller_id", sa.Text, primary_key=True),
    sa.Column("channel_id", sa.Text, primary_key=True),
    sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("voucher", sa.LargeBinary, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
)

session_keys = sa.Table(
    "session_keys",
    metadata,
    sa.Column("stream_id", sa.Text, primary_key=True),
    sa.Column("session_pubkey", sa.Text, nullable=False),
    sa.Column("key_id", sa.Text, nullable=False, index=True),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    _moment("created_at", default=True),
)

tallies = sa.Table(
    "tallies",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),  # since 1970-01-01, UTC
    sa.Column("count", sa.BigInteger, nullable=False),
)

deployment = sa.Table(
    "deployment",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("nonce_key", sa.LargeBinary, nullable=False),
    sa.Column("chain_id", sa.Text),
    sa.Column("cluster_id", sa.Text),
    sa.CheckConstraint("id = 1", name="one_row"),
)

LOOKUPS: dict[str, sa.Table] = {
    table.name: table
    for table in (
        sessions,
        settlements,
        attempts,
        payments,
        direct_payments,
        grants,
        sellers,
        seller_keys,
    )
}
"""Tables that an append may write beside the log; all are remade from it."""
