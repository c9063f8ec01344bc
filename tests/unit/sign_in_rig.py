"""A proof of SIGN-IN-WITH-X whose signature, `REFERENCE_SIGNATURE`, @x402/extensions 2.9.0 made.

Names and times are the ones it was made with.
"""

import base64
import json
from typing import Any

from nacl.signing import SigningKey
from solders.pubkey import Pubkey

from session_ledger.sign_in import parse_header, verify

KEY = SigningKey(bytes(range(32)))
WALLET = str(Pubkey(bytes(KEY.verify_key)))
DEVNET = "EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
ISSUED = "2026-03-04T05:06:07.008Z"
EXPIRES = "2026-03-04T05:11:07.008Z"
ISSUED_MILLIS = 1_772_600_767_008
NOW = ISSUED_MILLIS // 1_000 + 30
NONCE = "0123456789abcdef0123456789abcdef"
DOMAINS = frozenset({"ledger.example", "localhost", "::1"})
BASIC = {
    "domain": "ledger.example",
    "address": WALLET,
    "uri": "https://ledger.example/api/sessions/onboard",
    "version": "1",
    "chainId": f"solana:{DEVNET}",
    "type": "ed25519",
    "nonce": NONCE,
    "issuedAt": ISSUED,
    "expirationTime": EXPIRES,
    "signatureScheme": "siws",
}
REFERENCE_SIGNATURE = (
    "4tLUSfATyPWV57iLUveEKNstnNXBcC1DsPXPPhPomhxvyhDAADPKGPDRYq93G5jQ1bGLiBAjfD4Egcs3kCro4RG5"
)
OPTIONAL = {
    "statement": "Zahle höchstens 5 USDC",
    "notBefore": "2026-03-04T05:06:00.000Z",
    "requestId": "r-1",
    "resources": ["https://a.example/1", "urn:b"],
}


def header_of(body: object) -> str:
    return base64.b64encode(json.dumps(body).encode()).decode()


def check(header: str, **changes: Any) -> None:
    """Parse and verify against this test's wallet, hostnames, network and time."""
    wanted: dict[str, Any] = {
        "wallet": WALLET,
        "domains": DOMAINS,
        "chain_references": {DEVNET},
        "now_seconds": NOW,
        **changes,
    }
    verify(parse_header(header), **wanted)
