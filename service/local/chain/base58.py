"""Base58 of any length up to a transaction's; addresses and signatures are read by solders."""

from typing import Final

_ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGITS: Final = {char: value for value, char in enumerate(_ALPHABET)}

BASE58_CHARS_MAX: Final = 1_683
"""Length of the base58 form of the longest transaction. The work grows with its square."""


def base58_decode(text: str) -> bytes:
    """The bytes that `text` encodes.

    Raises:
        ValueError: a character outside the alphabet, or more than `BASE58_CHARS_MAX` of them.
    """
    if len(text) > BASE58_CHARS_MAX:
        raise ValueError(f"base58 text is longer than {BASE58_CHARS_MAX} characters")
    number = 0
    for char in text:
        if char not in _DIGITS:
            raise ValueError(f"{char!r} is not a base58 character")
        number = number * 58 + _DIGITS[char]
    zeros = len(text) - len(text.lstrip("1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")
