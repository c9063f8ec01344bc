"""Reads that find things: listings, histories, the feed, and what the worker picks up."""

import re
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa

from service.adapters.postgres.event_store import EVENT_COLUMNS, PostgresEventStore, logged
from service.adapters.postgres.tables import (
    deployment,
    events,
    recent_rejections,
    rejections,
    seller_keys,
    sellers,
    sessions,
    settlements,
    streams,
)
from service.domain.errors import InvalidRequest
from service.domain.limits import RECENT_REJECTIONS_MAX
from service.domain.units import AtomicUsdc, StreamPosition, UnixMillis
from service.ports import (
    Cluster,
    LoggedEvent,
    OpenSettlement,
    Rejection,
    RejectionCount,
    SessionRow,
)

_NUMBER: Final = re.compile(r"[0-9]{1,18}\Z", re.ASCII)
_TERMINAL: Final = ("settled", "failed", "abandoned")
_LEASE: Final = sa.text("""
UPDATE settlements
   SET lease_holder = :holder, leased_until = now() + make_interval(secs => :seconds)
 WHERE settlement_id IN (
   SELECT settlement_id FROM settlements
    WHERE status NOT IN ('settled', 'failed', 'abandoned')
      AND (leased_until IS NULL OR leased_until < now())
    ORDER BY intended_at LIMIT :limit FOR UPDATE SKIP LOCKED)
RETURNING stream_id
""").bindparams(sa.bindparam("holder", type_=sa.Uuid))


# The system identifier survives a physical restore; the timeline does not, nor a promotion.
_CLUSTER: Final = sa.text("""
SELECT system_identifier::text || '/' || timeline_id::text AS current, d.cluster_id AS trusted
  FROM deployment d, pg_control_system(), pg_control_checkpoint()
""")
_TRUST_CLUSTER: Final = sa.text("""
UPDATE deployment d SET cluster_id = system_identifier::text || '/' || timeline_id::text
  FROM pg_control_system(), pg_control_checkpoint()
RETURNING d.cluster_id AS current, d.cluster_id AS trusted
""")


class PostgresQueries:
    """See `Queries`; one for one process."""

    def __init__(self, store: PostgresEventStore) -> None:
        self._fetch = store.fetch

    async def sessions(
        self, seller_id: str, *, state: str | None, payer: str | None, limit: int, after: str | None
    ) -> list[SessionRow]:
        """A page of a seller's sessions, oldest first; removed ones only when asked for."""
        query = (
            sa.select(
                sessions.c.opened_at, streams.c.stream_id, streams.c.position, streams.c.projection
            )
            .join(streams, streams.c.stream_id == sessions.c.stream_id)
            .where(sessions.c.seller_id == seller_id)
            .order_by(sessions.c.opened_at, sessions.c.stream_id)
            .limit(limit)
        )
        query = query.where(sessions.c.state == state if state else sessions.c.state != "removed")
        if payer is not None:
            query = query.where(sessions.c.payer == payer)
        if after is not None:
            opened_at, _, stream_id = after.partition(" ")
            if not _NUMBER.match(opened_at):
                raise InvalidRequest("cursor must be one that an earlier page gave")
            query = query.where(
                sa.tuple_(sessions.c.opened_at, sessions.c.stream_id)
                > sa.tuple_(sa.literal(int(opened_at)), sa.literal(stream_id))
            )
        return [
            SessionRow(
                stream_id=row.stream_id,
                position=StreamPosition(row.position),
                projection=bytes(row.projection),
                cursor=f"{row.opened_at} {row.stream_id}",
            )
            for row in await self._fetch(query)
        ]

    async def vouchers(self, stream_id: str, *, after: int, limit: int) -> list[LoggedEvent]:
        """Accepted vouchers of one session behind a position, oldest first."""
        query = (
            sa.select(*EVENT_COLUMNS)
            .where(
                events.c.stream_id == stream_id,
                events.c.position > after,
                events.c.type == "voucher_accepted",
            )
            .order_by(events.c.position)
            .limit(limit)
        )
        return [logged(row) for row in await self._fetch(query)]

    async def feed(self, seller_id: str, after: str, limit: int) -> list[LoggedEvent]:
        """The seller's events behind a cursor, in the order of the feed; none is ever skipped.

        A serial number is not commit order: a transaction may take number 5 and commit after
        number 6 was read. So the order is (writing transaction, serial), and only transactions
        older than every running one are read: none of them can still add a row behind the cursor.

        Raises:
            InvalidRequest: `after` is not a cursor of this feed.
        """
        transaction, _, serial = after.partition("-")
        if not (_NUMBER.match(transaction) and _NUMBER.match(serial)):
            raise InvalidRequest("after must be a position that this feed gave, or 0-0")
        query = (
            sa.select(*EVENT_COLUMNS)
            .where(
                events.c.seller_id == seller_id,
                sa.text("(tx_id, feed_id) > (CAST(CAST(:tx AS text) AS xid8), :serial)"),
                sa.text("tx_id < pg_snapshot_xmin(pg_current_snapshot())"),
            )
            .order_by(events.c.tx_id, events.c.feed_id)
            .limit(limit)
        )
        rows = await self._fetch(query, {"tx": transaction, "serial": int(serial)})
        return [logged(row) for row in rows]

    async def rejections(
        self, seller_id: str, channel_id: str
    ) -> tuple[list[RejectionCount], list[Rejection]]:
        """Refusals of one channel (empty: of channels that are not known), counted and recent."""
        counts = sa.select(
            rejections.c.reason, rejections.c.count.label("total"), rejections.c.last_at
        ).where(rejections.c.seller_id == seller_id, rejections.c.channel_id == channel_id)
        recent = (
            sa.select(recent_rejections)
            .where(
                recent_rejections.c.seller_id == seller_id,
                recent_rejections.c.channel_id == channel_id,
            )
            .order_by(recent_rejections.c.number.desc())
            .limit(RECENT_REJECTIONS_MAX)
        )
        return (
            [
                RejectionCount(row.reason, row.total, UnixMillis(row.last_at))
                for row in await self._fetch(counts.order_by(rejections.c.reason))
            ],
            [
                Rejection(
                    seller_id,
                    channel_id,
                    row.reason,
                    row.error,
                    UnixMillis(row.at),
                    bytes(row.voucher).decode(errors="replace"),
                )
                for row in await self._fetch(recent)
            ],
        )

    async def settlement(self, settlement_id: str) -> OpenSettlement | None:
        """One settlement by its id."""
        query = sa.select(settlements).where(settlements.c.settlement_id == settlement_id)
        rows = await self._fetch(query)
        return _open_settlement(rows[0]) if rows else None

    async def settlements(self, *, status: str | None, limit: int) -> list[OpenSettlement]:
        """Settlements, oldest first: those of a status, or all that are not terminal."""
        query = sa.select(settlements).order_by(settlements.c.intended_at).limit(limit)
        if status is None:
            query = query.where(settlements.c.status.not_in(_TERMINAL))
        else:
            query = query.where(settlements.c.status == status)
        return [_open_settlement(row) for row in await self._fetch(query)]

    async def lease_settlements(self, holder: UUID, *, seconds: int, limit: int) -> list[str]:
        """See `Queries`."""
        values = {"holder": holder, "seconds": seconds, "limit": limit}
        return [row.stream_id for row in await self._fetch(_LEASE, values)]

    async def release_settlement(self, holder: UUID, stream_id: str) -> None:
        """Let another worker take it at once."""
        query = (
            sa.update(settlements)
            .where(settlements.c.stream_id == stream_id, settlements.c.lease_holder == holder)
            .values(leased_until=None, lease_holder=None)
            .returning(settlements.c.stream_id)
        )
        await self._fetch(query)

    async def seller_of_key(self, key_id: str) -> str | None:
        """The seller that a key was issued to."""
        rows = await self._fetch(
            sa.select(seller_keys.c.seller_id).where(seller_keys.c.key_id == key_id)
        )
        return rows[0].seller_id if rows else None

    async def seller_of_recipient(self, recipient: str, network: str) -> str | None:
        """See `Queries`."""
        registered = sa.and_(
            events.c.stream_id == sa.literal("seller/") + sellers.c.seller_id,
            events.c.position == 1,
        )
        query = (
            sa.select(sellers.c.seller_id)
            .join(events, registered)
            .where(sellers.c.recipient == recipient, sellers.c.network == network)
            .order_by(events.c.tx_id, events.c.feed_id)
            .limit(1)
        )
        rows = await self._fetch(query)
        return rows[0].seller_id if rows else None

    async def seller_ids(self) -> list[str]:
        """All sellers, by name."""
        query = sa.select(sellers.c.seller_id).order_by(sellers.c.name, sellers.c.seller_id)
        return [row.seller_id for row in await self._fetch(query)]

    async def nonce_key(self) -> bytes:
        """The deployment's key for server nonces."""
        rows = await self._fetch(sa.select(deployment.c.nonce_key))
        return bytes(rows[0].nonce_key)

    async def cluster(self) -> Cluster:
        """See `Queries`."""
        rows = await self._fetch(_CLUSTER)
        if rows[0].trusted is None:
            return await self.trust_cluster()
        return Cluster(rows[0].current, rows[0].trusted)

    async def trust_cluster(self) -> Cluster:
        """See `Queries`."""
        rows = await self._fetch(_TRUST_CLUSTER)
        return Cluster(rows[0].current, rows[0].trusted)

    async def bind_chain(self, chain_id: str) -> str:
        """See `Queries`."""
        bind = (
            sa.update(deployment)
            .values(chain_id=sa.func.coalesce(deployment.c.chain_id, chain_id))
            .returning(deployment.c.chain_id)
        )
        rows = await self._fetch(bind)
        return rows[0].chain_id


def _open_settlement(row: sa.Row[Any]) -> OpenSettlement:
    return OpenSettlement(
        settlement_id=row.settlement_id,
        stream_id=row.stream_id,
        seller_id=row.seller_id,
        status=row.status,
        amount=AtomicUsdc(int(row.amount)),
        intended_at=UnixMillis(row.intended_at),
    )
