"""Sending: what lands, what is refused, what each failure looks like to a client."""

import asyncio
from base64 import b64encode

import pytest
from chain_fixtures import (
    FINALIZED_DEPTH,
    SOL,
    Rig,
    RpcRefusal,
    buyer,
    chain_fixture,  # noqa: F401 - a fixture
    fails,
    is_at,
    pay,
    rig_fixture,  # noqa: F401 - a fixture
    seller,
    until,
)
from solana.rpc.commitment import Finalized, Processed
from solana.rpc.core import RPCException
from solana.rpc.models import TxOpts
from solders.address_lookup_table_account import AddressLookupTableAccount
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import Message, MessageV0
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from session_ledger.encoding import base58_encode


async def test_an_airdrop_is_a_transaction_that_solana_py_can_confirm(rig: Rig) -> None:
    drop = await rig.client.request_airdrop(buyer.pubkey(), 3 * SOL)
    await rig.client.confirm_transaction(drop.value, Finalized, sleep_seconds=0.02)
    assert (await rig.client.get_balance(buyer.pubkey())).value == 3 * SOL
    # equal airdrops within one block are two transactions
    first, second = await asyncio.gather(
        rig.client.request_airdrop(buyer.pubkey(), SOL),
        rig.client.request_airdrop(buyer.pubkey(), SOL),
    )
    assert first.value != second.value
    assert await rig.lamports(buyer.pubkey()) == 5 * SOL


async def test_a_fee_payer_without_money_is_refused_and_leaves_no_trace(rig: Rig) -> None:
    await rig.fund(buyer.pubkey())
    step = pay(seller, buyer.pubkey(), 1)
    assert await fails(rig, step, signers=[seller]) == "AccountNotFound"
    await rig.rpc("surfnet_setAccount", str(seller.pubkey()), {"lamports": 4_999})
    assert await fails(rig, step, signers=[seller]) == "InsufficientFundsForFee"
    transaction = await rig.sign(step, signers=[seller])
    signature = await rig.post(transaction, skipPreflight=True)
    assert await rig.status(signature) is None
    assert await rig.lamports(seller.pubkey()) == 4_999


async def test_the_same_signature_is_processed_once(rig: Rig) -> None:
    await rig.fund(buyer.pubkey())
    transaction = await rig.sign(pay(buyer, seller.pubkey(), SOL // 2), signers=[buyer])
    await rig.post(transaction)
    with pytest.raises(RpcRefusal) as refusal:
        await rig.post(transaction)
    assert (refusal.value.code, refusal.value.data["err"]) == (-32002, "AlreadyProcessed")
    await rig.post(transaction, skipPreflight=True)
    assert await rig.lamports(seller.pubkey()) == SOL // 2
    # as solana-py sees it
    with pytest.raises(RPCException, match="AlreadyProcessed"):
        await rig.client.send_transaction(transaction, TxOpts(preflight_commitment=Processed))


async def test_a_blockhash_lives_for_150_blocks_and_no_longer(rig: Rig) -> None:
    await rig.fund(buyer.pubkey())
    await rig.pause()
    latest = (await rig.rpc("getLatestBlockhash", {"commitment": "processed"}))["value"]
    height = await rig.rpc("getBlockHeight", {"commitment": "processed"})
    assert latest["lastValidBlockHeight"] == height + 150
    last, late = [
        await rig.sign(pay(buyer, seller.pubkey(), amount), signers=[buyer])
        for amount in (SOL // 10, SOL // 5)
    ]
    await rig.advance(150)
    await rig.post(last)
    assert await rig.lamports(seller.pubkey()) == SOL // 10
    await rig.advance(1)
    valid = await rig.rpc("isBlockhashValid", latest["blockhash"], {"commitment": "processed"})
    assert valid["value"] is False
    with pytest.raises(RpcRefusal) as refusal:
        await rig.post(late)
    assert (refusal.value.code, refusal.value.data["err"]) == (-32002, "BlockhashNotFound")
    assert refusal.value.message == "Transaction simulation failed: Blockhash not found"
    signature = await rig.post(late, skipPreflight=True)
    assert await rig.status(signature) is None
    assert await rig.lamports(seller.pubkey()) == SOL // 10


async def test_an_unknown_blockhash_is_refused_and_replaced_on_request(rig: Rig) -> None:
    await rig.fund(buyer.pubkey())
    message = MessageV0.try_compile(
        buyer.pubkey(), [pay(buyer, seller.pubkey(), SOL // 2)], [], Hash(bytes([5] * 32))
    )
    transaction = VersionedTransaction(message, [buyer])
    with pytest.raises(RpcRefusal) as refusal:
        await rig.post(transaction)
    assert refusal.value.data["err"] == "BlockhashNotFound"
    simulated = await rig.client.simulate_transaction(transaction, replace_recent_blockhash=True)
    assert simulated.value.err is None
    refused = await rig.client.simulate_transaction(transaction)
    assert str(refused.value.err) == "TransactionErrorFieldless.BlockhashNotFound"


async def test_preflight_knows_only_the_blockhashes_of_its_commitment(rig: Rig) -> None:
    await rig.fund(buyer.pubkey())
    await rig.pause()
    transaction = await rig.sign(pay(buyer, seller.pubkey(), SOL // 2), signers=[buyer])
    with pytest.raises(RpcRefusal) as refusal:
        await rig.post(transaction, preflightCommitment="finalized")
    assert refusal.value.data["err"] == "BlockhashNotFound"
    await rig.advance(FINALIZED_DEPTH)
    await rig.post(transaction, preflightCommitment="finalized")


async def test_a_bad_signature_is_refused_or_silently_dropped(rig: Rig) -> None:
    await rig.fund(buyer.pubkey())
    good = await rig.sign(pay(buyer, seller.pubkey(), SOL // 2), signers=[buyer])
    forged = VersionedTransaction.populate(good.message, [Signature(bytes([3] * 64))])
    with pytest.raises(RpcRefusal) as refusal:
        await rig.post(forged)
    assert refusal.value.code == -32003
    assert refusal.value.message == "Transaction signature verification failure"
    signature = await rig.post(forged, skipPreflight=True)
    assert await rig.status(signature) is None
    wire = b64encode(bytes(forged)).decode()
    options = {"encoding": "base64", "commitment": "processed"}
    assert (await rig.rpc("simulateTransaction", wire, options))["value"]["err"] is None
    with pytest.raises(RpcRefusal) as refusal:
        await rig.rpc("simulateTransaction", wire, {**options, "sigVerify": True})
    assert refusal.value.code == -32003
    both = {**options, "sigVerify": True, "replaceRecentBlockhash": True}
    with pytest.raises(RpcRefusal, match="sigVerify may not be used"):
        await rig.rpc("simulateTransaction", wire, both)


async def test_levels_follow_depth_and_reads_follow_levels(rig: Rig) -> None:
    await rig.fund(buyer.pubkey())
    await rig.pause()
    await rig.send(pay(buyer, seller.pubkey(), SOL // 4), signers=[buyer])
    signature = await rig.send(pay(buyer, seller.pubkey(), SOL // 8), signers=[buyer])
    seen = []
    for slots in (0, 1, 1, FINALIZED_DEPTH - 3, 1):
        await rig.advance(slots)
        status = await rig.status(signature)
        shown = [
            await rig.lamports(seller.pubkey(), level)
            for level in ("processed", "confirmed", "finalized")
        ]
        seen.append((status["confirmationStatus"], status["confirmations"], shown))
    paid = SOL // 4 + SOL // 8  # both in one slot
    assert seen == [
        ("processed", 0, [paid, 0, 0]),
        ("processed", 1, [paid, 0, 0]),
        ("confirmed", 2, [paid, paid, 0]),
        ("confirmed", FINALIZED_DEPTH - 1, [paid, paid, 0]),
        ("finalized", None, [paid, paid, paid]),
    ]


async def test_legacy_transactions_and_base58_are_taken(rig: Rig) -> None:
    await rig.fund(buyer.pubkey())
    message = Message.new_with_blockhash(
        [pay(buyer, seller.pubkey(), SOL // 2)], buyer.pubkey(), await rig.blockhash()
    )
    transaction = VersionedTransaction(message, [buyer])
    await rig.rpc(
        "sendTransaction",
        base58_encode(bytes(transaction)),
        {"preflightCommitment": "processed"},
    )
    assert await rig.lamports(seller.pubkey()) == SOL // 2


async def test_a_lookup_table_resolves_and_shows_in_the_metadata(rig: Rig) -> None:
    await rig.fund(buyer.pubkey())
    table = Pubkey.from_bytes(bytes([8] * 32))
    meta = (
        (1).to_bytes(4, "little")
        + (2**64 - 1).to_bytes(8, "little")
        + (0).to_bytes(8, "little")
        + b"\0\0"
        + bytes(32 + 2)
    )
    data = (meta + bytes(seller.pubkey())).hex()
    program = "AddressLookupTab1e1111111111111111111111111"
    await rig.rpc(
        "surfnet_setAccount", str(table), {"lamports": SOL, "data": data, "owner": program}
    )
    message = MessageV0.try_compile(
        buyer.pubkey(),
        [pay(buyer, seller.pubkey(), SOL // 2)],
        [AddressLookupTableAccount(table, [seller.pubkey()])],
        await rig.blockhash(),
    )
    assert len(message.address_table_lookups) == 1
    signature = await rig.post(VersionedTransaction(message, [buyer]))
    assert await rig.lamports(seller.pubkey()) == SOL // 2
    await until(lambda: is_at(rig, signature, "finalized"))
    found = await rig.rpc("getTransaction", str(signature), {"maxSupportedTransactionVersion": 0})
    assert found["meta"]["loadedAddresses"]["writable"] == [str(seller.pubkey())]
    assert found["meta"]["postBalances"][-1] == SOL // 2


async def test_concurrent_senders_each_move_their_own_amount(rig: Rig) -> None:
    await rig.fund(buyer.pubkey())
    wallets = [Keypair.from_seed(bytes([i + 1] * 32)) for i in range(40)]
    transactions = [
        await rig.sign(pay(buyer, wallet.pubkey(), 1_000_000 + i), signers=[buyer])
        for i, wallet in enumerate(wallets)
    ]
    signatures = await asyncio.gather(*(rig.post(item) for item in transactions))
    assert len(set(signatures)) == len(wallets)
    balances = [await rig.lamports(wallet.pubkey()) for wallet in wallets]
    assert balances == [1_000_000 + i for i in range(40)]
    spent = sum(balances) + 5_000 * len(wallets)
    assert await rig.lamports(buyer.pubkey()) == SOL - spent


async def test_a_dropped_fork_forgets_its_transactions_and_takes_them_again(rig: Rig) -> None:
    await rig.fund(buyer.pubkey())
    await rig.pause()
    keep = await rig.send(pay(buyer, seller.pubkey(), SOL // 10), signers=[buyer])
    await rig.advance(1)
    lost = await rig.sign(pay(buyer, seller.pubkey(), SOL // 5), signers=[buyer])
    await rig.post(lost)
    assert await rig.rpc("localchain_dropFork", 1) == [str(lost.signatures[0])]
    assert await rig.status(lost.signatures[0]) is None
    assert await rig.status(keep) is not None
    assert await rig.lamports(seller.pubkey()) == SOL // 10
    await rig.post(lost)
    assert await rig.lamports(seller.pubkey()) == SOL // 10 + SOL // 5


async def test_instructions_of_an_unknown_program_are_refused(rig: Rig) -> None:
    await rig.fund(buyer.pubkey())
    step = Instruction(seller.pubkey(), b"", [AccountMeta(buyer.pubkey(), True, True)])
    assert await fails(rig, step, signers=[buyer]) is not None
