"""Subscriptions, on the RPC's own port and on the next one."""

import asyncio
import json
from typing import Any

import pytest
from chain_fixtures import (
    FINALIZED_DEPTH,
    SOL,
    Rig,
    buyer,
    chain_fixture,  # noqa: F401 - a fixture
    rig_fixture,  # noqa: F401 - a fixture
    seller,
)
from solana.rpc.commitment import Confirmed, Finalized, Processed
from solana.rpc.websocket_api import SolanaWsClient
from solders.rpc.responses import AccountNotification, SignatureNotification, SlotNotification
from websockets.asyncio.client import connect


def same_port(rig: Rig) -> str:
    return rig.chain.url.replace("http", "ws")


@pytest.mark.parametrize("next_port", [True, False])
async def test_a_signature_is_announced_once_at_its_level(rig: Rig, next_port: bool) -> None:
    await rig.pause()
    signature = (await rig.client.request_airdrop(buyer.pubkey(), SOL)).value
    url = rig.chain.websocket_url if next_port else same_port(rig)
    async with SolanaWsClient(url) as socket:
        await socket.signature_subscribe(signature=signature, commitment=Processed)
        first = await asyncio.wait_for(socket.recv(), 5)
        assert isinstance(first, SignatureNotification)
        await socket.signature_subscribe(signature=signature, commitment=Finalized)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(socket.recv(), 0.2)
        await rig.advance(FINALIZED_DEPTH)
        last = await asyncio.wait_for(socket.recv(), 5)
        assert isinstance(last, SignatureNotification)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(socket.recv(), 0.1)


async def test_slots_and_accounts_are_announced_until_unsubscribed(rig: Rig) -> None:
    token = await rig.give_usdc(buyer.pubkey(), 1)
    async with SolanaWsClient(rig.chain.websocket_url) as socket:
        slots = await socket.slot_subscribe()
        first = await asyncio.wait_for(socket.recv(), 5)
        assert isinstance(first, SlotNotification)
        assert first.result.root == first.result.slot - FINALIZED_DEPTH
        await rig.pause()
        await socket.unsubscribe(slots)
        watched = await socket.account_subscribe(
            pubkey=seller.pubkey(), commitment=Confirmed, encoding="base64"
        )
        await rig.rpc("requestAirdrop", str(seller.pubkey()), SOL)
        await rig.advance(2)
        while not isinstance(told := await asyncio.wait_for(socket.recv(), 5), AccountNotification):
            pass
        assert told.result.value.lamports == SOL
        await socket.unsubscribe(watched)
        # 165 bytes do not fit base58, the default: the notification turns to base64
        await socket.account_subscribe(pubkey=token, commitment=Processed)
        await rig.give_usdc(buyer.pubkey(), 2)
        told = await asyncio.wait_for(socket.recv(), 5)
        assert isinstance(told, AccountNotification)
        assert told.result.value.data[64:72] == (2).to_bytes(8, "little")


async def test_bad_messages_get_an_error_and_keep_the_connection(rig: Rig) -> None:
    async with connect(same_port(rig)) as socket:

        async def ask(text: str | bytes) -> Any:
            await socket.send(text)
            return json.loads(await asyncio.wait_for(socket.recv(), 5))

        def call(method: str, *params: Any) -> str:
            return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})

        assert (await ask("{"))["error"]["code"] == -32700
        assert (await ask(b"\x00\xff"))["error"]["code"] == -32700
        assert (await ask("[]"))["error"]["code"] == -32600
        assert (await ask(call("logsSubscribe", "all")))["error"]["code"] == -32601
        assert (await ask(call("signatureSubscribe", "x")))["error"]["code"] == -32602
        assert (await ask(call("slotUnsubscribe", 12345)))["error"]["code"] == -32602
        number = (await ask(call("accountSubscribe", str(buyer.pubkey()))))["result"]
        assert (await ask(call("accountUnsubscribe", number)))["result"] is True


async def test_an_open_subscription_does_not_keep_the_chain_from_stopping(rig: Rig) -> None:
    async with SolanaWsClient(rig.chain.websocket_url) as socket:
        await socket.slot_subscribe()
        await asyncio.to_thread(rig.chain.stop)
