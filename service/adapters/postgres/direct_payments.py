"""The side table of direct payments: listings, and which ones are looked for on the chain again.

`check_at` and `missing_height` stand beside the log: where they are lost, the next look begins
anew, and an end is found later but never wrongly.
"""

import re
from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from service.adapters.postgres.due import DueRows
from service.adapters.postgres.event_store import PostgresEventStore
from service.adapters.postgres.tables import attempts, direct_payments, streams
from service.domain.errors import InvalidRequest
from service.ports import DirectRow, DuePayment, NextCheck

_CURSOR: Final = re.compile(r"([0-9]{1,18})-([1-9A-HJ-NP-Za-km-z]{64,88})\Z", re.ASCII)


class PostgresDirectStore:
    """See `DirectStore`; one for one process."""

    def __init__(self, store: PostgresEventStore) -> None:
        self._fetch = store.fetch
        self._due = DueRows(
            store,
            "direct_payments",
            key="signature",
            note="missing_height",
            kind="bigint",
            watched="status = 'accepted'",
        )

    async def sent_by_us(self, signature: str) -> bool:
        """See `DirectStore`."""
        query = sa.select(attempts.c.number).where(attempts.c.signature == signature).limit(1)
        return bool(await self._fetch(query))

    async def payments(self, seller_id: str, *, limit: int, after: str | None) -> list[DirectRow]:
        """See `DirectStore`."""
        order = direct_payments.c.accepted_at, direct_payments.c.signature
        query = (
            sa.select(*order, streams.c.projection)
            .join(streams, streams.c.stream_id == direct_payments.c.stream_id)
            .where(direct_payments.c.seller_id == seller_id)
            .order_by(*(column.desc() for column in order))
            .limit(limit)
        )
        if after is not None:
            found = _CURSOR.match(after)
            if found is None:
                raise InvalidRequest("cursor must be one that an earlier page gave")
            behind = sa.tuple_(sa.literal(int(found[1])), sa.literal(found[2]))
            query = query.where(sa.tuple_(*order) < behind)
        return [
            DirectRow(bytes(row.projection), f"{row.accepted_at}-{row.signature}")
            for row in await self._fetch(query)
        ]

    async def lease_payments(self, *, seconds: float, limit: int) -> list[DuePayment]:
        """See `DirectStore`."""
        rows = await self._due.lease(seconds=seconds, limit=limit)
        return [DuePayment(signature, height) for signature, height in rows]

    async def schedule_checks(self, checks: Sequence[NextCheck]) -> None:
        """See `DirectStore`."""
        looks = [(check.signature, check.seconds, check.missing_height) for check in checks]
        await self._due.schedule(looks)
