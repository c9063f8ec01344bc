"""The Ed25519 part of verification: what is read as a signature, and what verifies."""

import base64
import json
from typing import Any

import pytest
from nacl.signing import SigningKey

from service.domain.errors import VoucherRejected
from service.domain.voucher import Expected, verify
from session_ledger.challenge import CHANNEL_PROGRAM, NETWORKS
from session_ledger.encoding import base58_encode
from session_ledger.voucher import VOUCHER_DOMAIN, message_bytes, parse_envelope, sign_voucher

KEY = SigningKey(bytes([42]) * 32)
SIGNER = base58_encode(bytes(KEY.verify_key))
RECIPIENT = base58_encode(bytes([7]) * 32)
EXPECTED = Expected(RECIPIENT, NETWORKS["devnet"].chain_id, CHANNEL_PROGRAM)
FIELDS: dict[str, Any] = {
    "channelId": "ch_1",
    "payer": base58_encode(bytes([9]) * 32),
    "recipient": RECIPIENT,
    "cumulativeAmount": "10000",
    "sequence": 1,
    "units": "1",
}
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493

# Every encoding, canonical or not, of the eight points of small order.
# Spec: "Taming the many EdDSAs" (2020), appendix; libsodium's own list has the same points.
SMALL_ORDER = [
    bytes.fromhex(text)
    for low, high in [
        ("00" * 31, "00"),
        ("01" + "00" * 30, "00"),
        ("ec" + "ff" * 30, "7f"),
        ("ed" + "ff" * 30, "7f"),
        ("ee" + "ff" * 30, "7f"),
        ("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc", "05"),
        ("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03", "7a"),
    ]
    for text in (low + high, low + f"{int(high, 16) | 0x80:02x}")
]


def signed(**changes: Any) -> dict[str, Any]:
    return dict(sign_voucher({**FIELDS, **changes}, KEY))


def refusal(body: Any) -> str:
    with pytest.raises(VoucherRejected) as caught:
        verify(parse_envelope(json.dumps(body)), EXPECTED)
    assert caught.value.error.partition(":")[0] == caught.value.reason
    return caught.value.error


def test_the_signature_comes_out_as_bytes_and_the_signer_in_its_only_spelling() -> None:
    body = signed()
    voucher = verify(parse_envelope(json.dumps(body)), EXPECTED)
    assert voucher.signature == base64.b64decode(body["signature"])
    assert voucher.signer == SIGNER


def test_every_spelling_of_the_base64_is_the_same_signature() -> None:
    body = signed()
    text = body["signature"]
    for spelling in (text, text.rstrip("="), f" {text[:40]}\n{text[40:]}\t"):
        body["signature"] = spelling
        voucher = verify(parse_envelope(json.dumps(body)), EXPECTED)
        assert voucher.signature == base64.b64decode(text)


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ("A" * 84, "bad signature size"),
        ("A" * 90, "bad signature size"),
        ("A" * 60_000, "bad signature size"),
        ("*" * 88, "Invalid character"),
        ("A" * 85, "The string to be decoded is not correctly encoded."),
        (25519, "The string to be decoded is not correctly encoded."),
        (True, "bad signature size"),
        ({}, "Invalid character"),
        ([], "signature must be a string"),
        ([signed()["signature"]], "signature must be a string"),
    ],
)
def test_an_unreadable_signature_is_refused(signature: Any, message: str) -> None:
    error = refusal({**signed(), "signature": signature})
    assert error == f"signature_verification_failed: {message}"


@pytest.mark.parametrize(
    ("signer", "message"),
    [
        (base58_encode(bytes([1]) * 31), "bad public key size"),
        ("1" + SIGNER, "bad public key size"),
        ("z" * 60_000, "bad public key size"),
        ("1" * 65, "bad public key size"),
        ("l" + SIGNER, "Invalid base58 character: l"),
        (f" {SIGNER}", "Invalid base58 character:  "),
        ("é", "Invalid base58 character: é"),
        ("\ud800", "Invalid base58 character: \ufffd"),
        (1, "str is not iterable"),
        (True, "str is not iterable"),
        ({}, "str is not iterable"),
        (list(SIGNER), "signer must be a string"),
        ([], "signer must be a string"),
    ],
)
def test_an_unreadable_signer_is_refused(signer: Any, message: str) -> None:
    error = refusal({**signed(), "signer": signer})
    assert error == f"signature_verification_failed: {message}"


def test_the_signatures_size_is_judged_before_the_keys() -> None:
    error = refusal({**signed(), "signature": "AAAA", "signer": "2"})
    assert error == "signature_verification_failed: bad signature size"


@pytest.mark.parametrize("name", [*FIELDS, "note"])
def test_no_field_can_be_changed_added_or_removed_after_signing(name: str) -> None:
    for change in ("other", 7, None):
        body = signed()
        body["voucher"][name] = change
        assert refusal(body) == "invalid_signature"
    if name in FIELDS:
        body = signed()
        del body["voucher"][name]
        assert refusal(body) == "invalid_signature"


def test_a_signature_for_another_domain_is_no_voucher() -> None:
    message = message_bytes(FIELDS).removeprefix(VOUCHER_DOMAIN.encode())
    for prefix in (b"", b"solana-mpp-session-voucher-v2:"):
        signature = base64.b64encode(KEY.sign(prefix + message).signature).decode()
        assert refusal({**signed(), "signature": signature}) == "invalid_signature"


def test_a_second_signature_made_by_adding_the_group_order_is_refused() -> None:
    body = signed()
    raw = base64.b64decode(body["signature"])
    scalar = int.from_bytes(raw[32:], "little") + GROUP_ORDER
    forged = raw[:32] + scalar.to_bytes(32, "little")
    body["signature"] = base64.b64encode(forged).decode()
    assert refusal(body) == "invalid_signature"


def test_no_key_of_small_order_verifies_anything() -> None:
    assert len(set(SMALL_ORDER)) == 14
    for number, key in enumerate(SMALL_ORDER):
        for commitment in SMALL_ORDER:
            body = {
                **signed(channelId=f"ch_{number}"),
                "signer": base58_encode(key),
                "signature": base64.b64encode(commitment + bytes(32)).decode(),
            }
            assert refusal(body) == "invalid_signature"
