"""Buyers, sellers and payments as programs with the reference's client have them."""

import json
import socket
from typing import Any, Final
from uuid import uuid4

import httpx
from running import PRICE, USDC, Buyer, Seller, Service

from tests.e2e import documented
from tests.e2e.dexter_client import SessionClient, SettlementClient, voucher_header
from tests.e2e.dexter_javascript import parse, stringify
from tests.e2e.dexter_signing import message_signer, transaction_signer
from tests.e2e.dexter_verifier import SessionServer

NETWORK: Final = "devnet"
PURSE: Final = 10 * USDC
DEPOSIT: Final = 2 * USDC


def connections() -> httpx.AsyncClient:
    """Like `fetch`: no timeout and no limit of its own."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    hooks = {"response": [documented.check_async]}
    return httpx.AsyncClient(timeout=httpx.Timeout(None), limits=limits, event_hooks=hooks)


def funded(service: Service, amount: int = PURSE) -> Buyer:
    """A buyer with USDC and without any SOL."""
    buyer = service.buyer("sdk-buyer")
    mint = str(service.chain.mint)
    service.chain.call("surfnet_setTokenAccount", buyer.address, mint, {"amount": amount})
    return buyer


def payable(service: Service, **terms: Any) -> Seller:
    """A registered seller that can receive USDC."""
    seller = service.seller("sdk-seller", **terms)
    service.chain.receive(seller.wallet)
    return seller


def shop(recipient: str, price: int = PRICE) -> SessionServer:
    """A seller's own server, with the reference's rules."""
    return SessionServer(recipient, str(price), network=NETWORK)


def session_client(service: Service, http: httpx.AsyncClient, buyer: Buyer) -> SessionClient:
    """The client of a buyer that has no Swig wallet yet, so that it names its own wallet."""
    client = SettlementClient(http, service.url)
    return SessionClient(client, buyer.address, buyer.address, NETWORK)


def signers(buyer: Buyer, kind: str) -> dict[str, Any]:
    """A key pair, or what a program with another wallet library passes."""
    if kind == "key pair":
        return {"signer": buyer.wallet}
    return {
        "sign_transaction": transaction_signer(buyer.wallet),
        "sign_message": message_signer(buyer.wallet),
        "public_key": buyer.address,
    }


async def onboarded(
    service: Service,
    http: httpx.AsyncClient,
    buyer: Buyer,
    *,
    kind: str = "key pair",
    spend_limit: int = PURSE,
) -> SessionClient:
    """A client that may open sessions."""
    session = session_client(service, http, buyer)
    result = await session.onboard(**signers(buyer, kind), spend_limit=str(spend_limit))
    assert result["status"] == "ready"
    return SessionClient(session.client, buyer.address, result["swigAddress"], NETWORK)


async def opened(session: SessionClient, recipient: str, deposit: int = DEPOSIT) -> str:
    """The channel id of a new session."""
    answer = await session.open(seller=recipient, deposit=str(deposit))
    return str(answer["channel_id"])


async def pay(
    session: SessionClient, channel: str, price: int = PRICE, **fields: Any
) -> dict[str, Any]:
    """A voucher over one price more than the last one."""
    amount = session.sessions[channel].cumulative_amount + price
    nonce = fields.pop("server_nonce", str(uuid4()))
    return await session.pay(channel, amount=str(amount), server_nonce=nonce, **fields)


def delivered(signed: dict[str, Any]) -> dict[str, Any]:
    """A voucher as the seller reads it out of the request's header."""
    return parse(voucher_header(signed).decode("latin-1"))


def presented(seller: Seller, signed: dict[str, Any]) -> dict[str, Any]:
    """Our verdict for a voucher, sent on as the seller received it."""
    return seller.verify(stringify(signed))


def payments_of(service: Service, buyer: Buyer) -> list[dict[str, Any]]:
    """What left the buyer's token account, as the chain tells it. Fails if any payment failed."""
    call = service.chain.call
    how = {"encoding": "jsonParsed", "maxSupportedTransactionVersion": 0}
    found: list[dict[str, Any]] = []
    for entry in call("getSignaturesForAddress", buyer.source):
        transaction = call("getTransaction", entry["signature"], how)
        assert transaction["meta"]["err"] is None
        parts = transaction["transaction"]["message"]["instructions"]
        parsed = [part["parsed"] for part in parts if isinstance(part.get("parsed"), dict)]
        transfers = [part["info"] for part in parsed if part.get("type") == "transferChecked"]
        found += [{"signature": entry["signature"], **info} for info in transfers]
    return found


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def refusal_of(answer: httpx.Response, status: int, code: str) -> str:
    """The detail of a refusal as the wire has it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = json.loads(answer.content)
    assert (body["success"], body["ok"], body["error"]) == (False, False, code), body
    assert isinstance(body["detail"], str)
    assert body["detail"]
    return body["detail"]
