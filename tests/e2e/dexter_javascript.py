"""The rules of JavaScript that the reference's answers rest on, and its decoders.

Values are those of `JSON.parse`; numbers are floats. Nothing of the product is imported.

Spec: ECMA-262; the Infra standard for `atob`.
"""

import base64
import json
import math
import re
from typing import Any, Final

ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_SPACES: Final = " \t\n\v\f\r\xa0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff" + "".join(
    map(chr, range(0x2000, 0x200B))
)
_DECIMAL: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_RADIX: Final = {"0x": 16, "0o": 8, "0b": 2}


class Undefined:
    """JavaScript's `undefined`: falsy, and not `null`."""

    def __bool__(self) -> bool:
        return False


UNDEFINED: Final = Undefined()


class Thrown(Exception):
    """The reference throws here. `name` is the JavaScript class."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name, self.message = name, message


# --- JavaScript -----------------------------------------------------------------------------


def parse(text: str) -> Any:
    """`JSON.parse`.

    Raises:
        ValueError: the text is not JSON.
    """

    def refuse(word: str) -> None:
        raise ValueError(word)

    return json.loads(text, parse_int=float, parse_constant=refuse)


def stringify(value: Any) -> str:
    """`JSON.stringify`, the keys in the order in which JavaScript enumerates them."""
    match value:
        case dict():
            parts = (f"{quoted(key)}:{stringify(value[key])}" for key in _enumerated(value))
            return "{" + ",".join(parts) + "}"
        case list():
            return "[" + ",".join(map(stringify, value)) + "]"
        case str():
            return quoted(value)
        case float() if not math.isfinite(value):
            return "null"
        case float():
            return number_text(value)
        case _:
            return json.dumps(value)


def quoted(text: str) -> str:
    """A string as JSON; a lone surrogate stays readable as its escape."""
    escaped = json.dumps(text, ensure_ascii=False)
    return _LONE_SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", escaped)


def number_text(number: float) -> str:
    """`String(number)`. Spec: ECMA-262, Number::toString."""
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    if number == 0:
        return "0"
    mantissa, _, exponent = f"{abs(number)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = "" if fraction == "0" else fraction
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    sign = "-" if number < 0 else ""
    if 0 < point <= 21:
        padded = digits.ljust(point, "0")
        return sign + padded[:point] + (f".{padded[point:]}" if padded[point:] else "")
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    rest = f".{digits[1:]}" if digits[1:] else ""
    return f"{sign}{digits[0]}{rest}e{point - 1:+d}"


def canonicalize(value: Any) -> Any:
    """Keys sorted by UTF-16 unit, as the reference builds its sorted copy: `__proto__`, which
    sets a prototype there, is lost."""
    if isinstance(value, list):
        return [canonicalize(item) for item in value]
    if not isinstance(value, dict):
        return value
    names = sorted((name for name in value if name != "__proto__"), key=_units)
    return {name: canonicalize(value[name]) for name in names if value[name] is not UNDEFINED}


def truthy(value: Any) -> bool:
    """Empty objects and arrays are true in JavaScript, and NaN is not."""
    if isinstance(value, float):
        return bool(value) and not math.isnan(value)
    return isinstance(value, list | dict) or bool(value)


def text_of(value: Any) -> str:
    """`String(value)`."""
    match value:
        case None | bool():
            text = json.dumps(value)
        case str():
            text = value
        case float():
            text = number_text(value)
        case list():
            text = ",".join("" if item is None else text_of(item) for item in value)
        case Undefined():
            text = "undefined"
        case _:
            text = "[object Object]"
    return text


def big_integer(value: Any) -> int:
    """`BigInt(value)`."""
    match value:
        case bool():
            return int(value)
        case float() if value.is_integer():
            return int(value)
        case float():
            raise Thrown(
                "RangeError",
                f"The number {number_text(value)} cannot be converted to a BigInt because it is"
                " not an integer",
            )
        case None | Undefined():
            raise Thrown("TypeError", f"Cannot convert {text_of(value)} to a BigInt")
        case _:
            text = text_of(value)
    digits = text.strip(_SPACES)
    if re.fullmatch(r"[+-]?[0-9]+", digits):
        return int(digits)
    if not digits:
        return 0
    if (radix := _RADIX.get(digits[:2].lower())) and re.fullmatch("[0-9a-fA-F]+", digits[2:]):
        try:
            return int(digits[2:], radix)
        except ValueError:
            pass  # a digit beyond the radix
    raise Thrown("SyntaxError", f"Cannot convert {text} to a BigInt")


def at_most(left: Any, right: Any) -> bool:
    """`left <= right`: two strings compare by UTF-16 unit, all else as numbers."""
    left, right = (text_of(v) if isinstance(v, list | dict) else v for v in (left, right))
    if isinstance(left, str) and isinstance(right, str):
        return _units(left) <= _units(right)
    return _number(left) <= _number(right)


def _number(value: Any) -> float:
    if value is None or isinstance(value, bool | float):
        return float(value or 0)
    text = value.strip(_SPACES) if isinstance(value, str) else "NaN"
    if _DECIMAL.fullmatch(text) or not text:
        return float(text or 0)
    try:
        return float(int(text[2:], _RADIX[text[:2].lower()]))
    except (KeyError, ValueError):
        return math.nan


def _units(text: str) -> bytes:
    return text.encode("utf-16-be", "surrogatepass")


def _enumerated(value: dict[str, Any]) -> list[str]:
    """Array indices first, by number, then the other keys as they were added."""
    indices = [key for key in value if _is_index(key)]
    return sorted(indices, key=int) + [key for key in value if not _is_index(key)]


def _is_index(key: str) -> bool:
    return bool(re.fullmatch("0|[1-9][0-9]{0,9}", key)) and int(key) < 2**32 - 1


# --- its decoders -----------------------------------------------------------------------------


def base64_bytes(value: Any) -> bytes:
    """`atob`: padding may be missing, whitespace is skipped, spare bits are ignored."""
    text = re.sub("[\t\n\f\r ]", "", text_of(value))
    body = text.rstrip("=")
    padding = len(text) - len(body)
    if re.search("[^A-Za-z0-9+/]", body) or padding > 2 or (padding and len(text) % 4):
        raise Thrown("InvalidCharacterError", "Invalid character")
    if len(body) % 4 == 1:
        message = "The string to be decoded is not correctly encoded."
        raise Thrown("InvalidCharacterError", message)
    return base64.b64decode(body + "=" * (-len(body) % 4))


def base58_bytes(value: Any) -> bytes:
    """The reference's own decoder, which walks over anything that can be iterated."""
    if not isinstance(value, str | list):
        raise Thrown("TypeError", "str is not iterable")
    number = 0
    for character in value:
        index = ALPHABET.find(text_of(character))
        if index < 0:
            raise Thrown("Error", f"Invalid base58 character: {text_of(character)}")
        number = number * 58 + index
    ones = next((n for n, c in enumerate(value) if c != "1"), len(value))
    return bytes(ones) + number.to_bytes((number.bit_length() + 7) // 8, "big")


def base58_text(data: bytes) -> str:
    """Base58 with the Bitcoin alphabet."""
    number, text = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = ALPHABET[digit] + text
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + text
