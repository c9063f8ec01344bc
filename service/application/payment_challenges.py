"""Challenges for direct payments: a memo that says what a transfer is to buy, and until when.

A challenge carries its own proof (an HMAC under the deployment's key over seller, resource, price,
recipient and asset), so handing one out writes nothing, and whoever verifies need not know which
one was handed out: the transaction brings it along.
"""

import base64
import hashlib
import hmac
import os
from dataclasses import dataclass
from typing import Final

from service.domain.codec import canonical
from service.domain.units import AtomicUsdc

PREFIX: Final = "slp1."
_DOMAIN: Final = b"direct payment challenge\x00"
_TAG_BYTES: Final = 16
_RANDOM_BYTES: Final = 12
_TIME_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Quote:
    """What is for sale: the resource, its price in atomic units of `asset`, and whom to pay."""

    seller_id: str
    resource: str
    amount: AtomicUsdc
    pay_to: str
    asset: str


class PaymentChallenges:
    """Issues and recognises challenges with the deployment's key, the same in every process."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def issue(self, quote: Quote, until: int) -> str:
        """A fresh challenge: the payment must land before `until`, in Unix seconds."""
        body = until.to_bytes(_TIME_BYTES, "big") + os.urandom(_RANDOM_BYTES)
        return PREFIX + base64.urlsafe_b64encode(body + self._tag(quote, body)).decode()

    def looks_issued(self, memo: str) -> bool:
        """Whether it looks like one of ours; `issued` proves it."""
        return memo.startswith(PREFIX)

    def issued(self, quote: Quote, memo: str, at: int) -> bool:
        """Whether the memo is a challenge for just this quote, open at a moment (Unix seconds)."""
        if not self.looks_issued(memo):
            return False
        try:
            raw = base64.urlsafe_b64decode(memo.removeprefix(PREFIX))
        except ValueError:
            return False
        if len(raw) != _TIME_BYTES + _RANDOM_BYTES + _TAG_BYTES:
            return False
        body, tag = raw[:-_TAG_BYTES], raw[-_TAG_BYTES:]
        until = int.from_bytes(body[:_TIME_BYTES], "big")
        return hmac.compare_digest(tag, self._tag(quote, body)) and at < until

    def _tag(self, quote: Quote, body: bytes) -> bytes:
        told = [quote.seller_id, quote.resource, str(quote.amount), quote.pay_to, quote.asset]
        message = _DOMAIN + body + canonical(told)
        return hmac.digest(self._key, message, hashlib.sha256)[:_TAG_BYTES]
