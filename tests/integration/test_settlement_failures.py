"""Every cause of a failed settlement, on the real programs of the local chain.

Each is met three ways where it can be: before signing (the accounts are read), on chain (the cause
appears between signing and sending), and as a bare error of the programs.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from fakes import FakeClock, MemoryLedger
from settlement_rig import (
    AMOUNT,
    AUTHORITY,
    DESTINATION,
    FEE_PAYER,
    ORDER,
    PAYER,
    RECIPIENT,
    SETTLEMENT_ID,
    SOL,
    SOURCE,
    STREAM,
    LocalWorld,
    Process,
    closing_events,
    intended,
    keypair,
    local_world,
    memory_ledger,
    prepare,
    run,
    settlement_of,
)

from service.adapters.solana.transfer import build, transfer_instruction
from service.domain import events as e
from service.domain.failures import FAILURES, classify, instruction_roles, is_passing
from service.domain.settlement_plan import FEE_PAYER_RENT, SettlementPolicy
from service.domain.units import UnixMillis
from service.local.chain import USDC_MAINNET_MINT

SYSTEM_PROGRAM = "1" * 32
NOBODY = str(keypair("nobody").pubkey())
Change = Callable[[LocalWorld], Awaitable[None]]


@pytest.fixture(name="world")
async def world_fixture() -> AsyncIterator[LocalWorld]:
    async with local_world() as world:
        await prepare(world)
        yield world


def tokens(owner: str, **changes: Any) -> Change:
    async def change(world: LocalWorld) -> None:
        await world.set_tokens(owner, **changes)

    return change


def removed(address: str) -> Change:
    async def change(world: LocalWorld) -> None:
        gone = {"lamports": 0, "data": "", "owner": SYSTEM_PROGRAM}
        await world.rpc("surfnet_setAccount", address, gone)

    return change


def lamports(amount: int) -> Change:
    async def change(world: LocalWorld) -> None:
        await world.fund(FEE_PAYER, amount)

    return change


async def restored(world: LocalWorld) -> None:
    await world.fund(FEE_PAYER, SOL)
    await world.set_tokens(
        PAYER, amount=2 * AMOUNT, delegate=AUTHORITY, delegated_amount=2 * AMOUNT, frozen=False
    )
    await world.set_tokens(RECIPIENT, frozen=False)
    await world.advance(40)


CAUSES: list[tuple[str, Change]] = [
    ("allowance_too_small", tokens(PAYER, delegated_amount=AMOUNT - 1)),
    ("insufficient_funds", tokens(PAYER, amount=AMOUNT - 1)),
    ("delegate_revoked", tokens(PAYER, delegate=None, delegated_amount=0)),
    ("delegate_revoked", tokens(PAYER, delegate=NOBODY)),
    ("source_account_frozen", tokens(PAYER, frozen=True)),
    ("destination_account_frozen", tokens(RECIPIENT, frozen=True)),
    ("recipient_account_missing", removed(DESTINATION)),
    ("source_account_missing", removed(SOURCE)),
]
IDS = [f"{code}-{index}" for index, (code, _) in enumerate(CAUSES)]
POOR: list[tuple[str, Change]] = [
    ("fee_payer_missing", lamports(0)),
    ("fee_payer_poor", lamports(FEE_PAYER_RENT)),
]


def process(world: LocalWorld, ledger: MemoryLedger, clock: FakeClock, **policy: Any) -> Process:
    return Process(ledger, world.chain, clock, SettlementPolicy(**policy))


async def resume(ledger: MemoryLedger, clock: FakeClock) -> None:
    """What `settlement retry` appends when the settlement waits for an operator."""
    parked = await settlement_of(ledger)
    if parked.retry_at is None:
        event = e.SettlementResumed(clock.now(), SETTLEMENT_ID, by="operator")
        await ledger.record(STREAM, lambda _: [event])


async def until_parked(world: LocalWorld, worker: Process, ledger: MemoryLedger) -> str:
    settler = worker.start()
    for _ in range(600):
        if (await settlement_of(ledger)).status == "parked":
            break
        at = await settler.advance(STREAM)
        if at is not None and at > worker.clock.time:
            worker.clock.forward_to(at)
            await world.advance(3)
    settlement = await settlement_of(ledger)
    assert settlement.failure is not None
    assert (settlement.status, settlement.live_attempt) == ("parked", None)
    assert (settlement.retry_at is not None) == (
        FAILURES[settlement.failure.code].failure_class == "automatic"
    )
    return settlement.failure.code


async def settled_once(world: LocalWorld, worker: Process, ledger: MemoryLedger) -> None:
    await resume(ledger, worker.clock)
    before = await world.balances()
    await run(world, worker.start(), worker.clock)
    assert (await settlement_of(ledger)).status == "settled"
    assert await world.balances() == (before[0] - AMOUNT, before[1] + AMOUNT)


@pytest.mark.parametrize(("code", "cause"), CAUSES + POOR, ids=IDS + [c for c, _ in POOR])
async def test_a_cause_seen_before_signing_parks_unsigned_and_settles_once_it_is_gone(
    world: LocalWorld, code: str, cause: Change
) -> None:
    ledger, clock = memory_ledger(), FakeClock()
    worker = process(world, ledger, clock)
    await cause(world)
    assert await until_parked(world, worker, ledger) == code
    assert (await settlement_of(ledger)).attempts == ()
    await restored(world)
    await settled_once(world, worker, ledger)


@pytest.mark.parametrize(("code", "cause"), CAUSES, ids=IDS)
async def test_a_cause_that_appears_after_signing_fails_on_chain_and_settles_once_it_is_gone(
    world: LocalWorld, code: str, cause: Change
) -> None:
    ledger, clock = memory_ledger(), FakeClock()
    worker = process(world, ledger, clock)
    await worker.start().advance(STREAM)
    assert (await settlement_of(ledger)).status == "signed"
    await cause(world)
    assert await until_parked(world, worker, ledger) == code
    (attempt,) = (await settlement_of(ledger)).attempts
    assert (attempt.state, attempt.failure) == ("failed", code)
    await restored(world)
    await settled_once(world, worker, ledger)
    assert len((await settlement_of(ledger)).attempts) == 2


@pytest.mark.parametrize(("code", "cause"), POOR, ids=[code for code, _ in POOR])
async def test_a_fee_payer_that_ran_dry_after_signing_lets_the_attempt_expire_with_proof(
    world: LocalWorld, code: str, cause: Change
) -> None:
    ledger, clock = memory_ledger(), FakeClock()
    worker = process(world, ledger, clock)
    await worker.start().advance(STREAM)
    await lamports(0)(world)
    settler = worker.start()
    while (await settlement_of(ledger)).live_attempt is not None:
        at = await settler.advance(STREAM)
        assert at is not None
        if at > clock.time:
            clock.forward_to(at)
            await world.advance(20)
    settlement = await settlement_of(ledger)
    assert settlement.attempts[0].state == "expired"
    assert settlement.failure is not None
    assert settlement.failure.code == "blockhash_expired"
    await cause(world)
    assert await until_parked(world, worker, ledger) == code
    await restored(world)
    await settled_once(world, worker, ledger)


async def test_a_missing_recipient_account_is_created_when_the_policy_says_so(
    world: LocalWorld,
) -> None:
    await removed(DESTINATION)(world)
    ledger, clock = memory_ledger(), FakeClock()
    worker = process(world, ledger, clock, create_recipient_account=True)
    await run(world, worker.start(), clock)
    settlement = await settlement_of(ledger)
    assert (settlement.status, settlement.attempts[0].creates_recipient_account) == (
        "settled",
        True,
    )
    assert await world.balances() == (AMOUNT, AMOUNT)


async def test_an_account_that_vanishes_after_signing_is_created_by_the_next_attempt(
    world: LocalWorld,
) -> None:
    ledger, clock = memory_ledger(), FakeClock()
    worker = process(world, ledger, clock, create_recipient_account=True)
    await worker.start().advance(STREAM)
    await removed(DESTINATION)(world)
    await run(world, worker.start(), clock)
    first, second = (await settlement_of(ledger)).attempts
    assert (first.failure, second.state) == ("recipient_account_missing", "finalized")
    assert await world.balances() == (AMOUNT, AMOUNT)


async def test_a_key_that_is_not_the_named_one_signs_nothing(world: LocalWorld) -> None:
    events = [*closing_events()[:-1], intended(authority=NOBODY)]
    ledger, clock = memory_ledger(events), FakeClock()
    worker = process(world, ledger, clock)
    assert await until_parked(world, worker, ledger) == "authority_mismatch"


@pytest.mark.parametrize(
    ("changes", "code"),
    [({"mint": str(USDC_MAINNET_MINT)}, "wrong_mint"), ({"decimals": 9}, "wrong_decimals")],
)
async def test_an_intent_that_the_mint_contradicts_parks_for_a_person(
    world: LocalWorld, changes: dict[str, Any], code: str
) -> None:
    ledger, clock = memory_ledger([*closing_events()[:-1], intended(**changes)]), FakeClock()
    assert await until_parked(world, process(world, ledger, clock), ledger) == code


# --- the programs' bare errors --------------------------------------------------------------


async def raw_transaction(world: LocalWorld, **changes: Any) -> bytes:
    order = replace(ORDER, **changes)
    latest = await world.chain.latest_blockhash()
    unsigned = build(order, transfer_instruction(order), latest.blockhash)
    keys = (keypair("authority"), keypair("fee payer"))
    return unsigned.signed({str(k.pubkey()): bytes(k.sign_message(unsigned.message)) for k in keys})


async def code_of(world: LocalWorld, raw: bytes) -> str:
    error = (await world.chain.simulate(raw)).error
    assert error is not None
    roles = instruction_roles(creates_recipient_account=False)
    return classify(error, roles, source=None, destination=None)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"mint": str(USDC_MAINNET_MINT)}, "wrong_mint"),
        ({"decimals": 9}, "wrong_decimals"),
        ({"amount": 2 * AMOUNT + 1}, "insufficient_funds"),
        ({"compute_unit_limit": 500}, "compute_exceeded"),
    ],
)
async def test_the_programs_answer_as_the_table_says(
    world: LocalWorld, changes: dict[str, Any], code: str
) -> None:
    assert await code_of(world, await raw_transaction(world, **changes)) == code


@pytest.mark.parametrize(
    ("held", "code"),
    [(0, "fee_payer_missing"), (10_999, "fee_payer_poor"), (FEE_PAYER_RENT, "fee_payer_poor")],
    ids=["nothing", "less than the fee", "less than the rent"],
)
async def test_the_cluster_answers_for_a_poor_fee_payer_as_the_table_says(
    world: LocalWorld, held: int, code: str
) -> None:
    await world.fund(FEE_PAYER, held)
    assert await code_of(world, await raw_transaction(world)) == code


async def test_what_only_says_that_time_passed_is_passing(world: LocalWorld) -> None:
    raw = await raw_transaction(world)
    await world.chain.send(raw)
    await world.advance(1)
    processed = (await world.chain.simulate(raw)).error
    assert (processed, is_passing(processed)) == ("AlreadyProcessed", True)
    late = await raw_transaction(world, settlement_id="stl_late")
    await world.advance(151)
    expired = (await world.chain.simulate(late)).error
    assert (expired, is_passing(expired)) == ("BlockhashNotFound", True)


async def test_a_signature_that_does_not_verify_moves_nothing(world: LocalWorld) -> None:
    raw = await raw_transaction(world)
    forged = raw[:1] + bytes(64) + raw[65:]
    assert await code_of(world, forged) == "transaction_refused"
    await world.chain.send(forged)
    await world.advance(40)
    assert await world.balances() == (2 * AMOUNT, 0)


async def test_the_times_in_the_log_are_the_clocks(world: LocalWorld) -> None:
    ledger, clock = memory_ledger(), FakeClock(1_800_000_000_000)
    await run(world, process(world, ledger, clock).start(), clock)
    last = ledger.events(STREAM)[-1]
    assert isinstance(last, e.SettlementFinalized)
    assert UnixMillis(1_800_000_000_000) < last.at <= clock.now()
