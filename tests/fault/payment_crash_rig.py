"""One-shot payments on a real log, a chain that is made up or real, and the checker of both.

Test modules import `log_fixture` and `world_fixture` to have the fixtures.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import pytest
from charge_rig import AMOUNT, PAYER, RECIPIENT
from payment_rig import bought, payment_of, prepare, tokens, types_of
from settlement_rig import FakeWorld, World, local_world

from tests.integration.log_fixtures import Log, opened

numbers = count(1)


@pytest.fixture(name="log")
async def log_fixture(url: str) -> AsyncIterator[Log]:
    async with opened(url) as log:
        yield log


@asynccontextmanager
async def _world(kind: str) -> AsyncIterator[World]:
    if kind == "fake":
        yield FakeWorld()
    else:
        async with local_world() as local:
            yield local


@pytest.fixture(name="world", params=["fake", "local"])
async def world_fixture(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with _world(request.param) as world:
        await prepare(world)
        yield world


async def fresh(world: World) -> bytes:
    """Another payment, between parties who have what they had at first."""
    await prepare(world)
    return await bought(world, str(next(numbers)))


async def paid_once(world: World, log: Log, raw: bytes) -> None:
    """The checker: one transfer of the amount, one settled payment, one event of each kind."""
    await world.advance(40)
    assert (await tokens(world, PAYER), await tokens(world, RECIPIENT)) == (AMOUNT, AMOUNT)
    payment = await payment_of(log, raw)
    assert payment is not None
    assert payment.settlement.status == "settled"
    assert len(payment.settlement.attempts) == 1
    kinds = await types_of(log, raw)
    assert kinds[0] == "payment_submitted"
    assert kinds[-1] == "settlement_finalized"
    assert kinds.count("payment_submitted") == kinds.count("settlement_finalized") == 1


async def nothing_moved(world: World, log: Log, raw: bytes) -> None:
    """No transfer, now or later, and no payment in the log."""
    await world.advance(40)
    assert (await tokens(world, PAYER), await tokens(world, RECIPIENT)) == (2 * AMOUNT, 0)
    assert await payment_of(log, raw) is None
