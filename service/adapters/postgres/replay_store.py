"""The `ReplayStore` port: the whole log and its projections, page by page.

A page of streams is read in one read-only snapshot, in which an append is seen whole or not at
all, so that a log and its projection can be compared beside a running service. Snapshots are
short, and events come through a server-side cursor: memory does not grow with the log.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from decimal import Decimal
from typing import Any, Final

import asyncpg
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.adapters.postgres.event_store import EVENT_COLUMNS, logged
from service.adapters.postgres.tables import LOOKUPS, events, seller_keys, sellers, streams
from service.domain.errors import Corrupt, DatabaseUnavailable
from service.domain.units import StreamPosition
from service.ports import Head, LookupRow, Projection, StoredEvent, StoredStream

STREAMS_PAGE: Final = 200
EVENTS_PAGE: Final = 500
_LEASE: Final = frozenset({"lease_holder", "leased_until", "check_at", "source", "missing_height"})
"""Columns of a side table that do not follow from the log."""
_SELLER_PREFIX: Final = "seller/"

# Stream ids after one, of the log and of the projections together. The log's are found by jumping
# from one to the next in its primary key; DISTINCT would read every event.
_NEXT_STREAMS: Final = sa.text("""
WITH RECURSIVE logged AS (
  (SELECT stream_id, 1 AS number FROM events
    WHERE stream_id > :after ORDER BY stream_id LIMIT 1)
  UNION ALL
  SELECT following.stream_id, number + 1
    FROM logged CROSS JOIN LATERAL
         (SELECT stream_id FROM events
           WHERE events.stream_id > logged.stream_id ORDER BY stream_id LIMIT 1) AS following
   WHERE number < :page)
SELECT stream_id FROM (
  SELECT stream_id FROM logged
  UNION (SELECT stream_id FROM streams
          WHERE stream_id > :after ORDER BY stream_id LIMIT :page)) AS found
 ORDER BY stream_id LIMIT :page
""")
_PLACEHOLDER: Final = sa.text("""
INSERT INTO streams (stream_id, kind, seller_id, position, head_hash, projection)
VALUES (:stream_id, '', '', 0, '', '') ON CONFLICT DO NOTHING RETURNING stream_id
""")


class PostgresReplayStore:
    """See `ReplayStore`; one for one process. Needs two connections of `engine` at a time."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def event_count(self, stream_id: str | None) -> int:
        """How many events the projections know of: what a progress bar goes by."""
        query = sa.select(sa.func.coalesce(sa.func.sum(streams.c.position), 0))
        if stream_id is not None:
            query = query.where(streams.c.stream_id == stream_id)
        with _unavailable():
            async with self._engine.connect() as connection:
                return int((await connection.execute(query)).scalar_one())

    async def streams(self, stream_id: str | None) -> AsyncIterator[StoredStream]:
        """See `ReplayStore.streams`."""
        after = ""
        with _unavailable():
            while True:
                async with self._snapshot() as connection:
                    ids = await _next(connection, after) if stream_id is None else [stream_id]
                    if ids:
                        async with aclosing(_page(connection, ids)) as stored:
                            async for stream in stored:
                                yield stream
                if stream_id is not None or len(ids) < STREAMS_PAGE:
                    return
                after = ids[-1]

    async def orphans(self) -> AsyncIterator[tuple[str, str]]:
        """See `ReplayStore.orphans`."""
        with _unavailable():
            async with self._snapshot() as connection:
                for name, table in LOOKUPS.items():
                    owner = _owner(table)
                    query = sa.select(owner).where(
                        ~sa.exists().where(streams.c.stream_id == owner),
                        ~sa.exists().where(events.c.stream_id == owner),
                    )
                    rows = await connection.stream(query.execution_options(yield_per=EVENTS_PAGE))
                    async for (stream_id,) in rows:
                        yield name, stream_id

    @asynccontextmanager
    async def locked(self, stream_id: str) -> AsyncGenerator["PostgresLockedStream"]:
        """See `ReplayStore.locked`. What is written is kept if the block ends well.

        Raises:
            Corrupt: a row of another stream stands in the way of what was written.
        """
        with _unavailable():
            async with self._engine.connect() as raw:
                connection = await raw.execution_options(isolation_level="READ COMMITTED")
                async with connection.begin() as transaction:
                    # A row to lock even where it is lost: an append inserts it, and waits for us.
                    await connection.execute(_PLACEHOLDER, {"stream_id": stream_id})
                    lock = sa.select(streams.c.position).where(streams.c.stream_id == stream_id)
                    await connection.execute(lock.with_for_update())
                    async with aclosing(_page(connection, [stream_id])) as page:
                        stream = PostgresLockedStream(connection, await anext(page))
                        yield stream
                    if not stream.written:
                        await transaction.rollback()

    @asynccontextmanager
    async def _snapshot(self) -> AsyncGenerator[AsyncConnection]:
        async with self._engine.connect() as raw:
            connection = await raw.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
            async with connection.begin():
                yield connection


class PostgresLockedStream:
    """See `LockedStream`; lives inside the transaction that holds the lock."""

    def __init__(self, connection: AsyncConnection, stored: StoredStream) -> None:
        self._connection = connection
        self.stored = stored
        self.written = False

    async def write(self, projection: Projection | None, lookups: Sequence[LookupRow]) -> None:
        """See `LockedStream.write`. A settlement's lease goes with its row, which is harmless."""
        self.written = True
        stream_id = self.stored.stream_id
        mine = streams.c.stream_id == stream_id
        if projection is None:
            await self._connection.execute(sa.delete(streams).where(mine))
        else:
            head = projection.head
            values = {
                "kind": projection.kind,
                "seller_id": projection.seller_id,
                "position": head.position,
                "head_hash": head.hash,
                "projection": head.projection,
            }
            await self._connection.execute(sa.update(streams).where(mine).values(values))
        for table in LOOKUPS.values():
            await self._connection.execute(sa.delete(table).where(_owner(table) == stream_id))
        for name, row in lookups:
            await self._connection.execute(sa.insert(LOOKUPS[name]).values(dict(row)))


async def _next(connection: AsyncConnection, after: str) -> list[str]:
    page = {"after": after, "page": STREAMS_PAGE}
    return list((await connection.execute(_NEXT_STREAMS, page)).scalars())


async def _page(connection: AsyncConnection, ids: Sequence[str]) -> AsyncGenerator[StoredStream]:
    """The streams of `ids`, which are all there are between the first and the last of them."""
    projections = {
        row.stream_id: _projection(row)
        for row in await connection.execute(
            sa.select(streams).where(streams.c.stream_id.between(ids[0], ids[-1]))
        )
    }
    lookups: dict[str, list[LookupRow]] = {}
    for name, table in LOOKUPS.items():
        rows = await connection.execute(
            sa.select(_owner(table).label("_owner"), table).where(_of_page(table, ids))
        )
        for row in rows.mappings():
            derived = {
                column.name: _plain(row[column.name])
                for column in table.columns
                if column.name not in _LEASE
            }
            lookups.setdefault(row["_owner"], []).append((name, derived))
    query = (
        sa.select(*EVENT_COLUMNS, events.c.cumulative_amount)
        .where(events.c.stream_id.between(ids[0], ids[-1]))
        .order_by(events.c.stream_id, events.c.position)
        .execution_options(yield_per=EVENTS_PAGE)
    )
    result = await connection.stream(query)
    try:
        rows = _Rows(aiter(result))
        for stream_id in ids:
            stored = projections.get(stream_id)
            mine = tuple(lookups.get(stream_id, ()))
            yield StoredStream(stream_id, stored, mine, rows.of(stream_id))
            async for _ in rows.of(stream_id):  # what the reader left
                pass
    finally:
        await result.close()


class _Rows:
    """The rows of one statement, handed out stream by stream."""

    def __init__(self, rows: AsyncIterator[Any]) -> None:
        self._rows = rows
        self._next: Any = None

    async def of(self, stream_id: str) -> AsyncIterator[StoredEvent]:
        """The rows of this stream that were not read yet."""
        while True:
            if self._next is None:
                self._next = await anext(self._rows, None)
            row = self._next
            if row is None or row.stream_id != stream_id:
                return
            self._next = None
            yield StoredEvent(logged(row), _plain(row.cumulative_amount))


def _owner(table: sa.Table) -> sa.ColumnElement[str]:
    """The stream from which a side table's row derives."""
    if table is sellers or table is seller_keys:
        return sa.literal(_SELLER_PREFIX) + table.c.seller_id
    return table.c.stream_id


def _of_page(table: sa.Table, ids: Sequence[str]) -> sa.ColumnElement[bool]:
    """The rows of these streams, by a condition that an index answers."""
    if table is sellers or table is seller_keys:
        names = [name[len(_SELLER_PREFIX) :] for name in ids if name.startswith(_SELLER_PREFIX)]
        return table.c.seller_id.in_(names)
    return table.c.stream_id.between(ids[0], ids[-1])


def _projection(row: sa.Row[Any]) -> Projection | None:
    if row.position == 0:  # our own placeholder
        return None
    head = Head(StreamPosition(row.position), bytes(row.head_hash), bytes(row.projection))
    return Projection(row.kind, row.seller_id, head)


def _plain(value: Any) -> Any:
    """Amounts come as exact decimals without a fraction."""
    return int(value) if isinstance(value, Decimal) else value


@contextmanager
def _unavailable() -> Generator[None]:
    try:
        yield
    except IntegrityError as error:
        raise Corrupt("a row of another stream stands in the way") from error
    except (SQLAlchemyError, asyncpg.PostgresError, OSError) as error:
        raise DatabaseUnavailable(f"the database failed: {type(error).__name__}") from error
