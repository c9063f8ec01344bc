"""The canonical text of a voucher: the characters that its signature covers.

It is what the reference makes: every object rebuilt with sorted keys, then `JSON.stringify`.
That is RFC 8785 but for four things, each of which is reproduced, because a signature made
over other bytes does not verify:

- keys that are array indices come first, in numeric order, however they were sorted;
- a key `__proto__` is lost, since assigning it sets a prototype; nothing signs its value;
- a lone surrogate is written as an escape (`\\ud800`) where RFC 8785 refuses it;
- numbers are doubles: 1.0 is `1`, 1e21 is `1e+21`, -0 is `0`, 1e400 is `null`.
"""

import re
from json.encoder import encode_basestring
from typing import Final

from session_ledger.ecmascript import literal_text, number_text
from session_ledger.json_text import JsonValue

_ARRAY_INDEX: Final = re.compile(r"(?:0|[1-9][0-9]{0,9})\Z", re.ASCII)
_ARRAY_INDEX_MAX: Final = 2**32 - 2
_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def canonical_text(value: JsonValue) -> str:
    """The canonical text of `value`. It holds no lone surrogate, so it always encodes.

    Spec: ECMA-262 JSON.stringify after sorting; see the module for the quirks.
    """
    text = _text(value)
    if text.isascii():
        return text
    return _LONE_SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _text(value: JsonValue) -> str:
    match value:
        case str():
            return encode_basestring(value)
        case dict():
            return "{" + ",".join([_member(name, value[name]) for name in _order(value)]) + "}"
        case None | bool():
            return literal_text(value)
        case int() | float():
            text = number_text(value)
            return text if text[-1].isdigit() else "null"  # Infinity and NaN
        case list():
            return "[" + ",".join(map(_text, value)) + "]"


def _member(name: str, value: JsonValue) -> str:
    text = encode_basestring(value) if isinstance(value, str) else _text(value)
    return f"{encode_basestring(name)}:{text}"


def _order(names: dict[str, JsonValue]) -> list[str]:
    """The names that the reference serialises, in its order."""
    ordered = sorted(names)
    joined = "".join(ordered)
    if joined.isascii() and joined.isalpha():  # the ordinary case: none of the quirks applies
        return ordered
    indices = [name for name in ordered if _is_array_index(name)]
    others = [name for name in ordered if name != "__proto__" and not _is_array_index(name)]
    return sorted(indices, key=int) + sorted(others, key=_utf16)


def _is_array_index(name: str) -> bool:
    return _ARRAY_INDEX.match(name) is not None and int(name) <= _ARRAY_INDEX_MAX


def _utf16(name: str) -> bytes:
    """Sorts as JavaScript does, by UTF-16 code units: U+10000 comes before U+E000."""
    return name.encode("utf-16-be", "surrogatepass")
