"""A seller in memory for tests of the buyer's client: it judges vouchers as the ledger does."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
from nacl.signing import SigningKey, VerifyKey

from session_ledger.buyer import AutoPay, KeySigner
from session_ledger.challenge import Challenge
from session_ledger.encoding import atob, base58_decode, base58_encode
from session_ledger.voucher import VOUCHER_HEADER, message_bytes

PRICE = 10_000
KEY = SigningKey(bytes(range(32)))
OWNER = KeySigner(SigningKey(bytes(range(1, 33))))
RECIPIENT = base58_encode(bytes(range(2, 34)))
URL = "https://shop.example/weather"


class Lost(httpx.ReadTimeout):
    """The answer that never came."""

    def __init__(self) -> None:
        super().__init__("lost")


@dataclass
class Shop:
    """Answers 402 without a voucher, and 200 for each accepted one. `accepted` is its log."""

    price: int = PRICE
    network: str = "localnet"
    recipient: str = RECIPIENT
    accepted: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    shown: list[str] = field(default_factory=list[str])
    keys: list[str] = field(default_factory=list[str])
    lose: list[str] = field(default_factory=list[str])
    """What goes wrong with the next vouchers: the answer is lost `before` or `after` they are
    judged, they are refused (`refuse:CODE`), or they buy a status such as `500`."""
    judge: Callable[[dict[str, Any], str], dict[str, Any] | None] | None = None
    """A further check: gives the problem to answer with."""

    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        header = request.headers.get(VOUCHER_HEADER)
        if header is None:
            return self._unpaid({"code": "payment_required"})
        self.shown.append(header)
        self.keys.append(request.headers["idempotency-key"])
        fault = self.lose.pop(0) if self.lose else ""
        if fault == "before":
            raise Lost
        if fault.startswith("refuse:"):
            return self._unpaid({"code": fault.partition(":")[2], "verdict": "rejected"})
        problem = self._judged(json.loads(header))
        if fault == "after":
            raise Lost
        if problem is not None:
            return self._unpaid(problem)
        if fault:
            return httpx.Response(int(fault), json={"sorry": True})
        return httpx.Response(200, json={"served": len(self.accepted)})

    @property
    def paid(self) -> int:
        return sum(each["increment"] for each in self.accepted)

    def _unpaid(self, problem: dict[str, Any]) -> httpx.Response:
        challenge = Challenge.of(
            recipient=self.recipient, network=self.network, price_per_unit=self.price
        )
        return httpx.Response(402, json={**problem, **challenge.to_json()})

    def _judged(self, envelope: dict[str, Any]) -> dict[str, Any] | None:
        voucher = envelope["voucher"]
        message, signature = message_bytes(voucher), atob(envelope["signature"])
        VerifyKey(base58_decode(envelope["signer"])).verify(message, signature)
        assert voucher["recipient"] == self.recipient
        past = [each for each in self.accepted if each["channelId"] == voucher["channelId"]]
        amount = int(voucher["cumulativeAmount"])
        if any(each["message"] == message for each in past):
            return {"code": "amount_not_monotonic", "verdict": "replayed"}
        before = past[-1] if past else {"cumulative": 0, "sequence": 0, "signer": None}
        if amount <= before["cumulative"]:
            return {"code": "amount_not_monotonic", "verdict": "rejected"}
        if voucher["sequence"] <= before["sequence"]:
            return {"code": "sequence_not_monotonic", "verdict": "rejected"}
        if amount - before["cumulative"] < self.price:
            return {"code": "underpaid", "verdict": "rejected"}
        if self.judge is not None and (problem := self.judge(voucher, envelope["signer"])):
            return {"verdict": "rejected", **problem}
        self.accepted.append(
            {
                **voucher,
                "cumulative": amount,
                "increment": amount - before["cumulative"],
                "signer": envelope["signer"],
                "message": message,
            }
        )
        return None


def autopay(**changes: Any) -> AutoPay:
    """A client that may pay this shop, up to a hundred times."""
    given: dict[str, Any] = {
        "network": "localnet",
        "session_key": KEY,
        "payer": OWNER.address,
        "max_payment_amount": PRICE,
        "max_total": 100 * PRICE,
        "allowed_recipients": [RECIPIENT],
    }
    return AutoPay(**{**given, **changes})
