"""Verification without a session: each check, its text, and its place in the order."""

import base64
import hashlib
import json
from typing import Any

import pytest
from nacl.signing import SigningKey

from service.domain.errors import VoucherRejected
from service.domain.limits import SAFE_INTEGER_MAX, U64_MAX, VOUCHER_BYTES_MAX
from service.domain.voucher import Expected, VerifiedVoucher, verify
from session_ledger.challenge import CHANNEL_PROGRAM, NETWORKS
from session_ledger.encoding import base58_encode
from session_ledger.voucher import message_bytes, parse_envelope, sign_voucher

KEY = SigningKey(bytes([42]) * 32)
SIGNER = base58_encode(bytes(KEY.verify_key))
RECIPIENT = base58_encode(bytes([7]) * 32)
PAYER = base58_encode(bytes([9]) * 32)
EXPECTED = Expected(RECIPIENT, NETWORKS["devnet"].chain_id, CHANNEL_PROGRAM)
FIELDS: dict[str, Any] = {
    "channelId": "ch_1",
    "payer": PAYER,
    "recipient": RECIPIENT,
    "cumulativeAmount": "10000",
    "sequence": 1,
    "meter": "request",
    "units": "1",
    "serverNonce": "n-1",
    "chainId": EXPECTED.chain_id,
    "channelProgram": CHANNEL_PROGRAM,
}
ABSENT = object()


def signed(**changes: Any) -> dict[str, Any]:
    fields = {name: value for name, value in {**FIELDS, **changes}.items() if value is not ABSENT}
    return dict(sign_voucher(fields, KEY))


def judged(body: Any) -> VerifiedVoucher:
    return verify(parse_envelope(json.dumps(body)), EXPECTED)


def refusal(body: Any) -> str:
    with pytest.raises(VoucherRejected) as caught:
        judged(body)
    assert caught.value.error.partition(":")[0] == caught.value.reason
    return caught.value.error


def test_a_good_voucher_comes_out_typed() -> None:
    body = signed(expiresAt=1_800_000_000)
    assert judged(body) == VerifiedVoucher(
        channel_id="ch_1",
        payer=PAYER,
        recipient=RECIPIENT,
        cumulative_amount=10_000,
        sequence=1,
        meter="request",
        units=1,
        server_nonce="n-1",
        expires_at=1_800_000_000,
        signer=SIGNER,
        signature=base64.b64decode(body["signature"]),
        voucher_text=json.dumps(body["voucher"]),
        message_hash=hashlib.sha256(message_bytes(body["voucher"])).digest(),
    )


def test_the_voucher_text_is_kept_exactly_as_received() -> None:
    text = json.dumps(FIELDS, indent=3).replace('"sequence": 1', '"sequence"\n: 1.0e0')
    signature = json.dumps(signed())[1:].partition('"signature"')[2]
    raw = f'{{"voucher" :\t{text} , "signature"{signature}'
    assert verify(parse_envelope(raw), EXPECTED).voucher_text == text


# --- shape and signature type


@pytest.mark.parametrize("name", ["voucher", "signature", "signer"])
@pytest.mark.parametrize("value", [ABSENT, None, "", 0, -0.0, False])
def test_a_missing_or_falsy_member_is_missing(name: str, value: Any) -> None:
    body = {**signed(), "signatureType": "none", name: value}
    if value is ABSENT:
        del body[name]
    assert refusal(body) == "missing_voucher_fields"


@pytest.mark.parametrize("body", [None, 1, "x", True, [], [signed()], {}])
def test_json_that_is_no_envelope_misses_its_fields(body: Any) -> None:
    assert refusal(body) == "missing_voucher_fields"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (ABSENT, "undefined"),
        (None, "null"),
        ({}, "[object Object]"),
        (["a", 1], "a,1"),
        ("Ed25519", "Ed25519"),
        ("a\ud800", "a\ufffd"),
        ("x" * 10_000, "x" * 256),
    ],
)
def test_another_signature_type_is_named_before_the_signature_is_read(
    given: Any, named: str
) -> None:
    body = {**signed(), "signature": "***", "signatureType": given}
    if given is ABSENT:
        del body["signatureType"]
    assert refusal(body) == f"unsupported_signature_type: {named}"


@pytest.mark.parametrize("filler", ["x" * VOUCHER_BYTES_MAX, "é" * (VOUCHER_BYTES_MAX // 2)])
def test_an_oversized_voucher_is_refused_before_it_is_hashed(filler: str) -> None:
    body = {**signed(), "signature": "A" * 86}  # does not verify; the size must speak first
    body["voucher"]["note"] = filler
    raw = json.dumps(body, ensure_ascii=False)
    with pytest.raises(VoucherRejected, match="malformed_voucher: voucher must be at most 8192"):
        verify(parse_envelope(raw), EXPECTED)


def test_a_voucher_of_the_largest_size_is_accepted() -> None:
    room = VOUCHER_BYTES_MAX - len(json.dumps({**FIELDS, "note": ""}))
    assert len(judged(signed(note="x" * room)).voucher_text) == VOUCHER_BYTES_MAX
    assert refusal(signed(note="x" * (room + 1))).startswith("malformed_voucher: voucher")


# --- recipient, network, program


@pytest.mark.parametrize(
    ("recipient", "named"),
    [
        (PAYER, PAYER),
        (ABSENT, "undefined"),
        (None, "null"),
        (5, "5"),
        (True, "true"),
        ([RECIPIENT], RECIPIENT),
        ([RECIPIENT, None, [1.0, {}]], f"{RECIPIENT},,1,[object Object]"),
        ({"a": 1}, "[object Object]"),
        ("\ud800", "\ufffd"),
        (f"{RECIPIENT} ", f"{RECIPIENT} "),
    ],
)
def test_a_voucher_for_another_recipient_is_refused(recipient: Any, named: str) -> None:
    error = refusal(signed(recipient=recipient))
    assert error == f"recipient_mismatch: expected {RECIPIENT}, got {named}"


@pytest.mark.parametrize("voucher", ["hello", 5, True, [], [RECIPIENT], {}])
def test_a_signed_value_that_is_no_voucher_has_no_recipient(voucher: Any) -> None:
    body = signed()
    signature = KEY.sign(message_bytes(voucher)).signature
    body |= {"voucher": voucher, "signature": base64.b64encode(signature).decode()}
    assert refusal(body) == f"recipient_mismatch: expected {RECIPIENT}, got undefined"


@pytest.mark.parametrize(
    ("field", "code", "wanted"),
    [
        ("chainId", "network_mismatch", EXPECTED.chain_id),
        ("channelProgram", "program_mismatch", CHANNEL_PROGRAM),
    ],
)
def test_another_network_or_program_is_refused_and_none_is_allowed(
    field: str, code: str, wanted: str
) -> None:
    for given, named in [("solana:x", "solana:x"), (None, "null"), ("", ""), ([wanted], wanted)]:
        assert refusal(signed(**{field: given})) == f"{code}: expected {wanted}, got {named}"
    assert judged(signed(**{field: ABSENT})).channel_id == "ch_1"


def test_the_checks_run_in_the_documented_order() -> None:
    wrong: dict[str, Any] = {
        "recipient": "r",
        "chainId": "c",
        "channelProgram": "p",
        "sequence": -1,
    }
    codes = ["recipient_mismatch", "network_mismatch", "program_mismatch", "malformed_voucher"]
    for code, field in zip(codes, list(wrong), strict=True):
        assert refusal(signed(**wrong)).startswith(f"{code}: ")
        del wrong[field]
    assert judged(signed(**wrong))


# --- fields


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", 0),
        ("1", 1),
        ("-1", -1),
        (str(2**53 + 1), 2**53 + 1),
        (str(2**63), 2**63),
        (str(U64_MAX), U64_MAX),
        (str(-U64_MAX), -U64_MAX),
    ],
)
def test_amounts_up_to_u64_are_exact(text: str, amount: int) -> None:
    assert judged(signed(cumulativeAmount=text)).cumulative_amount == amount


@pytest.mark.parametrize(
    "amount",
    [
        ABSENT, None, True, 10_000, 1.5, [], ["5"], {}, "", " 10 ", "+5", "0x10", "010", "-0", "00",
        "1.5", "1e5", "abc", "1_000", "१२", "10\n", "--1", str(U64_MAX + 1), str(-U64_MAX - 1),
        "9" * 5_000,
    ],
)  # fmt: skip
def test_any_other_amount_is_malformed(amount: Any) -> None:
    error = refusal(signed(cumulativeAmount=amount))
    assert error.startswith("malformed_voucher: cumulativeAmount must be ")


@pytest.mark.parametrize(
    ("literal", "sequence"),
    [
        ("0", 0),
        ("-0", 0),
        ("1.0", 1),
        ("2e3", 2_000),
        (str(SAFE_INTEGER_MAX), SAFE_INTEGER_MAX),
        ("9007199254740991.0", SAFE_INTEGER_MAX),
    ],
)
def test_a_sequence_is_any_spelling_of_a_safe_integer(literal: str, sequence: int) -> None:
    body = json.dumps(signed(sequence=float(literal)))
    raw = body.replace(f'"sequence": {float(literal)}', f'"sequence": {literal}')
    assert verify(parse_envelope(raw), EXPECTED).sequence == sequence


@pytest.mark.parametrize(
    "sequence", [ABSENT, None, True, False, "1", -1, 1.5, 2**53, 1e300, [], {}, [1]]
)
def test_any_other_sequence_is_malformed(sequence: Any) -> None:
    error = refusal(signed(sequence=sequence))
    assert error == "malformed_voucher: sequence must be an integer from 0 to 2^53-1"


def test_an_infinite_number_is_malformed() -> None:
    raw = json.dumps(signed(sequence=None)).replace('"sequence": null', '"sequence": 1e400')
    with pytest.raises(VoucherRejected, match="sequence must be an integer"):
        verify(parse_envelope(raw), EXPECTED)


@pytest.mark.parametrize(
    ("given", "units"),
    [
        (ABSENT, 1),
        (None, 1),
        ("", 1),
        ("1", 1),
        ("30", 30),
        (3, 3),
        (2.0, 2),
        (str(U64_MAX), U64_MAX),
    ],
)
def test_units_default_to_one(given: Any, units: int) -> None:
    assert judged(signed(units=given)).units == units


@pytest.mark.parametrize(
    "units",
    [
        "0", "-1", "+1", "01", "1.5", "1e3", " 1", "१", "abc", 0, -1, 1.5, 2**60, True, False, [],
        {}, str(U64_MAX + 1), "9" * 5_000,
    ],
)  # fmt: skip
def test_any_other_units_are_malformed(units: Any) -> None:
    assert refusal(signed(units=units)).startswith("malformed_voucher: units must be ")


@pytest.mark.parametrize(
    "channel_id", ["x", "__proto__", "Ä", "ä", "😀" * 128, " ", "a/b?c", "\x01"]
)
def test_channel_ids_are_the_buyers_strings(channel_id: str) -> None:
    assert judged(signed(channelId=channel_id)).channel_id == channel_id


@pytest.mark.parametrize("name", ["channelId", "payer"])
@pytest.mark.parametrize("value", [ABSENT, None, "", 1, True, [], {}, "a\0", "a\ud800", "x" * 129])
def test_a_channel_id_and_a_payer_are_required_and_storable(name: str, value: Any) -> None:
    error = refusal(signed(**{name: value}))
    assert error.startswith(f"malformed_voucher: {name} must be a string of 1 to 128 characters")


@pytest.mark.parametrize(("name", "chars_max"), [("meter", 64), ("serverNonce", 128)])
def test_meter_and_nonce_are_optional_storable_strings(name: str, chars_max: int) -> None:
    attribute = {"meter": "meter", "serverNonce": "server_nonce"}[name]
    for empty in (ABSENT, None, ""):
        assert getattr(judged(signed(**{name: empty})), attribute) is None
    for text in ("é" * chars_max, 'a"\\\n\x01\x7f\u2028', "トークン·😀"):
        assert getattr(judged(signed(**{name: text})), attribute) == text
    for wrong in (1, False, [], {}, "a\0", "\udfff", "x" * (chars_max + 1)):
        assert refusal(signed(**{name: wrong})).startswith(f"malformed_voucher: {name} must be ")


@pytest.mark.parametrize(
    ("given", "seconds"), [(ABSENT, None), (None, None), (0, 0), (1.8e9, 1_800_000_000)]
)
def test_an_expiry_is_read(given: Any, seconds: int | None) -> None:
    assert judged(signed(expiresAt=given)).expires_at == seconds


@pytest.mark.parametrize("expiry", ["2000-01-01T00:00:00Z", "1800000000", 1.5, -1, True, [], 2**53])
def test_an_expiry_that_is_not_understood_is_never_ignored(expiry: Any) -> None:
    error = refusal(signed(expiresAt=expiry))
    assert error == "malformed_voucher: expiresAt must be an integer of Unix seconds"


def test_unknown_fields_are_allowed_when_they_are_signed() -> None:
    extra = {"zzz": {"b": [1, {"d": 1, "c": None}]}, "10": 1.0, "9": "\ud800", "é": 1e21}
    assert judged(signed(**extra)).cumulative_amount == 10_000
