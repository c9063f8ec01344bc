"""Frozen dataclasses to canonical JSON and back.

Canonical JSON is RFC 8785, restricted to what the domain holds: objects, arrays, strings, booleans,
null and integers that JavaScript reads exactly. Amounts are decimal strings, because u64 does not
fit a JSON number. The bytes are made here once; whatever is stored or hashed is these bytes.

A field's JSON name is its camelCase; its form follows from its annotation:
`AtomicUsdc` a decimal string, `X | None` null or X, `tuple[X, ...]` an array, a dataclass an
object, `bytes` standard base64, `JsonObject` the object itself.
"""

import base64
import dataclasses
import operator
import re
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final

import orjson

from service.domain.errors import Corrupt
from service.domain.units import AtomicUsdc

JsonObject = Mapping[str, Any]
_Convert = Callable[[Any], Any]

T = typing.TypeVar("T")

_PLAIN: Final = (str, int, bool)
_STRICT: Final = (
    orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
)


def canonical(value: object) -> bytes:
    """RFC 8785 bytes of a value made of objects with ASCII keys, arrays, strings, integers, null.

    Raises:
        Corrupt: a lone surrogate, an integer beyond 64 bits, or what JSON does not know.
    """
    try:
        return orjson.dumps(value, option=_STRICT)
    except TypeError as error:
        raise Corrupt(f"a value has no canonical form: {error}") from error


def camel_case(name: str) -> str:
    """`cumulative_amount` as `cumulativeAmount`."""
    return re.sub(r"_([a-z0-9])", lambda match: match[1].upper(), name)


def to_json(value: object) -> dict[str, Any]:
    """The JSON object of a dataclass instance; every field is present."""
    form = _form(type(value))
    document = dict(zip(form.names, form.values(value), strict=True))
    for name, encode in form.encoded:
        if (held := document[name]) is not None:
            document[name] = encode(held)
    return document


def from_json(cls: type[T], document: Mapping[str, Any]) -> T:
    """The dataclass instance that `to_json` turned into `document`.

    Raises:
        Corrupt: a field is missing or has another form.
    """
    try:
        values = {
            field: None if (held := document[name]) is None else decode(held)
            for field, name, decode in _form(cls).decoded
        }
        return cls(**values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Corrupt(f"stored JSON is not a {cls.__name__}: {error!r}") from error


@dataclasses.dataclass(frozen=True, slots=True)
class _Form:
    """How one dataclass is written and read. `encoded` holds the fields that need conversion."""

    names: tuple[str, ...]
    values: Callable[[object], tuple[Any, ...]]
    encoded: tuple[tuple[str, _Convert], ...]
    decoded: tuple[tuple[str, str, _Convert], ...]


@cache
def _form(cls: type) -> _Form:
    hints = typing.get_type_hints(cls)
    fields = [
        (field.name, camel_case(field.name), *_converters(hints[field.name]))
        for field in dataclasses.fields(cls)
    ]
    get = operator.attrgetter(*(field for field, *_ in fields))
    return _Form(
        names=tuple(name for _, name, _, _ in fields),
        values=get if len(fields) > 1 else lambda value: (get(value),),
        encoded=tuple((name, encode) for _, name, encode, _ in fields if encode is not _same),
        decoded=tuple((field, name, decode) for field, name, _, decode in fields),
    )


def _converters(hint: Any) -> tuple[_Convert, _Convert]:  # noqa: PLR0911  one line per form
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        inner = [arm for arm in typing.get_args(hint) if arm is not type(None)]
        return _converters(inner[0])
    if origin is tuple:
        encode, decode = _converters(typing.get_args(hint)[0])
        return (lambda items: [encode(i) for i in items]), (
            lambda items: tuple(decode(i) for i in items)
        )
    if hint is AtomicUsdc:
        return str, _decode_amount
    if hint is bytes:
        return _encode_bytes, _decode_bytes
    if _is_dataclass(hint):
        return to_json, _object_decoder(hint)
    if origin is typing.Literal:
        return _same, _expect(str)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return dict, dict
    plain: Any = getattr(hint, "__supertype__", hint)  # a NewType is its base
    if plain in _PLAIN:
        return _same, _expect(plain)
    raise TypeError(f"{hint!r} has no JSON form in the domain")


def _is_dataclass(hint: object) -> bool:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def _object_decoder(cls: type[Any]) -> _Convert:
    return lambda document: from_json(cls, document)


def _same(value: Any) -> Any:
    return value


def _expect(kind: type) -> _Convert:
    def check(value: Any) -> Any:
        if type(value) is not kind:
            raise TypeError(f"expected {kind.__name__}, got {value!r}")
        return value

    return check


def _decode_amount(value: str) -> AtomicUsdc:
    return AtomicUsdc(int(value))


def _encode_bytes(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _decode_bytes(value: str) -> bytes:
    return base64.b64decode(value, validate=True)
