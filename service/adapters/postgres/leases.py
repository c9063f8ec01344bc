"""The `LeaseStore` port: a row for each channel that is streamed on, or was lately."""

from typing import Final

import sqlalchemy as sa

from service.adapters.postgres.event_store import PostgresEventStore
from service.adapters.postgres.tables import leases
from service.domain.units import UnixMillis

# Holders that died leave their rows: each taking removes a few that ended long ago.
_TAKE: Final = sa.text("""
WITH swept AS (
  DELETE FROM leases WHERE (seller_id, channel_id) IN (
    SELECT seller_id, channel_id FROM leases
     WHERE expires_at < now() - interval '1 hour'
       AND (seller_id, channel_id) <> (:seller_id, :channel_id)
     ORDER BY expires_at LIMIT 10 FOR UPDATE SKIP LOCKED))
INSERT INTO leases AS l (seller_id, channel_id, holder, expires_at)
VALUES (:seller_id, :channel_id, :holder, clock_timestamp() + make_interval(secs => :seconds))
ON CONFLICT (seller_id, channel_id) DO UPDATE
   SET holder = excluded.holder, expires_at = excluded.expires_at
 WHERE l.holder = excluded.holder OR l.expires_at <= clock_timestamp()
RETURNING (extract(epoch FROM l.expires_at) * 1000)::bigint AS ends
""")


class PostgresLeases:
    """See `LeaseStore`; one for one process."""

    def __init__(self, store: PostgresEventStore) -> None:
        self._fetch = store.fetch

    async def take(
        self, seller_id: str, channel_id: str, holder: str, seconds: int
    ) -> UnixMillis | None:
        """See `LeaseStore`."""
        values = {
            "seller_id": seller_id,
            "channel_id": channel_id,
            "holder": holder,
            "seconds": seconds,
        }
        rows = await self._fetch(_TAKE, values)
        return UnixMillis(rows[0].ends) if rows else None

    async def release(self, seller_id: str, channel_id: str, holder: str) -> None:
        """See `LeaseStore`."""
        own = (
            (leases.c.seller_id == seller_id)
            & (leases.c.channel_id == channel_id)
            & (leases.c.holder == holder)
        )
        await self._fetch(sa.delete(leases).where(own).returning(leases.c.holder))
