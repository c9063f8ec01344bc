"""Refused vouchers, counted and the last ones kept, in bounded space and off the hot path.

Refusals gather in memory and are written together a few times a second. What an attacker can fill
is bounded: one counter for each known session and reason, one for everything that names no known
session, and a ring of the last refusals for each. A crash loses at most the last moment's counts,
which no promise rests on.
"""

import asyncio
import re
from collections import Counter, deque
from contextlib import suppress
from typing import Final

import sqlalchemy as sa
import structlog
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.adapters.postgres.tables import recent_rejections, rejections, sessions
from service.domain.limits import RECENT_REJECTIONS_MAX, VOUCHER_BYTES_MAX
from service.ports import Rejection

log = structlog.get_logger()

FLUSH_SECONDS: Final = 0.25
CHANNELS_MAX: Final = 1_000
"""Different channels remembered between two writes; the rest counts as unknown."""

_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")
_Key = tuple[str, str]


class PostgresRejectionTrace:
    """See `RejectionTrace`. `start` before use, `stop` writes what is left."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._recent: dict[_Key, deque[Rejection]] = {}
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def note(self, rejection: Rejection) -> None:
        """See `RejectionTrace.note`."""
        key = (rejection.seller_id, rejection.channel_id)
        if key not in self._recent and len(self._recent) >= CHANNELS_MAX:
            key = (rejection.seller_id, "")
        self._counts[key[0], key[1], rejection.reason] += 1
        self._recent.setdefault(key, deque(maxlen=RECENT_REJECTIONS_MAX)).append(rejection)

    async def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run(), name="rejections")

    async def stop(self) -> None:
        """Write what is left."""
        self._stopping.set()
        if self._task is not None:
            await self._task

    async def flush(self) -> None:
        """Write what has gathered; on failure it is lost, and said so in the log."""
        if not self._counts:
            return
        counts, recent = self._counts, self._recent
        self._counts, self._recent = Counter(), {}
        try:
            async with self._engine.begin() as connection:
                await _write(connection, counts, recent)
        except (SQLAlchemyError, OSError) as error:
            log.warning("rejections_not_written", error=type(error).__name__, lost=counts.total())

    async def _run(self) -> None:
        while not self._stopping.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), FLUSH_SECONDS)
            await self.flush()


async def _write(
    connection: AsyncConnection,
    counts: Counter[tuple[str, str, str]],
    recent: dict[_Key, deque[Rejection]],
) -> None:
    known = await _known_channels(connection, set(recent))
    totals: Counter[tuple[str, str, str]] = Counter()
    kept: dict[_Key, deque[Rejection]] = {}
    last_at: dict[tuple[str, str, str], int] = {}
    for (seller_id, channel_id, reason), count in counts.items():
        place = channel_id if (seller_id, channel_id) in known else ""
        totals[seller_id, place, reason] += count
    for key, ring in recent.items():
        place = key if key in known else (key[0], "")
        kept.setdefault(place, deque(maxlen=RECENT_REJECTIONS_MAX)).extend(ring)
        for rejection in ring:
            counter = (place[0], place[1], rejection.reason)
            last_at[counter] = max(last_at.get(counter, 0), rejection.at)
    await _count(connection, totals, last_at)
    for place, ring in kept.items():
        await _keep(connection, place, ring)


async def _known_channels(connection: AsyncConnection, keys: set[_Key]) -> set[_Key]:
    storable = [key for key in keys if key[1] and not _UNSTORABLE.search(key[1])]
    query = sa.select(sessions.c.seller_id, sessions.c.channel_id).where(
        sessions.c.stream_id.in_([f"session/{seller}/{channel}" for seller, channel in storable])
    )
    return {(row[0], row[1]) for row in await connection.execute(query)}


async def _count(
    connection: AsyncConnection,
    totals: Counter[tuple[str, str, str]],
    last_at: dict[tuple[str, str, str], int],
) -> None:
    for key in sorted(totals):  # one order in every process: no deadlock
        row = insert(rejections).values(
            seller_id=key[0],
            channel_id=key[1],
            reason=key[2],
            count=totals[key],
            last_at=last_at.get(key, 0),
        )
        await connection.execute(
            row.on_conflict_do_update(
                index_elements=list(rejections.primary_key.columns),
                set_={
                    "count": rejections.c.count + row.excluded.count,
                    "last_at": sa.func.greatest(rejections.c.last_at, row.excluded.last_at),
                },
            )
        )


async def _keep(connection: AsyncConnection, place: _Key, ring: deque[Rejection]) -> None:
    newest = sa.select(sa.func.coalesce(sa.func.max(recent_rejections.c.number), 0)).where(
        recent_rejections.c.seller_id == place[0], recent_rejections.c.channel_id == place[1]
    )
    number: int = (await connection.execute(newest)).scalar_one()
    for rejection in ring:
        number += 1
        row = insert(recent_rejections).values(
            seller_id=place[0],
            channel_id=place[1],
            slot=number % RECENT_REJECTIONS_MAX,
            number=number,
            reason=rejection.reason,
            error=rejection.error.replace("\x00", "\ufffd"),
            voucher=rejection.voucher.encode(errors="replace")[:VOUCHER_BYTES_MAX],
            at=rejection.at,
        )
        keys = [column.name for column in recent_rejections.primary_key.columns]
        others = {c.name: c for c in row.excluded if c.name not in keys}
        await connection.execute(row.on_conflict_do_update(index_elements=keys, set_=others))
