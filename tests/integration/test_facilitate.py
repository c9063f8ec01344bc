"""A facilitator over a real log: what verify answers, and that a success is told once."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from charge_rig import (
    AMOUNT,
    PAYER,
    RECIPIENT,
    TOKEN_PROGRAM,
    charge,
    create,
    key,
    keypair,
    wire,
)
from fakes import FakeClock
from payment_rig import EXACT, TERMS, Sponsor, bought, claim_of, name_of, prepare, stream_of
from settlement_rig import SOL, FakeWorld, local_world
from solders.instruction import Instruction

from service.application.facilitate import TOLD
from service.domain.errors import (
    ChainUnavailable,
    DatabaseNotTrusted,
    DatabaseUnavailable,
    SellerNotRegistered,
    SponsorshipRefused,
)
from service.domain.onchain import Simulation
from service.domain.sponsorship import LIGHTHOUSE_PROGRAM, SYSTEM_PROGRAM, TOKEN_PROGRAMS
from service.ports import Append
from tests.integration.log_fixtures import Log, opened

SERVER = hashlib.sha256(b"a server and its key").digest()
_numbers = count(1)


@pytest.fixture(name="log")
async def log_fixture(ledger_url: str) -> AsyncIterator[Log]:
    async with opened(ledger_url) as log:
        yield log


@pytest.fixture(name="world")
async def world_fixture() -> FakeWorld:
    world = FakeWorld()
    await prepare(world, held=100 * AMOUNT)
    return world


def facilitator(log: Log, world: FakeWorld, **changes: Any) -> Sponsor:
    """A process of its own."""
    terms = replace(EXACT, **changes.pop("terms", {}))
    return Sponsor(log, changes.pop("chain", world.chain), FakeClock(), terms=terms, **changes)


async def fresh(world: FakeWorld) -> bytes:
    return await bought(world, str(next(_numbers)))


async def settled(process: Sponsor, world: FakeWorld, raw: bytes) -> None:
    """See a payment through without telling anybody."""
    await process.submit(raw)
    await process.work(world, stream_of(raw))


async def told(process: Sponsor, raw: bytes, caller: bytes | None = None) -> str:
    """What settling says at once: the payment's status, or the code of the refusal."""
    try:
        payment = await process.facilitate.settle(raw, claim_of(), seconds=0, caller=caller)
    except SponsorshipRefused as refused:
        return refused.reason
    return payment.settlement.status


async def verdict(process: Sponsor, raw: bytes) -> str:
    try:
        return await process.facilitate.verify(raw, claim_of())
    except SponsorshipRefused as refused:
        return refused.reason


async def test_a_success_is_told_once_among_many_processes(log: Log, world: FakeWorld) -> None:
    raw = await fresh(world)
    processes = [facilitator(log, world) for _ in range(6)]
    await settled(processes[0], world, raw)
    answers = await asyncio.gather(*(told(process, raw) for process in processes for _ in "ab"))
    assert sorted(answers) == ["duplicate_settlement"] * 11 + ["settled"]
    assert await told(facilitator(log, world), raw) == "duplicate_settlement"


async def test_only_who_was_told_is_told_again(log: Log, world: FakeWorld) -> None:
    raw = await fresh(world)
    process = facilitator(log, world)
    await settled(process, world, raw)
    assert await told(process, raw, SERVER) == "settled"
    assert await told(facilitator(log, world), raw, SERVER) == "settled"
    for stranger in (None, hashlib.sha256(b"another").digest()):
        assert await told(process, raw, stranger) == "duplicate_settlement"


async def test_a_payment_may_be_verified_until_its_success_was_told(
    log: Log, world: FakeWorld
) -> None:
    """Its server may have been told `settlement_pending`, or may have heard nothing."""
    raw = await fresh(world)
    process = facilitator(log, world)
    assert await verdict(process, raw) == PAYER
    await process.submit(raw)
    assert await verdict(process, raw) == PAYER
    await process.work(world, stream_of(raw))
    assert await verdict(process, raw) == PAYER
    assert await told(process, raw) == "settled"
    assert await verdict(process, raw) == "duplicate_settlement"


async def test_a_payment_that_failed_is_not_valid_any_more(log: Log, world: FakeWorld) -> None:
    raw = await fresh(world)

    class Deaf:
        def __getattr__(self, name: str) -> Any:
            return getattr(world.chain, name)

        async def send(self, _transaction: bytes) -> str:
            return "accepted"

    process = facilitator(log, world, chain=Deaf())
    await settled(process, world, raw)
    assert await verdict(process, raw) == "transaction_failed"
    assert await told(process, raw) == "failed"
    assert await log.store.claim(TOLD, name_of(raw)) is None


async def test_the_two_protocols_keep_their_payments_apart(log: Log, world: FakeWorld) -> None:
    here, there = [await fresh(world) for _ in range(2)]
    exact, mpp = facilitator(log, world), Sponsor(log, world.chain, FakeClock(), terms=TERMS)
    await settled(exact, world, here)
    await settled(mpp, world, there)
    with pytest.raises(SponsorshipRefused) as refused:
        await mpp.submit(here)
    assert refused.value.reason == "already_processed"
    assert await told(exact, there) == "duplicate_settlement"
    assert await verdict(exact, there) == "duplicate_settlement"
    assert await told(exact, here) == "settled"


async def test_a_race_of_the_two_protocols_has_one_winner(log: Log, world: FakeWorld) -> None:
    for _ in range(10):
        raw = await fresh(world)
        mpp = Sponsor(log, world.chain, FakeClock(), terms=TERMS)
        exact = facilitator(log, world)
        results = await asyncio.gather(mpp.submit(raw), exact.submit(raw), return_exceptions=True)
        lost = [result for result in results if isinstance(result, SponsorshipRefused)]
        assert len(lost) == 1
        assert lost[0].reason in ("already_processed", "duplicate_settlement")


async def test_verify_refuses_what_settle_would(log: Log, world: FakeWorld) -> None:
    raw = await fresh(world)
    strict = facilitator(log, world, terms={"sellers_only": True})
    with pytest.raises(SellerNotRegistered):
        await verdict(strict, raw)
    full = facilitator(log, world, terms={"per_day": 0})
    assert await verdict(full, raw) == "global_settle_cap_exceeded"
    restored = facilitator(log, world, trusted_cluster="other/1")
    with pytest.raises(DatabaseNotTrusted):
        await verdict(restored, raw)
    await world.set_tokens(PAYER, amount=0)
    assert await verdict(facilitator(log, world), raw) == "insufficient_balance"
    assert await log.store.head(stream_of(raw)) is None


class Simulating:
    """A chain whose simulations succeed and show what was called below the top level."""

    def __init__(self, world: FakeWorld, shown: tuple[str, ...] | None) -> None:
        self._chain, self._shown = world.chain, shown

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chain, name)

    async def simulate(self, _transaction: bytes, *, complete: bool = True) -> Simulation:
        return Simulation(None, (), 700, None if complete else self._shown)


async def test_a_second_transfer_below_the_top_level_is_seen_in_the_simulation(
    log: Log, world: FakeWorld
) -> None:
    latest = await world.chain.latest_blockhash()
    price, limit, transfer, note = charge()
    asserted = Instruction(key(LIGHTHOUSE_PROGRAM), b"\x09", [])
    raw = wire([limit, price, transfer, asserted, note], blockhash=latest.blockhash)
    hidden = next(iter(TOKEN_PROGRAMS))
    seen = facilitator(log, world, chain=Simulating(world, (hidden,)))
    assert await verdict(seen, raw) == "policy:inner_transfer"
    assert await told(seen, raw) == "policy:inner_transfer"
    blind = facilitator(log, world, chain=Simulating(world, None))
    with pytest.raises(ChainUnavailable):
        await verdict(blind, raw)
    plain = facilitator(log, world, chain=Simulating(world, ()))
    assert await verdict(plain, raw) == PAYER
    # Where nothing of others is called, a provider that shows nothing is good enough.
    assert await verdict(blind, await fresh(world)) == PAYER


async def test_the_chain_names_the_programs_that_a_creation_of_an_account_calls() -> None:
    async with local_world() as world:
        await prepare(world)
        await world.fund(PAYER, SOL)
        newcomer = str(keypair("newcomer").pubkey())
        latest = await world.chain.latest_blockhash()
        raw = wire([create(owner=newcomer), *charge()], blockhash=latest.blockhash)
        shown = await world.chain.simulate(raw, complete=False)
        assert shown.error is None
        assert shown.inner_programs is not None
        assert {TOKEN_PROGRAM, SYSTEM_PROGRAM} == set(shown.inner_programs)


class LostReply:
    """A log that keeps the claim of a success, but whose answer may never come."""

    def __init__(self, store: Any, *, resolved: bool) -> None:
        self._store, self._resolved = store, resolved

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def append(self, append: Append) -> None:
        await self._store.append(append)
        if any(claim.scope == TOLD for claim in append.claims):
            if self._resolved:
                await self._store.append(append)  # as the writer does after a lost COMMIT
            raise DatabaseUnavailable("the connection was lost during COMMIT")


async def test_a_claim_whose_reply_was_lost_is_known_as_ones_own(
    log: Log, world: FakeWorld
) -> None:
    raw = await fresh(world)
    process = facilitator(
        log,
        world,
        wrap=lambda port: LostReply(port, resolved=True) if port is log.store else port,
    )
    await settled(process, world, raw)
    assert await told(process, raw) == "settled"
    assert await told(process, raw) == "duplicate_settlement"


async def test_an_answer_that_never_came_is_had_under_the_callers_key_alone(
    log: Log, world: FakeWorld
) -> None:
    raw = await fresh(world)
    process = facilitator(
        log,
        world,
        wrap=lambda port: LostReply(port, resolved=False) if port is log.store else port,
    )
    await settled(process, world, raw)
    with pytest.raises(DatabaseUnavailable):
        await told(process, raw, SERVER)
    again = facilitator(log, world)
    assert await told(again, raw) == "duplicate_settlement"
    assert await told(again, raw, SERVER) == "settled"


async def test_what_is_bought_and_by_which_protocol_is_in_the_log(
    log: Log, world: FakeWorld
) -> None:
    raw = await fresh(world)
    claim = replace(claim_of(), resource="https://shop.example/é")
    payment = await facilitator(log, world).facilitate.settle(raw, claim, seconds=0)
    assert (payment.dialect, payment.resource) == ("x402", "https://shop.example/é")
    assert (payment.payer, payment.recipient) == (PAYER, RECIPIENT)
