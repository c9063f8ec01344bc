"""The few conversions of JavaScript that show in signed bytes and in error texts."""

from enum import Enum
from math import isinf, isnan
from typing import Final, TypeAlias

from session_ledger.json_text import SAFE_INTEGER_MAX, JsonValue


class Undefined(Enum):
    """The value of a member that is not there. JSON's null is another thing."""

    UNDEFINED = "undefined"

    def __bool__(self) -> bool:
        return False


UNDEFINED: Final = Undefined.UNDEFINED

JsValue: TypeAlias = "JsonValue | Undefined"

_FIXED_DIGITS_MAX: Final = 21
_FIXED_ZEROS_MAX: Final = 6


def member(value: JsValue, name: str) -> JsValue:
    """`value[name]` for a name that no built-in prototype has."""
    return value.get(name, UNDEFINED) if isinstance(value, dict) else UNDEFINED


def is_truthy(value: JsValue) -> bool:
    """`Boolean(value)`: empty arrays and objects are true."""
    return bool(value) or isinstance(value, (list, dict))


def string_of(value: JsValue) -> str:
    """`String(value)`.

    Spec: ECMA-262 ToString; an array joins its elements, of which null gives nothing.
    """
    match value:
        case str():
            return value
        case None | bool():
            return literal_text(value)
        case int() | float():
            return number_text(value)
        case list():
            return ",".join("" if item is None else string_of(item) for item in value)
        case dict():
            return "[object Object]"
        case Undefined():
            return value.value


def literal_text(value: bool | None) -> str:
    """`null`, `true` or `false`."""
    return "null" if value is None else "true" if value else "false"


def number_text(number: float) -> str:
    """`String(number)`: the shortest digits that give the same double back.

    Spec: ECMA-262 Number::toString, radix 10.
    """
    if isinstance(number, int) and abs(number) <= SAFE_INTEGER_MAX:
        return str(number)
    double = _double(number)
    if isnan(double):
        return "NaN"
    sign, size = ("-", -double) if double < 0 else ("", double)
    if isinf(size):
        return f"{sign}Infinity"
    return sign + _size_text(size)


def _double(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return float("inf") if number > 0 else float("-inf")


def _size_text(size: float) -> str:
    """The text of a finite double that is not negative (minus zero counts as zero)."""
    mantissa, _, exponent = repr(abs(size)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    significant = (whole + fraction).lstrip("0")
    leading_zeros = len(whole + fraction) - len(significant)
    digits = significant.rstrip("0")
    if not digits:
        return "0"
    point = len(whole) + int(exponent or 0) - leading_zeros  # value = 0.digits x 10^point
    if len(digits) <= point <= _FIXED_DIGITS_MAX:
        return digits + "0" * (point - len(digits))
    if 0 < point <= _FIXED_DIGITS_MAX:
        return f"{digits[:point]}.{digits[point:]}"
    if -_FIXED_ZEROS_MAX < point <= 0:
        return "0." + "0" * -point + digits
    rest = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{digits[0]}{rest}e{point - 1:+d}"
