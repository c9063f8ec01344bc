"""Base58 (addresses, signers) and the browser's lenient base64 (signatures).

Both accept exactly what the reference implementation accepts and fail with its texts, because
those texts travel on to sellers inside verdicts.
"""

import binascii
import re
from typing import Final

BASE58_CHARS_MAX: Final = 128
"""Longest base58 text that is decoded. 64 bytes need 88 characters; the work is quadratic."""

_ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGITS: Final = {char: value for value, char in enumerate(_ALPHABET)}

_BASE64: Final = re.compile(r"([A-Za-z0-9+/]*+)(={0,2}+)", re.ASCII)
_BASE64_QUANTUM: Final = 4
_WITHOUT_WHITESPACE: Final = dict.fromkeys(map(ord, "\t\n\f\r "))


class Base58Error(ValueError):
    """The text is not base58, or too long to be worth decoding."""


class Base64Error(ValueError):
    """The text is not base64, even leniently read."""


def base58_decode(text: str) -> bytes:
    """The bytes that `text` encodes in the Bitcoin alphabet; each leading `1` is a zero byte.

    Raises:
        Base58Error: a character outside the alphabet, or more than `BASE58_CHARS_MAX` of them.
    """
    if len(text) > BASE58_CHARS_MAX:
        raise Base58Error(f"base58 text is longer than {BASE58_CHARS_MAX} characters")
    number = 0
    try:
        for char in text:
            number = number * 58 + _DIGITS[char]
    except KeyError as error:
        raise Base58Error(f"Invalid base58 character: {error.args[0]}") from None
    zeros = len(text) - len(text.lstrip("1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")


def base58_encode(data: bytes) -> str:
    """`data` as base58 text. The inverse of `base58_decode`."""
    number = int.from_bytes(data, "big")
    digits: list[str] = []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_ALPHABET[digit])
    zeros = len(data) - len(data.lstrip(b"\0"))
    return "1" * zeros + "".join(reversed(digits))


def atob(text: str) -> bytes:
    """Standard base64 as browsers and Node read it.

    Padding may be missing, ASCII whitespace may stand anywhere, the unused low bits of the last
    character may be set; the URL-safe characters `-` and `_` are refused.

    Raises:
        Base64Error: with one of the reference's two texts.

    Spec: WHATWG Infra, forgiving-base64 decode; messages as in Node 20.
    """
    # Not binascii's strict mode: it lets `AAAA=` pass.
    found = _BASE64.fullmatch(text) or _BASE64.fullmatch(text.translate(_WITHOUT_WHITESPACE))
    if found is None:
        raise Base64Error("Invalid character")
    digits, padding = found.groups()
    missing = -len(digits) % _BASE64_QUANTUM
    if missing == _BASE64_QUANTUM - 1:  # six bits are no byte
        raise Base64Error("The string to be decoded is not correctly encoded.")
    if padding and len(padding) != missing:
        raise Base64Error("Invalid character")
    return binascii.a2b_base64(digits + "=" * missing)
