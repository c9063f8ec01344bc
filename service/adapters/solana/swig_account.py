"""A Swig wallet's account from its bytes.

Spec: Swig program, `SwigConfigAccount`: a header of 48 bytes, the roles, and a tail that only
names who gets the rent back. The bytes are whatever is at an address that somebody named, so every
length is checked; roles are found by walking, never by an offset.
"""

import struct
from dataclasses import dataclass
from typing import Final, Literal

from solders.pubkey import Pubkey

from service.adapters.solana.swig_actions import Action, SwigLayoutError, parse_actions

ED25519: Final = 1
"""Authority type: a plain key signs for the role."""

ED25519_SESSION: Final = 2
"""Authority type: a key that appoints a session key, which signs for the role until a slot."""

_DISCRIMINATOR: Final = 1
_HEADER: Final = struct.Struct("<BB32sHIB3s4x")
_ROLE: Final = struct.Struct("<HHH2xII")
_SESSION: Final = struct.Struct("<32s32sQQ")
_KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class RoleSession:
    """The session key of a role: it signs while the slot is at most `expires_at`."""

    key: str
    max_slots: int
    expires_at: int


@dataclass(frozen=True, slots=True)
class Role:
    """One role. The offsets count from the start of the account's data.

    `authority` is as stored: only Ed25519 authorities are understood.
    """

    id: int
    authority_type: int
    authority: bytes
    session: RoleSession | None
    actions: tuple[Action, ...]
    offset: int
    authority_offset: int
    actions_offset: int

    @property
    def pubkey(self) -> str | None:
        """The key that the role was given to; `None` when it is not an Ed25519 key."""
        if self.authority_type not in (ED25519, ED25519_SESSION):
            return None
        return str(Pubkey(self.authority[:_KEY_BYTES]))

    @property
    def signer(self) -> str | None:
        """The key that signs payments; a role with sessions pays with the session key only."""
        return self.session.key if self.session else self.pubkey

    def allows(self, *actions: Action) -> bool:
        """Whether one of the actions is among the role's."""
        return any(action in self.actions for action in actions)


@dataclass(frozen=True, slots=True)
class SwigAccount:
    """A Swig wallet: version 2 keeps its assets under a wallet address of its own.

    `wallet_bump` is `None` in version 1. Ids of removed roles are not used again, so a role's id
    is not its index.
    """

    version: Literal["v1", "v2"]
    bump: int
    id: bytes
    role_count: int
    role_counter: int
    wallet_bump: int | None
    roles: tuple[Role, ...]
    tail_bytes: int

    def role(self, role_id: int) -> Role | None:
        """The role with this id."""
        return next((role for role in self.roles if role.id == role_id), None)


def parse_swig_account(data: bytes) -> SwigAccount:
    """The account.

    Raises:
        SwigLayoutError: the bytes are not a Swig account; nothing else is ever raised.
    """
    if len(data) < _HEADER.size:
        raise SwigLayoutError(f"{len(data)} bytes are too few")
    discriminator, bump, swig_id, count, counter, wallet_bump, zeros = _HEADER.unpack_from(data)
    if discriminator != _DISCRIMINATOR:
        raise SwigLayoutError(f"the account is of type {discriminator}")
    # Version 1 keeps its lamports, a u64, where version 2 has the bump and three zeros.
    is_v2 = wallet_bump != 0 and not any(zeros)
    roles: list[Role] = []
    end = _HEADER.size
    for index in range(count):
        role, end = _parse_role(data, end, index)
        roles.append(role)
    if len({role.id for role in roles}) != count:
        raise SwigLayoutError("two roles have the same id")
    return SwigAccount(
        version="v2" if is_v2 else "v1",
        bump=bump,
        id=swig_id,
        role_count=count,
        role_counter=counter,
        wallet_bump=wallet_bump if is_v2 else None,
        roles=tuple(roles),
        tail_bytes=len(data) - end,
    )


def _parse_role(data: bytes, offset: int, index: int) -> tuple[Role, int]:
    """The role at `offset`, and where the next one begins."""
    authority_offset = offset + _ROLE.size
    if len(data) < authority_offset:
        raise SwigLayoutError(f"role {index} is cut off")
    kind, length, action_count, role_id, boundary = _ROLE.unpack_from(data, offset)
    actions_offset = authority_offset + length
    end = _HEADER.size + boundary
    if not actions_offset <= end <= len(data):
        raise SwigLayoutError(f"role {index} does not end where it says")
    authority = data[authority_offset:actions_offset]
    role = Role(
        id=role_id,
        authority_type=kind,
        authority=authority,
        session=_parse_session(kind, authority),
        actions=parse_actions(data[actions_offset:end], action_count),
        offset=offset,
        authority_offset=authority_offset,
        actions_offset=actions_offset,
    )
    return role, end


def _parse_session(kind: int, authority: bytes) -> RoleSession | None:
    expected = {ED25519: _KEY_BYTES, ED25519_SESSION: _SESSION.size}.get(kind)
    if expected is not None and len(authority) != expected:
        raise SwigLayoutError(f"an authority of type {kind} has {len(authority)} bytes")
    if kind != ED25519_SESSION:
        return None
    _, key, max_slots, expires_at = _SESSION.unpack(authority)
    return RoleSession(str(Pubkey(key)), max_slots, expires_at)
