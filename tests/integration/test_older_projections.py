"""An upgrade may find projections of an older form: the log says what they should be."""

import json
from collections.abc import AsyncIterator

import asyncpg
import pytest

from service.adapters.postgres.connections import driver_address
from service.application.streams import session_stream
from service.domain.errors import Corrupt
from tests.integration.log_fixtures import Log, opened, opening, voucher_event

STREAM = session_stream("slr_1", "ch_1")
ADDED_LATER = ("signed", "granted")


@pytest.fixture
async def log(ledger_url: str) -> AsyncIterator[Log]:
    async with opened(ledger_url) as log:
        yield log


async def overwrite(log: Log, **changes: object) -> None:
    """Change columns of the stream's head, as its owner."""
    connection = await asyncpg.connect(driver_address(log.url))
    try:
        for column, value in changes.items():
            statement = f"UPDATE streams SET {column} = $1 WHERE stream_id = $2"  # noqa: S608
            await connection.execute(statement, value, STREAM.stream_id)
    finally:
        await connection.close()


async def with_an_older_projection(log: Log) -> bytes:
    """A session with a voucher, its projection without what was added since."""
    await log.ledger.commit(STREAM, lambda _: [*opening(), voucher_event(10)])
    head = await log.store.head(STREAM.stream_id)
    assert head is not None
    older = json.loads(head.projection)
    for name in ADDED_LATER:
        del older[name]
    await overwrite(log, projection=json.dumps(older).encode())
    return head.projection


async def test_a_projection_of_an_older_form_is_folded_from_the_log(log: Log) -> None:
    current = await with_an_older_projection(log)
    async with opened(log.url) as upgraded:
        held = await upgraded.ledger.read(STREAM)
        assert held is not None
        assert held.state is not None
        assert STREAM.type.project(held.state) == current
        outcome = await upgraded.ledger.commit(STREAM, lambda _: [voucher_event(20, 2)])
    assert outcome.state is not None
    assert outcome.state.cumulative_amount == 20
    head = await log.store.head(STREAM.stream_id)
    assert head is not None
    assert head.projection == STREAM.type.project(outcome.state)


async def test_a_log_that_ends_elsewhere_is_not_taken_for_an_older_form(log: Log) -> None:
    await with_an_older_projection(log)
    await overwrite(log, head_hash=bytes(32))
    async with opened(log.url) as upgraded:
        with pytest.raises(Corrupt):
            await upgraded.ledger.read(STREAM)
