"""Reading the log in a real Postgres: feeds that miss nothing, heads that are never old."""

import asyncio

import asyncpg
import pytest
import sqlalchemy as sa

from service.adapters.postgres import event_store
from service.adapters.postgres.connections import driver_address
from service.application.sellers import NewSeller, register_seller
from service.application.streams import seller_stream, session_stream
from service.domain.errors import DatabaseUnavailable
from service.domain.units import UnixMillis
from tests.integration.event_store_rig import accept, log_fixture
from tests.integration.log_fixtures import Log, opened

__all__ = ["log_fixture"]


async def test_the_feed_waits_for_a_transaction_that_may_still_add_a_row_behind_the_reader(
    log: Log,
) -> None:
    """The classic hole: a lower serial commits after a higher one was read."""
    slow = await asyncpg.connect(driver_address(log.url))
    try:
        transaction = slow.transaction()
        await transaction.start()
        await slow.execute(
            "INSERT INTO events (stream_id, position, type, schema_version, payload, prev_hash,"
            " hash, event_id, seller_id)"
            " VALUES ('session/slr_1/slow', 1, 'session_opened', 1, '{}', $1, $1,"
            " gen_random_uuid(), 'slr_1')",
            bytes(32),
        )
        await accept(log, "fast", 10)
        assert await log.queries.feed("slr_1", "0-0", 100) == []
        await transaction.commit()
    finally:
        await slow.close()
    streams = [logged.row.stream_id for logged in await log.queries.feed("slr_1", "0-0", 100)]
    assert streams == ["session/slr_1/slow", "session/slr_1/fast", "session/slr_1/fast"]


async def test_a_feed_reader_beside_many_writers_misses_nothing(ledger_url: str) -> None:
    async with opened(ledger_url) as one, opened(ledger_url) as other:
        done = asyncio.Event()

        async def write(log: Log, name: str) -> None:
            for step in range(1, 41):
                await accept(log, name, 10 * step)

        async def read() -> list[tuple[str, int]]:
            seen: list[tuple[str, int]] = []
            cursor = "0-0"
            while True:
                finished = done.is_set()
                page = await one.queries.feed("slr_1", cursor, 7)
                seen += [(logged.row.stream_id, logged.row.position) for logged in page]
                cursor = page[-1].cursor if page else cursor
                if finished and not page:
                    return seen

        reader = asyncio.create_task(read())
        await asyncio.gather(
            *(write(log, f"{n}-{k}") for n, log in enumerate((one, other)) for k in range(6))
        )
        done.set()
        seen = await reader
        assert len(seen) == len(set(seen)) == 12 * 41


async def test_a_seller_stream_is_found_by_its_key(log: Log) -> None:
    seller, key = await register_seller(
        log.ledger,
        NewSeller("name", "recipient", "localnet", {"pricePerUnit": "10"}),
        UnixMillis(1),
    )
    assert await log.queries.seller_of_key(key.key_id) == seller.seller_id
    held = await log.ledger.read(seller_stream(seller.seller_id))
    assert held is not None
    assert held.state == seller


async def test_a_crowd_that_reads_heads_is_a_few_statements_and_each_sees_what_was_there(
    log: Log,
) -> None:
    names = [f"ch_{number}" for number in range(250)]
    await asyncio.gather(*(accept(log, name, 10) for name in names[:-1]))
    statements: list[str] = []

    def executed(*args: object) -> None:
        statements.append(str(args[2]))

    sa.event.listen(log.store._engine.sync_engine, "before_cursor_execute", executed)
    ids = [session_stream("slr_1", name).stream_id for name in names]
    heads = await asyncio.gather(*map(log.store.head, ids))
    assert [head and head.position for head in heads] == [2] * 249 + [None]
    assert len(statements) == 3


async def test_a_head_is_never_older_than_the_question(log: Log) -> None:
    stream_id = session_stream("slr_1", "ch_1").stream_id
    for amount in range(1, 20):
        early = [asyncio.create_task(log.store.head(stream_id)) for _ in range(3)]
        await asyncio.sleep(0)
        appended = await accept(log, "ch_1", amount)
        head = await log.store.head(stream_id)
        assert head is not None
        assert head.position == appended.position
        await asyncio.gather(*early)


async def test_a_read_that_hangs_ends_and_holds_nobody_up_afterwards(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_store, "HEADS_SECONDS", 0.3)
    await accept(log, "ch_1", 10)
    stream_id = session_stream("slr_1", "ch_1").stream_id
    blocker = await asyncpg.connect(driver_address(log.url))
    async with blocker.transaction():
        await blocker.execute("LOCK TABLE streams IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(DatabaseUnavailable, match="too long"):
            async with asyncio.timeout(5):
                await log.store.head(stream_id)
    await blocker.close()
    head = await log.store.head(stream_id)
    assert head is not None
    assert head.position == 2
