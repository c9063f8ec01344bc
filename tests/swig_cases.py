"""Swig accounts as the program stores them, from a few words, for tests of what reads them."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from solders.pubkey import Pubkey

from service.adapters.solana.swig_account import ED25519, ED25519_SESSION
from service.adapters.solana.swig_actions import Action, encode_actions
from service.adapters.solana.swig_instructions import SWIG_PROGRAM_ID

SWIG_PROGRAM = str(SWIG_PROGRAM_ID)
HEADER_BYTES = 48
ROLE_BYTES = 16


@dataclass(frozen=True, slots=True)
class Given:
    """A role to write. `actions` as they are, or as bytes with their number."""

    id: int
    authority: bytes
    actions: Sequence[Action] | tuple[bytes, int]
    kind: int = ED25519

    def encoded_actions(self) -> tuple[bytes, int]:
        match self.actions:
            case (bytes() as data, int() as count):
                return data, count
            case actions:
                return encode_actions(actions), len(actions)


def plain(role_id: int, key: str, *actions: Action) -> Given:
    """A role for a key."""
    return Given(role_id, bytes(Pubkey.from_string(key)), actions)


def with_session(
    role_id: int, key: str, session_key: str, expires_at: int, *actions: Action
) -> Given:
    """A role for a key that appointed a session key."""
    keys = bytes(Pubkey.from_string(key)) + bytes(Pubkey.from_string(session_key))
    return Given(role_id, keys + struct.pack("<QQ", 216_000, expires_at), actions, ED25519_SESSION)


def swig_bytes(
    *roles: Given,
    swig_id: bytes = bytes(32),
    wallet_field: bytes = b"\xff\0\0\0" + bytes(4),
    count: int | None = None,
    tail: bytes = b"",
) -> bytes:
    """The account's data; `wallet_field` is what bytes 40 to 48 hold."""
    body = b""
    for role in roles:
        actions, action_count = role.encoded_actions()
        size = ROLE_BYTES + len(role.authority) + len(actions)
        body += struct.pack(
            "<HHH2xII", role.kind, len(role.authority), action_count, role.id, len(body) + size
        )
        body += role.authority + actions
    counter = 1 + max((role.id for role in roles), default=0)
    found = len(roles) if count is None else count
    header = struct.pack("<BB32sHI", 1, 255, swig_id, found, counter)
    return header + wallet_field + body + tail


def action_bytes(kind: int, body: bytes, *, length: int | None = None, boundary: int) -> bytes:
    """One action, with whatever its header claims."""
    return struct.pack("<HHI", kind, len(body) if length is None else length, boundary) + body
