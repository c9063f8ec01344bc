"""A seller's till for direct payments on the local chain.

Test modules import `till_fixture` to have the fixture.
"""

import base64
import json
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from direct_rig import ata, give, header_of, land, memo, transfer
from running import PRICE, USDC, Seller, Service, fresh, seed
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey

URL = "https://shop.example/premium"
PROCESSED = "Payment already processed"


@dataclass
class Till:
    """A seller who can be paid, and a buyer with USDC and SOL."""

    service: Service
    seller: Seller
    buyer: Keypair
    mint: Pubkey

    @classmethod
    def of(cls, service: Service, seller: Seller | None = None) -> "Till":
        shop = seller or service.seller()
        buyer = Keypair.from_seed(seed(fresh("direct buyer")))
        till = cls(service, shop, buyer, service.chain.mint)
        give(service.chain.call, till.shop, till.mint, 0)
        give(service.chain.call, buyer.pubkey(), till.mint, USDC)
        return till

    @property
    def shop(self) -> Pubkey:
        return Pubkey.from_string(self.seller.facts["recipient"])

    @property
    def payer(self) -> Pubkey:
        return self.buyer.pubkey()

    def asked(self, resource: str = URL, **query: Any) -> dict[str, Any]:
        answer = self.seller.get("/v1/payments/requirements", resource=resource, **query)
        assert answer.status_code == 200, answer.text
        return answer.json()["accepts"][0]

    def transfer(self, amount: int = PRICE, **changes: Any) -> Instruction:
        given: dict[str, Any] = {
            "source": ata(self.payer, self.mint),
            "destination": ata(self.shop, self.mint),
            "authority": self.payer,
            "amount": amount,
            "mint": self.mint,
        }
        return transfer(**{**given, **changes})

    def land(self, *steps: Instruction, **options: Any) -> str:
        given = {"signers": [self.buyer], **options}
        return land(self.service.chain.call, *steps, **given)

    def paid(self, asked: dict[str, Any] | None = None) -> str:
        """Pay, with the memo that was asked for, if one was; gives the header."""
        text = (asked or {}).get("extra", {}).get("memo")
        steps = [self.transfer(), *([memo(text)] if text else [])]
        return self.header(self.land(*steps))

    def header(self, signature: str, **changes: Any) -> str:
        given = {"payer": self.payer, "amount": PRICE, "mint": self.mint, **changes}
        return header_of(signature, **given)

    def post(self, header: str, asked: dict[str, Any], **options: Any) -> httpx.Response:
        body = json.dumps({"paymentHeader": header, "paymentRequirements": asked})
        return self.seller.post("/v1/payments/verify", content=body, **options)

    def verify(self, header: str, asked: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = self.post(header, asked or self.asked())
        assert answer.status_code == 200, answer.text
        return answer.json()

    def failed(self, signature: str, resource: str = URL) -> httpx.Response:
        path = f"/v1/payments/{signature}/delivery-failed"
        return self.seller.post(path, json={"resource": resource})


def signature_of(header: str) -> str:
    return json.loads(base64.b64decode(header))["payload"]["signature"]


def valid(answer: dict[str, Any]) -> dict[str, Any]:
    assert answer["isValid"] is True, answer
    return answer


def refused(answer: dict[str, Any], code: str, error: str | None = None) -> dict[str, Any]:
    assert (answer["isValid"], answer["code"]) == (False, code), answer
    if error is not None:
        assert answer["error"] == error
    assert answer["paymentResponseHeader"] is answer["amount"] is answer["transaction"] is None
    return answer


@pytest.fixture(name="till")
def till_fixture(service: Service) -> Till:
    return Till.of(service)
