"""Server nonces: handed out with a challenge, good for one voucher.

A nonce carries its own proof (an HMAC under the deployment's key), so handing one out writes
nothing; spending one is a claim taken in the transaction that accepts the voucher. Buyers' SDKs
also make nonces of their own: those are ignored, unless the seller requires ours.
"""

import base64
import hashlib
import hmac
import os
from collections.abc import Set as AbstractSet
from typing import Final

from service.domain.errors import VoucherRejected
from service.domain.seller import Seller
from service.domain.units import UnixMillis

PREFIX: Final = "sln1."
LIFETIME_MILLIS: Final = 60 * 60 * 1_000
_TAG_BYTES: Final = 16
_RANDOM_BYTES: Final = 12
_TIME_BYTES: Final = 8


class Nonces:
    """Issues and recognises nonces with the deployment's key, the same in every process."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def issue(self, seller_id: str, now: UnixMillis) -> str:
        """A fresh nonce for one seller, valid for an hour."""
        body = (now + LIFETIME_MILLIS).to_bytes(_TIME_BYTES, "big") + os.urandom(_RANDOM_BYTES)
        return PREFIX + base64.urlsafe_b64encode(body + self._tag(seller_id, body)).decode()

    def issued_here(self, nonce: str) -> bool:
        """Whether it looks like one of ours; `check` proves it."""
        return nonce.startswith(PREFIX)

    def check(
        self, seller: Seller, nonce: str | None, spent: AbstractSet[str], now: UnixMillis
    ) -> None:
        """Refuse a nonce that is forged, expired, spent, or missing where the seller requires one.

        Raises:
            VoucherRejected: `nonce_unknown`.
        """
        if nonce is None or not self.issued_here(nonce):
            if seller.require_nonce:
                raise VoucherRejected("nonce_unknown")
            return
        if nonce in spent or not self._genuine(seller.seller_id, nonce, now):
            raise VoucherRejected("nonce_unknown")

    def _genuine(self, seller_id: str, nonce: str, now: UnixMillis) -> bool:
        try:
            raw = base64.urlsafe_b64decode(nonce.removeprefix(PREFIX))
        except ValueError:
            return False
        if PREFIX + base64.urlsafe_b64encode(raw).decode() != nonce:
            return False  # another spelling of the same bytes could be spent again
        body, tag = raw[:-_TAG_BYTES], raw[-_TAG_BYTES:]
        until = int.from_bytes(body[:_TIME_BYTES], "big")
        return hmac.compare_digest(tag, self._tag(seller_id, body)) and now < until

    def _tag(self, seller_id: str, body: bytes) -> bytes:
        message = seller_id.encode() + b"\x00" + body
        return hmac.digest(self._key, message, hashlib.sha256)[:_TAG_BYTES]
