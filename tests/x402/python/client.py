"""The published `x402` client on httpx. usage: client.py RPC_URL

Reads one JSON object a line, `{"seed": HEX, "urls": [URL, ...]}`, pays for the addresses at once
with the wallet of the seed and prints the answers.
"""

import asyncio
import json
import sys
from typing import Any

import httpx
from solders.keypair import Keypair
from x402 import x402Client
from x402.http.clients.httpx import x402_httpx_transport
from x402.mechanisms.svm.exact import register_exact_svm_client
from x402.mechanisms.svm.signers import KeypairSigner

PAYMENT_HEADERS = ("PAYMENT-SIGNATURE", "X-PAYMENT")


class Recording(httpx.AsyncHTTPTransport):
    """Sends what the package asks for and remembers the payment of it."""

    payment: str | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        for name in PAYMENT_HEADERS:
            self.payment = request.headers.get(name, self.payment)
        return await super().handle_async_request(request)


async def pay(rpc_url: str, seed: str, url: str) -> dict[str, Any]:
    signer = KeypairSigner(Keypair.from_seed(bytes.fromhex(seed)))
    payer = register_exact_svm_client(x402Client(), signer, rpc_url=rpc_url)
    wire = Recording()
    async with httpx.AsyncClient(
        transport=x402_httpx_transport(payer, wire), timeout=100
    ) as client:
        answer = await client.get(url)
    return {
        "status": answer.status_code,
        "body": answer.json(),
        "headers": {name.lower(): value for name, value in answer.headers.items()},
        "payment": wire.payment,
    }


async def pay_all(rpc_url: str, seed: str, urls: list[str]) -> dict[str, Any]:
    return {"answers": await asyncio.gather(*(pay(rpc_url, seed, url) for url in urls))}


if __name__ == "__main__":
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps(asyncio.run(pay_all(sys.argv[1], job["seed"], job["urls"]))), flush=True)
