"""What a role of a Swig wallet may do: typed where we judge it, as bytes where we do not.

Spec: Swig program, actions of a role: `u16 type, u16 length, u32 boundary`, then the body. The
boundary is the end of the action, counted from the start of the role's actions.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Final

from solders.pubkey import Pubkey


class SwigLayoutError(Exception):
    """The bytes are not a Swig account; the message says what is wrong with them."""


@dataclass(frozen=True, slots=True)
class Program:
    """The role may call this program."""

    program: str


@dataclass(frozen=True, slots=True)
class ProgramAll:
    """The role may call every program."""


@dataclass(frozen=True, slots=True)
class ProgramCurated:
    """The role may call the system, token, Token-2022 and stake programs."""


@dataclass(frozen=True, slots=True)
class All:
    """The role may do everything."""


@dataclass(frozen=True, slots=True)
class AllButManageAuthority:
    """The role may do everything but change roles."""


@dataclass(frozen=True, slots=True)
class ManageAuthority:
    """The role may change roles."""


@dataclass(frozen=True, slots=True)
class TokenLimit:
    """So much of the mint is left to spend, in atomic units."""

    mint: str
    remaining: int


@dataclass(frozen=True, slots=True)
class TokenRecurringLimit:
    """So much of the mint in each window: `current` is left. Windows and resets are in slots."""

    mint: str
    window: int
    limit: int
    current: int
    last_reset: int


@dataclass(frozen=True, slots=True)
class TokenDestinationLimit:
    """So much of the mint is left to pay into one token account."""

    mint: str
    destination: str
    remaining: int


@dataclass(frozen=True, slots=True)
class TokenRecurringDestinationLimit:
    """So much of the mint into one token account in each window: `current` is left."""

    mint: str
    destination: str
    limit: int
    window: int
    last_reset: int
    current: int


@dataclass(frozen=True, slots=True)
class OtherAction:
    """An action that is not judged here, as it is stored."""

    kind: int
    data: bytes


KnownAction = (
    Program
    | ProgramAll
    | ProgramCurated
    | All
    | AllButManageAuthority
    | ManageAuthority
    | TokenLimit
    | TokenRecurringLimit
    | TokenDestinationLimit
    | TokenRecurringDestinationLimit
)
Action = KnownAction | OtherAction

_HEADER: Final = struct.Struct("<HHI")

_FORMS: Final[Mapping[int, tuple[Callable[..., KnownAction], struct.Struct]]] = {
    3: (Program, struct.Struct("<32s")),
    5: (TokenLimit, struct.Struct("<32sQ")),
    6: (TokenRecurringLimit, struct.Struct("<32sQQQQ")),
    7: (All, struct.Struct("<")),
    8: (ManageAuthority, struct.Struct("<")),
    13: (ProgramAll, struct.Struct("<")),
    14: (ProgramCurated, struct.Struct("<32x")),
    15: (AllButManageAuthority, struct.Struct("<")),
    18: (TokenDestinationLimit, struct.Struct("<32s32sQ")),
    19: (TokenRecurringDestinationLimit, struct.Struct("<32s32sQQQQ")),
}
"""Type to class and body. The fields of each class are in the order of the body."""

_KINDS: Final = {make: kind for kind, (make, _) in _FORMS.items()}


def parse_actions(data: bytes, count: int) -> tuple[Action, ...]:
    """The actions of one role, walked from boundary to boundary; they have to fill `data`.

    Raises:
        SwigLayoutError: they are not `count` actions, or one has another length than its type.
    """
    actions: list[Action] = []
    start = 0
    for index in range(count):
        if len(data) - start < _HEADER.size:
            raise SwigLayoutError(f"action {index} is cut off")
        kind, length, boundary = _HEADER.unpack_from(data, start)
        body = start + _HEADER.size
        if not body + length <= boundary <= len(data):
            raise SwigLayoutError(f"action {index} does not end where it says")
        actions.append(_action(kind, data[body : body + length]))
        start = boundary
    if start != len(data):
        raise SwigLayoutError(f"{count} actions do not fill the role")
    return tuple(actions)


def encode_actions(actions: Sequence[Action]) -> bytes:
    """The actions as an instruction carries them, boundaries included.

    Raises:
        ValueError: an address is not base58 of 32 bytes.
        struct.error: an amount or a window does not fit its field.
    """
    encoded = b""
    for action in actions:
        kind, body = _encoded(action)
        boundary = len(encoded) + _HEADER.size + len(body)
        encoded += _HEADER.pack(kind, len(body), boundary) + body
    return encoded


def _action(kind: int, body: bytes) -> Action:
    form = _FORMS.get(kind)
    if form is None:
        return OtherAction(kind, body)
    make, layout = form
    if len(body) != layout.size:
        raise SwigLayoutError(f"an action of type {kind} has {len(body)} bytes")
    fields: list[Any] = [
        str(Pubkey(field)) if isinstance(field, bytes) else field for field in layout.unpack(body)
    ]
    return make(*fields)


def _encoded(action: Action) -> tuple[int, bytes]:
    if isinstance(action, OtherAction):
        return action.kind, action.data
    kind = _KINDS[type(action)]
    fields = (
        bytes(Pubkey.from_string(field)) if isinstance(field, str) else field
        for field in astuple(action)
    )
    return kind, _FORMS[kind][1].pack(*fields)
