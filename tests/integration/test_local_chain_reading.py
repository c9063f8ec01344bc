"""Every method that reads, as solana-py sees it, and the encodings it does not use."""

from base64 import b64decode
from hashlib import sha256
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
from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Confirmed, Processed
from solana.rpc.models import DataSliceOpts, MemcmpOpts, TokenAccountOpts
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.instruction import Instruction
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction
from spl.token.constants import TOKEN_2022_PROGRAM_ID, TOKEN_PROGRAM_ID
from spl.token.instructions import create_idempotent_associated_token_account, transfer_checked
from spl.token.models import TransferCheckedParams

from service.local.chain import (
    FIRST_SLOT,
    GENESIS_HASHES,
    LOCALNET_GENESIS_HASH,
    USDC_DEVNET_MINT,
    USDC_MAINNET_MINT,
    LocalChain,
    LocalChainSettings,
)

MEMO = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
NEWEST = {"commitment": "processed"}


async def paid(rig: Rig) -> tuple[Signature, Pubkey, Pubkey]:
    """A finalized TransferChecked of 1.5 USDC with a memo."""
    await rig.fund(buyer.pubkey())
    source = await rig.give_usdc(buyer.pubkey(), 4_000_000)
    dest = await rig.give_usdc(seller.pubkey(), 0)
    step = transfer_checked(
        TransferCheckedParams(
            program_id=TOKEN_PROGRAM_ID,
            source=source,
            mint=USDC_DEVNET_MINT,
            dest=dest,
            owner=buyer.pubkey(),
            amount=1_500_000,
            decimals=6,
            signers=[],
        )
    )
    signature = await rig.send(step, Instruction(MEMO, b"id-7", []), signers=[buyer])
    await rig.pause()
    await rig.advance(FINALIZED_DEPTH)
    return signature, source, dest


@pytest.mark.parametrize("network", list(GENESIS_HASHES))
async def test_the_genesis_hash_is_that_of_the_network_it_stands_for(network: str) -> None:
    chain = LocalChain(LocalChainSettings(network=network))
    chain.start()
    try:
        async with AsyncClient(chain.url) as client:
            assert str((await client.get_genesis_hash()).value) == GENESIS_HASHES[network]
    finally:
        chain.stop()


def test_the_localnet_genesis_hash_never_changes() -> None:
    digest = sha256(b"session-ledger localnet genesis").digest()
    assert Hash.from_string(LOCALNET_GENESIS_HASH) == Hash(digest)


async def test_both_usdc_mints_are_there(rig: Rig) -> None:
    for mint in (USDC_MAINNET_MINT, USDC_DEVNET_MINT):
        supply = (await rig.client.get_token_supply(mint)).value
        assert (supply.decimals, supply.amount) == (6, str(10**16))


async def test_the_clock_methods_agree_with_each_other(rig: Rig) -> None:
    client = rig.client
    await rig.pause()
    slot = await rig.advance(5)
    assert await client.is_connected()
    assert (await client.get_slot(Processed)).value == slot
    assert (await client.get_slot(Confirmed)).value == slot - 2
    assert (await client.get_slot()).value == slot - FINALIZED_DEPTH
    height = (await client.get_block_height(Processed)).value
    assert height < slot
    info = (await client.get_epoch_info(Processed)).value
    assert (info.absolute_slot, info.block_height) == (slot, height)
    assert info.epoch * info.slots_in_epoch + info.slot_index == slot
    assert (await client.get_first_available_block()).value == FIRST_SLOT
    assert (await client.get_minimum_ledger_slot()).value == FIRST_SLOT
    latest = (await client.get_latest_blockhash(Processed)).value
    assert latest.last_valid_block_height == height + 150
    assert await rig.rpc("isBlockhashValid", str(latest.blockhash), NEWEST)
    fees = (await client.get_recent_prioritization_fees()).value
    assert fees[-1].slot == slot
    assert (await client.get_blocks(FIRST_SLOT, FIRST_SLOT + 3)).value == [
        FIRST_SLOT + i for i in range(4)
    ]
    await client.get_version()
    await client.get_identity()
    await client.get_cluster_nodes()


async def test_slots_advance_with_time(rig: Rig) -> None:
    first = (await rig.client.get_slot(Processed)).value

    async def later() -> bool:
        return (await rig.client.get_slot(Processed)).value >= first + 5

    await until(later)


async def test_accounts_come_in_every_encoding(rig: Rig) -> None:
    source = await rig.give_usdc(buyer.pubkey(), 5)
    raw = (await rig.client.get_account_info(source)).value
    assert raw is not None
    assert len(raw.data) == 165
    piece = await rig.client.get_account_info(
        source, encoding="base64", data_slice=DataSliceOpts(offset=64, length=8)
    )
    assert piece.value is not None
    assert int.from_bytes(piece.value.data, "little") == 5
    parsed = (await rig.client.get_account_info_json_parsed(source)).value
    assert parsed is not None
    assert parsed.data.parsed["info"]["tokenAmount"]["uiAmountString"] == "0.000005"
    mint = (await rig.client.get_account_info_json_parsed(USDC_DEVNET_MINT)).value
    assert mint is not None
    assert mint.data.parsed["type"] == "mint"
    many = await rig.client.get_multiple_accounts([source, seller.pubkey()])
    assert [item is None for item in many.value] == [False, True]
    with pytest.raises(RpcRefusal, match="less than 128 bytes") as refusal:
        await rig.rpc("getAccountInfo", str(source), {"encoding": "base58"})
    assert refusal.value.code == -32600
    with pytest.raises(RpcRefusal, match="zstd"):
        await rig.rpc("getAccountInfo", str(source), {"encoding": "base64+zstd"})
    missing = await rig.rpc("getAccountInfo", str(seller.pubkey()))
    assert missing["value"] is None


async def test_token_accounts_are_found_by_owner_delegate_mint_and_filters(rig: Rig) -> None:
    mine = await rig.give_usdc(
        buyer.pubkey(), 7, delegate=str(delegate.pubkey()), delegatedAmount=3
    )
    await rig.give_usdc(seller.pubkey(), 9)
    client = rig.client
    by_mint = await client.get_token_accounts_by_owner(
        buyer.pubkey(), TokenAccountOpts(mint=USDC_DEVNET_MINT)
    )
    by_program = await client.get_token_accounts_by_owner_json_parsed(
        buyer.pubkey(), TokenAccountOpts(program_id=TOKEN_PROGRAM_ID)
    )
    by_delegate = await client.get_token_accounts_by_delegate(
        delegate.pubkey(), TokenAccountOpts(program_id=TOKEN_PROGRAM_ID)
    )
    for found in (by_mint, by_program, by_delegate):
        assert [item.pubkey for item in found.value] == [mine]
    other = await client.get_token_accounts_by_owner(
        buyer.pubkey(), TokenAccountOpts(program_id=TOKEN_2022_PROGRAM_ID)
    )
    assert other.value == []
    scanned = await client.get_program_accounts(
        TOKEN_PROGRAM_ID,
        encoding="base64",
        filters=[165, MemcmpOpts(offset=32, bytes=str(buyer.pubkey()))],
    )
    assert [item.pubkey for item in scanned.value] == [mine]
    assert (await client.get_token_account_balance(mine)).value.amount == "7"


async def test_a_landed_transaction_is_read_back_with_its_balances(rig: Rig) -> None:
    signature, source, dest = await paid(rig)
    found = await rig.client.get_transaction(signature, max_supported_transaction_version=0)
    assert found.value is not None
    meta = found.value.transaction.meta
    assert meta is not None
    assert (meta.err, meta.fee) == (None, 5_000)
    assert meta.post_balances[0] == meta.pre_balances[0] - 5_000
    assert meta.log_messages
    assert found.value.block_time

    def amounts(balances: Any) -> dict[str, str]:
        return {str(item.owner): item.ui_token_amount.amount for item in balances}

    assert amounts(meta.pre_token_balances) == {
        str(buyer.pubkey()): "4000000",
        str(seller.pubkey()): "0",
    }
    assert amounts(meta.post_token_balances) == {
        str(buyer.pubkey()): "2500000",
        str(seller.pubkey()): "1500000",
    }
    parsed = await rig.rpc(
        "getTransaction",
        str(signature),
        {"encoding": "jsonParsed", "maxSupportedTransactionVersion": 0},
    )
    moved, memo = parsed["transaction"]["message"]["instructions"]
    assert moved["parsed"] == {
        "type": "transferChecked",
        "info": {
            "source": str(source),
            "mint": str(USDC_DEVNET_MINT),
            "destination": str(dest),
            "authority": str(buyer.pubkey()),
            "tokenAmount": {
                "amount": "1500000",
                "decimals": 6,
                "uiAmount": 1.5,
                "uiAmountString": "1.5",
            },
        },
    }
    assert (memo["program"], memo["parsed"]) == ("spl-memo", "id-7")
    raw = await rig.rpc(
        "getTransaction",
        str(signature),
        {"encoding": "base64", "maxSupportedTransactionVersion": 0},
    )
    wire, encoding = raw["transaction"]
    assert encoding == "base64"
    assert VersionedTransaction.from_bytes(b64decode(wire)).signatures == [signature]
    assert raw["version"] == 0


async def test_a_versioned_transaction_needs_a_client_that_asks_for_it(rig: Rig) -> None:
    signature, _, _ = await paid(rig)
    with pytest.raises(RpcRefusal) as refusal:
        await rig.rpc("getTransaction", str(signature))
    assert refusal.value.code == -32015


async def test_a_transaction_is_not_read_before_the_asked_level(rig: Rig) -> None:
    await rig.fund(buyer.pubkey())
    await rig.pause()
    drop = await rig.rpc("requestAirdrop", str(buyer.pubkey()), SOL)
    options = {"maxSupportedTransactionVersion": 0, "commitment": "confirmed"}
    assert await rig.rpc("getTransaction", drop, options) is None
    assert await rig.rpc("getSignaturesForAddress", str(buyer.pubkey()), options) == []
    await rig.advance(2)
    assert (await rig.rpc("getTransaction", drop, options))["slot"]
    assert await rig.rpc("getTransaction", drop, {"maxSupportedTransactionVersion": 0}) is None
    for method in ("getTransaction", "getSignaturesForAddress"):
        with pytest.raises(RpcRefusal, match="below `confirmed`"):
            await rig.rpc(method, drop if method == "getTransaction" else str(MEMO), NEWEST)


async def test_inner_instructions_are_shown_plain_and_parsed(rig: Rig) -> None:
    await rig.fund(buyer.pubkey())
    create = create_idempotent_associated_token_account(
        buyer.pubkey(), seller.pubkey(), USDC_DEVNET_MINT
    )
    signature = await rig.send(create, signers=[buyer])
    await rig.pause()
    await rig.advance(FINALIZED_DEPTH)
    found = await rig.client.get_transaction(signature, max_supported_transaction_version=0)
    assert found.value is not None
    meta = found.value.transaction.meta
    assert meta is not None
    assert meta.inner_instructions
    parsed = await rig.client.get_transaction(
        signature, encoding="jsonParsed", max_supported_transaction_version=0
    )
    assert parsed.value is not None


async def test_history_of_an_address_pages_from_newest_to_oldest(rig: Rig) -> None:
    await rig.fund(buyer.pubkey())
    sent = []
    for amount in range(5):
        step = transfer(
            TransferParams(
                from_pubkey=buyer.pubkey(), to_pubkey=seller.pubkey(), lamports=10**6 + amount
            )
        )
        sent.append(await rig.send(step, signers=[buyer]))
    await rig.pause()
    await rig.advance(FINALIZED_DEPTH)
    newest_first = sent[::-1]
    client, address = rig.client, seller.pubkey()

    async def page(**options: Any) -> list[Signature]:
        found = await client.get_signatures_for_address(address, **options)
        return [item.signature for item in found.value]

    assert await page() == newest_first
    assert await page(limit=2) == newest_first[:2]
    assert await page(before=newest_first[1]) == newest_first[2:]
    assert await page(until=newest_first[3]) == newest_first[:3]
    unknown = Signature(bytes([1] * 64))
    assert await page(before=unknown) == []
    assert await page(until=unknown) == newest_first
    assert (await rig.rpc("getTransactionCount")) == 5


async def test_statuses_older_than_the_cache_need_a_search_of_history(rig: Rig) -> None:
    signature, _, _ = await paid(rig)
    await rig.advance(300)
    assert (await rig.client.get_signature_statuses([signature])).value == [None]
    found = await rig.client.get_signature_statuses([signature], search_transaction_history=True)
    assert found.value[0] is not None


async def test_a_block_holds_the_transactions_of_its_slot(rig: Rig) -> None:
    signature, _, _ = await paid(rig)
    slot = (await rig.rpc("getTransaction", str(signature), {"maxSupportedTransactionVersion": 0}))[
        "slot"
    ]
    block = (await rig.client.get_block(slot, max_supported_transaction_version=0)).value
    assert block is not None
    assert block.parent_slot == slot - 1
    shown = await rig.rpc("getBlock", slot, {"transactionDetails": "signatures"})
    assert str(signature) in shown["signatures"]
    assert (await rig.client.get_block_time(slot)).value == shown["blockTime"]
    with pytest.raises(RpcRefusal) as refusal:
        await rig.rpc("getBlock", slot + 10_000)
    assert refusal.value.code == -32004
    with pytest.raises(RpcRefusal) as refusal:
        await rig.rpc("getBlock", 5)
    assert refusal.value.code == -32001


async def test_fees_and_rent_are_those_of_the_runtime(rig: Rig) -> None:
    steps = [set_compute_unit_limit(100_000), set_compute_unit_price(2_000_000)]
    message = MessageV0.try_compile(buyer.pubkey(), steps, [], await rig.blockhash())
    fee = await rig.client.get_fee_for_message(message, Processed)
    assert fee.value == 5_000 + 200_000
    rent = await rig.client.get_minimum_balance_for_rent_exemption(165)
    assert rent.value == 2_039_280


async def test_cheat_codes_set_exactly_what_they_name(rig: Rig) -> None:
    account = await rig.give_usdc(
        buyer.pubkey(), 50, delegate=str(delegate.pubkey()), delegatedAmount=20, state="frozen"
    )
    options = {"encoding": "jsonParsed"}

    async def info() -> Any:
        return (await rig.rpc("getAccountInfo", str(account), options))["value"]["data"]["parsed"][
            "info"
        ]

    first = await info()  # at finalized: a cheat code holds at every level at once
    assert (first["state"], first["delegate"]) == ("frozen", str(delegate.pubkey()))
    assert first["delegatedAmount"]["amount"] == "20"
    await rig.give_usdc(buyer.pubkey(), 60, state="initialized", delegate="null")
    second = await info()
    assert (second["state"], second["tokenAmount"]["amount"]) == ("initialized", "60")
    assert "delegate" not in second
    await rig.rpc("requestAirdrop", str(seller.pubkey()), SOL)  # not finalized when overwritten
    await rig.rpc("surfnet_setAccount", str(seller.pubkey()), {"lamports": 7, "data": "0x0102"})
    raw = (await rig.rpc("getAccountInfo", str(seller.pubkey()), {"encoding": "base64"}))["value"]
    assert (raw["lamports"], b64decode(raw["data"][0])) == (7, b"\x01\x02")
    await rig.rpc("surfnet_setAccount", str(seller.pubkey()), {"lamports": 0})
    assert (await rig.rpc("getAccountInfo", str(seller.pubkey())))["value"] is None
    with pytest.raises(RpcRefusal, match="could not find mint"):
        await rig.rpc("surfnet_setTokenAccount", str(MEMO), str(MEMO), {"amount": 1})
