"""Buyers' sessions as a client of the routes opens, uses and closes them."""

import json
import time
from typing import Any

import httpx
from nacl.signing import SigningKey
from running import USDC, Buyer, Seller, Service
from typer.testing import CliRunner

from service.cli.main import app
from session_ledger.challenge import NETWORKS
from session_ledger.sign_in import build

DEPOSIT = USDC
OPEN, VOUCHER, CLOSE = (f"/mpp/session/{name}" for name in ("open", "voucher", "close"))
ENVELOPE = ("voucher", "signature", "signer", "signatureType")


def proof_of(buyer: Buyer) -> dict[str, str]:
    key = SigningKey(bytes(buyer.wallet)[:32])
    header = build(
        key,
        domain="127.0.0.1",
        chain_id=NETWORKS["localnet"].chain_id,
        now_millis=int(time.time() * 1_000),
    )
    return {"SIGN-IN-WITH-X": header}


def onboarded(service: Service, *, approved: int = 25 * USDC) -> Buyer:
    """A buyer that may open sessions, up to what it approved."""
    buyer = service.buyer("mpp buyer")
    buyer.fund(approved=approved)
    body = {"buyer_wallet": buyer.address, "spend_limit_atomic": str(approved)}
    answer = service.http.post("/api/sessions/onboard", json=body, headers=proof_of(buyer))
    assert answer.json()["status"] == "ready", answer.text
    return buyer


def payable(service: Service) -> Seller:
    seller = service.seller("mpp seller")
    service.chain.receive(seller.wallet)
    return seller


def open_body(buyer: Buyer, recipient: str, **changes: Any) -> dict[str, Any]:
    body = {
        "buyer_wallet": buyer.address,
        "buyer_swig_address": buyer.address,
        "seller_wallet": recipient,
        "deposit_atomic": str(DEPOSIT),
        **changes,
    }
    return {name: value for name, value in body.items() if value is not ...}


def opened(buyer: Buyer, recipient: str, **changes: Any) -> str:
    """The channel id of a new session."""
    answer = buyer.service.http.post(OPEN, json=open_body(buyer, recipient, **changes))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["channel_id"])


def pay(service: Service, channel: str, amount: int, nonce: str = "n") -> dict[str, Any]:
    """The answer with a voucher over a total."""
    body = {"channel_id": channel, "amount": str(amount), "serverNonce": nonce}
    answer = service.http.post(VOUCHER, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def close(service: Service, channel: str) -> dict[str, Any]:
    answer = service.http.post(CLOSE, json={"channel_id": channel})
    assert answer.status_code == 200, answer.text
    return answer.json()


def refusal(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The body of a refusal, in the one form that the wire has."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body: dict[str, Any] = answer.json()
    assert (body["success"], body["ok"], body["error"]) == (False, False, code), body
    assert isinstance(body["detail"], str)
    assert body["detail"]
    return body


def command(service: Service, *words: str, status: int = 0) -> Any:
    """What a command answers a script."""
    done = CliRunner().invoke(app, [*words, "--json", "--data-dir", str(service.data_dir)])
    assert done.exit_code == status, done.output
    return json.loads(done.stdout)
