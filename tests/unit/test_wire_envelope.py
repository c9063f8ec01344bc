"""The envelope of a signed voucher, in a body and in a header."""

import base64
import json
from typing import Any

import pytest
from nacl.signing import SigningKey

from session_ledger.ecmascript import UNDEFINED
from session_ledger.json_text import JsonTextError, Member
from session_ledger.voucher import (
    HEADER_CHARS_MAX,
    VOUCHER_DOMAIN,
    Envelope,
    message_bytes,
    parse_envelope,
    parse_header,
    sign_voucher,
)

KEY = SigningKey(bytes([42]) * 32)
FIELDS: dict[str, Any] = {"sequence": 1.0, "meter": "crème", "channelId": "ch_1"}
SIGNED: dict[str, Any] = sign_voucher(FIELDS, KEY)
RAW = json.dumps(SIGNED)


def assert_verifies(envelope: Envelope) -> None:
    voucher: Any = envelope.voucher
    KEY.verify_key.verify(message_bytes(voucher), base64.b64decode(str(envelope.signature)))


def test_the_signed_bytes_are_the_domain_and_the_canonical_text() -> None:
    assert VOUCHER_DOMAIN == "solana-mpp-session-voucher-v1:"
    text = '{"channelId":"ch_1","meter":"crème","sequence":1}'
    assert message_bytes(FIELDS) == (VOUCHER_DOMAIN + text).encode()


def test_what_a_buyer_signs_is_what_a_seller_reads() -> None:
    envelope = parse_envelope(RAW)
    assert envelope.voucher == FIELDS
    assert envelope.voucher_text == json.dumps(FIELDS)
    assert envelope.signer == SIGNED["signer"]
    assert envelope.signature_type == "ed25519"
    assert envelope.others == {}
    assert_verifies(envelope)


def test_the_voucher_text_is_kept_exactly_as_received() -> None:
    text = '{ "meter":\n"cr\\u00e8me" ,"channelId" : "ch_1", "sequence":1.0e0}'
    envelope = parse_envelope(RAW.replace(json.dumps(FIELDS), text))
    assert envelope.voucher_text == text
    assert_verifies(envelope)


def test_other_members_are_kept_with_their_text() -> None:
    raw = RAW[:-1] + ', "charge" : {"units" :"3"},"success":true}'
    assert parse_envelope(raw).others == {
        "charge": Member({"units": "3"}, '{"units" :"3"}'),
        "success": Member(True, "true"),
    }


def test_absent_members_differ_from_null_ones() -> None:
    envelope = parse_envelope('{"signer":null}')
    assert (envelope.signer, envelope.signature, envelope.voucher) == (None, UNDEFINED, UNDEFINED)
    assert envelope.voucher_text == ""


@pytest.mark.parametrize("raw", ["null", "1", '"x"', "[]", "[1]", "{}", "true"])
def test_json_without_members_is_an_empty_envelope(raw: str) -> None:
    assert parse_envelope(raw) == Envelope(UNDEFINED, "", UNDEFINED, UNDEFINED, UNDEFINED, {})


def test_a_repeated_voucher_counts_as_its_last_value_and_text() -> None:
    envelope = parse_envelope('{"voucher":{"channelId":"x"},' + RAW[1:])
    assert envelope.voucher_text == json.dumps(FIELDS)
    assert_verifies(envelope)


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"\xff{}", b"[" * 100_000, b'{"voucher":NaN}', b"{}x", b"[}", b"1 2"]
)
def test_what_is_not_json_is_no_envelope(raw: bytes) -> None:
    with pytest.raises(JsonTextError):
        parse_envelope(raw)


@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_header_is_read_as_latin_1(ascii_only: bool) -> None:
    wire = json.dumps(SIGNED, ensure_ascii=ascii_only).encode("latin-1")
    envelope = parse_header(wire.decode("latin-1"))
    assert envelope.voucher == FIELDS
    assert_verifies(envelope)


def test_an_oversized_header_is_refused() -> None:
    assert parse_header(RAW.ljust(HEADER_CHARS_MAX)).voucher == FIELDS
    with pytest.raises(JsonTextError, match="longer than 16384 characters"):
        parse_header(RAW.ljust(HEADER_CHARS_MAX + 1))
