"""Scheme `exact` of x402 as a resource server and its buyer play it, v1 and v2, honest and not.

Test modules import `shop_fixture` to have the fixture.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
import pytest
from charge_rig import ata, memo, pay, wire
from running import PRICE, USDC, Buyer, Seller, Service
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.instruction import Instruction
from solders.keypair import Keypair

from session_ledger.challenge import NETWORKS
from session_ledger.x402.networks import caip2, v1_name

PAYLOAD = "invalid_exact_svm_payload"


def exact(transfer: Instruction, text: bytes) -> list[Instruction]:
    """The instructions of the published clients."""
    return [set_compute_unit_limit(20_000), set_compute_unit_price(1), transfer, memo(text)]


@dataclass
class Shop:
    """A buyer with USDC and no SOL, a seller, and the facilitator that they use."""

    service: Service
    seller: Seller | None
    wallet: Keypair
    buyer: Buyer
    network: str = "localnet"
    price: int = PRICE
    extra: dict[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def of(cls, service: Service, *, registered: bool = True, purse: int = USDC) -> "Shop":
        seller = service.seller() if registered else None
        wallet = seller.wallet if seller else Keypair()
        buyer, mint = service.buyer(), str(service.chain.mint)
        for owner, amount in ((str(wallet.pubkey()), 0), (buyer.address, purse)):
            service.chain.call("surfnet_setTokenAccount", owner, mint, {"amount": amount})
        return cls(service, seller, wallet, buyer)

    @property
    def recipient(self) -> str:
        return str(self.wallet.pubkey())

    @property
    def mint(self) -> str:
        return str(self.service.chain.mint)

    @property
    def fee_payer(self) -> str:
        return self.service.facts["feePayer"]

    def network_id(self, version: int) -> str:
        known = NETWORKS[self.network]
        return v1_name(known) if version == 1 else caip2(known)

    def transfer(self, **changes: Any) -> Instruction:
        honest: dict[str, Any] = {
            "source": ata(self.buyer.address, self.mint),
            "destination": ata(self.recipient, self.mint),
            "authority": self.buyer.address,
            "amount": self.price,
            "mint": self.mint,
        }
        return pay(**{**honest, **changes})

    def bought(self, steps: Sequence[Instruction] | None = None, **changes: Any) -> str:
        """A transaction as base64, signed by the buyer."""
        latest = self.service.chain.call("getLatestBlockhash", {"commitment": "finalized"})
        made: dict[str, Any] = {
            "blockhash": latest["value"]["blockhash"],
            "fee_payer": self.fee_payer,
            "signers": [self.buyer.wallet],
            **changes,
        }
        steps = steps or exact(self.transfer(), uuid4().hex.encode())
        return base64.b64encode(wire(steps, **made)).decode()

    def requirements(self, version: int = 2, /, **changes: Any) -> dict[str, Any]:
        """What the seller's server asks for; a member that is given as `...` is left out."""
        asked = {
            "scheme": "exact",
            "network": self.network_id(version),
            "asset": self.mint,
            "payTo": self.recipient,
            "maxTimeoutSeconds": 60,
            "extra": {"feePayer": self.fee_payer, **self.extra},
        }
        if version == 1:
            asked |= {
                "maxAmountRequired": str(self.price),
                "resource": "https://shop.example/weather",
                "description": "",
                "mimeType": "application/json",
            }
        else:
            asked["amount"] = str(self.price)
        return {name: value for name, value in {**asked, **changes}.items() if value is not ...}

    def body(self, transaction: str, version: int = 2, /, **changes: Any) -> dict[str, Any]:
        """The request of a server about a payment that the buyer made for these requirements."""
        asked = self.requirements(version, **changes)
        payload: dict[str, Any] = {"x402Version": version, "payload": {"transaction": transaction}}
        if version == 1:
            payload |= {"scheme": asked.get("scheme"), "network": asked.get("network")}
        else:
            payload |= {"accepted": asked, "resource": {"url": "https://shop.example/weather"}}
        return {
            "x402Version": version,
            "paymentPayload": payload,
            "paymentRequirements": asked,
        }

    def verify(self, transaction: str, version: int = 2, /, **changes: Any) -> dict[str, Any]:
        return self.post("verify", self.body(transaction, version, **changes))

    def settle(
        self, transaction: str, version: int = 2, /, *, key: str | None = None, **changes: Any
    ) -> dict[str, Any]:
        headers = {} if key is None else {"Idempotency-Key": key}
        return self.post("settle", self.body(transaction, version, **changes), headers)

    def post(
        self, route: str, body: dict[str, Any], headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        answer: httpx.Response = self.service.http.post(
            f"/x402/{route}", json=body, headers=headers or {}
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    def judged(self, transaction: str, version: int = 2, /, **changes: Any) -> tuple[str, str]:
        """Reason and message under which verify and settle refuse alike; no money moves."""
        before = self.service.chain.balance(self.wallet)
        said = self.verify(transaction, version, **changes)
        assert said["isValid"] is False, said
        done = self.settle(transaction, version, **changes)
        assert done["success"] is False, done
        assert done["transaction"] == ""
        assert (said["invalidReason"], said["invalidMessage"]) == (
            done["errorReason"],
            done["errorMessage"],
        )
        assert self.service.chain.balance(self.wallet) == before
        return said["invalidReason"], said["invalidMessage"]


@pytest.fixture(name="shop")
def shop_fixture(service: Service) -> Shop:
    return Shop.of(service)
