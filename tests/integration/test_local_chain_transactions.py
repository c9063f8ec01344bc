"""Sending: what lands, what is refused, what each failure looks like to a client."""

import asyncio
from base64 import b64encode
from typing import Any

import pytest
from chain_fixtures import (
    FINALIZED_DEPTH,
    SOL,
    Rig,
    RpcRefusal,
    buyer,
    chain_fixture,  # noqa: F401 - a fixture
    delegate,
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
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction
from spl.token.constants import TOKEN_2022_PROGRAM_ID, TOKEN_PROGRAM_ID
from spl.token.instructions import (
    approve_checked,
    create_idempotent_associated_token_account,
    freeze_account,
    get_associated_token_address,
    initialize_mint2,
    mint_to_checked,
    revoke,
    transfer_checked,
)
from spl.token.models import (
    ApproveCheckedParams,
    FreezeAccountParams,
    InitializeMint2Params,
    MintToCheckedParams,
    RevokeParams,
    TransferCheckedParams,
)

from service.local.chain import USDC_DEVNET_MINT, usdc_authority
from session_ledger.encoding import base58_encode

MEMO = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")


def pay(sender: Keypair, to: Pubkey, lamports: int) -> Instruction:
    return transfer(TransferParams(from_pubkey=sender.pubkey(), to_pubkey=to, lamports=lamports))


def move(
    source: Pubkey,
    dest: Pubkey,
    authority: Pubkey,
    amount: int,
    *,
    mint: Pubkey = USDC_DEVNET_MINT,
    decimals: int = 6,
    program: Pubkey = TOKEN_PROGRAM_ID,
) -> Instruction:
    return transfer_checked(
        TransferCheckedParams(
            program_id=program,
            source=source,
            mint=mint,
            dest=dest,
            owner=authority,
            amount=amount,
            decimals=decimals,
            signers=[],
        )
    )


def approve(
    source: Pubkey, owner: Pubkey, amount: int, *, program: Pubkey = TOKEN_PROGRAM_ID
) -> Instruction:
    return approve_checked(
        ApproveCheckedParams(
            program_id=program,
            source=source,
            mint=USDC_DEVNET_MINT,
            delegate=delegate.pubkey(),
            owner=owner,
            amount=amount,
            decimals=6,
            signers=[],
        )
    )


@pytest.fixture
async def accounts(rig: Rig) -> tuple[Pubkey, Pubkey]:
    """Token accounts of buyer (100 USDC) and seller (none); buyer and delegate have SOL."""
    await rig.fund(buyer.pubkey(), delegate.pubkey())
    return (
        await rig.give_usdc(buyer.pubkey(), 100_000_000),
        await rig.give_usdc(seller.pubkey(), 0),
    )


async def fails(rig: Rig, *steps: Instruction, signers: list[Keypair]) -> Any:
    """The `err` of preflight; afterwards the same transaction is sent past preflight, and its
    recorded error, if it landed, must be the same."""
    transaction = await rig.sign(*steps, signers=signers)
    with pytest.raises(RpcRefusal) as refusal:
        await rig.post(transaction)
    assert refusal.value.code == -32002
    assert refusal.value.message.startswith("Transaction simulation failed: ")
    signature = await rig.post(transaction, skipPreflight=True)
    status = await rig.status(signature)
    if status is not None:
        assert status["err"] == refusal.value.data["err"]
    return refusal.value.data["err"]


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


async def test_a_session_of_token_instructions_moves_exactly_what_it_says(rig: Rig) -> None:
    await rig.fund(buyer.pubkey(), delegate.pubkey())
    source = await rig.give_usdc(buyer.pubkey(), 100_000_000)
    dest = get_associated_token_address(seller.pubkey(), USDC_DEVNET_MINT)
    create = create_idempotent_associated_token_account(
        buyer.pubkey(), seller.pubkey(), USDC_DEVNET_MINT
    )
    await rig.send(create, signers=[buyer])
    await rig.send(move(source, dest, buyer.pubkey(), 1_500_000), signers=[buyer])
    await rig.send(approve(source, buyer.pubkey(), 5_000_000), signers=[buyer])
    memo = Instruction(MEMO, b"settlement 1", [])
    await rig.send(move(source, dest, delegate.pubkey(), 2_000_000), memo, signers=[delegate])
    assert await rig.tokens(source) == 96_500_000
    assert await rig.tokens(dest) == 3_500_000
    parsed = await rig.client.get_account_info_json_parsed(source, Processed)
    info = parsed.value.data.parsed["info"]
    assert (info["delegate"], info["delegatedAmount"]["amount"]) == (
        str(delegate.pubkey()),
        "3000000",
    )


async def test_token_2022_delegation_works_the_same(rig: Rig) -> None:
    mint = Keypair.from_seed(bytes([7] * 32))
    program = TOKEN_2022_PROGRAM_ID
    await rig.fund(buyer.pubkey(), delegate.pubkey())
    await rig.rpc(
        "surfnet_setAccount",
        str(mint.pubkey()),
        {"lamports": SOL, "data": "00" * 82, "owner": str(program)},
    )
    make = initialize_mint2(
        InitializeMint2Params(
            decimals=6,
            program_id=program,
            mint=mint.pubkey(),
            mint_authority=buyer.pubkey(),
            freeze_authority=None,
        )
    )
    await rig.send(make, signers=[buyer])
    create = [
        create_idempotent_associated_token_account(buyer.pubkey(), owner, mint.pubkey(), program)
        for owner in (buyer.pubkey(), seller.pubkey())
    ]
    await rig.send(*create, signers=[buyer])
    source, dest = (
        get_associated_token_address(owner, mint.pubkey(), program)
        for owner in (buyer.pubkey(), seller.pubkey())
    )
    mint_to = mint_to_checked(
        MintToCheckedParams(
            program_id=program,
            mint=mint.pubkey(),
            dest=source,
            mint_authority=buyer.pubkey(),
            amount=1_000,
            decimals=6,
            signers=[],
        )
    )
    await rig.send(mint_to, signers=[buyer])
    step = move(source, dest, buyer.pubkey(), 400, mint=mint.pubkey(), program=program)
    signature = await rig.send(step, signers=[buyer])
    assert (await rig.tokens(source), await rig.tokens(dest)) == (600, 400)
    await until(lambda: is_at(rig, signature, "confirmed"))
    found = await rig.rpc(
        "getTransaction",
        str(signature),
        {"commitment": "confirmed", "maxSupportedTransactionVersion": 0, "encoding": "jsonParsed"},
    )
    (balance,) = [
        b for b in found["meta"]["postTokenBalances"] if b["owner"] == str(seller.pubkey())
    ]
    assert (balance["programId"], balance["uiTokenAmount"]["amount"]) == (str(program), "400")
    shown = await rig.rpc(
        "getAccountInfo", str(dest), {"encoding": "jsonParsed", "commitment": "processed"}
    )
    data = shown["value"]["data"]
    assert (data["program"], data["space"]) == ("spl-token-2022", 170)
    assert data["parsed"]["info"]["extensions"] == [{"extension": "immutableOwner"}]
    # the cheat code keeps extensions, and creates accounts that have them
    for owner in (seller, delegate):
        names = [str(owner.pubkey()), str(mint.pubkey())]
        await rig.rpc("surfnet_setTokenAccount", *names, {"amount": 77}, str(program))
        account = get_associated_token_address(owner.pubkey(), mint.pubkey(), program)
        shown = await rig.rpc("getAccountInfo", str(account), options)
        info = shown["value"]["data"]["parsed"]["info"]
        assert info["extensions"] == [{"extension": "immutableOwner"}]
        assert info["tokenAmount"]["amount"] == "77"


async def is_at(rig: Rig, signature: Signature, level: str) -> bool:
    status = await rig.status(signature)
    return status is not None and status["confirmationStatus"] in {level, "finalized"}


async def test_each_token_failure_carries_the_error_of_a_cluster(
    rig: Rig, accounts: tuple[Pubkey, Pubkey]
) -> None:
    source, dest = accounts
    by_delegate = {"signers": [delegate]}
    authority = usdc_authority()

    too_much = move(source, dest, buyer.pubkey(), 100_000_001)
    assert await fails(rig, too_much, signers=[buyer]) == {"InstructionError": [0, {"Custom": 1}]}

    await rig.send(approve(source, buyer.pubkey(), 10), signers=[buyer])
    over = move(source, dest, delegate.pubkey(), 11)
    assert await fails(rig, over, **by_delegate) == {"InstructionError": [0, {"Custom": 1}]}

    wrong = move(source, dest, delegate.pubkey(), 1, decimals=5)
    assert await fails(rig, wrong, **by_delegate) == {"InstructionError": [0, {"Custom": 18}]}

    drop = revoke(
        RevokeParams(program_id=TOKEN_PROGRAM_ID, account=source, owner=buyer.pubkey(), signers=[])
    )
    await rig.send(drop, signers=[buyer])
    revoked = move(source, dest, delegate.pubkey(), 2)
    assert await fails(rig, revoked, **by_delegate) == {"InstructionError": [0, {"Custom": 4}]}

    nowhere = get_associated_token_address(Pubkey.from_bytes(bytes([9] * 32)), USDC_DEVNET_MINT)
    missing = move(source, nowhere, buyer.pubkey(), 1)
    assert await fails(rig, missing, signers=[buyer]) == {
        "InstructionError": [0, "InvalidAccountData"]
    }

    await rig.fund(authority.pubkey())
    freeze = freeze_account(
        FreezeAccountParams(
            program_id=TOKEN_PROGRAM_ID,
            account=source,
            mint=USDC_DEVNET_MINT,
            authority=authority.pubkey(),
            multi_signers=[],
        )
    )
    await rig.send(freeze, signers=[authority])
    frozen = move(source, dest, buyer.pubkey(), 1)
    assert await fails(rig, frozen, signers=[buyer]) == {"InstructionError": [0, {"Custom": 17}]}


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


async def test_a_transaction_that_fails_while_it_runs_lands_and_pays_its_fee(
    rig: Rig, accounts: tuple[Pubkey, Pubkey]
) -> None:
    source, dest = accounts
    before = await rig.lamports(buyer.pubkey())
    step = move(source, dest, buyer.pubkey(), 100_000_001)
    signature = await rig.send(step, signers=[buyer], skipPreflight=True)
    assert (await rig.status(signature))["err"] == {"InstructionError": [0, {"Custom": 1}]}
    assert await rig.lamports(buyer.pubkey()) == before - 5_000
    assert await rig.tokens(source) == 100_000_000


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
    signature = await rig.send(pay(buyer, seller.pubkey(), SOL // 2), signers=[buyer])
    seen = []
    for slots in (0, 1, 1, FINALIZED_DEPTH - 3, 1):
        await rig.advance(slots)
        status = await rig.status(signature)
        shown = [
            await rig.lamports(seller.pubkey(), level) == SOL // 2
            for level in ("processed", "confirmed", "finalized")
        ]
        seen.append((status["confirmationStatus"], status["confirmations"], shown))
    assert seen == [
        ("processed", 0, [True, False, False]),
        ("processed", 1, [True, False, False]),
        ("confirmed", 2, [True, True, False]),
        ("confirmed", FINALIZED_DEPTH - 1, [True, True, False]),
        ("finalized", None, [True, True, True]),
    ]


async def test_simulation_reports_everything_and_changes_nothing(
    rig: Rig, accounts: tuple[Pubkey, Pubkey]
) -> None:
    source, dest = accounts
    transaction = await rig.sign(move(source, dest, buyer.pubkey(), 7), signers=[buyer])
    result = await rig.client.simulate_transaction(
        transaction, sig_verify=True, commitment=Processed, accounts_addresses=[dest]
    )
    assert result.value.err is None
    assert result.value.units_consumed
    assert result.value.logs
    (after,) = result.value.accounts or []
    assert after is not None
    assert await rig.tokens(dest) == 0
    failing = await rig.sign(move(source, dest, buyer.pubkey(), 10**12), signers=[buyer])
    refused = await rig.client.simulate_transaction(failing, commitment=Processed)
    assert "Custom(1)" in str(refused.value.err) or "Custom" in repr(refused.value.err)


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
