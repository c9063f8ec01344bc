"""The side table of session grants: an owner's listing, and what may be taken from the owner."""

import re
from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from service.adapters.postgres.event_store import PostgresEventStore
from service.adapters.postgres.tables import grants, streams
from service.adapters.postgres.watching import OWED, PARSED, UNSETTLED_STATES
from service.domain.errors import InvalidRequest
from service.domain.grants import SKEW_MILLIS
from service.domain.units import UnixMillis
from service.ports import GrantRow, Outstanding

_CURSOR: Final = re.compile(r"([0-9]{1,18})\.([A-Za-z0-9_-]{43})\Z", re.ASCII)
# What grants that are not over (`Grant.state`) still allow, and what sessions may still take, where
# a deposit counts that a buyer's session reserved (`Session.reserved`). A removed session is in no
# index of what is not settled: it is found by its settlement or by its reservation.
_OUTSTANDING: Final = sa.text(f"""
WITH allowed AS (
  SELECT s.grant_id,
         (p #>> '{{terms,maxTotal}}')::numeric - (p ->> 'amountUsed')::numeric AS amount
    FROM grants s {PARSED}
   WHERE s.owner = :owner AND p ->> 'revokedAt' IS NULL AND p ->> 'exhaustedAt' IS NULL
     AND (p #>> '{{terms,validUntil}}')::numeric * 1000 >= :ended
), listed AS (
  SELECT stream_id FROM sessions WHERE payer = :owner AND state IN {UNSETTLED_STATES}
   UNION
  SELECT stream_id FROM sessions WHERE source = :account AND state IN {UNSETTLED_STATES}
   UNION
  SELECT sessions.stream_id FROM settlements JOIN sessions USING (stream_id)
   WHERE settlements.status NOT IN ('settled', 'failed', 'abandoned') AND payer = :owner
   UNION
  SELECT unnest(CAST(:reserved AS text[]))
), claimed AS (
  SELECT p #>> '{{terms,grantId}}' AS grant_id,
         CASE WHEN p #>> '{{settlement,status}}' IN ('settled', 'failed', 'abandoned') THEN 0
              WHEN p #>> '{{settlement,status}}' IS NOT NULL
              THEN (p #>> '{{settlement,amount}}')::numeric
              WHEN p #>> '{{terms,openedBy}}' = 'buyer' AND p ->> 'removedAt' IS NULL
              THEN coalesce((p #>> '{{terms,deposit}}')::numeric, {OWED})
              ELSE {OWED} END AS amount
    FROM listed JOIN sessions s USING (stream_id) {PARSED}
), both_of AS (
  SELECT grant_id, amount FROM allowed UNION ALL SELECT grant_id, amount FROM claimed)
SELECT coalesce(sum(amount), 0)::numeric(60, 0) AS wallet,
       coalesce(sum(amount) FILTER (WHERE grant_id = :grant_id), 0)::numeric(60, 0) AS of_grant
  FROM both_of
""")  # noqa: S608  our own constants


class PostgresGrantStore:
    """See `GrantStore`; one for one process."""

    def __init__(self, store: PostgresEventStore) -> None:
        self._fetch = store.fetch

    async def grants(self, owner: str, *, limit: int, after: str | None) -> list[GrantRow]:
        """See `GrantStore`."""
        order = grants.c.registered_at, grants.c.grant_id
        query = (
            sa.select(*order, streams.c.projection)
            .join(streams, streams.c.stream_id == grants.c.stream_id)
            .where(grants.c.owner == owner)
            .order_by(*(column.desc() for column in order))
            .limit(limit)
        )
        if after is not None:
            found = _CURSOR.match(after)
            if found is None:
                raise InvalidRequest("cursor must be one that an earlier page gave")
            behind = sa.literal(int(found[1])), sa.literal(found[2])
            query = query.where(sa.tuple_(*order) < sa.tuple_(*behind))
        return [
            GrantRow(bytes(row.projection), f"{row.registered_at}.{row.grant_id}")
            for row in await self._fetch(query)
        ]

    async def outstanding(
        self, owner: str, grant_id: str, *, account: str, reserved: Sequence[str], now: UnixMillis
    ) -> Outstanding:
        """See `GrantStore`."""
        values = {
            "owner": owner,
            "grant_id": grant_id,
            "account": account,
            "reserved": list(reserved),
            "ended": now - SKEW_MILLIS,
        }
        (row,) = await self._fetch(_OUTSTANDING, values)
        return Outstanding(int(row.wallet), int(row.of_grant))
