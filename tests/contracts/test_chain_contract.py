"""What every `Chain` keeps: the fake chain, and the real adapter over the local chain, alone and
with readings shared as the service is wired."""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest
from fakes import TOKEN_PROGRAM, WINDOW
from settlement_rig import (
    AMOUNT,
    AUTHORITY,
    DESTINATION,
    FEE_PAYER,
    MINT,
    ORDER,
    PAYER,
    RECIPIENT,
    SETTLEMENT_ID,
    SOL,
    SOURCE,
    FakeWorld,
    World,
    keypair,
    local_world,
    prepare,
)

from service.adapters.solana import accounts
from service.adapters.solana.transfer import (
    associated_token_address,
    build,
    transfer_instruction,
)
from service.domain.observed import TokenBalance, TokenTransfer
from service.domain.onchain import Mint, TransferOrder
from service.local.chain import LOCALNET_GENESIS_HASH
from session_ledger.encoding import base58_encode

NOBODY = str(keypair("nobody").pubkey())


@dataclass(frozen=True, slots=True)
class Signed:
    raw: bytes
    signature: str


@pytest.fixture(name="world", params=["fake", "local", "shared"])
async def world_fixture(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    if request.param == "fake":
        world = FakeWorld()
        await prepare(world)
        yield world
        return
    async with local_world(shared=request.param == "shared") as world:
        await prepare(world)
        yield world


async def signed(world: World, order: TransferOrder = ORDER) -> Signed:
    latest = await world.chain.latest_blockhash()
    unsigned = build(order, transfer_instruction(order), latest.blockhash)
    signatures = {
        str(key.pubkey()): bytes(key.sign_message(unsigned.message))
        for key in (keypair("authority"), keypair("fee payer"))
    }
    first = base58_encode(signatures[unsigned.signers[0]])
    return Signed(unsigned.signed(signatures), first)


async def test_the_genesis_hash_is_the_clusters(world: World) -> None:
    assert await world.chain.genesis_hash() == LOCALNET_GENESIS_HASH
    assert world.chain.name


async def test_a_blockhash_comes_with_its_bounds(world: World) -> None:
    first = await world.chain.latest_blockhash()
    assert first.tip_height <= first.last_valid_block_height <= first.tip_height + WINDOW
    assert first.first_available_slot <= first.slot
    await world.advance(5)
    later = await world.chain.latest_blockhash()
    assert later.blockhash != first.blockhash
    assert later.last_valid_block_height == first.last_valid_block_height + 5


async def test_heights_and_slots_differ_and_finality_lags(world: World) -> None:
    seen = await world.chain.heights()
    assert seen.finalized < seen.tip
    assert seen.finalized_slot > seen.tip
    assert seen.first_available_slot <= seen.finalized_slot
    await world.advance(10)
    assert (await world.chain.heights()).finalized == seen.finalized + 10


async def test_a_token_account_is_read_with_its_delegation(world: World) -> None:
    account = await world.chain.token_account(SOURCE, "confirmed")
    assert account is not None
    assert (account.address, account.mint, account.owner) == (SOURCE, MINT, PAYER)
    assert (account.amount, account.delegated_amount) == (2 * AMOUNT, 2 * AMOUNT)
    assert (account.delegate, account.frozen, account.program) == (AUTHORITY, False, TOKEN_PROGRAM)
    await world.set_tokens(PAYER, delegate=None, delegated_amount=0, frozen=True)
    changed = await world.chain.token_account(SOURCE, "processed")
    assert changed is not None
    assert (changed.delegate, changed.frozen) == (None, True)


async def test_accounts_are_read_together_as_they_are_stored(world: World) -> None:
    reading = await world.chain.accounts([SOURCE, NOBODY, DESTINATION], "confirmed")
    source, nobody, destination = reading.accounts
    assert nobody is None
    assert source is not None
    assert destination is not None
    assert (source.address, source.owner) == (SOURCE, TOKEN_PROGRAM)
    for raw in (source, destination):
        alone = await world.chain.token_account(raw.address, "confirmed")
        parsed = accounts.token_account(raw.address, raw.owner, raw.data, reading.slot)
        assert alone is not None
        assert parsed == replace(alone, slot=reading.slot)


async def test_what_is_no_token_account_is_none(world: World) -> None:
    assert await world.chain.token_account(NOBODY, "confirmed") is None
    await world.fund(NOBODY, SOL)
    assert await world.chain.token_account(NOBODY, "processed") is None


async def test_a_mint_is_read_and_what_is_none_is_none(world: World) -> None:
    assert await world.chain.mint(MINT) == Mint(MINT, TOKEN_PROGRAM, 6, ())
    assert await world.chain.mint(NOBODY) is None
    assert await world.chain.mint(SOURCE) is None


async def test_lamports_of_an_unknown_account_are_zero(world: World) -> None:
    assert await world.chain.lamports(FEE_PAYER) == SOL
    assert await world.chain.lamports(NOBODY) == 0


async def test_a_signature_that_nobody_sent_is_unknown_at_a_slot(world: World) -> None:
    status = await world.chain.signature_status((await signed(world)).signature)
    assert (status.level, status.slot, status.error) == (None, None, None)
    assert status.context_slot >= (await world.chain.heights()).finalized_slot


async def test_a_sent_transaction_rises_to_finalized_and_is_served_only_then(world: World) -> None:
    transaction = await signed(world)
    assert await world.chain.send(transaction.raw) == "accepted"
    levels: list[str | None] = []
    for _ in range(40):
        await world.advance(1)
        status = await world.chain.signature_status(transaction.signature)
        served = await world.chain.finalized_transaction(transaction.signature)
        assert (served is not None) == (status.level == "finalized")
        if status.level not in levels[-1:]:
            levels.append(status.level)
    assert [level for level in levels if level] in (
        ["processed", "confirmed", "finalized"],
        ["confirmed", "finalized"],
    )


async def test_the_finalized_transaction_shows_exactly_what_moved(world: World) -> None:
    transaction = await signed(world)
    await world.chain.send(transaction.raw)
    await world.advance(40)
    found = await world.chain.finalized_transaction(transaction.signature)
    assert found is not None
    assert (found.signature, found.error) == (transaction.signature, None)
    assert found.token_changes == {SOURCE: -AMOUNT, DESTINATION: AMOUNT}
    assert found.memos == (SETTLEMENT_ID,)
    assert found.raw_hash == hashlib.sha256(transaction.raw).digest()
    assert await world.balances() == (AMOUNT, AMOUNT)


async def test_a_landed_transaction_is_observed_with_all_that_it_did(world: World) -> None:
    transaction = await signed(world)
    assert await world.chain.transaction(transaction.signature, "confirmed") is None
    await world.chain.send(transaction.raw)
    await world.advance(3)
    found = await world.chain.transaction(transaction.signature, "confirmed")
    assert await world.chain.transaction(transaction.signature, "finalized") is None
    assert found is not None
    assert (found.signature, found.error, found.signers) == (
        transaction.signature,
        None,
        (FEE_PAYER, AUTHORITY),
    )
    assert {SOURCE, DESTINATION, MINT, FEE_PAYER, AUTHORITY} <= set(found.accounts)
    assert set(found.balances) == {
        TokenBalance(SOURCE, PAYER, MINT, TOKEN_PROGRAM, 2 * AMOUNT, AMOUNT),
        TokenBalance(DESTINATION, RECIPIENT, MINT, TOKEN_PROGRAM, 0, AMOUNT),
    }
    assert found.transfers == (TokenTransfer(SOURCE, DESTINATION, AUTHORITY, AMOUNT),)
    assert found.memos == (SETTLEMENT_ID,)
    assert found.block_time is not None
    assert (found.net(RECIPIENT, MINT), found.net(PAYER, MINT)) == (AMOUNT, -AMOUNT)
    assert found.raw_hash == hashlib.sha256(transaction.raw).digest()
    await world.advance(40)
    assert await world.chain.transaction(transaction.signature, "finalized") == found
    await world.drop_fork(100)
    assert await world.chain.transaction(transaction.signature, "finalized") == found


async def test_a_simulation_shows_called_programs_where_that_is_asked_for(world: World) -> None:
    transaction = await signed(world)
    assert (await world.chain.simulate(transaction.raw)).inner_programs is None
    shown = await world.chain.simulate(transaction.raw, complete=False)
    assert (shown.error, shown.inner_programs) == (None, ())


async def test_the_same_bytes_move_money_once(world: World) -> None:
    transaction = await signed(world)
    for _ in range(3):
        await world.chain.send(transaction.raw)
        await world.advance(2)
    assert await world.balances() == (AMOUNT, AMOUNT)


async def test_two_transactions_of_one_order_move_money_twice(world: World) -> None:
    for _ in range(2):
        await world.chain.send((await signed(world)).raw)
        await world.advance(2)
    assert await world.balances() == (0, 2 * AMOUNT)


async def test_a_transaction_with_an_expired_blockhash_never_lands(world: World) -> None:
    transaction = await signed(world)
    await world.advance(WINDOW + 1)
    assert (await world.chain.simulate(transaction.raw)).error == "BlockhashNotFound"
    assert isinstance(await world.chain.send(transaction.raw), str)
    await world.advance(40)
    assert (await world.chain.signature_status(transaction.signature)).level is None
    assert await world.balances() == (2 * AMOUNT, 0)


async def test_a_transaction_of_a_dropped_fork_is_unknown_again_and_may_land_again(
    world: World,
) -> None:
    transaction = await signed(world)
    await world.chain.send(transaction.raw)
    await world.advance(3)
    assert (await world.chain.signature_status(transaction.signature)).level == "confirmed"
    await world.drop_fork(10)
    assert (await world.chain.signature_status(transaction.signature)).level is None
    assert await world.balances() == (2 * AMOUNT, 0)
    await world.chain.send(transaction.raw)
    await world.advance(40)
    assert await world.balances() == (AMOUNT, AMOUNT)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"amount": AMOUNT - 1}, {"Custom": 1}),
        ({"delegated_amount": AMOUNT - 1}, {"Custom": 1}),
        ({"delegate": NOBODY}, {"Custom": 4}),
        ({"frozen": True}, {"Custom": 17}),
    ],
    ids=["poor", "small allowance", "other delegate", "frozen"],
)
async def test_a_failing_transfer_lands_with_its_error_and_moves_nothing(
    world: World, changes: dict[str, object], error: object
) -> None:
    await world.set_tokens(PAYER, **changes)
    before = await world.balances()
    transaction = await signed(world)
    expected = {"InstructionError": [2, error]}
    assert (await world.chain.simulate(transaction.raw)).error == expected
    await world.chain.send(transaction.raw)
    await world.advance(40)
    status = await world.chain.signature_status(transaction.signature)
    found = await world.chain.finalized_transaction(transaction.signature)
    assert found is not None
    assert (status.error, found.error) == (expected, expected)
    assert found.token_changes == {}
    assert await world.balances() == before


async def test_a_missing_recipient_account_fails_and_is_created_when_the_order_says_so(
    world: World,
) -> None:
    owner = str(keypair("newcomer").pubkey())
    address = associated_token_address(owner, MINT, TOKEN_PROGRAM)
    order = replace(ORDER, recipient=owner, destination=address)
    missing = await signed(world, order)
    error = (await world.chain.simulate(missing.raw)).error
    assert error == {"InstructionError": [2, "InvalidAccountData"]}
    creating = await signed(world, replace(order, create_recipient_account=True))
    assert (await world.chain.simulate(creating.raw)).error is None
    assert await world.chain.token_account(address, "processed") is None
    await world.chain.send(creating.raw)
    await world.advance(40)
    found = await world.chain.finalized_transaction(creating.signature)
    account = await world.chain.token_account(address, "finalized")
    assert found is not None
    assert account is not None
    assert (account.owner, account.mint, account.amount) == (owner, MINT, AMOUNT)
    assert found.token_changes == {SOURCE: -AMOUNT, address: AMOUNT}


async def test_a_fee_payer_without_sol_cannot_pay(world: World) -> None:
    await world.fund(FEE_PAYER, 0)
    transaction = await signed(world)
    assert (await world.chain.simulate(transaction.raw)).error == "AccountNotFound"
