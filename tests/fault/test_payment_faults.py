"""One-shot payments that race, lose replies, fail or are cancelled: one transfer or none, and the
log says which.
"""

import asyncio
from typing import Any

import pytest
from charge_rig import AMOUNT, PAYER, RECIPIENT
from fakes import FakeClock
from payment_crash_rig import fresh, log_fixture, nothing_moved, numbers, paid_once, world_fixture
from payment_rig import (
    Sponsor,
    bought,
    name_of,
    payment_of,
    prepare,
    signed_anew,
    stream_of,
    tokens,
    types_of,
)
from settlement_rig import FakeWorld, World

from service.application.streams import payment_stream
from service.domain.errors import DatabaseNotTrusted, DatabaseUnavailable, SponsorshipRefused
from service.ports import Append
from tests.integration.log_fixtures import Log

__all__ = ["log_fixture", "world_fixture"]


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
    raw = await bought(world, str(next(numbers)))
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
    raw = await bought(world, str(next(numbers)))
    sends: list[bytes] = []
    sponsor = Sponsor(log, Recording(world.chain, sends), FakeClock())  # type: ignore[arg-type]
    with pytest.raises(SponsorshipRefused) as refusal:
        await sponsor.submit(raw)
    assert refusal.value.reason == "insufficient_balance"
    assert sends == []
    assert await sponsor.ledger.read(payment_stream(name_of(raw))) is None
