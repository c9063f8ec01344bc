"""Strict readers of single members, shared by the dialects. Sizes are checked before decoding."""

import binascii
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from session_ledger.encoding import Base58Error, base58_decode
from session_ledger.json_text import SAFE_INTEGER_MAX, JsonValue
from session_ledger.x402.amounts import U64_MAX

JsonObject: TypeAlias = "Mapping[str, JsonValue]"

URL_CHARS_MAX: Final = 2_048
NAME_CHARS_MAX: Final = 128
TEXT_CHARS_MAX: Final = 2_048
OBJECT_CHARS_MAX: Final = 8_192
"""Longest `extra` or `outputSchema`, as JSON text."""
MEMO_BYTES_MAX: Final = 256

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
_KEY_CHARS: Final = (32, 44)
_SIGNATURE_CHARS: Final = (64, 88)

_AMOUNT: Final = re.compile(r"(?:0|[1-9][0-9]{0,19})\Z", re.ASCII)
_BASE64: Final = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?\Z")
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")
"""What no database and no UTF-8 text can hold."""


class WireError(ValueError):
    """One member is missing or malformed. The message names it and does not quote it."""


def object_of(value: JsonValue, name: str) -> dict[str, JsonValue]:
    """An object."""
    if isinstance(value, dict):
        return value
    raise WireError(f"{name} must be an object")


def list_of(members: JsonObject, name: str, *, items_max: int) -> list[JsonValue]:
    """An array of limited length."""
    value = members.get(name)
    if isinstance(value, list) and len(value) <= items_max:
        return value
    raise WireError(f"{name} must be an array of at most {items_max} items")


def flag_of(members: JsonObject, name: str) -> bool:
    """True or false."""
    value = members.get(name)
    if isinstance(value, bool):
        return value
    raise WireError(f"{name} must be true or false")


def name_of(members: JsonObject, name: str) -> str:
    """A short string of printable characters, not blank."""
    value = members.get(name)
    if isinstance(value, str) and len(value) <= NAME_CHARS_MAX and value.strip():
        if _UNPRINTABLE.search(value):
            raise WireError(f"{name} must hold printable characters only")
        return value
    raise WireError(f"{name} must be a string of 1 to {NAME_CHARS_MAX} characters")


def optional_text(members: JsonObject, name: str) -> str | None:
    """A text for people; null is absent."""
    value = members.get(name)
    if value is None:
        return None
    if isinstance(value, str) and len(value) <= TEXT_CHARS_MAX and not _UNSTORABLE.search(value):
        return value
    raise WireError(f"{name} must be a string of at most {TEXT_CHARS_MAX} characters")


def optional_object(members: JsonObject, name: str) -> dict[str, JsonValue] | None:
    """An object of limited size whose texts can be stored; null is absent."""
    value = members.get(name)
    if value is None:
        return None
    found = object_of(value, name)
    try:
        size = len(json.dumps(found, allow_nan=False))
    except ValueError:
        raise WireError(f"{name} must hold finite numbers only") from None
    if size > OBJECT_CHARS_MAX:
        raise WireError(f"{name} must be at most {OBJECT_CHARS_MAX} characters of JSON")
    if not _is_storable(found):
        raise WireError(f"{name} must hold no NUL and no lone surrogate")
    return found


def amount_of(members: JsonObject, name: str) -> int:
    """Atomic units: a decimal string of at most 2^64-1."""
    value = members.get(name)
    if isinstance(value, str) and _AMOUNT.match(value) and (amount := int(value)) <= U64_MAX:
        return amount
    raise WireError(f"{name} must be a string of digits without a leading 0, at most 2^64-1")


def positive_of(members: JsonObject, name: str) -> int:
    """A whole JSON number greater than zero. `30.0` is whole, as it is in JavaScript."""
    value = members.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= SAFE_INTEGER_MAX:
        return value
    raise WireError(f"{name} must be a whole number greater than 0")


def optional_positive(members: JsonObject, name: str) -> int | None:
    """As `positive_of`; null is absent."""
    return None if members.get(name) is None else positive_of(members, name)


def uri_of(members: JsonObject, name: str) -> str:
    """A URI of any scheme, as it was written; only its characters are checked."""
    value = members.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= URL_CHARS_MAX:
        raise WireError(f"{name} must be a URL of at most {URL_CHARS_MAX} characters")
    if _UNPRINTABLE.search(value) or " " in value:
        raise WireError(f"{name} must be a URL without blanks or control characters")
    return value


def url_of(members: JsonObject, name: str) -> str:
    """An absolute http or https URL, as it was written."""
    value = uri_of(members, name)
    try:
        parts = urlsplit(value)
    except ValueError:
        parts = None
    if parts is None or parts.scheme not in {"http", "https"} or not parts.netloc:
        raise WireError(f"{name} must be an absolute http or https URL")
    return value


def key_of(members: JsonObject, name: str) -> str:
    """A Solana address: base58 of 32 bytes, which takes 32 to 44 characters."""
    return _base58(members, name, _KEY_CHARS, KEY_BYTES)


def signature_of(members: JsonObject, name: str) -> str:
    """A transaction signature: base58 of 64 bytes, which takes 64 to 88 characters."""
    return _base58(members, name, _SIGNATURE_CHARS, SIGNATURE_BYTES)


def optional_memo(extra: JsonObject) -> str | None:
    """`extra.memo`: a text that the transaction must carry; null is absent."""
    value = extra.get("memo")
    if value is None:
        return None
    if isinstance(value, str) and not _UNSTORABLE.search(value):
        size = len(value.encode())
        if 0 < size <= MEMO_BYTES_MAX:
            return value
    raise WireError(f"extra.memo must be a string of 1 to {MEMO_BYTES_MAX} bytes")


def optional_reference(extra: JsonObject) -> str | None:
    """`extra.reference`: a key that must be among the transaction's accounts; null is absent."""
    if extra.get("reference") is None:
        return None
    try:
        return key_of(extra, "reference")
    except WireError:
        raise WireError(f"extra.reference must be base58 of {KEY_BYTES} bytes") from None


def base64_bytes(value: JsonValue, name: str, *, chars_max: int) -> bytes:
    """Standard base64 with its padding, in the one way to write it."""
    if not isinstance(value, str) or not 0 < len(value) <= chars_max:
        raise WireError(f"{name} must be base64 of at most {chars_max} characters")
    if not _BASE64.match(value):
        raise WireError(f"{name} must be standard base64 with padding")
    decoded = binascii.a2b_base64(value)
    if binascii.b2a_base64(decoded, newline=False).decode() != value:
        raise WireError(f"{name} must be base64 without stray bits")
    return decoded


def _base58(members: JsonObject, name: str, chars: tuple[int, int], size: int) -> str:
    value = members.get(name)
    if isinstance(value, str) and chars[0] <= len(value) <= chars[1]:
        with suppress(Base58Error):
            if len(base58_decode(value)) == size:
                return value
    raise WireError(f"{name} must be base58 of {size} bytes")


def _is_storable(value: JsonValue) -> bool:
    match value:
        case str():
            return not _UNSTORABLE.search(value)
        case list():
            return all(map(_is_storable, value))
        case dict():
            return all(_is_storable(name) and _is_storable(item) for name, item in value.items())
        case _:
            return True
