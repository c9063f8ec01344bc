"""Group commit while connections break, backends stop and Postgres goes away."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from appending import ANSWER_SECONDS, Channel, append_to, expect_whole, writing
from cutting_proxy import CuttingProxy, Direction, cutting_proxy
from ledger_checker import connect
from sqlalchemy.engine import make_url

from service import migrations
from service.adapters.postgres.group_commit import GroupCommit
from service.domain.errors import DatabaseUnavailable
from service.local.postgres import EmbeddedPostgres
from service.ports import Append, Claim

POLL_SECONDS = 0.01
NEIGHBOURS = 8
TERMINATIONS = 12


@pytest.fixture
async def proxied(url: str) -> AsyncIterator[tuple[CuttingProxy, str]]:
    """A proxy in front of the database, and the address behind it."""
    place = make_url(url)
    assert place.host
    assert place.port
    async with cutting_proxy(place.host, place.port) as (proxy, port):
        yield proxy, place.set(port=port).render_as_string(hide_password=False)


async def _until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(ANSWER_SECONDS):
        while not await holds():
            await asyncio.sleep(POLL_SECONDS)


Opens = Callable[[int], tuple[Channel, Append]]


async def _cut_everywhere(
    database: Any, proxied: tuple[CuttingProxy, str], appends: Opens, *, step: int
) -> None:
    """One append for each byte offset, cut there; each must be in the log once."""
    proxy, url = proxied
    channels = dict[str, Channel]()
    number = 0

    async def append(group: GroupCommit) -> None:
        nonlocal number
        number += 1
        channel, append = appends(number)
        channels[channel.stream.stream_id] = channel
        await append_to(group, append)

    async with writing(url) as group:
        for _ in range(3):  # so that the statements are prepared
            await append(group)
        proxy.cut_after("to_server", 1 << 30)
        await append(group)
        sizes = dict(proxy.forwarded)
        directions: tuple[Direction, ...] = ("to_server", "to_client")
        for direction in directions:
            for offset in range(0, sizes[direction], step):
                proxy.cut_after(direction, offset)
                await append(group)
                proxy.forget()
    assert proxy.cuts >= sum(size // step for size in sizes.values())
    print(f"{proxy.cuts} cuts in {sizes}")
    await expect_whole(database, *channels.values())


def _vouchers_of_one_channel() -> Opens:
    channel = Channel("one")
    return lambda _: (channel, channel.next())


def _new_channels(number: int) -> tuple[Channel, Append]:
    channel = Channel(f"new-{number}")
    return channel, channel.next()


def _new_channels_with_a_claim(number: int) -> tuple[Channel, Append]:
    channel = Channel(f"claiming-{number}")
    return channel, channel.next(Claim("nonce/slr_1", f"nonce-{number}", bytes(32)))


SHAPES: dict[str, Callable[[], Opens]] = {
    "voucher": _vouchers_of_one_channel,
    "opening": lambda: _new_channels,
    "opening_with_a_claim": lambda: _new_channels_with_a_claim,
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
async def test_a_connection_cut_within_an_append_neither_loses_nor_doubles_it(
    database: Any, proxied: tuple[CuttingProxy, str], shape: Callable[[], Opens]
) -> None:
    await _cut_everywhere(database, proxied, shape(), step=67)


@pytest.mark.campaign
@pytest.mark.timeout(0)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
async def test_a_connection_cut_at_every_byte_neither_loses_nor_doubles_an_append(
    database: Any, proxied: tuple[CuttingProxy, str], shape: Callable[[], Opens]
) -> None:
    await _cut_everywhere(database, proxied, shape(), step=1)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
async def test_a_commit_that_takes_effect_after_the_connection_was_lost_is_recognised(
    database: Any, proxied: tuple[CuttingProxy, str], shape: Callable[[], Opens]
) -> None:
    """The old backend stands still with the COMMIT unread until the new one waits or is done."""
    proxy, url = proxied
    appends = shape()
    async with writing(url) as group:
        first, append = appends(1)
        await append_to(group, append)
        old = await _appender(database)

        async def stop_it() -> None:
            os.kill(old, signal.SIGSTOP)

        second, append = appends(2)
        # An existing stream takes one statement, which commits itself; the rest a transaction.
        plain = append.streams[0].expected > 0
        proxy.cut_behind(append.streams[0].rows[-1].hash if plain else b"COMMIT", stop_it)
        appended = asyncio.create_task(append_to(group, append))
        try:
            await _until(lambda: _waits_or_is_done(database, old, appended))
        finally:
            os.kill(old, signal.SIGCONT)
        await appended
        await _until(lambda: _is_gone(database, old))
    assert proxy.cuts == 1
    await expect_whole(database, first, second)


async def _appender(database: Any) -> int:
    """The process id of the appender's backend."""
    pid: int = await database.fetchval(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'session-ledger appender'"
    )
    return pid


async def _waits_or_is_done(database: Any, old: int, appended: "asyncio.Task[None]") -> bool:
    waiting = await database.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> $1 AND wait_event_type = 'Lock'",
        old,
    )
    return bool(waiting) or appended.done()


async def _is_gone(database: Any, pid: int) -> bool:
    return not await database.fetchval("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", pid)


async def test_terminated_backends_lose_and_double_nothing(url: str, database: Any) -> None:
    channels = [Channel(f"terminated-{number}") for number in range(2 * NEIGHBOURS)]
    enough = asyncio.Event()
    written = 0

    async def write(group: GroupCommit, channel: Channel) -> None:
        nonlocal written
        while not enough.is_set():
            await append_to(group, channel.next())
            written += 1

    async def is_back(before: int) -> bool:
        return written > before + len(channels)

    async with writing(url) as group, asyncio.TaskGroup() as writers:
        for channel in channels:
            writers.create_task(write(group, channel))
        for _ in range(TERMINATIONS):
            await _until(lambda: _terminated(database))
            await _until(partial(is_back, written))
        enough.set()
    await expect_whole(database, *channels)


async def _terminated(database: Any) -> bool:
    """Whether there was an appender's backend, which is asked to end now."""
    return bool(
        await database.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'session-ledger appender'"
        )
    )


async def test_a_backend_that_stands_still_delays_appends_and_loses_none(
    url: str, database: Any
) -> None:
    channels = [Channel(f"still-{number}") for number in range(NEIGHBOURS)]
    async with writing(url) as group:
        await asyncio.gather(*(append_to(group, channel.next()) for channel in channels))
        backend = await _appender(database)
        os.kill(backend, signal.SIGSTOP)
        waiting = asyncio.gather(*(append_to(group, channel.next()) for channel in channels))
        try:
            done, _ = await asyncio.wait([waiting], timeout=2)
            assert not done
        finally:
            os.kill(backend, signal.SIGCONT)
        await waiting
    await expect_whole(database, *channels)


async def test_a_killed_backend_restarts_postgres_and_loses_nothing(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path) as postgres:
        url = postgres.url()
        await asyncio.to_thread(migrations.upgrade, url)
        channels = [Channel(f"killed-{number}") for number in range(16)]
        async with writing(url) as group:
            await asyncio.gather(*(append_to(group, channel.next()) for channel in channels))
            writers = asyncio.gather(*(_append_many(group, channel, 100) for channel in channels))
            database = await connect(url)
            os.kill(await _appender(database), signal.SIGKILL)
            database.terminate()
            await writers
        database = await connect(url)
        await expect_whole(database, *channels)
        await database.close()


async def _append_many(group: GroupCommit, channel: Channel, count: int) -> None:
    for _ in range(count):
        await append_to(group, channel.next())


async def test_an_unreachable_database_is_an_answer_and_not_the_end(tmp_path: Path) -> None:
    first, second = Channel("first"), Channel("second")
    server = EmbeddedPostgres(tmp_path)
    address = server.start()
    try:
        url = address.url()
        await asyncio.to_thread(migrations.upgrade, url)
        async with writing(url) as group:
            await append_to(group, first.next())
            server.stop()
            with pytest.raises(DatabaseUnavailable):
                await append_to(group, Channel("unlucky").next())
            assert server.start().url() == url
            await append_to(group, second.next())
        database = await connect(url)
        await expect_whole(database, first, second)
        await database.close()
    finally:
        server.stop()
