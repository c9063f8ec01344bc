"""What the reference's buyer signs: the proof SIGN-IN-WITH-X, and transactions made by others.

Spec: @x402/extensions 2.9.0; `partiallySignTransaction` of @solana/kit 2.
"""

import base64
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import urlsplit
from uuid import uuid4

from solders.keypair import Keypair
from solders.message import from_bytes_versioned

from tests.e2e.dexter_javascript import base58_text, stringify

SIGN_IN_LIFETIME: Final = timedelta(minutes=5)
CHAIN_IDS: Final = {
    "devnet": "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1",
    "mainnet-beta": "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp",
}

SignMessage = Callable[[bytes], Awaitable[bytes]]
SignTransaction = Callable[[str], Awaitable[str]]


class NotASignerError(Exception):
    """The key is none of the transaction's required signers."""


def hostname(url: str) -> str:
    """`new URL(url).hostname`: lower case, no port, IPv6 in brackets."""
    name = urlsplit(url).hostname or ""
    return f"[{name}]" if ":" in name else name


async def sign_in_header(
    base_url: str, network: str, address: str, sign_message: SignMessage
) -> str:
    """A proof of ownership that holds for five minutes, however often it is sent."""
    domain, now = hostname(base_url), datetime.now(UTC)
    fields = {
        "domain": domain,
        "address": address,
        "uri": f"https://{domain}/api/sessions/onboard",
        "version": "1",
        "chainId": CHAIN_IDS["devnet" if network == "devnet" else "mainnet-beta"],
        "type": "ed25519",
        "nonce": uuid4().hex,
        "issuedAt": _iso(now),
        "expirationTime": _iso(now + SIGN_IN_LIFETIME),
        "signatureScheme": "siws",
    }
    return await signed_header(fields, sign_message)


async def signed_header(fields: dict[str, str], sign_message: SignMessage) -> str:
    """The header with these fields, whatever they say, and a signature over their text."""
    signature = await sign_message(sign_in_text(fields).encode())
    text = stringify({**fields, "signature": base58_text(signature)})
    return base64.b64encode(text.encode()).decode()


def sign_in_text(fields: dict[str, str]) -> str:
    """The text that the wallet signs."""
    return "\n".join(
        [
            f"{fields['domain']} wants you to sign in with your Solana account:",
            fields["address"],
            "",
            f"URI: {fields['uri']}",
            f"Version: {fields['version']}",
            f"Chain ID: {fields['chainId'].partition(':')[2]}",
            f"Nonce: {fields['nonce']}",
            f"Issued At: {fields['issuedAt']}",
            f"Expiration Time: {fields['expirationTime']}",
        ]
    )


def _iso(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def message_signer(key: Keypair) -> SignMessage:
    async def sign(message: bytes) -> bytes:
        return bytes(key.sign_message(message))

    return sign


def transaction_signer(key: Keypair) -> SignTransaction:
    async def sign(transaction: str) -> str:
        signed = partially_signed(base64.b64decode(transaction), key)
        return base64.b64encode(signed).decode()

    return sign


def partially_signed(transaction: bytes, key: Keypair) -> bytes:
    """The same transaction with this key's signature in its place.

    Raises:
        NotASignerError: the key is none of its required signers.
    """
    count = transaction[0]
    message = transaction[1 + 64 * count :]
    signers = from_bytes_versioned(message).account_keys[:count]
    if key.pubkey() not in signers:
        raise NotASignerError(f"{key.pubkey()} is not expected to sign this transaction")
    at = 1 + 64 * signers.index(key.pubkey())
    return transaction[:at] + bytes(key.sign_message(message)) + transaction[at + 64 :]
