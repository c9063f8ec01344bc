"""The `EventStore` port over Postgres: appends through the group commit, reads through a pool."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from service.adapters.postgres.group_commit import GroupCommit
from service.adapters.postgres.tables import claims, events, sessions, streams
from service.adapters.together import Together
from service.domain.errors import DatabaseUnavailable
from service.domain.log import EventRow
from service.domain.units import StreamPosition, UnixMillis
from service.ports import Append, Claim, Head, LoggedEvent

READ_PAGE: Final = 1_000
HEADS_PER_READ: Final = 100
HEADS_SECONDS: Final = 10
"""Longest wait for one reading of heads, since others wait behind it."""
EVENT_COLUMNS: Final = (
    events.c.stream_id,
    events.c.position,
    events.c.type,
    events.c.schema_version,
    events.c.payload,
    events.c.prev_hash,
    events.c.hash,
    events.c.recorded_at,
    events.c.seller_id,
    sa.cast(events.c.tx_id, sa.Text).label("tx"),
    events.c.feed_id,
)


class PostgresEventStore:
    """One store for one process; `engine` reads, `group_commit` writes."""

    def __init__(self, engine: AsyncEngine, group_commit: GroupCommit) -> None:
        self._engine = engine
        self._group_commit = group_commit
        self._heads = Together(self._heads_in_order, size=HEADS_PER_READ)

    async def append(self, append: Append) -> None:
        """See `EventStore.append`."""
        await self._group_commit.append(append)

    async def head(self, stream_id: str) -> Head | None:
        """See `EventStore.head`. All that are asked for in one moment are one statement."""
        return await self._heads.get(stream_id)

    async def heads(self, stream_ids: Sequence[str]) -> dict[str, Head]:
        """See `EventStore.heads`."""
        query = sa.select(
            streams.c.stream_id, streams.c.position, streams.c.head_hash, streams.c.projection
        ).where(streams.c.stream_id.in_(stream_ids))
        return {
            row.stream_id: Head(
                StreamPosition(row.position), bytes(row.head_hash), bytes(row.projection)
            )
            for row in await self.fetch(query)
        }

    async def _heads_in_order(self, stream_ids: Sequence[str]) -> list[Head | None]:
        try:
            async with asyncio.timeout(HEADS_SECONDS):
                found = await self.heads(stream_ids)
        except TimeoutError:
            raise DatabaseUnavailable("a read took too long") from None
        return [found.get(stream_id) for stream_id in stream_ids]

    async def claim(self, scope: str, key: str) -> Claim | None:
        """See `EventStore.claim`."""
        query = sa.select(claims.c.request_hash, claims.c.response).where(
            claims.c.scope == scope, claims.c.key == key
        )
        rows = await self.fetch(query)
        return Claim(scope, key, rows[0].request_hash, rows[0].response) if rows else None

    async def buyers_sessions(self, channel_ids: Sequence[str]) -> dict[str, str]:
        """See `EventStore.buyers_sessions`."""
        query = sa.select(sessions.c.channel_id, sessions.c.stream_id).where(
            sessions.c.channel_id.in_(channel_ids), sessions.c.opened_by == "buyer"
        )
        return {row.channel_id: row.stream_id for row in await self.fetch(query)}

    async def read(
        self, stream_id: str, *, after: int = 0, up_to: int | None = None
    ) -> AsyncIterator[LoggedEvent]:
        """See `EventStore.read`."""
        while True:
            query = (
                sa.select(*EVENT_COLUMNS)
                .where(events.c.stream_id == stream_id, events.c.position > after)
                .order_by(events.c.position)
                .limit(READ_PAGE)
            )
            if up_to is not None:
                query = query.where(events.c.position <= up_to)
            rows = await self.fetch(query)
            for row in rows:
                yield logged(row)
            if len(rows) < READ_PAGE:
                return
            after = rows[-1].position

    async def voucher(self, stream_id: str, cumulative_amount: int) -> LoggedEvent | None:
        """The accepted voucher of this total, if there is one."""
        query = sa.select(*EVENT_COLUMNS).where(
            events.c.stream_id == stream_id, events.c.cumulative_amount == cumulative_amount
        )
        rows = await self.fetch(query)
        return logged(rows[0]) if rows else None

    async def fetch(
        self, query: sa.Executable, values: dict[str, Any] | None = None
    ) -> list[sa.Row[Any]]:
        """All rows of one statement.

        Raises:
            DatabaseUnavailable: the database does not answer.
        """
        try:
            async with self._engine.connect() as connection:
                return list((await connection.execute(query, values or {})).all())
        except (DBAPIError, SQLAlchemyError, OSError) as error:
            raise DatabaseUnavailable(f"a read failed: {type(error).__name__}") from error


def logged(row: sa.Row[Any]) -> LoggedEvent:
    """A row of `events` as the port gives it."""
    return LoggedEvent(
        row=EventRow(
            row.stream_id,
            StreamPosition(row.position),
            row.type,
            row.schema_version,
            bytes(row.payload),
            bytes(row.prev_hash),
            bytes(row.hash),
        ),
        recorded_at=UnixMillis(int(row.recorded_at.timestamp() * 1_000)),
        seller_id=row.seller_id,
        cursor=f"{row.tx}-{row.feed_id}",
    )
