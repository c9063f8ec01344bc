"""One-shot payments as a buyer of the charge dialect makes them.

Test modules import `shop_fixture` to have the fixture.
"""

import base64
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from charge_rig import ata, charge, pay, wire
from running import PRICE, USDC, Buyer, Seller, Service
from solders.keypair import Keypair


@dataclass
class Shop:
    """A buyer with USDC and no SOL, and a wallet that can be paid."""

    service: Service
    seller: Seller | None
    wallet: Keypair
    buyer: Buyer
    price: int = PRICE
    facts: dict[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def of(cls, service: Service, *, registered: bool = True, purse: int = USDC) -> "Shop":
        seller = service.seller() if registered else None
        wallet = seller.wallet if seller else Keypair()
        service.chain.receive(wallet)
        buyer = service.buyer()
        mint = str(service.chain.mint)
        service.chain.call("surfnet_setTokenAccount", buyer.address, mint, {"amount": purse})
        return cls(service, seller, wallet, buyer)

    @property
    def recipient(self) -> str:
        return str(self.wallet.pubkey())

    def prepare(self) -> dict[str, Any]:
        answer = self.service.http.post("/mpp/prepare", json={"network": "localnet"})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def bought(self, **changes: Any) -> str:
        """A signed transaction over the price, as base64."""
        prepared = self.prepare()
        mint = prepared["splToken"]
        transfer = pay(
            source=ata(self.buyer.address, mint),
            destination=ata(self.recipient, mint),
            authority=self.buyer.address,
            amount=self.price,
            mint=mint,
        )
        steps = changes.pop("steps", charge(transfer=transfer, text=f"mppx:{uuid4()}".encode()))
        raw = wire(
            steps,
            blockhash=prepared["recentBlockhash"],
            fee_payer=changes.pop("fee_payer", prepared["feePayer"]),
            signers=[self.buyer.wallet],
        )
        return base64.b64encode(raw).decode()

    def claim(self, transaction: str, /, **changes: Any) -> dict[str, Any]:
        body = {
            "transaction": transaction,
            "recipient": self.recipient,
            "amount": str(self.price),
            "asset": str(self.service.chain.mint),
            "network": "localnet",
            **changes,
        }
        return {name: value for name, value in body.items() if value is not ...}

    def settle(self, transaction: str, /, **changes: Any) -> dict[str, Any]:
        body = self.claim(transaction, **changes)
        answer = self.service.http.post("/mpp/settle", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture(name="shop")
def shop_fixture(service: Service) -> Shop:
    return Shop.of(service)


def has_no_null(value: Any) -> bool:
    match value:
        case dict():
            return all(has_no_null(item) for item in value.values())
        case list():
            return all(has_no_null(item) for item in value)
        case _:
            return value is not None


def refused(answer: dict[str, Any], code: str) -> str:
    """The detail of a refusal as the client's schema takes it."""
    assert answer["success"] is answer["ok"] is False
    assert (answer["error"], answer["errorCode"]) == (code, code), answer
    assert isinstance(answer["detail"], str)
    assert answer["detail"]
    assert has_no_null(answer)
    return answer["detail"]
