"""A local chain per test, its clients, and short words for what tests do on it.

Test modules import `chain_fixture` and `rig_fixture` to have the fixtures `chain` and `rig`.
"""

import asyncio
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import httpx
import pytest
from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Processed
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction
from spl.token.constants import TOKEN_PROGRAM_ID
from spl.token.instructions import (
    approve_checked,
    get_associated_token_address,
    transfer_checked,
)
from spl.token.models import ApproveCheckedParams, TransferCheckedParams

from service.local.chain import USDC_DEVNET_MINT, LocalChain, LocalChainSettings

SOL = 10**9
FINALIZED_DEPTH = 8

buyer = Keypair.from_seed(sha256(b"test buyer").digest())
seller = Keypair.from_seed(sha256(b"test seller").digest())
delegate = Keypair.from_seed(sha256(b"test delegate").digest())

MEMO = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")


class RpcRefusal(Exception):
    """An error object that the server answered."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error)
        self.code: int = error["code"]
        self.message: str = error["message"]
        self.data: Any = error.get("data")


@dataclass(frozen=True, slots=True)
class Rig:
    """One running chain with a raw JSON-RPC client and solana-py's."""

    chain: LocalChain
    http: httpx.AsyncClient
    client: AsyncClient

    async def rpc(self, method: str, *params: Any) -> Any:
        """The result of one raw call, or RpcRefusal."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        answer = (await self.http.post("/", json=body)).json()
        assert (answer["jsonrpc"], answer["id"]) == ("2.0", 1)
        if "error" in answer:
            raise RpcRefusal(answer["error"])
        return answer["result"]

    async def pause(self) -> int:
        return await self.rpc("localchain_pause")

    async def advance(self, slots: int) -> int:
        return await self.rpc("localchain_advanceSlots", slots)

    async def fund(self, *keys: Pubkey) -> None:
        """One SOL to each key, at every commitment level at once."""
        for key in keys:
            await self.rpc("surfnet_setAccount", str(key), {"lamports": SOL})

    async def give_usdc(
        self, owner: Pubkey, amount: int, *, program: Pubkey = TOKEN_PROGRAM_ID, **more: Any
    ) -> Pubkey:
        mint = str(USDC_DEVNET_MINT)
        changes = {"amount": amount, **more}
        await self.rpc("surfnet_setTokenAccount", str(owner), mint, changes, str(program))
        return get_associated_token_address(owner, USDC_DEVNET_MINT, program)

    async def blockhash(self) -> Hash:
        return (await self.client.get_latest_blockhash(Processed)).value.blockhash

    async def sign(self, *steps: Instruction, signers: list[Keypair]) -> VersionedTransaction:
        """A v0 transaction over `steps`; the first signer pays."""
        message = MessageV0.try_compile(
            signers[0].pubkey(), list(steps), [], await self.blockhash()
        )
        return VersionedTransaction(message, signers)

    async def post(self, transaction: VersionedTransaction, **options: Any) -> Signature:
        """sendTransaction with preflight at processed, unless `options` say otherwise."""
        defaults = {"encoding": "base64", "preflightCommitment": "processed"}
        wire = b64encode(bytes(transaction)).decode()
        return Signature.from_string(
            await self.rpc("sendTransaction", wire, {**defaults, **options})
        )

    async def send(self, *steps: Instruction, signers: list[Keypair], **options: Any) -> Signature:
        return await self.post(await self.sign(*steps, signers=signers), **options)

    async def status(self, signature: Signature) -> Any:
        answer = await self.rpc("getSignatureStatuses", [str(signature)])
        return answer["value"][0]

    async def tokens(self, account: Pubkey, commitment: str = "processed") -> int:
        answer = await self.rpc("getTokenAccountBalance", str(account), {"commitment": commitment})
        return int(answer["value"]["amount"])

    async def lamports(self, account: Pubkey, commitment: str = "processed") -> int:
        answer = await self.rpc("getBalance", str(account), {"commitment": commitment})
        return answer["value"]


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


async def is_at(rig: Rig, signature: Signature, level: str) -> bool:
    status = await rig.status(signature)
    return status is not None and status["confirmationStatus"] in {level, "finalized"}


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


async def until(what: Callable[[], Awaitable[bool]], seconds: float = 15) -> None:
    """Polls until `what` holds; fails at the deadline."""
    deadline = time.monotonic() + seconds
    while not await what():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.01)


def settings(**changes: Any) -> LocalChainSettings:
    return LocalChainSettings(
        **{"slot_seconds": 0.02, "finalized_depth": FINALIZED_DEPTH, **changes}
    )


@pytest.fixture(name="chain")
def chain_fixture() -> Iterator[LocalChain]:
    """A chain in memory with 20 ms slots, finalized after eight of them."""
    chain = LocalChain(settings())
    chain.start()
    yield chain
    chain.stop()


@pytest.fixture(name="rig")
async def rig_fixture(chain: LocalChain) -> AsyncIterator[Rig]:
    async with (
        httpx.AsyncClient(base_url=chain.url, timeout=10) as http,
        AsyncClient(chain.url) as client,
    ):
        yield Rig(chain, http, client)
