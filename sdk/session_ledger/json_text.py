"""JSON text as `JSON.parse` understands it, strictly and within bounds.

The ledger keeps a voucher exactly as it was received, so `members` and `elements` give each
part of a document twice: as a value, and as the very characters that it was written with.
The scanning is done by the standard library's C code; only the outermost level is walked here.

Spec: RFC 8259, ECMA-262 `JSON.parse`. Numbers are doubles, hence the reading of integers below.
"""

import re
from collections.abc import Callable
from json.decoder import JSONDecodeError, JSONDecoder
from typing import Any, Final, NamedTuple, NoReturn, TypeAlias

JsonValue: TypeAlias = "str | int | float | bool | list[JsonValue] | dict[str, JsonValue] | None"

DEPTH_MAX: Final = 32
"""Levels of nesting that are read. The scanner itself would fail at about a thousand."""

SAFE_INTEGER_MAX: Final = 2**53 - 1
"""Largest integer below which every integer is a double of its own."""

_SAFE_INTEGER_CHARS: Final = 17  # "-9007199254740991"

# Possessive and never failing, so that a hostile text costs linear time.
_STRING: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_BRACKET: Final = re.compile(r"[][{}]")
_BLANK: Final = re.compile(r"[ \t\n\r]*+")
_COLON: Final = re.compile(r"[ \t\n\r]*+:[ \t\n\r]*+")
_COMMA: Final = re.compile(r"[ \t\n\r]*+,[ \t\n\r]*+")


class JsonTextError(ValueError):
    """The text is not JSON, or not JSON that is read here."""


class NotTheKindError(JsonTextError):
    """Well-formed so far, but the outermost value is not of the kind that was asked for."""


class Member(NamedTuple):
    """One part of an object or an array."""

    value: JsonValue
    text: str
    """The characters of the value in the source, without the blanks around it."""


def parse(text: str | bytes, *, depth_max: int = DEPTH_MAX) -> JsonValue:
    """The value of a JSON text. Bytes are read as UTF-8 without a byte order mark.

    A repeated name keeps its last value. A number is an `int` when it is written as an integer
    of at most `SAFE_INTEGER_MAX`, otherwise the nearest `float` (infinite when it is too large).

    Raises:
        JsonTextError: any other input, or more than `depth_max` levels (keep it below 500).
    """
    source = _source(text, depth_max)
    value, end = _scan(source, _skip_blank(source, 0))
    _expect_end(source, end)
    return value


def members(text: str | bytes, *, depth_max: int = DEPTH_MAX) -> dict[str, Member]:
    """The members of a JSON object by name, each with its source text. The last repetition wins.

    Raises:
        NotTheKindError: the text does not start an object.
        JsonTextError: as for `parse`.
    """
    source = _source(text, depth_max)
    found: dict[str, Member] = {}

    def member(at: int) -> int:
        if not source.startswith('"', at):
            raise _error("Expecting a name in double quotes", at)
        name, at = _scan(source, at)
        colon = _COLON.match(source, at)
        if colon is None:
            raise _error("Expecting ':'", at)
        start = colon.end()
        value, end = _scan(source, start)
        found[name] = Member(value, source[start:end])
        return end

    _walk(source, "{}", member)
    return found


def elements(text: str | bytes, *, depth_max: int = DEPTH_MAX) -> list[Member]:
    """The elements of a JSON array in order, each with its source text.

    Raises:
        NotTheKindError: the text does not start an array.
        JsonTextError: as for `parse`.
    """
    source = _source(text, depth_max)
    found: list[Member] = []

    def element(start: int) -> int:
        value, end = _scan(source, start)
        found.append(Member(value, source[start:end]))
        return end

    _walk(source, "[]", element)
    return found


def _walk(source: str, brackets: str, item: Callable[[int], int]) -> None:
    """Calls `item(start) -> end` at each item of the outermost list or object."""
    opening, closing = brackets
    at = _skip_blank(source, 0)
    if not source.startswith(opening, at):
        raise NotTheKindError(f"Expecting '{opening}' at character {at}")
    at = _skip_blank(source, at + 1)
    if not source.startswith(closing, at):
        at = item(at)
        while (comma := _COMMA.match(source, at)) is not None:
            at = item(comma.end())
        at = _skip_blank(source, at)
        if not source.startswith(closing, at):
            raise _error(f"Expecting ',' or '{closing}'", at)
    _expect_end(source, at + 1)


def _source(text: str | bytes, depth_max: int) -> str:
    """`text` as characters, once it is known to be encodable and not too deep."""
    try:
        if isinstance(text, bytes):
            source = text.decode()
        else:
            source = text
            if not source.isascii():
                source.encode()
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise JsonTextError(f"not UTF-8: {error.reason}") from None
    # Few brackets cannot nest deeply; only then are those inside strings told apart.
    if source.count("{") + source.count("[") > depth_max and _depth(source) > depth_max:
        raise JsonTextError(f"nested more than {depth_max} levels deep")
    return source


def _depth(source: str) -> int:
    depth = deepest = 0
    for bracket in _BRACKET.findall(_STRING.sub("", source)):
        if bracket in "{[":
            depth += 1
            deepest = max(deepest, depth)
        else:
            depth -= 1
    return deepest


def _scan(source: str, at: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(source, at)
    except JSONDecodeError as error:
        raise _error(error.msg, error.pos) from None


def _skip_blank(source: str, at: int) -> int:
    blank = _BLANK.match(source, at)
    return blank.end() if blank else at


def _expect_end(source: str, at: int) -> None:
    if (end := _skip_blank(source, at)) != len(source):
        raise _error("Extra data", end)


def _error(what: str, at: int) -> JsonTextError:
    return JsonTextError(f"{what} at character {at}")


def _integer(digits: str) -> int | float:
    if len(digits) <= _SAFE_INTEGER_CHARS and abs(number := int(digits)) <= SAFE_INTEGER_MAX:
        return number
    return float(digits)


def _refuse_constant(name: str) -> NoReturn:
    raise JsonTextError(f"{name} is not JSON")


_DECODER: Final = JSONDecoder(parse_int=_integer, parse_constant=_refuse_constant)
