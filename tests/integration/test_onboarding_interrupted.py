"""Onboarding that is cut short anywhere: the same bytes go on, or it is said that they are dead."""

from dataclasses import replace
from typing import Any

import pytest
from settlement_rig import AUTHORITY, PAYER

from service.adapters.solana.funding_delegate import DelegateFunding
from service.domain.errors import SimulationFailed, TransactionExpired
from service.domain.onchain import AccountsReading
from service.domain.units import AtomicUsdc, Slot
from service.ports import Chain
from tests.integration.onboarding_rig import (
    CONFIRMED,
    LIMIT,
    PROOF,
    TwoSteps,
    World,
    asking,
    confirmed,
    left_pending,
    signed,
    world_fixture,
)

__all__ = ["world_fixture"]


# --- interrupted ----------------------------------------------------------------------------


async def test_a_confirmation_that_takes_too_long_goes_on_with_the_same_bytes(
    world: World,
) -> None:
    asked = await world.process().onboard(asking())
    wires = signed(asked)
    first = await left_pending(world, wires)
    assert first.wallet.submitted is not None

    again = await world.process().onboard(asking(spend_limit=AtomicUsdc(1)))
    assert again.wallet.issued == asked.wallet.issued
    assert signed(again) == wires
    done = await confirmed(world, world.process(), wires)
    assert done.status == "ready"
    assert done.wallet.onboarded is not None
    assert done.wallet.onboarded.signatures == first.wallet.submitted.signatures
    assert await world.names() == ["OnboardingIssued", "OnboardingSubmitted", "WalletOnboarded"]
    assert await world.delegated() == (AUTHORITY, LIMIT)


async def test_a_transaction_that_got_lost_is_sent_again_by_the_next_confirmation(
    world: World,
) -> None:
    wires = signed(await world.process().onboard(asking()))
    await world.fault("sendTransaction", "drop")
    await left_pending(world, wires)
    await world.heal()
    assert signed(await world.process().onboard(asking())) == wires  # it may still land
    assert (await confirmed(world, world.process(), wires)).status == "ready"
    assert await world.names() == ["OnboardingIssued", "OnboardingSubmitted", "WalletOnboarded"]


async def test_a_submission_whose_answer_was_lost_is_completed_by_any_later_question(
    world: World,
) -> None:
    wires = signed(await world.process().onboard(asking()))
    await left_pending(world, wires)
    assert (await world.process().status(PAYER, PROOF)).status == "pending"
    await world.local.advance(CONFIRMED)
    standing = await world.process().status(PAYER, PROOF)
    assert standing.status == "active"
    assert standing.wallet.completed
    assert (await world.process().confirm(PAYER, wires, PROOF)).status == "ready"
    assert (await world.process().onboard(asking())).status == "ready"
    assert await world.names() == ["OnboardingIssued", "OnboardingSubmitted", "WalletOnboarded"]


async def test_each_transaction_is_sent_when_the_one_before_is_confirmed(world: World) -> None:
    process = world.process(source=TwoSteps)
    asked = await process.onboard(asking())
    wires = signed(asked)
    assert len(wires) == 2
    first = await left_pending(world, wires, source=TwoSteps)
    assert first.wallet.submitted is not None
    known = [
        (await world.local.chain.signature_status(signature)).level is not None
        for signature in first.wallet.submitted.signatures
    ]
    assert known == [True, False]
    done = await confirmed(world, world.process(source=TwoSteps), wires)
    assert done.status == "ready"
    assert await world.delegated() == (AUTHORITY, LIMIT)


# --- too late, or refused -------------------------------------------------------------------


async def test_transactions_that_come_back_too_late_are_not_submitted(world: World) -> None:
    wires = signed(await world.process().onboard(asking()))
    await world.local.advance(200)
    with pytest.raises(TransactionExpired):
        await world.process().confirm(PAYER, wires, PROOF)
    assert await world.names() == ["OnboardingIssued"]


async def test_a_submission_that_can_never_land_is_replaced_by_a_new_issue(world: World) -> None:
    wires = signed(await world.process().onboard(asking()))
    await world.fault("sendTransaction", "drop")
    await left_pending(world, wires)
    await world.heal()
    await world.local.advance(200)
    with pytest.raises(TransactionExpired):
        await world.process().confirm(PAYER, wires, PROOF)
    assert await world.delegated() == (None, 0)

    fresh = signed(await world.process().onboard(asking()))
    assert fresh != wires
    assert (await confirmed(world, world.process(), fresh)).status == "ready"


async def test_what_would_fail_is_not_submitted(world: World) -> None:
    wires = signed(await world.process().onboard(asking()))
    await world.local.set_tokens(PAYER, frozen=True)
    await world.local.advance(40)
    with pytest.raises(SimulationFailed):
        await world.process().confirm(PAYER, wires, PROOF)
    assert await world.names() == ["OnboardingIssued"]


@pytest.mark.parametrize("source", [DelegateFunding, TwoSteps])
async def test_what_failed_on_the_chain_is_said_and_may_be_tried_anew(
    world: World, source: type[DelegateFunding]
) -> None:
    patient = world.process(source=source)
    wires = signed(await patient.onboard(asking()))
    await world.fault("sendTransaction", "drop")
    await left_pending(world, wires)
    await world.heal()
    await world.local.set_tokens(PAYER, frozen=True)
    await world.local.advance(CONFIRMED)
    with pytest.raises(SimulationFailed, match="failed on the chain"):
        await confirmed(world, patient, wires)
    await world.local.set_tokens(PAYER, frozen=False)
    await world.local.advance(40)
    fresh = signed(await patient.onboard(asking()))
    assert fresh != wires
    assert (await confirmed(world, patient, fresh)).status == "ready"


async def test_a_later_transaction_that_would_fail_is_not_sent(world: World) -> None:
    wires = signed(await world.process(source=TwoSteps).onboard(asking()))
    first = await left_pending(world, wires, source=TwoSteps)
    await world.local.set_tokens(PAYER, frozen=True)
    await world.local.advance(40)
    with pytest.raises(SimulationFailed):
        await world.process(source=TwoSteps).confirm(PAYER, wires, PROOF)
    assert first.wallet.submitted is not None
    second = await world.local.chain.signature_status(first.wallet.submitted.signatures[1])
    assert second.level is None


async def test_what_failed_on_the_chain_changes_no_permission_that_stands(world: World) -> None:
    patient = world.process()
    await confirmed(world, patient, signed(await patient.onboard(asking())))
    wires = signed(await patient.onboard(asking(spend_limit=AtomicUsdc(2 * LIMIT))))
    await world.fault("sendTransaction", "drop")
    await left_pending(world, wires)
    await world.heal()
    await world.local.set_tokens(PAYER, frozen=True)
    await world.local.advance(CONFIRMED)
    with pytest.raises(SimulationFailed):
        await confirmed(world, patient, wires)
    await world.local.set_tokens(PAYER, frozen=False)
    await world.local.advance(40)
    standing = await patient.status(PAYER, PROOF)
    assert standing.status == "active"
    assert standing.wallet.onboarded is not None
    assert standing.wallet.onboarded.spend_limit == LIMIT
    assert not standing.wallet.completed


async def test_a_permission_that_is_taken_back_meanwhile_is_noticed(world: World) -> None:
    patient = world.process()
    await confirmed(world, patient, signed(await patient.onboard(asking())))
    wires = signed(await patient.onboard(asking(spend_limit=AtomicUsdc(2 * LIMIT))))
    await world.fault("sendTransaction", "drop")
    await left_pending(world, wires)
    await world.local.set_tokens(PAYER, delegate=None, delegated_amount=0)
    await world.local.advance(40)
    assert (await patient.status(PAYER, PROOF)).status == "pending"
    assert (await world.names())[-1] == "OnboardingRevoked"


async def test_what_landed_and_was_taken_back_at_once_makes_no_wallet_ready(world: World) -> None:
    wires = signed(await world.process().onboard(asking()))
    await left_pending(world, wires)
    await world.local.set_tokens(PAYER, delegate=None, delegated_amount=0)
    await world.local.advance(40)
    await left_pending(world, wires)
    assert await world.names() == ["OnboardingIssued", "OnboardingSubmitted"]


async def test_a_provider_that_lags_behind_the_submission_is_not_believed(world: World) -> None:
    class Lagging:
        """The chain, whose accounts are as they were long ago, three times."""

        def __init__(self, chain: Chain) -> None:
            self._chain = chain
            self.stale = 3

        def __getattr__(self, name: str) -> Any:
            return getattr(self._chain, name)

        async def accounts(self, *asked: Any) -> AccountsReading:
            reading = await self._chain.accounts(*asked)
            self.stale -= 1
            return reading if self.stale < 0 else replace(reading, slot=Slot(1))

    wires = signed(await world.process().onboard(asking()))
    chain: Any = Lagging(world.local.chain)
    done = await confirmed(world, world.process(chain=chain), wires)
    assert done.wallet.onboarded is not None
    assert done.wallet.onboarded.slot > 1
    assert chain.stale < 0


async def test_a_chain_that_does_not_answer_is_not_the_buyers_fault(world: World) -> None:
    wires = signed(await world.process().onboard(asking()))
    before = await world.names()
    await world.fault("getMultipleAccounts")
    assert (await world.process().onboard(asking())).status == "temporarily_unavailable"
    await world.fault("simulateTransaction")
    assert (await world.process().confirm(PAYER, wires, PROOF)).status == "temporarily_unavailable"
    assert await world.names() == before
    await world.heal()
    await world.fault("sendTransaction")
    await left_pending(world, wires)
    await world.heal()
    assert (await confirmed(world, world.process(), wires)).status == "ready"
    await world.fault("getMultipleAccounts")
    assert (await world.process().status(PAYER, PROOF)).status == "active"
