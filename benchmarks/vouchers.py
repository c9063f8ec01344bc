"""Buyers whose keys follow from their names, and the vouchers that they sign."""

import hashlib
import json
from functools import cached_property
from typing import Any

from nacl.signing import SigningKey

from session_ledger.challenge import CHANNEL_PROGRAM, NETWORKS
from session_ledger.encoding import base58_encode
from session_ledger.voucher import sign_voucher

PRICE = 10
"""Atomic USDC for one request."""


def address(name: str) -> str:
    """A public key that follows from a name."""
    return base58_encode(bytes(_key(name).verify_key))


class Buyer:
    """One channel and the session key that signs for it."""

    def __init__(self, channel_id: str, recipient: str) -> None:
        self.channel_id = channel_id
        self.recipient = recipient

    @cached_property
    def _session_key(self) -> SigningKey:
        return _key(self.channel_id)

    @cached_property
    def payer(self) -> str:
        """The wallet that pays."""
        return address(f"wallet of {self.channel_id}")

    def voucher(self, number: int) -> dict[str, Any]:
        """The envelope that pays the `number`-th request of the channel."""
        return sign_voucher(
            {
                "channelId": self.channel_id,
                "payer": self.payer,
                "recipient": self.recipient,
                "cumulativeAmount": str(number * PRICE),
                "sequence": number,
                "meter": "request",
                "units": "1",
                "serverNonce": f"{self.channel_id}-{number}",
                "chainId": NETWORKS["localnet"].chain_id,
                "channelProgram": CHANNEL_PROGRAM,
            },
            self._session_key,
        )

    def body(self, number: int) -> bytes:
        """The same as a request body."""
        return json.dumps(self.voucher(number)).encode()


def _key(name: str) -> SigningKey:
    return SigningKey(hashlib.sha256(b"benchmark " + name.encode()).digest())
