"""One-shot payments as their side table shows them, and the tallies beside the log."""

import asyncio
from collections import Counter
from contextlib import suppress
from typing import Final

import sqlalchemy as sa
import structlog
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from service.adapters.postgres.event_store import PostgresEventStore
from service.adapters.postgres.tables import payments, tallies
from service.domain.units import AtomicUsdc, UnixMillis
from service.ports import PaymentCounts, SettledPayment

log = structlog.get_logger()

FLUSH_SECONDS: Final = 0.25
_DAY_MILLIS: Final = 86_400_000


class PostgresPaymentStore:
    """See `PaymentStore`."""

    def __init__(self, store: PostgresEventStore) -> None:
        self._fetch = store.fetch

    async def submitted(self, since: UnixMillis, recipient: str | None) -> int:
        """See `PaymentStore`."""
        query = sa.select(sa.func.count()).where(payments.c.submitted_at >= since)
        if recipient is not None:
            query = query.where(payments.c.recipient == recipient)
        return (await self._fetch(query))[0][0]

    async def counts(self, since: UnixMillis) -> PaymentCounts:
        """See `PaymentStore`."""
        query = sa.select(
            sa.func.count(),
            sa.func.count().filter(payments.c.submitted_at >= since),
            sa.func.count().filter(payments.c.status == "settled"),
            sa.func.count().filter(payments.c.status == "failed"),
        ).select_from(payments)
        return PaymentCounts(*(await self._fetch(query))[0])

    async def last_settled(self, limit: int) -> list[SettledPayment]:
        """See `PaymentStore`."""
        query = (
            sa.select(payments)
            .where(payments.c.status == "settled")
            .order_by(payments.c.submitted_at.desc(), payments.c.payment_id)
            .limit(limit)
        )
        return [
            SettledPayment(
                signature=row.signature,
                payer=row.payer,
                recipient=row.recipient,
                amount=AtomicUsdc(int(row.amount)),
                submitted_at=UnixMillis(row.submitted_at),
            )
            for row in await self._fetch(query)
        ]

    async def tally(self, name: str, day: int) -> tuple[int, int]:
        """See `PaymentStore`."""
        counted = sa.func.sum(tallies.c.count)
        query = sa.select(
            sa.func.coalesce(counted, 0).label("of_all_days"),
            sa.func.coalesce(counted.filter(tallies.c.day == day), 0).label("of_day"),
        ).where(tallies.c.name == name)
        row = (await self._fetch(query))[0]
        return int(row.of_all_days), int(row.of_day)


class PostgresTallies:
    """See `Tallies`. `start` before use, `stop` writes what is left. A crash loses a moment's."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._counts: Counter[tuple[str, int]] = Counter()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def add(self, name: str, now: UnixMillis) -> None:
        """See `Tallies`."""
        self._counts[name, now // _DAY_MILLIS] += 1

    async def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run(), name="tallies")

    async def stop(self) -> None:
        """Write what is left."""
        self._stopping.set()
        if self._task is not None:
            await self._task

    async def flush(self) -> None:
        """Write what has gathered; on failure it is kept for the next time."""
        counts, self._counts = self._counts, Counter()
        if not counts:
            return
        try:
            async with self._engine.begin() as connection:
                for name, day in sorted(counts):  # one order in every process: no deadlock
                    row = insert(tallies).values(name=name, day=day, count=counts[name, day])
                    await connection.execute(
                        row.on_conflict_do_update(
                            index_elements=list(tallies.primary_key.columns),
                            set_={"count": tallies.c.count + row.excluded.count},
                        )
                    )
        except (SQLAlchemyError, OSError) as error:
            self._counts += counts
            log.warning("tallies_not_written", error=type(error).__name__)

    async def _run(self) -> None:
        while not self._stopping.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), FLUSH_SECONDS)
            await self.flush()
