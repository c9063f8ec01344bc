"""An RPC provider that answers anything, and the adapter that asks it."""

import asyncio
import base64
import copy
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from settlement_rig import AMOUNT, MINT, keypair
from solders.hash import Hash
from solders.message import MessageV0
from solders.transaction import VersionedTransaction

from service.adapters.solana.rpc import SolanaRpc

CALLED = "11111111111111111111111111111111"
GENESIS = "5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc147dw2N9d"
PAYER_KEY = keypair("fee payer")
TRANSACTION = VersionedTransaction(
    MessageV0.try_compile(PAYER_KEY.pubkey(), [], [], Hash.default()), [PAYER_KEY]
)
RAW = bytes(TRANSACTION)
SIGNATURE = str(TRANSACTION.signatures[0])


def context(value: Any) -> dict[str, Any]:
    return {"context": {"slot": 900, "apiVersion": "2.2.0"}, "value": value}


def balance(index: int, amount: int) -> dict[str, Any]:
    return {"accountIndex": index, "mint": MINT, "uiTokenAmount": {"amount": str(amount)}}


HONEST: dict[str, Any] = {
    "getGenesisHash": GENESIS,
    "getLatestBlockhash": context({"blockhash": GENESIS, "lastValidBlockHeight": 850}),
    "getBlockHeight": 700,
    "getFirstAvailableBlock": 0,
    "getEpochInfo": {"blockHeight": 668, "absoluteSlot": 868},
    "getBalance": context(10**9),
    "getAccountInfo": context(
        {
            "owner": "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA",
            "data": [base64.b64encode(bytes(165)).decode(), "base64"],
            "lamports": 1,
        }
    ),
    "simulateTransaction": context(
        {
            "err": None,
            "logs": ["a line"],
            "unitsConsumed": 5,
            "innerInstructions": [
                {"index": 2, "instructions": [{"programId": CALLED, "stackHeight": 2}]}
            ],
        }
    ),
    "sendTransaction": SIGNATURE,
    "getSignatureStatuses": context(
        [{"slot": 880, "confirmations": 3, "err": None, "confirmationStatus": "confirmed"}]
    ),
    "getTransaction": {
        "slot": 880,
        "transaction": [base64.b64encode(RAW).decode(), "base64"],
        "meta": {
            "err": None,
            "logMessages": ["a line"],
            "preTokenBalances": [balance(0, AMOUNT)],
            "postTokenBalances": [balance(0, 0)],
        },
    },
}
BAD_VALUES = [None, "x", "", -1, 1.5, True, 2**70, [], {}, [None], {"err": 1}, "9" * 5_000]


class Refused:
    """An answer that is an error of this code."""

    def __init__(self, code: int) -> None:
        self.code = code


class Provider:
    """Answers honestly but for `answers`, which may depend on the parameters; `raw` replaces a
    whole HTTP response. `asked` has the parameters of every request by method."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: dict[str, list[Any]] = {}
        self.raw: dict[str, bytes] = {}
        self.members: dict[str, dict[str, Any]] = {}
        self.delay: dict[str, float] = {}
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                request = json.loads(await reader.readexactly(length))
                method = request["method"]
                self.asked.setdefault(method, []).append(request["params"])
                await asyncio.sleep(self.delay.get(method, 0))
                if method in self.raw:
                    writer.write(self.raw[method])
                    break
                result = self.answers.get(method, HONEST.get(method))
                if callable(result):
                    result = result(request["params"])
                body: dict[str, Any] = {"jsonrpc": "2.0", "id": request["id"]}
                if isinstance(result, Refused):
                    body["error"] = {"code": result.code, "message": "no"}
                else:
                    body["result"] = result
                body |= self.members.get(method, {})
                writer.write(http(json.dumps(body).encode()))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def http(body: bytes, status: str = "200 OK", more: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{more}"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Provider, SolanaRpc]]:
    provider = Provider()
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    rpc = SolanaRpc(f"http://127.0.0.1:{port}/?key=hidden-key", GENESIS, timeout_seconds=0.3)
    try:
        yield provider, rpc
    finally:
        await rpc.close()
        server.close()
        await server.wait_closed()


def corruptions(value: Any) -> Iterator[Any]:
    """The value with each of its members replaced by each bad value, and each left out."""
    yield from BAD_VALUES
    if not isinstance(value, dict | list):
        return
    keys = list(value) if isinstance(value, dict) else range(len(value))
    for key in keys:
        inner = value[key]
        for bad in corruptions(inner):
            changed = copy.deepcopy(value)
            changed[key] = bad
            yield changed
        shorter = copy.deepcopy(value)
        del shorter[key]
        yield shorter
