"""From an unjudged envelope to a voucher whose signature, recipient and network are right.

Only what needs no session is decided here, in the order of the reference: shape, signature type,
signature, recipient; then ours: network and program, and the form of each field. Whether the
amount rises, suffices and is covered is the session's to say.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from nacl.bindings import crypto_sign_BYTES, crypto_sign_open, crypto_sign_PUBLICKEYBYTES
from nacl.exceptions import BadSignatureError

from service.domain.errors import VoucherRejected
from service.domain.limits import (
    CHANNEL_ID_CHARS_MAX,
    METER_CHARS_MAX,
    SAFE_INTEGER_MAX,
    U64_MAX,
    VOUCHER_BYTES_MAX,
)
from session_ledger.ecmascript import (
    UNDEFINED,
    JsValue,
    Undefined,
    is_truthy,
    member,
    string_of,
)
from session_ledger.encoding import Base58Error, Base64Error, atob, base58_decode
from session_ledger.grant import is_grant_id
from session_ledger.json_text import JsonValue
from session_ledger.voucher import SIGNATURE_TYPE, Envelope, message_bytes

_SIGNATURE_CHARS_MAX: Final = 256  # 64 bytes are 88 characters; the rest is room for line breaks
_SIGNER_CHARS_MAX: Final = 64  # 32 bytes are at most 44 characters
_SIGNATURE_TYPE_CHARS_MAX: Final = 256
_PAYER_CHARS_MAX: Final = 128
_NONCE_CHARS_MAX: Final = 128

_SIGNED_DIGITS: Final = re.compile(r"(?:0|-?[1-9][0-9]{0,19})\Z", re.ASCII)
_POSITIVE_DIGITS: Final = re.compile(r"[1-9][0-9]{0,19}\Z", re.ASCII)
_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")
_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Expected:
    """What every voucher for one seller must name."""

    recipient: str
    chain_id: str
    channel_program: str


@dataclass(frozen=True, slots=True)
class VerifiedVoucher:
    """A voucher that its signer did sign, for this seller, on this network.

    Amounts are atomic USDC. `cumulative_amount` may be negative: the reference calls such a
    voucher underpaid, which takes a price to say.
    """

    channel_id: str
    payer: str
    recipient: str
    cumulative_amount: int
    sequence: int
    meter: str | None
    units: int
    server_nonce: str | None
    expires_at: int | None
    """Unix seconds."""
    signer: str
    """Base58 of 32 bytes, in its only spelling."""
    signature: bytes
    """64 bytes."""
    voucher_text: str
    """JSON exactly as received."""
    message_hash: bytes
    """SHA-256 of the bytes that were signed: what makes two vouchers the same."""
    grant_id: str | None = None
    """The session grant that the voucher names."""


def verify(envelope: Envelope, expected: Expected) -> VerifiedVoucher:
    """The voucher in `envelope`, or the first thing that is wrong with it.

    Raises:
        VoucherRejected: with the reference's code and text where it has the check, otherwise
            `network_mismatch`, `program_mismatch` or `malformed_voucher`.

    Spec: reference `verifyVoucher`, steps 1 to 5.
    """
    voucher = _shaped_voucher(envelope)
    message = message_bytes(voucher)
    signature = _verified_signature(envelope, message)
    _check_equal("recipient_mismatch", member(voucher, "recipient"), expected.recipient)
    _check_optional("network_mismatch", member(voucher, "chainId"), expected.chain_id)
    _check_optional("program_mismatch", member(voucher, "channelProgram"), expected.channel_program)
    return VerifiedVoucher(
        channel_id=_text(voucher, "channelId", CHANNEL_ID_CHARS_MAX),
        payer=_text(voucher, "payer", _PAYER_CHARS_MAX),
        recipient=expected.recipient,
        cumulative_amount=_cumulative_amount(voucher),
        sequence=_sequence(voucher),
        meter=_optional_text(voucher, "meter", METER_CHARS_MAX),
        units=_units(voucher),
        server_nonce=_optional_text(voucher, "serverNonce", _NONCE_CHARS_MAX),
        expires_at=_expires_at(voucher),
        signer=string_of(envelope.signer),
        signature=signature,
        voucher_text=envelope.voucher_text,
        message_hash=hashlib.sha256(message).digest(),
        grant_id=_grant_id(voucher),
    )


def _shaped_voucher(envelope: Envelope) -> JsonValue:
    voucher = envelope.voucher
    present = is_truthy(voucher) and is_truthy(envelope.signature) and is_truthy(envelope.signer)
    if isinstance(voucher, Undefined) or not present:
        raise VoucherRejected("missing_voucher_fields")
    if envelope.signature_type != SIGNATURE_TYPE:
        named = string_of(envelope.signature_type)[:_SIGNATURE_TYPE_CHARS_MAX]
        raise _rejected("unsupported_signature_type", named)
    text = envelope.voucher_text
    size = len(text) if text.isascii() else len(text.encode())
    if size > VOUCHER_BYTES_MAX:
        raise _malformed("voucher", f"at most {VOUCHER_BYTES_MAX} bytes of JSON")
    return voucher


def _verified_signature(envelope: Envelope, message: bytes) -> bytes:
    """The 64 bytes, after they were checked against the whole message.

    libsodium also refuses S >= L and keys of small order, which the reference lets pass: with
    those, one voucher has many signatures, or any voucher verifies. Nothing may use another
    verifier, nor take a signature for the identity of a voucher.
    """
    try:
        signature = _signature_bytes(envelope.signature)
        key = _key_bytes(envelope.signer)
    except (Base64Error, Base58Error) as error:
        raise _rejected("signature_verification_failed", str(error)) from None
    if len(signature) != crypto_sign_BYTES:
        raise _rejected("signature_verification_failed", "bad signature size")
    if len(key) != crypto_sign_PUBLICKEYBYTES:
        raise _rejected("signature_verification_failed", "bad public key size")
    try:
        crypto_sign_open(signature + message, key)
    except BadSignatureError:
        raise VoucherRejected("invalid_signature") from None
    return signature


@lru_cache(8_192)  # a session keeps its signer, so the same few keys come again and again
def _decoded_key(text: str) -> bytes:
    return base58_decode(text)


def _signature_bytes(value: JsValue) -> bytes:
    text = string_of(value)
    if isinstance(value, list):  # the reference joins it, so that ["..."] would verify
        raise Base64Error("signature must be a string")
    return atob(text) if len(text) <= _SIGNATURE_CHARS_MAX else b""


def _key_bytes(value: JsValue) -> bytes:
    if isinstance(value, str):
        return _decoded_key(value) if len(value) <= _SIGNER_CHARS_MAX else b""
    if isinstance(value, list):  # the reference decodes its items, and then never matches it
        raise Base58Error("signer must be a string")
    raise Base58Error("str is not iterable")


def _check_equal(reason: str, value: JsValue, wanted: str) -> None:
    if value != wanted:
        raise _rejected(reason, f"expected {wanted}, got {string_of(value)}")


def _check_optional(reason: str, value: JsValue, wanted: str) -> None:
    if value is not UNDEFINED:
        _check_equal(reason, value, wanted)


def _text(voucher: JsValue, name: str, chars_max: int) -> str:
    value = member(voucher, name)
    if isinstance(value, str) and 0 < len(value) <= chars_max and not _UNSTORABLE.search(value):
        return value
    raise _malformed(
        name, f"a string of 1 to {chars_max} characters, without NUL or lone surrogates"
    )


def _optional_text(voucher: JsValue, name: str, chars_max: int) -> str | None:
    value = member(voucher, name)
    if value is None or value is UNDEFINED or value == "":
        return None
    return _text(voucher, name, chars_max)


def _cumulative_amount(voucher: JsValue) -> int:
    value = member(voucher, "cumulativeAmount")
    if (
        isinstance(value, str)
        and _SIGNED_DIGITS.match(value)
        and abs(amount := int(value)) <= U64_MAX
    ):
        return amount
    raise _malformed("cumulativeAmount", "a string of digits without a leading 0, at most 2^64-1")


def _sequence(voucher: JsValue) -> int:
    sequence = _integer(member(voucher, "sequence"))
    if sequence is not None:
        return sequence
    raise _malformed("sequence", "an integer from 0 to 2^53-1")


def _units(voucher: JsValue) -> int:
    value = member(voucher, "units")
    if value is None or value is UNDEFINED or value == "":
        return 1
    if isinstance(value, str):
        units = int(value) if _POSITIVE_DIGITS.match(value) else None
    else:
        units = _integer(value)
    if units is not None and 0 < units <= U64_MAX:
        return units
    raise _malformed("units", "a positive integer without a leading 0, at most 2^64-1")


def _expires_at(voucher: JsValue) -> int | None:
    value = member(voucher, "expiresAt")
    if value is None or value is UNDEFINED:
        return None
    if (seconds := _integer(value)) is not None:
        return seconds
    raise _malformed("expiresAt", "an integer of Unix seconds")


def _grant_id(voucher: JsValue) -> str | None:
    value = member(voucher, "grantId")
    if value is None or value is UNDEFINED:
        return None
    if isinstance(value, str) and is_grant_id(value):
        return value
    raise _malformed("grantId", "the id of a session grant, 43 characters of base64url")


def _integer(value: JsValue) -> int | None:
    """The JSON number `value` if it is an integer from 0 to 2^53-1, however it was written."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if 0 <= value <= SAFE_INTEGER_MAX and value == int(value):
        return int(value)
    return None


def _malformed(field: str, wanted: str) -> VoucherRejected:
    return _rejected("malformed_voucher", f"{field} must be {wanted}")


def _rejected(reason: str, rest: str) -> VoucherRejected:
    """Lone surrogates of the buyer's text become U+FFFD: the verdict has to be encodable."""
    return VoucherRejected(reason, _LONE_SURROGATE.sub("\ufffd", f"{reason}: {rest}"))
