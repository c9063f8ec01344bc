"""Which sessions are due to be looked at, and what is owed out of a funding source.

`sessions.check_at` and `sessions.source` stand beside the log: whoever looks writes them, and where
they are lost the next look writes them again.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import sqlalchemy as sa

from service.adapters.postgres.due import DueRows
from service.adapters.postgres.event_store import PostgresEventStore
from service.adapters.postgres.tables import WATCHED
from service.domain.units import AtomicUsdc
from service.ports import DueSession, NextLook

UNSETTLED_STATES: Final = "('open', 'closing')"

# A projection as JSON, parsed once for each row: OFFSET 0 keeps the planner from copying the
# expression to each place that uses it. jsonb has no U+0000, which a client's text may hold.
PARSED: Final = r"""
JOIN streams t ON t.stream_id = s.stream_id
CROSS JOIN LATERAL (
  SELECT replace(convert_from(t.projection, 'UTF8'), '\u0000', '\ufffd')::jsonb AS p OFFSET 0
) AS parsed
"""
OWED: Final = """
CASE WHEN s.state = 'closing' THEN (p #>> '{settlement,amount}')::numeric
     WHEN p #>> '{terms,settles}' = 'signed'
     THEN coalesce((p #>> '{signed,cumulativeAmount}')::numeric, 0)
     ELSE (p ->> 'cumulativeAmount')::numeric END
"""

_UNSETTLED: Final = sa.text(f"""
WITH held AS (
  SELECT s.stream_id, s.state, s.source AS account, false AS assumed
    FROM sessions s
   WHERE s.state IN {UNSETTLED_STATES} AND s.source = ANY(CAST(:accounts AS text[]))
  UNION ALL
  SELECT s.stream_id, s.state, o.account, true
    FROM unnest(CAST(:payers AS text[]), CAST(:owned AS text[])) AS o (payer, account)
    JOIN sessions s ON s.payer = o.payer AND s.source IS NULL AND s.state IN {UNSETTLED_STATES})
SELECT account, sum({OWED})::numeric(40, 0) AS owed
  FROM held s {PARSED}
 WHERE coalesce(p #>> '{{settlement,status}}', '') NOT IN ('signed', 'in_flight')
   AND NOT (assumed AND (p #>> '{{terms,swigAddress}}') IS NOT NULL)
 GROUP BY account
""")  # noqa: S608  our own constants


class PostgresWatchStore:
    """See `WatchStore`; one for one process."""

    def __init__(self, store: PostgresEventStore) -> None:
        self._fetch = store.fetch
        self._due = DueRows(
            store, "sessions", key="stream_id", note="source", kind="text", watched=WATCHED
        )

    async def lease_sessions(self, *, seconds: float, limit: int) -> list[DueSession]:
        """See `WatchStore`."""
        rows = await self._due.lease(seconds=seconds, limit=limit)
        return [DueSession(stream_id, source) for stream_id, source in rows]

    async def schedule(self, looks: Sequence[NextLook]) -> None:
        """See `WatchStore`."""
        await self._due.schedule([(look.stream_id, look.seconds, look.source) for look in looks])

    async def unsettled(
        self, accounts: Collection[str], owners: Mapping[str, str]
    ) -> dict[str, AtomicUsdc]:
        """See `WatchStore`."""
        values = {
            "accounts": list(accounts),
            "payers": list(owners),
            "owned": list(owners.values()),
        }
        rows = await self._fetch(_UNSETTLED, values)
        return {row.account: AtomicUsdc(int(row.owed)) for row in rows}
