"""A crash at every point of a settlement: always one transfer, always a terminal state.

A crash is a `BaseException` out of a port, after which nothing of the process survives but the log
and the chain. The first part walks the numbered rows of the crash table (docs/settlement.md); the
second stops the work at the k-th call of a port, before its effect and after it, for every k.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest
from fakes import FakeClock, MemoryLedger
from settlement_rig import (
    AMOUNT,
    STREAM,
    FakeWorld,
    Process,
    World,
    closing_events,
    local_world,
    memory_ledger,
    prepare,
    run,
    settlement_of,
)

from service.domain import events as e
from service.domain.errors import DatabaseUnavailable
from service.domain.settlement_plan import SettlementPolicy

When = Literal["before", "after"]
POLICY = SettlementPolicy()
BLOCKS_MAX = 400


class Crash(BaseException):
    """The process died here."""


class Crashing:
    """A port that dies at one of its calls, before the call takes effect or after it.

    `at` counts the calls of all ports that share `counter`, or those of the method `only`.
    """

    def __init__(
        self, port: Any, counter: list[int], at: int, when: When, only: str | None = None
    ) -> None:
        self._port, self._counter, self._at, self._when = port, counter, at, when
        self._only = only

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._port, name)
        if not asyncio.iscoroutinefunction(found) or self._only not in (None, name):
            return found

        async def call(*args: Any) -> Any:
            self._counter[0] += 1
            here = self._counter[0] == self._at
            if here and self._when == "before":
                raise Crash(f"before {name}")
            result = await found(*args)
            if here:
                raise Crash(f"after {name}")
            return result

        return call


@asynccontextmanager
async def new_world(kind: str) -> AsyncIterator[World]:
    if kind == "fake":
        world = FakeWorld()
        await prepare(world)
        yield world
    else:
        async with local_world() as local:
            await prepare(local)
            yield local


@pytest.fixture(name="world", params=["fake", "local"])
async def world_fixture(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with new_world(request.param) as world:
        yield world


async def paid_once(world: World, ledger: MemoryLedger, *, attempts: int | None = None) -> None:
    """The checker: one transfer of the amount, one settled settlement, one event of each kind."""
    await world.advance(40)
    assert await world.balances() == (AMOUNT, AMOUNT)
    settlement = await settlement_of(ledger)
    assert settlement.status == "settled"
    kinds = [type(event).__name__ for event in ledger.events(STREAM)]
    assert kinds.count("SettlementIntended") == kinds.count("SettlementFinalized") == 1
    assert kinds[-1] == "SettlementFinalized"
    if attempts is not None:
        assert len(settlement.attempts) == attempts


def process(world: World, ledger: Any, clock: FakeClock, chain: Any = None) -> Process:
    return Process(ledger, chain or world.chain, clock, POLICY)


async def restart_and_finish(world: World, ledger: MemoryLedger, clock: FakeClock) -> None:
    """A new process, from the log alone."""
    looks = BLOCKS_MAX // 3
    await run(world, process(world, ledger, clock).start(), clock, looks_max=looks)


# --- the rows of the crash table ------------------------------------------------------------


async def crash_in(
    world: World, ledger: MemoryLedger, clock: FakeClock, method: str, when: When
) -> None:
    """Run until the first call of `method` and die there."""
    counter = [0]
    ports = [Crashing(port, counter, 1, when, method) for port in (ledger, world.chain)]
    with pytest.raises(Crash):
        await run(world, process(world, ports[0], clock, ports[1]).start(), clock)


async def test_rows_3_and_4_a_close_that_was_committed_is_picked_up(world: World) -> None:
    ledger, clock = MemoryLedger(), FakeClock()
    opened = closing_events()
    ledger.append(STREAM, 0, opened[:2])  # row 3: the close was received, nothing is durable
    assert await process(world, ledger, clock).start().advance(STREAM) is None
    ledger.append(STREAM, 2, opened[2:])  # row 4: the intent is committed, then the process dies
    await restart_and_finish(world, ledger, clock)
    await paid_once(world, ledger, attempts=1)


async def test_row_5_after_the_blockhash_was_fetched(world: World) -> None:
    ledger, clock = memory_ledger(), FakeClock()
    await crash_in(world, ledger, clock, "latest_blockhash", "after")
    assert (await settlement_of(ledger)).attempts == ()
    await restart_and_finish(world, ledger, clock)
    await paid_once(world, ledger, attempts=1)


@pytest.mark.parametrize("where", ["simulate", "record"])
async def test_row_6_signed_in_memory_and_not_committed(world: World, where: str) -> None:
    ledger, clock = memory_ledger(), FakeClock()
    await crash_in(world, ledger, clock, where, "after" if where == "simulate" else "before")
    assert (await settlement_of(ledger)).attempts == ()
    await restart_and_finish(world, ledger, clock)
    await paid_once(world, ledger, attempts=1)


class LostReply:
    """A log whose first append has an outcome that the caller never learns."""

    def __init__(self, ledger: MemoryLedger, *, committed: bool) -> None:
        self._ledger, self._committed, self._lost = ledger, committed, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def record(self, stream_id: str, decide: Callable[..., Any]) -> Any:
        if self._lost:
            return await self._ledger.record(stream_id, decide)
        self._lost = True
        if self._committed:
            await self._ledger.record(stream_id, decide)
        raise DatabaseUnavailable("the connection was lost during COMMIT")


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "not committed"])
async def test_row_7_the_outcome_of_the_commit_is_unknown(world: World, committed: bool) -> None:
    ledger, clock = memory_ledger(), FakeClock()
    settler = process(world, LostReply(ledger, committed=committed), clock).start()
    with pytest.raises(DatabaseUnavailable):
        await settler.advance(STREAM)
    assert len((await settlement_of(ledger)).attempts) == int(committed)
    await run(world, settler, clock)
    await paid_once(world, ledger, attempts=1)


async def test_row_8_committed_and_not_sent(world: World) -> None:
    ledger, clock = memory_ledger(), FakeClock()
    await crash_in(world, ledger, clock, "send", "before")
    before = (await settlement_of(ledger)).attempts
    assert len(before) == 1
    await restart_and_finish(world, ledger, clock)
    await paid_once(world, ledger, attempts=1)
    assert (await settlement_of(ledger)).signature == before[0].signature


async def test_row_9_sent_and_not_recorded(world: World) -> None:
    ledger, clock = memory_ledger(), FakeClock()
    await crash_in(world, ledger, clock, "send", "after")
    assert (await settlement_of(ledger)).status == "signed"
    await restart_and_finish(world, ledger, clock)
    await paid_once(world, ledger, attempts=1)


async def test_row_10_the_fork_that_held_it_was_dropped(world: World) -> None:
    ledger, clock = memory_ledger(), FakeClock()
    settler = process(world, ledger, clock).start()
    await settler.advance(STREAM)
    await settler.advance(STREAM)
    await world.advance(3)
    await settler.advance(STREAM)
    seen = (await settlement_of(ledger)).attempts[0].confirmation_status
    assert seen in ("processed", "confirmed")
    await world.drop_fork(10)
    await restart_and_finish(world, ledger, clock)
    await paid_once(world, ledger, attempts=1)


async def test_row_11_finalized_and_not_recorded(world: World) -> None:
    ledger, clock = memory_ledger(), FakeClock()
    await crash_in(world, ledger, clock, "finalized_transaction", "after")
    await restart_and_finish(world, ledger, clock)
    await paid_once(world, ledger, attempts=1)


async def test_row_12_after_the_end_nothing_more_is_done(world: World) -> None:
    ledger, clock = memory_ledger(), FakeClock()
    await run(world, process(world, ledger, clock).start(), clock)
    rows = len(ledger.rows[STREAM])
    untouchable = Crashing(world.chain, [0], 1, "before")
    assert await process(world, ledger, clock, untouchable).start().advance(STREAM) is None
    assert len(ledger.rows[STREAM]) == rows
    await paid_once(world, ledger, attempts=1)


async def test_row_13_an_attempt_was_proven_dead_and_no_other_is_signed(world: World) -> None:
    ledger, clock = memory_ledger(), FakeClock()
    await process(world, ledger, clock).start().advance(STREAM)
    await world.advance(BLOCKS_MAX)
    settler = process(world, ledger, clock).start()
    while (await settlement_of(ledger)).live_attempt is not None:
        at = await settler.advance(STREAM)
        assert at is not None
        clock.forward_to(at)
    assert isinstance(ledger.events(STREAM)[-1], e.AttemptExpired)
    await restart_and_finish(world, ledger, clock)
    await paid_once(world, ledger, attempts=2)


# --- every await point ----------------------------------------------------------------------


async def crash_everywhere(world: World, when: When) -> int:
    """Crash at call 1, 2, 3, ... until a run needs no crash; gives how many points there were."""
    at = 0
    while True:
        at += 1
        await prepare(world)
        ledger, clock, counter = memory_ledger(), FakeClock(), [0]
        ports = [Crashing(port, counter, at, when) for port in (ledger, world.chain)]
        try:
            await run(world, process(world, ports[0], clock, ports[1]).start(), clock)
        except Crash:
            await restart_and_finish(world, ledger, clock)
            await paid_once(world, ledger, attempts=1)
            continue
        await paid_once(world, ledger, attempts=1)
        return at - 1


@pytest.mark.parametrize(
    "world", ["fake", pytest.param("local", marks=pytest.mark.campaign)], indirect=True
)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_crash_at_every_call_pays_once(world: World, when: When) -> None:
    points = await crash_everywhere(world, when)
    print(f"crashed {when} each of {points} calls")
    assert points > 30


@pytest.mark.campaign
async def test_a_crash_at_every_pair_of_calls_pays_once() -> None:
    """The restarted process dies as well, a few calls later."""

    async def one(first: int, second: int) -> None:
        world = FakeWorld()
        await prepare(world)
        ledger, clock = memory_ledger(), FakeClock()
        for at in (first, second):
            counter = [0]
            ports = [Crashing(port, counter, at, "after") for port in (ledger, world.chain)]
            try:
                await run(world, process(world, ports[0], clock, ports[1]).start(), clock)
            except Crash:
                continue
            break
        else:
            await restart_and_finish(world, ledger, clock)
        await paid_once(world, ledger, attempts=1)

    for first in range(1, 40):
        for second in range(1, 24):
            await one(first, second)


async def test_a_crash_at_every_call_around_an_expiry_pays_once() -> None:
    """The first attempt is never sent and must be proven dead; the crash falls anywhere in that."""
    at, most = 0, 0
    while True:
        at += 1
        world = FakeWorld()
        await prepare(world)
        ledger, clock, counter = memory_ledger(), FakeClock(), [0]
        await process(world, ledger, clock).start().advance(STREAM)
        await world.advance(200)
        ports = [Crashing(port, counter, at, "after") for port in (ledger, world.chain)]
        try:
            await run(world, process(world, ports[0], clock, ports[1]).start(), clock)
        except Crash:
            await restart_and_finish(world, ledger, clock)
            await paid_once(world, ledger, attempts=2)
            most = at
            continue
        await paid_once(world, ledger, attempts=2)
        break
    assert most > 60


# --- several workers, cancellation ----------------------------------------------------------


async def test_workers_on_one_settlement_pay_once_and_never_have_two_live_attempts(
    world: World,
) -> None:
    ledger, clock = memory_ledger(), FakeClock()
    workers = [process(world, ledger, clock).start() for _ in range(4)]

    async def work() -> None:
        for _ in range(200):
            looks = await asyncio.gather(*(worker.advance(STREAM) for worker in workers))
            if all(look is None for look in looks):
                return
            clock.forward_to(max(look for look in looks if look is not None))
            await world.advance(3)
        raise AssertionError("the settlement did not end")

    await work()
    await paid_once(world, ledger, attempts=1)


async def test_a_cancelled_step_finishes_its_append_first(world: World) -> None:
    class Slow(LostReply):
        async def record(self, stream_id: str, decide: Callable[..., Any]) -> Any:
            started.set()
            await release.wait()
            return await self._ledger.record(stream_id, decide)

    started, release = asyncio.Event(), asyncio.Event()
    ledger, clock = memory_ledger(), FakeClock()
    step = asyncio.ensure_future(
        process(world, Slow(ledger, committed=True), clock).start().advance(STREAM)
    )
    await started.wait()
    step.cancel()
    await asyncio.sleep(0)
    assert (await settlement_of(ledger)).attempts == ()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await step
    assert len((await settlement_of(ledger)).attempts) == 1
    await restart_and_finish(world, ledger, clock)
    await paid_once(world, ledger, attempts=1)
