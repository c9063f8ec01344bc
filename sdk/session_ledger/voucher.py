"""The signed voucher: its envelope as it travels, and the bytes that are signed.

`{"voucher": {...}, "signature": base64, "signer": base58, "signatureType": "ed25519"}`, in a
request body or in the header `x-mpp-voucher`. Nothing is judged here: an envelope with missing
or absurd members is still an envelope, and the verdict belongs to whoever verifies it.

Spec: the reference SDK @dexterai/mpp 0.5.0; Ed25519 as in RFC 8032.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from nacl.signing import SigningKey

from session_ledger.canonical import canonical_text
from session_ledger.ecmascript import UNDEFINED, JsValue
from session_ledger.encoding import base58_encode
from session_ledger.json_text import (
    JsonTextError,
    JsonValue,
    Member,
    NotTheKindError,
    members,
    parse,
)

VOUCHER_DOMAIN: Final = "solana-mpp-session-voucher-v1:"
"""Starts every signed message, so that a signature for anything else is never a voucher."""

VOUCHER_HEADER: Final = "x-mpp-voucher"
RECEIPT_HEADER: Final = "x-mpp-receipt"
"""On an answer: the voucher that came with the request was taken, whatever else it says."""
HEADER_CHARS_MAX: Final = 16 * 1024
"""Longest header value that is read; Node allows no more for all headers together."""

SIGNATURE_TYPE: Final = "ed25519"

_NAMES: Final = frozenset({"voucher", "signature", "signer", "signatureType"})


@dataclass(frozen=True, slots=True)
class Envelope:
    """A signed voucher as it came, unjudged. Absent members are `UNDEFINED`."""

    voucher: JsValue
    voucher_text: str
    """The voucher exactly as received; empty when there is none."""
    signature: JsValue
    signer: JsValue
    signature_type: JsValue
    others: Mapping[str, Member]
    """Every other member by name, such as a seller's `charge`."""


def parse_envelope(text: str | bytes) -> Envelope:
    """The envelope in a request body.

    JSON that is not an object has none of the members, as in JavaScript.

    Raises:
        JsonTextError: the text is not JSON, or nested too deeply.
    """
    try:
        found = members(text)
    except NotTheKindError:
        parse(text)  # to tell other JSON from what is none
        found = {}
    voucher = found.get("voucher")
    return Envelope(
        voucher=UNDEFINED if voucher is None else voucher.value,
        voucher_text="" if voucher is None else voucher.text,
        signature=_value(found, "signature"),
        signer=_value(found, "signer"),
        signature_type=_value(found, "signatureType"),
        others={name: part for name, part in found.items() if name not in _NAMES},
    )


def parse_header(value: str) -> Envelope:
    """The envelope in an `x-mpp-voucher` header, whose bytes were decoded as Latin-1.

    Raises:
        JsonTextError: as for `parse_envelope`, or longer than `HEADER_CHARS_MAX`.
    """
    if len(value) > HEADER_CHARS_MAX:
        raise JsonTextError(f"longer than {HEADER_CHARS_MAX} characters")
    return parse_envelope(value)


def message_bytes(voucher: JsonValue) -> bytes:
    """The bytes that a voucher's signature covers: domain, then canonical text, in UTF-8."""
    return (VOUCHER_DOMAIN + canonical_text(voucher)).encode()


def sign_voucher(fields: Mapping[str, JsonValue], signing_key: SigningKey) -> dict[str, JsonValue]:
    """The envelope of a voucher with these fields, ready for `json.dumps`. The buyer's side."""
    voucher = dict(fields)
    signature = signing_key.sign(message_bytes(voucher)).signature
    return {
        "voucher": voucher,
        "signature": base64.b64encode(signature).decode(),
        "signer": base58_encode(bytes(signing_key.verify_key)),
        "signatureType": SIGNATURE_TYPE,
    }


def _value(found: Mapping[str, Member], name: str) -> JsValue:
    part = found.get(name)
    return UNDEFINED if part is None else part.value
