"""Group commit: appends that wait at the same moment share one transaction and one fsync.

One task owns one connection. It takes what is queued, writes it in one transaction and wakes the
callers after COMMIT. While it waits for the disk, the next batch gathers.

    callers --append--> queue --> [ lock heads, refuse, claim, insert, update ] COMMIT --> wake

Vouchers on sessions that exist are nearly all there is, and take one statement and one round trip
(`write_plain`). Everything else, and everything that statement left out, takes the transaction.

What keeps this safe:
- Every stream of the batch is locked (or its row inserted) before anything is judged, so within the
  transaction an expected position cannot become wrong.
- A refused append leaves the transaction before it is written. A statement that fails all the
  same (a constraint, a value Postgres cannot store) makes the batch run again one by one: the bad
  one fails alone and never its neighbours.
- When the connection is lost, the outcome of COMMIT is unknown. The same batch runs again: locking
  the heads waits for the old transaction to end, and an append whose event ids already stand in the
  log was written. The event ids are random, so no other writer's equal event is taken for ours.
- Callers may go away (a cancelled request); the task never does, and nothing on the connection is
  ever cancelled.
"""

import asyncio
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import asyncpg
import structlog

from service.adapters.postgres import append_sql
from service.adapters.postgres.connections import Connection, appender_connection
from service.domain.errors import DatabaseUnavailable, LedgerError
from service.ports import Append

log = structlog.get_logger()

BATCH_MAX: Final = 512
QUEUE_MAX: Final = 4_096
"""Appends that may wait; beyond that callers get 503 at once instead of a growing delay."""
RECONNECT_SECONDS: Final = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 2.0, 2.0)

RACED: Final = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
ASK_AGAIN: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the driver's, when a backend ends between two of its messages
    OSError,
    TimeoutError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
)
"""The connection is gone or refused: whether a COMMIT under way took effect is not known."""


@dataclass(slots=True, eq=False)
class Pending:
    """One append, who waits for it, and the ids by which its rows are known again."""

    append: Append
    done: asyncio.Future[None]
    event_ids: tuple[uuid.UUID, ...]
    streams: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self.streams = frozenset(stream.stream_id for stream in self.append.streams)

    def finish(self, error: Exception | None = None) -> None:
        """Wake the caller, unless it has gone."""
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


class GroupCommit:
    """The one writer of this process. `start` before use, `stop` to drain and close."""

    def __init__(self, address: str, *, synchronous_commit: str = "on") -> None:
        self._address = address
        self._synchronous_commit = synchronous_commit
        self._queue: list[Pending] = []
        self._wake = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self._connection: Connection | None = None

    async def start(self) -> None:
        """Begin to serve appends."""
        self._task = asyncio.create_task(self._run(), name="group-commit")

    async def stop(self) -> None:
        """Write what is queued, then close the connection."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await self._task

    async def append(self, append: Append) -> None:
        """Queue and wait until it is durable. Raises as `EventStore.append` says."""
        if self._stopping or len(self._queue) >= QUEUE_MAX:
            raise DatabaseUnavailable("the event log has no room for another append at the moment")
        count = sum(len(stream.rows) for stream in append.streams)
        ids = tuple(uuid.UUID(bytes=os.urandom(16), version=4) for _ in range(count))
        pending = Pending(append, asyncio.get_running_loop().create_future(), ids)
        self._queue.append(pending)
        self._wake.set()
        await pending.done

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                await self._write_or_tell(self._take_batch())
            if self._stopping:
                break
        if self._connection is not None and not self._connection.is_closed():
            await self._connection.close()

    def _take_batch(self) -> list[Pending]:
        """The oldest appends, at most one for each stream and each claim."""
        batch: list[Pending] = []
        later: list[Pending] = []
        taken: set[object] = set()
        for pending in self._queue:
            keys = {*pending.streams, *((c.scope, c.key) for c in pending.append.claims)}
            if len(batch) < BATCH_MAX and taken.isdisjoint(keys):
                batch.append(pending)
            else:
                later.append(pending)
            taken |= keys
        self._queue = later
        return batch

    async def _write_or_tell(self, batch: Sequence[Pending]) -> None:
        """Nothing may end this task or leave a caller waiting, not even our own bug."""
        try:
            await self._write(batch)
        except Exception as error:
            log.exception("append_failed", appends=len(batch))
            await self._drop_connection()
            for pending in batch:
                pending.finish(DatabaseUnavailable(f"the append failed: {type(error).__name__}"))

    async def _write(self, batch: Sequence[Pending]) -> None:
        """Plain appends in one statement; whatever is more, or was left out, in a transaction."""
        plain = [pending for pending in batch if append_sql.is_plain(pending)]
        others = [pending for pending in batch if not append_sql.is_plain(pending)]
        in_doubt = False
        if plain:
            try:
                written, left_out = await append_sql.write_plain(await self._connect(), plain)
            except ASK_AGAIN:
                await self._drop_connection()
                others, in_doubt = [*plain, *others], True
            except asyncpg.PostgresError:
                others = [*plain, *others]  # nothing was written; the culprit will be found
            else:
                others = [*left_out, *others]
                for pending in written:
                    pending.finish()
        if others:
            await self._write_with_care(others, in_doubt=in_doubt)

    async def _write_with_care(self, batch: Sequence[Pending], *, in_doubt: bool) -> None:
        for delay in (*RECONNECT_SECONDS, None):
            try:
                await self._write_together(batch, in_doubt=in_doubt)
            except ASK_AGAIN as error:
                log.warning(
                    "append_connection_lost", error=type(error).__name__, appends=len(batch)
                )
                in_doubt = True
                await self._drop_connection()
                if delay is None:
                    break
                await asyncio.sleep(delay)
            except RACED:
                continue
            except asyncpg.PostgresError as error:
                await self._write_alone(batch, error, in_doubt=in_doubt)
                return
            else:
                return
        for pending in batch:
            pending.finish(DatabaseUnavailable("the event log did not answer; the outcome is open"))

    async def _write_alone(
        self, batch: Sequence[Pending], error: asyncpg.PostgresError, *, in_doubt: bool
    ) -> None:
        if len(batch) == 1:
            batch[0].finish(append_sql.refusal(error))
            return
        for pending in batch:
            try:
                await self._write_together([pending], in_doubt=in_doubt)
            except asyncpg.PostgresError as alone:
                pending.finish(append_sql.refusal(alone))
            except ASK_AGAIN:
                await self._drop_connection()
                pending.finish(DatabaseUnavailable("the event log did not answer"))

    async def _write_together(self, batch: Sequence[Pending], *, in_doubt: bool) -> None:
        connection = await self._connect()
        refused: dict[Pending, LedgerError] = {}
        while remaining := [pending for pending in batch if pending not in refused]:
            transaction = connection.transaction()
            await transaction.start()
            try:
                verdicts = await append_sql.write(connection, remaining, in_doubt=in_doubt)
            except BaseException:
                if not connection.is_closed():
                    await transaction.rollback()
                raise
            if verdicts.must_redo:
                await transaction.rollback()
                refused |= verdicts.refused
                continue
            await transaction.commit()
            refused |= verdicts.refused
            break
        for pending in batch:
            pending.finish(refused.get(pending))

    async def _connect(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await appender_connection(
                self._address, synchronous_commit=self._synchronous_commit
            )
        return self._connection

    async def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
