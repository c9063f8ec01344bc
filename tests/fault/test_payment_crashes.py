"""A crash at every point of a one-shot payment: one transfer or none, and the log says which.

A crash is a `BaseException` out of a port, after which nothing of the process survives but the log
and the chain. The log is a real one.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Literal

import pytest
from charge_rig import AMOUNT, PAYER, RECIPIENT
from fakes import FakeClock
from payment_rig import (
    EXACT,
    Sponsor,
    bought,
    claim_of,
    name_of,
    payment_of,
    prepare,
    signed_anew,
    stream_of,
    tokens,
    types_of,
)
from settlement_rig import FakeWorld, World, local_world

from service.application.facilitate import TOLD
from service.application.streams import payment_stream
from service.domain.errors import DatabaseNotTrusted, DatabaseUnavailable, SponsorshipRefused
from service.ports import Append
from tests.integration.log_fixtures import Log, opened

When = Literal["before", "after"]
_numbers = count(1)


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
    return await bought(world, str(next(_numbers)))


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


async def test_many_submissions_at_once_are_one_payment(world: World, log: Log) -> None:
    """Of eight processes, each with a log of its own view."""
    raw = await fresh(world)
    sponsors = [Sponsor(log, world.chain, FakeClock()) for _ in range(8)]
    payments = await asyncio.gather(*(sponsor.submit(raw) for sponsor in sponsors for _ in "ab"))
    assert {payment.payment_id for payment in payments} == {name_of(raw)}
    assert len({payment.signature for payment in payments}) == 1
    await asyncio.gather(*(sponsor.settle.advance(stream_of(raw)) for sponsor in sponsors))
    await sponsors[0].work(world, stream_of(raw))
    await paid_once(world, log, raw)


async def test_a_submission_that_comes_when_the_money_has_moved_finds_the_payment(
    world: World, log: Log
) -> None:
    """It saw no payment in the log, but then another process was faster: no refusal, or the buyer
    would pay again."""
    await prepare(world, held=AMOUNT)
    raw = await bought(world, str(next(_numbers)))
    winner = Sponsor(log, world.chain, FakeClock())

    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(world.chain, name)

        async def simulate(self, transaction: bytes, *, complete: bool = True) -> Any:
            await winner.submit(raw)
            await winner.work(world, stream_of(raw))
            found = await world.chain.simulate(transaction, complete=complete)
            assert found.error is not None
            return found

    late = Sponsor(log, Slow(), FakeClock())  # type: ignore[arg-type]
    payment = await late.submit(raw)
    assert payment.settlement.status == "settled"
    assert (await tokens(world, PAYER), await tokens(world, RECIPIENT)) == (0, AMOUNT)


class LostReply:
    """A log whose first append has an outcome that the caller never learns."""

    def __init__(self, store: Any, *, committed: bool) -> None:
        self._store, self._committed, self._lost = store, committed, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def append(self, append: Append) -> None:
        if self._lost:
            return await self._store.append(append)
        self._lost = True
        if self._committed:
            await self._store.append(append)
        raise DatabaseUnavailable("the connection was lost during COMMIT")


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "not committed"])
async def test_an_append_of_unknown_outcome_sends_nothing_and_may_be_retried(
    world: World, log: Log, committed: bool
) -> None:
    raw = await fresh(world)
    sends: list[bytes] = []

    def wrap(port: Any) -> Any:
        if port is log.store:
            return LostReply(port, committed=committed)
        return Recording(port, sends) if port is world.chain else port

    sponsor = Sponsor(log, world.chain, FakeClock(), wrap=wrap)
    with pytest.raises(DatabaseUnavailable):
        await sponsor.submit(raw)
    assert (await payment_of(log, raw) is not None) is committed
    assert sends == []
    await sponsor.submit(raw)
    await sponsor.work(world, stream_of(raw))
    await paid_once(world, log, raw)


class Recording:
    """A chain that remembers what it was given."""

    def __init__(self, chain: Any, sends: list[bytes]) -> None:
        self._chain, self._sends = chain, sends

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chain, name)

    async def send(self, transaction: bytes) -> str:
        self._sends.append(transaction)
        return await self._chain.send(transaction)

    async def simulate(self, transaction: bytes, *, complete: bool = True) -> Any:
        assert transaction[1:65] == bytes(64), "what is simulated could be sent by anybody"
        return await self._chain.simulate(transaction, complete=complete)


async def test_only_bytes_of_the_log_are_sent_and_none_complete_are_simulated(
    world: World, log: Log
) -> None:
    raw = await fresh(world)
    sends: list[bytes] = []
    sponsor = Sponsor(log, Recording(world.chain, sends), FakeClock())  # type: ignore[arg-type]
    payment = await sponsor.submit(raw)
    assert sends == [payment.settlement.attempts[0].transaction]
    await sponsor.work(world, stream_of(raw))
    assert set(sends) == {sends[0]}
    await paid_once(world, log, raw)


async def test_a_payment_that_never_lands_has_failed_and_is_not_signed_again(
    world: World, log: Log
) -> None:
    raw = await fresh(world)

    class Deaf:
        def __getattr__(self, name: str) -> Any:
            return getattr(world.chain, name)

        async def send(self, _transaction: bytes) -> str:
            return "accepted"

    sponsor = Sponsor(log, Deaf(), FakeClock())  # type: ignore[arg-type]
    await sponsor.submit(raw)
    await sponsor.work(world, stream_of(raw))
    payment = await payment_of(log, raw)
    assert payment is not None
    assert payment.settlement.status == "failed"
    assert payment.settlement.failure is not None
    assert payment.settlement.failure.code == "blockhash_expired"
    assert (await types_of(log, raw))[-1] == "attempt_expired"
    again = await Sponsor(log, world.chain, FakeClock()).submit(raw)
    assert again == payment
    await world.advance(40)
    assert (await tokens(world, PAYER), await tokens(world, RECIPIENT)) == (2 * AMOUNT, 0)


async def test_a_payment_that_fails_on_chain_is_final(world: World, log: Log) -> None:
    """The buyer spent the money elsewhere between our simulation and the block."""
    raw = await fresh(world)
    sponsor = Sponsor(log, world.chain, FakeClock())
    spent = AMOUNT - 1

    class Spending:
        def __getattr__(self, name: str) -> Any:
            return getattr(world.chain, name)

        async def send(self, transaction: bytes) -> str:
            await world.set_tokens(PAYER, amount=spent)
            return await world.chain.send(transaction)

    sponsor = Sponsor(log, Spending(), FakeClock())  # type: ignore[arg-type]
    await sponsor.submit(raw)
    await sponsor.work(world, stream_of(raw))
    payment = await payment_of(log, raw)
    assert payment is not None
    assert payment.settlement.status == "failed"
    assert payment.settlement.failure is not None
    assert payment.settlement.failure.code == "insufficient_funds"
    await world.set_tokens(PAYER, amount=AMOUNT)
    assert await sponsor.submit(raw) == payment
    await world.advance(40)
    assert (await tokens(world, PAYER), await tokens(world, RECIPIENT)) == (AMOUNT, 0)


async def test_the_same_message_signed_anew_by_the_payer_is_the_same_payment(log: Log) -> None:
    """Whoever sees our signature may send it with another one of the payer's."""
    world = FakeWorld()
    raw = await fresh(world)

    class Swapping:
        def __getattr__(self, name: str) -> Any:
            return getattr(world.chain, name)

        async def send(self, transaction: bytes) -> str:
            return await world.chain.send(signed_anew(transaction))

    sponsor = Sponsor(log, Swapping(), FakeClock())  # type: ignore[arg-type]
    await sponsor.submit(raw)
    await sponsor.work(world, stream_of(raw))
    await paid_once(world, log, raw)


async def test_a_restored_database_signs_nothing(world: World, log: Log) -> None:
    raw = await fresh(world)
    signed: list[str] = []

    class Watched:
        def __init__(self, signer: Any) -> None:
            self._signer = signer

        @property
        def pubkey(self) -> str:
            return self._signer.pubkey

        async def sign(self, message: bytes) -> bytes:
            signed.append(self.pubkey)
            return await self._signer.sign(message)

    def wrap(port: Any) -> Any:
        return Watched(port) if hasattr(port, "sign") else port

    restored = Sponsor(log, world.chain, FakeClock(), trusted_cluster="other/1", wrap=wrap)
    with pytest.raises(DatabaseNotTrusted):
        await restored.submit(raw)
    assert signed == []
    await nothing_moved(world, log, raw)
    trusted = Sponsor(log, world.chain, FakeClock(), wrap=wrap)
    await trusted.submit(raw)
    assert len(signed) == 1


async def test_a_cancelled_request_leaves_a_payment_that_goes_on_or_none(
    world: World, log: Log
) -> None:
    raw = await fresh(world)
    reached, release = asyncio.Event(), asyncio.Event()

    class Held:
        def __getattr__(self, name: str) -> Any:
            return getattr(log.store, name)

        async def append(self, append: Append) -> None:
            reached.set()
            await release.wait()
            await log.store.append(append)

    sponsor = Sponsor(
        log, world.chain, FakeClock(), wrap=lambda port: Held() if port is log.store else port
    )
    request = asyncio.ensure_future(sponsor.submit(raw))
    await reached.wait()
    request.cancel()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await request
    survivor = Sponsor(log, world.chain, FakeClock())
    await survivor.submit(raw)
    await survivor.work(world, stream_of(raw))
    await paid_once(world, log, raw)


async def test_a_refused_payment_is_not_in_the_log_and_never_sent(world: World, log: Log) -> None:
    await prepare(world, held=AMOUNT - 1)
    raw = await bought(world, str(next(_numbers)))
    sends: list[bytes] = []
    sponsor = Sponsor(log, Recording(world.chain, sends), FakeClock())  # type: ignore[arg-type]
    with pytest.raises(SponsorshipRefused) as refusal:
        await sponsor.submit(raw)
    assert refusal.value.reason == "insufficient_balance"
    assert sends == []
    assert await sponsor.ledger.read(payment_stream(name_of(raw))) is None
