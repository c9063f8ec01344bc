"""Group commit against one row and one commit at a time, by how many callers wait at once."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from filler import AT, terms, voucher
from report import MILLIS, Bound, Part, percentile
from stand import connect, database
from vouchers import PRICE, Buyer, address

from service.adapters.postgres.group_commit import GroupCommit
from service.application.streams import SESSION, session_stream
from service.domain import events as e
from service.domain.log import GENESIS_HASH, chain
from service.domain.session import Session
from service.domain.units import StreamPosition, UnixMillis
from service.local.postgres import PostgresAddress
from service.ports import Append, StreamAppend

RATIOS_MIN = {1: 0.35, 8: 1.0, 64: 2.5, 512: 5.0}
"""By callers; from the reliability plan, part F."""
ROW_BYTES = 200
ROWS_PER_SECOND_MAX = 60_000
"""Bounds what is made in advance."""
PREPARED_MAX = 400
"""Appends prepared for one caller; a round ends when the first caller has none left."""


def run(*, seconds: float) -> Part:
    """A single-row loop and the group commit in turn, for each number of callers."""
    with database(max_connections="600") as postgres:
        return asyncio.run(_run(postgres, seconds))


@dataclass(frozen=True, slots=True)
class Measured:
    """Rows per second and the 99th percentile of one row's wait, in milliseconds."""

    rate: float
    p99: float


async def _run(postgres: PostgresAddress, seconds: float) -> Part:
    owner = await connect(postgres)
    await owner.execute("CREATE TABLE plain (id bigserial PRIMARY KEY, body bytea NOT NULL)")
    rows: list[dict[str, Any]] = []
    bounds: list[Bound] = []
    for callers, least in RATIOS_MIN.items():
        single = await _single_rows(postgres, callers, seconds)
        grouped = await _grouped(postgres, callers, seconds)
        ratio = grouped.rate / single.rate
        rows.append(
            {
                "what": f"{callers} callers",
                "single rows/s": single.rate,
                "single p99 ms": single.p99,
                "grouped rows/s": grouped.rate,
                "grouped p99 ms": grouped.p99,
                "ratio": ratio,
            }
        )
        bounds.append(Bound(f"grouped / single, {callers} callers", ratio, least, at_least=True))
    await owner.close()
    return Part(
        "Group commit",
        f"single: a prepared INSERT of {ROW_BYTES} bytes, a connection and a commit for each "
        "caller, same driver. grouped: one voucher for each caller, event and projection.",
        rows,
        bounds,
    )


async def _single_rows(postgres: PostgresAddress, callers: int, seconds: float) -> Measured:
    connections = [await connect(postgres) for _ in range(callers)]
    insert = "INSERT INTO plain (body) VALUES ($1)"
    statements = [await connection.prepare(insert) for connection in connections]
    body = bytes(ROW_BYTES)

    def caller(number: int) -> Callable[[], Awaitable[object] | None]:
        return lambda: statements[number].fetch(body)

    measured = await _measure(caller, callers, seconds)
    await asyncio.gather(*(connection.close() for connection in connections))
    return measured


async def _grouped(postgres: PostgresAddress, callers: int, seconds: float) -> Measured:
    group = GroupCommit(postgres.url())
    await group.start()
    count = min(PREPARED_MAX, round(ROWS_PER_SECOND_MAX * seconds / callers))
    prepared = [iter(_appends(f"{callers}-{number}", count)) for number in range(callers)]
    await asyncio.gather(*(group.append(next(appends)) for appends in prepared))  # the openings

    def caller(number: int) -> Callable[[], Awaitable[object] | None]:
        def append() -> Awaitable[object] | None:
            following = next(prepared[number], None)
            return None if following is None else group.append(following)

        return append

    measured = await _measure(caller, callers, seconds)
    await group.stop()
    return measured


async def _measure(
    caller: Callable[[int], Callable[[], Awaitable[object] | None]], callers: int, seconds: float
) -> Measured:
    """Everybody writes one row after another until the time is up or somebody has no more."""
    waits: list[float] = []
    started = time.perf_counter()
    deadline = started + seconds

    async def write(call: Callable[[], Awaitable[object] | None]) -> None:
        nonlocal deadline
        begun = time.perf_counter()
        while begun < deadline:
            under_way = call()
            if under_way is None:
                deadline = begun
                return
            await under_way
            ended = time.perf_counter()
            waits.append(ended - begun)
            begun = ended

    await asyncio.gather(*(write(caller(number)) for number in range(callers)))
    elapsed = time.perf_counter() - started
    return Measured(len(waits) / elapsed, percentile(waits, 99) * MILLIS)


def _appends(name: str, count: int) -> list[Append]:
    """An opening and `count` vouchers of one channel, each an append of its own."""
    stream = session_stream("slr_append", name)
    opened = e.SessionOpened(UnixMillis(AT), terms("slr_append", Buyer(name, address("append"))))
    appends: list[Append] = []
    state: Session | None = None
    position, head_hash = StreamPosition(0), GENESIS_HASH
    for number in range(count + 1):
        event = voucher(number) if number else opened
        rows = chain(stream.stream_id, position, head_hash, [event])
        before, state = state, SESSION.fold(state, [event])
        assert state is not None
        appends.append(
            Append(
                (
                    StreamAppend(
                        stream_id=stream.stream_id,
                        kind="session",
                        seller_id=stream.seller_id,
                        expected=position,
                        rows=rows,
                        amounts=(number * PRICE if number else None,),
                        projection=SESSION.project(state),
                        lookups=SESSION.lookups(stream.stream_id, before, state),
                    ),
                )
            )
        )
        position, head_hash = rows[-1].position, rows[-1].hash
    return appends
