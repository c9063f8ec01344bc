"""A buyer that onboards over HTTP, and what the chain and the log hold of it."""

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from nacl.signing import SigningKey
from running import USDC, Buyer, Service
from solders.keypair import Keypair
from solders.transaction import VersionedTransaction

from session_ledger.challenge import NETWORKS
from session_ledger.sign_in import build

ONBOARD = "/api/sessions/onboard"
CONFIRM = "/api/sessions/onboard/confirm"
STATUS = "/api/sessions/onboard/status"
HEADER = "SIGN-IN-WITH-X"
MAINNET, DEVNET, LOCALNET = (
    NETWORKS[name].chain_id for name in ("mainnet-beta", "devnet", "localnet")
)


def proof(wallet: Keypair, **changes: Any) -> str:
    """The header as the reference makes it for a service on this machine."""
    made: dict[str, Any] = {
        "domain": "127.0.0.1",
        "chain_id": MAINNET,
        "now_millis": round(time.time() * 1_000),
        **changes,
    }
    return build(SigningKey(wallet.secret()), **made)


@dataclass
class Onboarding:
    """One buyer's onboarding, with one header for all its calls."""

    service: Service
    buyer: Buyer
    header: str

    @classmethod
    def of(cls, service: Service, buyer: Buyer) -> "Onboarding":
        return cls(service, buyer, proof(buyer.wallet))

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.service.http.request(method, path, headers={HEADER: self.header}, **options)

    def onboard(self, **body: Any) -> httpx.Response:
        return self.send("POST", ONBOARD, json={"buyer_wallet": self.buyer.address, **body})

    def confirm(self, transactions: Any, **body: Any) -> httpx.Response:
        body = {"buyer_wallet": self.buyer.address, "signed_transactions": transactions, **body}
        return self.send("POST", CONFIRM, json=body)

    def status(self) -> dict[str, Any]:
        answer = self.send("GET", STATUS, params={"buyer_wallet": self.buyer.address})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def asked(self, **body: Any) -> dict[str, Any]:
        """The answer to an onboard that needs signatures."""
        answer = self.onboard(**body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["status"] == "transactions_required", answer.text
        return answer.json()

    def sign(self, asked: dict[str, Any], *keys: Keypair) -> list[str]:
        """The transactions of an answer, signed by the buyer or by others."""
        return [
            signed(each["tx"], *(keys or (self.buyer.wallet,))) for each in asked["transactions"]
        ]

    def ready(self, **body: Any) -> dict[str, Any]:
        """Go all the way; gives the answer to the confirmation."""
        answer = self.confirm(self.sign(self.asked(**body)))
        assert answer.status_code == 200, answer.text
        assert answer.json()["status"] == "ready", answer.text
        return answer.json()

    async def events(self) -> list[tuple[str, dict[str, Any]]]:
        rows = await self.service.rows(
            "SELECT type, payload FROM events WHERE stream_id = $1 ORDER BY position",
            f"wallet/{self.buyer.address}",
        )
        return [(row["type"], json.loads(row["payload"])) for row in rows]


def signed(text: str, *keys: Keypair) -> str:
    """A wire transaction with these keys' signatures in their places."""
    transaction = VersionedTransaction.from_bytes(base64.b64decode(text))
    signatures = list(transaction.signatures)
    places = transaction.message.account_keys[: len(signatures)]
    message = base64.b64decode(text)[1 + 64 * len(signatures) :]
    for key in keys:
        where = places.index(key.pubkey()) if key.pubkey() in places else 0
        signatures[where] = key.sign_message(message)
    whole = VersionedTransaction.populate(transaction.message, signatures)
    return base64.b64encode(bytes(whole)).decode()


def delegation(buyer: Buyer) -> tuple[str | None, int]:
    """Who may spend how much of the buyer's account, as the chain has it."""
    how = {"commitment": "confirmed", "encoding": "jsonParsed"}
    value = buyer.service.chain.call("getAccountInfo", buyer.source, how)["value"]
    info = value["data"]["parsed"]["info"]
    return info.get("delegate"), int(info.get("delegatedAmount", {"amount": "0"})["amount"])


def refused(answer: httpx.Response, status: int, code: str) -> str:
    """The detail of a refusal in the form that the reference's client reads."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert (body["success"], body["ok"], body["error"]) == (False, False, code)
    assert isinstance(body["detail"], str)
    assert body["detail"]
    return body["detail"]


def fund(buyer: Buyer, amount: int = 25 * USDC, *, sol: bool = True) -> None:
    """Give it USDC and SOL, and approve nobody."""
    chain = buyer.service.chain
    if sol:
        chain.call("requestAirdrop", buyer.address, 1_000_000_000)
    chain.call("surfnet_setTokenAccount", buyer.address, str(chain.mint), {"amount": amount})


def calls(onboarding: Onboarding, header: str | bytes | None) -> Iterator[httpx.Response]:
    """Each of the three routes with this header."""
    headers: dict[str, Any] = {} if header is None else {HEADER: header}
    http, body = onboarding.service.http, {"buyer_wallet": onboarding.buyer.address}
    yield http.post(ONBOARD, json=body, headers=headers)
    yield http.post(CONFIRM, json={**body, "signed_transactions": []}, headers=headers)
    yield http.get(STATUS, params=body, headers=headers)


@pytest.fixture(name="onboarding")
def onboarding_fixture(service: Service, buyer: Buyer) -> Onboarding:
    """A buyer with 25 USDC and some SOL, and a fresh header."""
    fund(buyer)
    return Onboarding.of(service, buyer)
