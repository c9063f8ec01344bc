"""Foreign transactions as the real adapter shows them, on the local chain and from liars."""

import asyncio
import base64
import copy
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from chain_fixtures import chain_fixture  # noqa: F401 - a fixture
from direct_rig import (
    ata,
    give,
    land,
    memo,
    plain_transfer,
    recover_nested,
    transfer,
    with_reference,
    write_mint,
    write_table,
)
from settlement_rig import keypair
from solders.hash import Hash
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction
from spl.token.constants import TOKEN_2022_PROGRAM_ID, TOKEN_PROGRAM_ID
from spl.token.instructions import AuthorityType, set_authority
from spl.token.models import SetAuthorityParams

from service.adapters.solana.observed import observed
from service.adapters.solana.rpc import SolanaRpc
from service.domain.errors import ChainUnavailable
from service.domain.observed import ObservedTransaction, TokenBalance, TokenTransfer
from service.local.chain import LOCALNET_GENESIS_HASH, USDC_DEVNET_MINT, LocalChain
from session_ledger.encoding import base58_encode
from tests.integration.rpc_provider import corruptions

BUYER, SHOP = keypair("direct buyer"), keypair("direct shop")
PAYER, PAYEE, MINT = BUYER.pubkey(), SHOP.pubkey(), USDC_DEVNET_MINT
OWN, TILL = ata(PAYER, MINT), ata(PAYEE, MINT)
AMOUNT = 70_000


@dataclass
class Bench:
    """The local chain, by raw calls and by the adapter."""

    chain: LocalChain
    rpc: SolanaRpc

    def call(self, method: str, *params: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = httpx.post(self.chain.url, json=body, timeout=10).json()
        assert "error" not in answer, answer
        return answer["result"]

    async def seen(self, *steps: Any, **options: Any) -> ObservedTransaction:
        """A transaction of the buyer's, as the adapter shows it once it is confirmed."""
        given = {"signers": [BUYER], **options}
        signature = await asyncio.to_thread(lambda: land(self.call, *steps, **given))
        found = await self.rpc.transaction(signature, "confirmed")
        assert found is not None
        assert found.signature == signature
        return found


@pytest.fixture(name="bench")
async def bench_fixture(chain: LocalChain) -> AsyncIterator[Bench]:
    rpc = SolanaRpc(chain.url, LOCALNET_GENESIS_HASH)
    bench = Bench(chain, rpc)
    give(bench.call, PAYER, MINT, 10 * AMOUNT)
    give(bench.call, PAYEE, MINT, 0)
    yield bench
    await rpc.close()


def moved(account: Pubkey, owner: Pubkey, before: int, after: int, **of: Any) -> TokenBalance:
    mint, program = of.get("mint", MINT), of.get("program", TOKEN_PROGRAM_ID)
    return TokenBalance(str(account), str(owner), str(mint), str(program), before, after)


async def test_an_ordinary_payment_is_shown_whole(bench: Bench) -> None:
    reference = keypair("reference").pubkey()
    step = with_reference(transfer(OWN, TILL, PAYER, AMOUNT, MINT), reference)
    found = await bench.seen(step, memo("order 7"), memo("\u00e9"))
    assert (found.error, found.signers, found.memos) == (None, (str(PAYER),), ("order 7", "\u00e9"))
    assert set(found.balances) == {
        moved(OWN, PAYER, 10 * AMOUNT, 9 * AMOUNT),
        moved(TILL, PAYEE, 0, AMOUNT),
    }
    assert found.transfers == (TokenTransfer(str(OWN), str(TILL), str(PAYER), AMOUNT),)
    assert {str(reference), str(MINT), str(PAYER)} <= set(found.accounts)
    raw = bench.call(
        "getTransaction",
        found.signature,
        {"commitment": "confirmed", "maxSupportedTransactionVersion": 0},
    )
    assert (found.slot, found.block_time) == (raw["slot"], raw["blockTime"])
    assert (found.net(str(PAYEE), str(MINT)), found.net(str(PAYER), str(MINT))) == (AMOUNT, -AMOUNT)


async def test_a_plain_transfer_is_of_the_mint_that_the_balances_say(bench: Bench) -> None:
    found = await bench.seen(plain_transfer(OWN, TILL, PAYER, AMOUNT))
    assert found.net(str(PAYEE), str(MINT)) == AMOUNT
    assert found.transfers == (TokenTransfer(str(OWN), str(TILL), str(PAYER), AMOUNT),)


async def test_a_transfer_by_a_called_program_is_shown(bench: Bench) -> None:
    other = keypair("other mint").pubkey()
    write_mint(bench.call, other)
    owner = give(bench.call, PAYEE, other, 0)
    nested = give(bench.call, owner, MINT, AMOUNT)
    found = await bench.seen(recover_nested(PAYEE, other, MINT), signers=[SHOP])
    assert found.transfers == (TokenTransfer(str(nested), str(TILL), str(owner), AMOUNT),)
    assert set(found.balances) >= {moved(nested, owner, AMOUNT, 0), moved(TILL, PAYEE, 0, AMOUNT)}


async def test_accounts_of_lookup_tables_are_resolved(bench: Bench) -> None:
    table = write_table(bench.call, keypair("table").pubkey(), MINT, TILL, OWN)
    found = await bench.seen(transfer(OWN, TILL, PAYER, AMOUNT, MINT), tables=[table])
    assert found.transfers == (TokenTransfer(str(OWN), str(TILL), str(PAYER), AMOUNT),)
    assert found.net(str(PAYEE), str(MINT)) == AMOUNT
    assert {str(OWN), str(TILL), str(MINT)} <= set(found.accounts)


async def test_a_transfer_fee_is_missing_from_what_arrives(bench: Bench) -> None:
    mint, program = keypair("fee mint").pubkey(), TOKEN_2022_PROGRAM_ID
    write_mint(bench.call, mint, with_fee=True)
    own = give(bench.call, PAYER, mint, 10 * AMOUNT, program)
    till = give(bench.call, PAYEE, mint, 0, program)
    found = await bench.seen(transfer(own, till, PAYER, AMOUNT, mint, program=program))
    of = {"mint": mint, "program": program}
    assert set(found.balances) == {
        moved(own, PAYER, 10 * AMOUNT, 9 * AMOUNT, **of),
        moved(till, PAYEE, 0, AMOUNT * 99 // 100, **of),
    }
    assert found.transfers[0].amount == AMOUNT


async def test_a_transfer_to_oneself_gains_nothing(bench: Bench) -> None:
    found = await bench.seen(transfer(OWN, OWN, PAYER, AMOUNT, MINT))
    assert found.net(str(PAYER), str(MINT)) == 0
    assert found.transfers == (TokenTransfer(str(OWN), str(OWN), str(PAYER), AMOUNT),)


async def test_an_account_that_changes_hands_counts_for_both_owners(bench: Bench) -> None:
    handed = set_authority(
        SetAuthorityParams(
            program_id=TOKEN_PROGRAM_ID,
            account=OWN,
            authority=AuthorityType.ACCOUNT_OWNER,
            current_authority=PAYER,
            new_authority=PAYEE,
        )
    )
    found = await bench.seen(handed)
    assert set(found.balances) == {
        moved(OWN, PAYER, 10 * AMOUNT, 0),
        moved(OWN, PAYEE, 0, 10 * AMOUNT),
    }


async def test_a_transaction_is_shown_at_the_level_that_was_asked_for(bench: Bench) -> None:
    bench.call("localchain_pause")
    blockhash = bench.call("getLatestBlockhash", {"commitment": "processed"})["value"]["blockhash"]
    steps = [transfer(OWN, TILL, PAYER, AMOUNT, MINT)]
    message = MessageV0.try_compile(PAYER, steps, [], Hash.from_string(blockhash))
    sent = VersionedTransaction(message, [BUYER])
    options = {"encoding": "base64", "preflightCommitment": "processed"}
    signature = bench.call("sendTransaction", base64.b64encode(bytes(sent)).decode(), options)
    assert await bench.rpc.transaction(signature, "confirmed") is None
    bench.call("localchain_advanceSlots", 4)
    assert await bench.rpc.transaction(signature, "confirmed") is not None
    assert await bench.rpc.transaction(signature, "finalized") is None
    bench.call("localchain_advanceSlots", 40)
    assert await bench.rpc.transaction(signature, "finalized") is not None


# --- a provider that lies -------------------------------------------------------------------

STEPS = [plain_transfer(OWN, TILL, PAYER, AMOUNT), memo("order 7")]
SENT = VersionedTransaction(MessageV0.try_compile(PAYER, STEPS, [], Hash.default()), [BUYER])
SIGNATURE, KEYS = str(SENT.signatures[0]), list(SENT.message.account_keys)


def balance(index: int, owner: Pubkey, amount: int) -> dict[str, Any]:
    return {
        "accountIndex": index,
        "owner": str(owner),
        "mint": str(MINT),
        "programId": str(TOKEN_PROGRAM_ID),
        "uiTokenAmount": {"amount": str(amount)},
    }


ANSWER: dict[str, Any] = {
    "slot": 880,
    "blockTime": 1_700_000_000,
    "transaction": [base64.b64encode(bytes(SENT)).decode(), "base64"],
    "meta": {
        "err": None,
        "preTokenBalances": [balance(1, PAYER, AMOUNT)],
        "postTokenBalances": [balance(1, PAYER, 0), balance(2, PAYEE, AMOUNT)],
        "innerInstructions": [
            {
                "index": 0,
                "instructions": [
                    {
                        "programIdIndex": KEYS.index(TOKEN_PROGRAM_ID),
                        "accounts": [1, 2, 0],
                        "data": base58_encode(b"\x03" + (5).to_bytes(8, "little")),
                    }
                ],
            }
        ],
        "loadedAddresses": {"writable": [], "readonly": [str(MINT)]},
    },
}


def test_the_answer_that_the_lies_vary_is_read() -> None:
    found = observed(SIGNATURE, ANSWER)
    assert [step.amount for step in found.transfers] == [AMOUNT, 5]
    assert found.memos == ("order 7",)
    assert found.accounts[-1] == str(MINT)


def test_an_answer_of_any_form_is_read_or_is_unavailability() -> None:
    refused = 0
    for answer in corruptions(ANSWER):
        try:
            observed(SIGNATURE, answer)
        except ChainUnavailable:
            refused += 1
    assert refused > 100


def test_another_transaction_is_no_answer() -> None:
    with pytest.raises(ChainUnavailable, match="another transaction"):
        observed("1" * 64, ANSWER)


@pytest.mark.parametrize("place", ["balance", "program", "account"])
def test_an_index_that_points_nowhere_is_no_answer(place: str) -> None:
    answer = copy.deepcopy(ANSWER)
    step = answer["meta"]["innerInstructions"][0]["instructions"][0]
    match place:
        case "balance":
            answer["meta"]["postTokenBalances"][0]["accountIndex"] = 99
        case "program":
            step["programIdIndex"] = 99
        case _:
            step["accounts"] = [1, 99, 0]
    with pytest.raises(ChainUnavailable, match="not there"):
        observed(SIGNATURE, answer)
