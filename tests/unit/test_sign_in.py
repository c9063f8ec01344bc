"""SIGN-IN-WITH-X: the header of the reference is understood, and any other one is refused.

Texts, headers and signatures are put together here from the format's template; the two
`REFERENCE_SIGNATURE`s were made by @x402/extensions 2.9.0 itself.
"""

import base64
import json
from typing import Any

import pytest
from nacl.signing import SigningKey
from sign_in_rig import (
    BASIC,
    DEVNET,
    EXPIRES,
    ISSUED,
    ISSUED_MILLIS,
    KEY,
    NONCE,
    OPTIONAL,
    REFERENCE_SIGNATURE,
    WALLET,
    check,
    header_of,
)
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.signature import Signature

from session_ledger.encoding import base58_encode
from session_ledger.sign_in import SignInError, build, parse_header

MAINNET = "5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"
TEXT = f"""ledger.example wants you to sign in with your Solana account:
{WALLET}

URI: https://ledger.example/api/sessions/onboard
Version: 1
Chain ID: {DEVNET}
Nonce: {NONCE}
Issued At: {ISSUED}
Expiration Time: {EXPIRES}"""
TEXT_WITH_ALL = f"""ledger.example wants you to sign in with your Solana account:
{WALLET}

Zahle höchstens 5 USDC

URI: https://ledger.example/api/sessions/onboard
Version: 1
Chain ID: {DEVNET}
Nonce: {NONCE}
Issued At: {ISSUED}
Expiration Time: {EXPIRES}
Not Before: 2026-03-04T05:06:00.000Z
Request ID: r-1
Resources:
- https://a.example/1
- urn:b"""
REFERENCE_SIGNATURE_OF_ALL = (
    "5quzSM2ZQcjHQKtuycdVLpABEEoFEoNKSBaEgihiVoRTdBddoc85n64PWEkeXJ5rJ3xFq4oeqMFvHSmrxHgEy1aR"
)


def text_of(fields: dict[str, Any]) -> str:
    """The text that a wallet shows for these members, none of them optional ones."""
    return (
        f"{fields['domain']} wants you to sign in with your Solana account:\n{fields['address']}\n"
        f"\nURI: {fields['uri']}\nVersion: {fields['version']}\n"
        f"Chain ID: {str(fields['chainId']).partition(':')[2]}\nNonce: {fields['nonce']}\n"
        f"Issued At: {fields['issuedAt']}\nExpiration Time: {fields['expirationTime']}"
    )


def signed(key: SigningKey = KEY, text: str | None = None, **changes: Any) -> str:
    """A header whose signature is right for its members, or for `text`."""
    fields = {**BASIC, **changes}
    signature = key.sign((text or text_of(fields)).encode("utf-8", "replace")).signature
    return header_of({**fields, "signature": str(Signature(signature))})


def test_a_proof_of_the_reference_is_accepted() -> None:
    check(header_of({**BASIC, "signature": REFERENCE_SIGNATURE}))
    check(header_of({**BASIC, **OPTIONAL, "signature": REFERENCE_SIGNATURE_OF_ALL}))


def test_the_signed_text_is_the_references_with_and_without_optional_members() -> None:
    assert parse_header(header_of({**BASIC, "signature": "x"})).message == TEXT
    assert parse_header(header_of({**BASIC, **OPTIONAL, "signature": "x"})).message == TEXT_WITH_ALL


def test_an_empty_optional_member_is_not_in_the_signed_text() -> None:
    empty = {"statement": "", "notBefore": "", "requestId": "", "resources": []}
    assert parse_header(header_of({**BASIC, **empty, "signature": "x"})).message == TEXT
    check(header_of({**BASIC, **empty, "signature": REFERENCE_SIGNATURE}))


def test_our_header_is_the_references_byte_for_byte() -> None:
    made = build(
        KEY,
        domain="ledger.example",
        chain_id=f"solana:{DEVNET}",
        now_millis=ISSUED_MILLIS,
        nonce=NONCE,
    )
    body = {**BASIC, "signature": REFERENCE_SIGNATURE}
    text = json.dumps(body, separators=(",", ":"))
    assert made == base64.b64encode(text.encode()).decode()


def test_every_header_that_we_build_has_a_nonce_of_its_own() -> None:
    made = [
        build(KEY, domain="localhost", chain_id=f"solana:{DEVNET}", now_millis=ISSUED_MILLIS)
        for _ in range(2)
    ]
    nonces = {parse_header(header).nonce for header in made}
    assert len(nonces) == 2
    assert {len(nonce) for nonce in nonces} == {32}
    for header in made:
        check(header)


def test_an_ipv6_hostname_stands_in_brackets() -> None:
    uri = "https://[::1]/api/sessions/onboard"
    check(signed(domain="[::1]", uri=uri))
    check(signed(domain="[::1]", uri=uri), domains={"[::1]"})
    bare = signed(domain="::1", uri="https://::1/api/sessions/onboard")
    with pytest.raises(SignInError, match="hostname without a port"):
        check(bare)


def test_any_of_the_networks_chains_may_be_named() -> None:
    check(signed(chainId=f"solana:{MAINNET}"), chain_references={MAINNET, DEVNET})


def test_members_that_the_format_does_not_know_are_not_part_of_the_proof() -> None:
    check(header_of({**BASIC, "signature": REFERENCE_SIGNATURE, "extra": [1], "Domain": None}))


def test_times_without_milliseconds_are_times() -> None:
    check(signed(issuedAt="2026-03-04T05:06:07Z", expirationTime="2026-03-04T05:11:07Z"))


# Every member altered, and signed anew so that nothing but the member itself can be refused.
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"domain": "evil.example"}, "domain must be a hostname of this service"),
        ({"domain": "sub.ledger.example"}, "domain must be a hostname of this service"),
        ({"domain": "LEDGER.example"}, "domain must be a hostname of this service"),
        ({"domain": "localhost:8000"}, "hostname without a port"),
        ({"domain": "[::2]"}, "domain must be a hostname of this service"),
        ({"address": str(Keypair().pubkey())}, "address must be"),
        ({"uri": "http://ledger.example/api/sessions/onboard"}, "uri must be"),
        ({"uri": "https://ledger.example/api/sessions/onboard/confirm"}, "uri must be"),
        ({"uri": "https://ledger.example:8000/api/sessions/onboard"}, "uri must be"),
        ({"uri": "https://localhost/api/sessions/onboard"}, "uri must be"),
        ({"version": "2"}, "version must be 1"),
        ({"type": "eip191"}, "type must be ed25519"),
        ({"signatureScheme": "eip191"}, "signatureScheme must be siws"),
        ({"chainId": f"solana:{MAINNET}"}, "chainId must be"),
        ({"chainId": DEVNET}, "chainId must be"),
        ({"chainId": f"eip155:{DEVNET}"}, "chainId must be"),
        ({"chainId": f"solana:{DEVNET}:x"}, "chainId must be"),
        ({"nonce": "short"}, "nonce must be"),
        ({"nonce": "0" * 129}, "nonce must be"),
        ({"nonce": "0123 4567 89ab"}, "nonce must be"),
        ({"issuedAt": "2026-03-04 05:06:07.008Z"}, "issuedAt must be a time"),
        ({"issuedAt": "2026-03-04T05:06:07.008+00:00"}, "issuedAt must be a time"),
        ({"issuedAt": "2026-02-30T05:06:07.008Z"}, "issuedAt must be a time"),
        ({"issuedAt": "0000-03-04T05:06:07.008Z"}, "issuedAt must be a time"),
        ({"issuedAt": "2026-03-04T05:06:60.008Z"}, "issuedAt must be a time"),
        ({"issuedAt": "٢٠٢٦-03-04T05:06:07.008Z"}, "issuedAt must be a time"),
        ({"expirationTime": "tomorrow"}, "expirationTime must be a time"),
        ({"expirationTime": "2026-03-04T05:21:07.009Z"}, "at most 15 minutes"),
        ({"expirationTime": "9999-12-31T23:59:59.999Z"}, "at most 15 minutes"),
    ],
)
def test_a_proof_for_anything_else_is_refused(changes: dict[str, str], reason: str) -> None:
    with pytest.raises(SignInError, match=reason):
        check(signed(**changes))


def test_fifteen_minutes_are_the_longest_life_of_a_proof() -> None:
    check(signed(expirationTime="2026-03-04T05:21:07.008Z"))


# The same, with the old signature: whatever is altered on the way is noticed.
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("domain", "localhost"),
        ("uri", "https://localhost/api/sessions/onboard"),
        ("chainId", f"solana:{MAINNET}"),
        ("nonce", "f" * 32),
        ("issuedAt", "2026-03-04T05:06:07.009Z"),
        ("expirationTime", "2026-03-04T05:12:07.008Z"),
        ("statement", "Another"),
        ("notBefore", "2026-03-04T05:06:01.000Z"),
        ("requestId", "r-2"),
        ("resources", ["https://a.example/1"]),
        ("resources", ["https://a.example/1", "urn:b", ""]),
    ],
)
def test_an_altered_member_breaks_the_signature(name: str, value: object) -> None:
    body = {**BASIC, **OPTIONAL, "signature": REFERENCE_SIGNATURE_OF_ALL, name: value}
    if name in ("domain", "uri"):  # alone, each is refused before the signature is looked at
        body |= {"domain": "localhost", "uri": "https://localhost/api/sessions/onboard"}
    with pytest.raises(SignInError, match="signature is not the wallet's"):
        check(header_of(body), chain_references={MAINNET, DEVNET})


@pytest.mark.parametrize("name", sorted(OPTIONAL))
def test_a_removed_optional_member_breaks_the_signature(name: str) -> None:
    body = {**BASIC, **OPTIONAL, "signature": REFERENCE_SIGNATURE_OF_ALL}
    del body[name]
    with pytest.raises(SignInError, match="signature is not the wallet's"):
        check(header_of(body))


def test_another_wallets_key_proves_nothing() -> None:
    other = SigningKey(bytes(32))
    with pytest.raises(SignInError, match="signature is not the wallet's"):
        check(signed(other))
    with pytest.raises(SignInError, match="address must be"):
        check(signed(other, address=str(Pubkey(bytes(other.verify_key)))))


@pytest.mark.parametrize(
    "signature",
    [
        str(Pubkey.default()),
        "1" * 63,
        "1" * 65,
        base64.b64encode(bytes(64)).decode(),
        "0OIl",
        "2" * 129,
        REFERENCE_SIGNATURE + "1",
    ],
)
def test_a_signature_is_base58_of_64_bytes(signature: str) -> None:
    with pytest.raises(SignInError, match="signature must be base58 of 64 bytes"):
        check(header_of({**BASIC, "signature": signature}))


def test_a_signature_brings_no_text_of_its_own() -> None:
    longer = KEY.sign(b"Pay. " + TEXT.encode()).signature + b"Pay. "
    with pytest.raises(SignInError, match="signature must be base58 of 64 bytes"):
        check(header_of({**BASIC, "signature": base58_encode(longer)}))


def test_an_address_of_small_order_signs_nothing() -> None:
    """The identity point would verify any text with one and the same signature."""
    identity = str(Pubkey(bytes([1]) + bytes(31)))
    forged = {**BASIC, "address": identity, "signature": str(Signature(bytes([1]) + bytes(63)))}
    with pytest.raises(SignInError, match="signature is not the wallet's"):
        check(header_of(forged), wallet=identity)


def test_a_clock_may_be_a_minute_ahead_and_no_more() -> None:
    issued = {"now_seconds": ISSUED_MILLIS // 1_000 - 59}
    check(signed(), **issued)
    with pytest.raises(SignInError, match="issuedAt is in the future"):
        check(signed(), now_seconds=ISSUED_MILLIS // 1_000 - 61)


def test_a_proof_ends_at_its_expiration_time() -> None:
    header = signed(expirationTime="2026-03-04T05:11:07.000Z")
    end = (ISSUED_MILLIS - 8) // 1_000 + 300
    check(header, now_seconds=end - 1)
    with pytest.raises(SignInError, match="expired"):
        check(header, now_seconds=end)


def test_a_proof_that_ends_before_it_begins_is_none() -> None:
    header = signed(expirationTime=ISSUED)
    with pytest.raises(SignInError, match="at most 15 minutes after"):
        check(header, now_seconds=ISSUED_MILLIS // 1_000 - 30)


def test_a_proof_begins_at_not_before() -> None:
    later = "2026-03-04T05:07:00.000Z"
    text = f"{TEXT}\nNot Before: {later}"
    start = ISSUED_MILLIS // 1_000 + 53
    check(signed(text=text, notBefore=later), now_seconds=start)
    with pytest.raises(SignInError, match="notBefore is in the future"):
        check(signed(text=text, notBefore=later), now_seconds=start - 1)
    with pytest.raises(SignInError, match="notBefore must be a time"):
        check(signed(text=f"{TEXT}\nNot Before: later", notBefore="later"))
