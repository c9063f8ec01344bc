"""What the stand-in for the reference's buyer signs is what the reference signs."""

import base64
import json
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import VerifyKey
from solders.keypair import Keypair
from solders.message import to_bytes_versioned
from solders.transaction import VersionedTransaction

from tests.e2e.dexter_charge import charge_transaction
from tests.e2e.dexter_client import PlainError
from tests.e2e.dexter_signing import (
    NotASignerError,
    hostname,
    message_signer,
    partially_signed,
    sign_in_header,
    sign_in_text,
    signed_header,
    transaction_signer,
)

RECORDED = json.loads((Path(__file__).parents[1] / "vectors" / "dexter_client.json").read_text())
BUYER = Keypair.from_seed(bytes.fromhex(RECORDED["seed_hex"]))
WALLET = str(BUYER.pubkey())
CHALLENGE: dict[str, Any] = RECORDED["charge"]["challenge"]
CHARGE: str = RECORDED["charge"]["transaction"]
SIGN_IN: dict[str, str] = RECORDED["sign_in"]["fields"]


async def test_the_sign_in_header_is_the_recorded_one_byte_for_byte() -> None:
    assert await signed_header(SIGN_IN, message_signer(BUYER)) == RECORDED["sign_in"]["header"]


@pytest.mark.parametrize("network", ["devnet", "mainnet-beta", "localnet"])
async def test_a_sign_in_names_the_host_alone_and_holds_five_minutes(network: str) -> None:
    url = "http://127.0.0.1:8402/"
    header = await sign_in_header(url, network, WALLET, message_signer(BUYER))
    fields: dict[str, str] = json.loads(base64.b64decode(header))
    assert fields["domain"] == "127.0.0.1"
    assert fields["uri"] == "https://127.0.0.1/api/sessions/onboard"
    assert ("EtWTRAB" in fields["chainId"]) == (network == "devnet")
    assert re.fullmatch("[0-9a-f]{32}", fields["nonce"])
    assert re.fullmatch(r"[0-9-]{10}T[0-9:]{8}\.[0-9]{3}Z", fields["issuedAt"])
    begins, ends = (datetime.fromisoformat(fields[n]) for n in ("issuedAt", "expirationTime"))
    assert ends - begins == timedelta(minutes=5)
    assert list(fields) == [*SIGN_IN, "signature"]
    assert "\n\nURI: https://127.0.0.1/api/sessions/onboard\nVersion: 1\n" in sign_in_text(fields)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://127.0.0.1:8000/", "127.0.0.1"),
        ("http://[::1]:80", "[::1]"),
        ("https://X402.Dexter.cash/a", "x402.dexter.cash"),
    ],
)
def test_a_hostname_is_read_as_javascript_reads_it(url: str, name: str) -> None:
    assert hostname(url) == name


def said(transaction: str) -> list[Any]:
    """All that a transaction says, whatever the order of its keys."""
    message = VersionedTransaction.from_bytes(base64.b64decode(transaction)).message
    keys = message.account_keys
    instructions = [
        (keys[part.program_id_index], [keys[n] for n in part.accounts], bytes(part.data))
        for part in message.instructions
    ]
    writable = {str(key) for n, key in enumerate(keys) if message.is_maybe_writable(n)}
    return [keys[:2], message.header, message.recent_blockhash, writable, instructions]


def test_a_charge_says_exactly_what_the_recorded_one_says() -> None:
    ours = charge_transaction(CHALLENGE, BUYER)
    assert said(ours) == said(CHARGE)
    fees, buyers = VersionedTransaction.from_bytes(base64.b64decode(ours)).signatures
    assert bytes(fees) == bytes(64)
    message = VersionedTransaction.from_bytes(base64.b64decode(ours)).message
    VerifyKey(bytes(BUYER.pubkey())).verify(to_bytes_versioned(message), bytes(buyers))


@pytest.mark.parametrize("name", ["splToken", "feePayerKey", "recentBlockhash"])
def test_a_challenge_without_what_a_charge_needs_is_refused(name: str) -> None:
    details = {**CHALLENGE["methodDetails"], name: None}
    with pytest.raises(PlainError, match=f"methodDetails.{name}"):
        charge_transaction({**CHALLENGE, "methodDetails": details}, BUYER)


async def test_a_signature_changes_nothing_else_of_a_transaction() -> None:
    transaction = base64.b64decode(CHARGE)
    emptied = transaction[:65] + bytes(64) + transaction[129:]
    signed = await transaction_signer(BUYER)(base64.b64encode(emptied).decode())
    assert signed == CHARGE
    with pytest.raises(NotASignerError, match="is not expected to sign"):
        partially_signed(emptied, Keypair())
