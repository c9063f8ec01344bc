"""A crash at every point of a one-shot payment: one transfer or none, and the log says which.

A crash is a `BaseException` out of a port, after which nothing of the process survives but the log
and the chain. The log is a real one.
"""

import asyncio
from itertools import count
from typing import Any, Literal

import pytest
from fakes import FakeClock
from payment_crash_rig import fresh, log_fixture, nothing_moved, paid_once, world_fixture
from payment_rig import EXACT, Sponsor, claim_of, name_of, payment_of, stream_of
from settlement_rig import FakeWorld, World

from service.application.facilitate import TOLD
from service.domain.errors import SponsorshipRefused
from tests.integration.log_fixtures import Log

__all__ = ["log_fixture", "world_fixture"]

When = Literal["before", "after"]


class Crash(BaseException):
    """The process died here."""


class Crashing:
    """A port that dies at one call of all the ports that share `counter`."""

    def __init__(self, port: Any, counter: list[int], at: int, when: When) -> None:
        self._port, self._counter, self._at, self._when = port, counter, at, when

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._port, name)
        if not asyncio.iscoroutinefunction(found):
            return found

        async def call(*args: Any, **options: Any) -> Any:
            self._counter[0] += 1
            here = self._counter[0] == self._at
            if here and self._when == "before":
                raise Crash(f"before {name}")
            result = await found(*args, **options)
            if here:
                raise Crash(f"after {name}")
            return result

        return call


async def crash(world: World, log: Log, raw: bytes, at: int, when: When) -> bool:
    """Submit and see through, and die at the `at`-th call of a port, if there are so many."""
    counter = [0]
    clock = FakeClock()
    sponsor = Sponsor(log, world.chain, clock, wrap=lambda port: Crashing(port, counter, at, when))
    try:
        await sponsor.submit(raw)
        await sponsor.work(world, stream_of(raw))
    except Crash:
        return True
    return False


@pytest.mark.parametrize(
    "world", ["fake", pytest.param("local", marks=pytest.mark.campaign)], indirect=True
)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("retried", [False, True], ids=["worker alone", "the client retries"])
async def test_a_crash_at_every_call_pays_once_or_not_at_all(
    world: World, log: Log, when: When, retried: bool
) -> None:
    """What is in the log is paid, whoever is left; what is not in it has moved nothing.

    On the real programs it is a campaign: there a call takes a hundred times as long.
    """
    submitted, points = 0, 0
    for at in count(1):
        raw = await fresh(world)
        if not await crash(world, log, raw, at, when):
            break
        points = at
        survivor = Sponsor(log, world.chain, FakeClock())
        if await payment_of(log, raw) is None and not retried:
            await nothing_moved(world, log, raw)
            continue
        submitted += 1
        if retried:
            await survivor.submit(raw)
        await survivor.work(world, stream_of(raw))
        await paid_once(world, log, raw)
    await paid_once(world, log, raw)
    print(f"crashed {when} each of {points} calls; {submitted} payments went on")
    assert points > 15
    assert 0 < submitted <= points


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("caller", [None, bytes(range(32))], ids=["anybody", "the same server"])
async def test_a_facilitator_that_crashes_at_every_call_pays_once_and_tells_once(
    log: Log, when: When, caller: bytes | None
) -> None:
    """Its success may get lost with it, but only after it was told as far as the log knows; who
    asks again as the same caller hears it all the same."""
    world = FakeWorld()
    unheard, points = 0, 0
    for at in count(1):
        raw = await fresh(world)
        heard, crashed = await _facilitated(world, log, raw, at, when, caller)
        assert heard is not crashed
        survivor = Sponsor(log, world.chain, FakeClock(), terms=EXACT)
        if crashed:
            points = at
            await survivor.submit(raw)
            await survivor.work(world, stream_of(raw))
            heard = await _told(survivor, raw, caller)
        unheard += not heard
        await paid_once(world, log, raw)
        assert await log.store.claim(TOLD, name_of(raw)) is not None
        assert await _told(survivor, raw, None) is False
        if not crashed:
            break
    assert points > 15
    assert unheard == (1 if when == "after" and caller is None else 0)


async def _facilitated(
    world: World, log: Log, raw: bytes, at: int, when: When, caller: bytes | None
) -> tuple[bool, bool]:
    """Whether a process that may die at the `at`-th call told a success, and whether it died."""
    counter = [0]
    process = Sponsor(
        log,
        world.chain,
        FakeClock(),
        terms=EXACT,
        wrap=lambda port: Crashing(port, counter, at, when),
    )
    try:
        await process.submit(raw)
        await process.work(world, stream_of(raw))
        return await _told(process, raw, caller), False
    except Crash:
        return False, True


async def _told(process: Sponsor, raw: bytes, caller: bytes | None) -> bool:
    """Whether settling is answered with success."""
    try:
        payment = await process.facilitate.settle(raw, claim_of(), seconds=0, caller=caller)
    except SponsorshipRefused as refused:
        if refused.reason != "duplicate_settlement":
            raise
        return False
    return payment.settlement.status == "settled"
