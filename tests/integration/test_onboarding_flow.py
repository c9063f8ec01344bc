"""Onboarding over a real log and the real local chain: what is asked, signed and taken back."""

import asyncio
from typing import Any

import pytest
from fakes import TOKEN_PROGRAM
from settlement_rig import AUTHORITY, FEE_PAYER, MINT, PAYER, SOL, SOURCE, keypair

from service.adapters.postgres.connections import reader_engine
from service.adapters.postgres.replay_store import PostgresReplayStore
from service.adapters.solana.funding_swig import buyer_swig_ids
from service.adapters.solana.swig_actions import All, Program, TokenLimit
from service.adapters.solana.swig_instructions import swig_pda, wallet_pda
from service.application.onboard import Standing
from service.application.replay import Replay, Scope
from service.domain import wallet_events as e
from service.domain.errors import OnboardingNotFound, TransactionAltered
from service.domain.units import AtomicUsdc
from service.ports import Chain
from tests.integration.onboarding_rig import (
    BALANCE,
    LIMIT,
    PROOF,
    World,
    asking,
    confirmed,
    signed,
    with_time,
    world_fixture,
)
from tests.swig_cases import SWIG_PROGRAM, Given, plain, swig_bytes

__all__ = ["world_fixture"]


# --- the ordinary way -----------------------------------------------------------------------


async def test_a_wallet_is_onboarded_by_what_it_signed(world: World) -> None:
    process = world.process()
    asked = await process.onboard(asking())
    assert await world.delegated() == (None, 0)
    done = await confirmed(world, process, signed(asked))

    assert done.status == "ready"
    assert await world.delegated() == (AUTHORITY, LIMIT)
    issued, submitted, onboarded = await world.events()
    assert isinstance(issued, e.OnboardingIssued)
    assert isinstance(submitted, e.OnboardingSubmitted)
    assert isinstance(onboarded, e.WalletOnboarded)
    assert issued.proof == onboarded.proof == PROOF
    assert onboarded.signatures == submitted.signatures
    assert (onboarded.source, onboarded.owner, onboarded.spend_limit) == (SOURCE, PAYER, LIMIT)
    assert (await process.onboard(asking())).status == "ready"
    assert len(await world.events()) == 3


async def test_a_wallet_that_granted_it_already_signs_nothing(world: World) -> None:
    await world.local.set_tokens(PAYER, delegate=AUTHORITY, delegated_amount=LIMIT)
    await world.local.advance(40)
    process = world.process()
    assert (await process.onboard(asking())).status == "ready"
    assert await world.names() == ["WalletOnboarded"]
    more = await process.onboard(asking(spend_limit=AtomicUsdc(LIMIT + 1)))
    assert more.status == "transactions_required"


async def test_the_limit_is_the_balance_unless_the_buyer_names_one(world: World) -> None:
    asked = await world.process().onboard(asking(spend_limit=None))
    assert asked.wallet.issued is not None
    assert asked.wallet.issued.spend_limit == BALANCE
    await world.local.set_tokens(PAYER, amount=0)
    await world.local.advance(40)
    poor = await world.process().onboard(asking(spend_limit=None))
    assert (poor.status, await world.names()) == ("not_eligible", ["OnboardingIssued"])
    assert "holds no USDC" in (poor.detail or "")


async def test_what_is_submitted_is_in_the_log_before_it_is_sent(world: World) -> None:
    class Watched:
        """The chain, looking into the log at each send."""

        def __init__(self, chain: Chain) -> None:
            self._chain = chain
            self.seen: list[bool] = []

        def __getattr__(self, name: str) -> Any:
            return getattr(self._chain, name)

        async def send(self, transaction: bytes) -> str:
            last = (await world.events())[-1]
            known = isinstance(last, e.OnboardingSubmitted) and transaction in last.transactions
            self.seen.append(known)
            return await self._chain.send(transaction)

    chain: Any = Watched(world.local.chain)
    process = world.process(chain=chain)
    asked = await process.onboard(asking())
    assert (await confirmed(world, process, signed(asked))).status == "ready"
    assert chain.seen
    assert all(chain.seen)


async def test_replay_finds_a_wallets_stream_as_it_was_written(world: World) -> None:
    process = world.process()
    asked = await process.onboard(asking(ttl_seconds=60, recipients=(FEE_PAYER,)))
    assert (await confirmed(world, process, signed(asked))).status == "ready"
    engine = reader_engine(world.log.url, pool_size=2)
    try:
        report = await Replay(PostgresReplayStore(engine), world.log.store).run(Scope())
    finally:
        await engine.dispose()
    assert (report.differences, report.events) == ([], 3)


# --- several at once ------------------------------------------------------------------------


async def test_the_newest_of_two_issues_is_the_one_that_counts(world: World) -> None:
    first, second = await asyncio.gather(
        world.process().onboard(asking(spend_limit=AtomicUsdc(1))),
        world.process().onboard(asking(spend_limit=AtomicUsdc(2))),
    )
    newest = (await world.events())[-1]
    assert isinstance(newest, e.OnboardingIssued)
    older, newer = (first, second) if second.wallet.issued == newest else (second, first)
    with pytest.raises(TransactionAltered):
        await world.process().confirm(PAYER, signed(older), PROOF)
    done = await confirmed(world, world.process(), signed(newer))
    assert done.status == "ready"
    assert await world.delegated() == (AUTHORITY, newest.spend_limit)


async def test_two_confirmations_at_once_are_one_submission(world: World) -> None:
    wires = signed(await world.process().onboard(asking()))

    async def both() -> list[Standing]:
        processes = [world.process() for _ in range(2)]
        return await asyncio.gather(*(p.confirm(PAYER, wires, PROOF) for p in processes))

    standings: Any = await with_time(world, both())
    assert [standing.status for standing in standings] == ["ready", "ready"]
    assert await world.names() == ["OnboardingIssued", "OnboardingSubmitted", "WalletOnboarded"]


# --- taken back -----------------------------------------------------------------------------


async def test_a_permission_that_is_taken_back_is_noticed_and_given_again(world: World) -> None:
    process = world.process()
    await confirmed(world, process, signed(await process.onboard(asking())))
    await world.local.set_tokens(PAYER, delegate=None, delegated_amount=0)
    await world.local.advance(40)
    assert (await process.status(PAYER, PROOF)).status == "revoked"
    assert (await process.status(PAYER, PROOF)).status == "revoked"
    assert (await world.names())[3:] == ["OnboardingRevoked"]

    fresh = signed(await process.onboard(asking()))
    assert (await process.status(PAYER, PROOF)).status == "pending"
    assert (await confirmed(world, process, fresh)).status == "ready"
    assert (await process.status(PAYER, PROOF)).status == "active"


async def test_an_onboarding_that_was_taken_back_is_not_confirmed_again(world: World) -> None:
    process = world.process()
    wires = signed(await process.onboard(asking()))
    await confirmed(world, process, wires)
    await world.local.set_tokens(PAYER, delegate=None, delegated_amount=0)
    await world.local.advance(40)
    assert (await process.status(PAYER, PROOF)).status == "revoked"
    with pytest.raises(OnboardingNotFound):
        await process.confirm(PAYER, wires, PROOF)


# --- sponsored fees -------------------------------------------------------------------------


async def test_sponsored_fees_are_ours_and_nothing_else_is(world: World) -> None:
    await world.local.fund(PAYER, 0)
    await world.local.fund(FEE_PAYER, SOL)
    await world.local.advance(40)
    assert (await world.process().onboard(asking())).status == "not_eligible"

    process = world.process(sponsor=keypair("fee payer"))
    asked = await process.onboard(asking())
    assert asked.wallet.issued is not None
    (transaction,) = asked.wallet.issued.transactions
    assert transaction.signers == (FEE_PAYER, PAYER)
    assert (await confirmed(world, process, signed(asked))).status == "ready"
    assert await world.delegated() == (AUTHORITY, LIMIT)
    assert await world.local.chain.lamports(FEE_PAYER) == SOL - 2 * 5_000
    assert await world.local.chain.lamports(PAYER) == 0


async def test_fees_that_are_no_longer_sponsored_are_asked_for_anew(world: World) -> None:
    await world.local.fund(FEE_PAYER, SOL)
    await world.local.advance(40)
    sponsoring = world.process(sponsor=keypair("fee payer"))
    wires = signed(await sponsoring.onboard(asking()))
    with pytest.raises(OnboardingNotFound, match="no longer sponsored"):
        await world.process().confirm(PAYER, wires, PROOF)
    assert await world.names() == ["OnboardingIssued"]


# --- a Swig wallet --------------------------------------------------------------------------


async def test_a_swig_wallet_is_named_before_and_after_it_lets_us_pay(world: World) -> None:
    swig = swig_pda(buyer_swig_ids(PAYER)[0])[0]
    wallet = str(wallet_pda(swig)[0])
    root = plain(0, PAYER, All())
    ours = plain(1, AUTHORITY, TokenLimit(MINT, LIMIT), Program(TOKEN_PROGRAM))

    async def write(*roles: Given) -> None:
        changes = {"lamports": SOL, "owner": SWIG_PROGRAM, "data": swig_bytes(*roles).hex()}
        await world.local.rpc("surfnet_setAccount", str(swig), changes)
        await world.local.fund(wallet, 890_880)
        await world.local.set_tokens(wallet, amount=BALANCE)
        await world.local.advance(40)

    await write(root)
    asked = await world.process(kind="swig").onboard(asking())
    assert asked.status == "transactions_required"
    assert asked.wallet.issued is not None
    assert (asked.wallet.issued.kind, asked.wallet.issued.swig_address) == ("swig", str(swig))
    assert [each.type for each in asked.wallet.issued.transactions] == ["add_role"]
    await write(root, ours)
    done = await world.process(kind="swig").onboard(asking())
    assert done.status == "ready"
    onboarded = done.wallet.onboarded
    assert onboarded is not None
    assert (onboarded.kind, onboarded.swig_address, onboarded.role_id) == ("swig", str(swig), 1)
    assert onboarded.owner == wallet
    await write(root)
    assert (await world.process(kind="swig").status(PAYER, PROOF)).status == "pending"
    assert (await world.events())[-1].reason == "swig_role_missing"


async def test_nothing_is_confirmed_that_was_never_issued(world: World) -> None:
    with pytest.raises(OnboardingNotFound):
        await world.process().confirm(PAYER, [b""], PROOF)
