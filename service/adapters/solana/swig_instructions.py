"""Instructions for the Swig program, byte for byte as its own clients build them.

Spec: Swig program, version 2 of the wallet (`SignV2`), Ed25519 authorities. An unknown number of
an instruction is executed as a create, so nothing may be sent that a deployed program may not know.
"""

import struct
from collections.abc import Sequence
from typing import Final

from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey
from solders.system_program import ID as SYSTEM_PROGRAM_ID

from service.adapters.solana.swig_account import ED25519
from service.adapters.solana.swig_actions import Action, encode_actions
from session_ledger.challenge import CHANNEL_PROGRAM

SWIG_PROGRAM_ID: Final = Pubkey.from_string(CHANNEL_PROGRAM)

_CREATE, _ADD, _REMOVE, _UPDATE, _CREATE_SESSION, _SIGN = 0, 1, 2, 3, 5, 11
_REPLACE_ALL: Final = 0
_SIGNER_OF_SIGN: Final = 2
"""Index of the role's key in a SignV2 or CreateSessionV1; it is the whole authority payload."""

_SIGNER_OF_CHANGE: Final = 3
"""Index of the role's key where roles are added, changed or removed."""


def swig_pda(swig_id: bytes) -> tuple[Pubkey, int]:
    """The address of the Swig account with this 32-byte id, and its bump."""
    return Pubkey.find_program_address([b"swig", swig_id], SWIG_PROGRAM_ID)


def wallet_pda(swig: Pubkey) -> tuple[Pubkey, int]:
    """The address that owns the wallet's assets, and its bump."""
    return Pubkey.find_program_address([b"swig-wallet-address", bytes(swig)], SWIG_PROGRAM_ID)


def create_v1(
    swig_id: bytes, payer: Pubkey, authority: Pubkey, actions: Sequence[Action]
) -> Instruction:
    """Create a wallet whose root role (id 0) is `authority`."""
    swig, swig_bump = swig_pda(swig_id)
    wallet, wallet_bump = wallet_pda(swig)
    key = bytes(authority)
    header = struct.pack("<HHHBB", _CREATE, ED25519, len(key), swig_bump, wallet_bump)
    return Instruction(
        SWIG_PROGRAM_ID,
        header + swig_id + key + encode_actions(actions),
        [
            AccountMeta(swig, is_signer=False, is_writable=True),
            AccountMeta(payer, is_signer=True, is_writable=True),
            AccountMeta(wallet, is_signer=False, is_writable=True),
            AccountMeta(SYSTEM_PROGRAM_ID, is_signer=False, is_writable=False),
        ],
    )


def add_authority_v1(
    swig: Pubkey,
    payer: Pubkey,
    acting: tuple[int, Pubkey],
    authority: Pubkey,
    actions: Sequence[Action],
) -> Instruction:
    """Add a role for `authority`; `acting` is the id and the key of the role that adds it."""
    role_id, signer = acting
    key, encoded = bytes(authority), encode_actions(actions)
    header = struct.pack("<HHHHB3xI", _ADD, len(key), len(encoded), ED25519, len(actions), role_id)
    data = header + key + encoded + bytes([_SIGNER_OF_CHANGE])
    return Instruction(SWIG_PROGRAM_ID, data, _changing(swig, payer, signer))


def update_authority_v1(
    swig: Pubkey,
    payer: Pubkey,
    acting: tuple[int, Pubkey],
    role_id: int,
    actions: Sequence[Action],
) -> Instruction:
    """Replace every action of a role, which keeps its id and its key."""
    acting_role_id, signer = acting
    payload = bytes([_REPLACE_ALL]) + encode_actions(actions)
    # A count of zero says that the payload begins with the kind of the update.
    header = struct.pack("<HHB3xII", _UPDATE, len(payload), 0, acting_role_id, role_id)
    data = header + payload + bytes([_SIGNER_OF_CHANGE])
    return Instruction(SWIG_PROGRAM_ID, data, _changing(swig, payer, signer))


def remove_authority_v1(
    swig: Pubkey, payer: Pubkey, acting: tuple[int, Pubkey], role_id: int
) -> Instruction:
    """Remove a role; its id is never used again."""
    acting_role_id, signer = acting
    header = struct.pack("<HH4xII", _REMOVE, 1, acting_role_id, role_id)
    data = header + bytes([_SIGNER_OF_CHANGE])
    return Instruction(SWIG_PROGRAM_ID, data, _changing(swig, payer, signer))


def create_session_v1(
    swig: Pubkey,
    payer: Pubkey,
    acting: tuple[int, Pubkey],
    session_key: Pubkey,
    duration_slots: int,
) -> Instruction:
    """Appoint `session_key` for a role with sessions; signed by the role's own key."""
    role_id, signer = acting
    header = struct.pack("<H2xIQ", _CREATE_SESSION, role_id, duration_slots)
    return Instruction(
        SWIG_PROGRAM_ID,
        header + bytes(session_key) + bytes([_SIGNER_OF_SIGN]),
        [
            AccountMeta(swig, is_signer=False, is_writable=True),
            AccountMeta(payer, is_signer=True, is_writable=True),
            AccountMeta(signer, is_signer=True, is_writable=False),
        ],
    )


def sign_v2(
    swig: Pubkey, acting: tuple[int, Pubkey], instructions: Sequence[Instruction]
) -> Instruction:
    """The wallet carries out `instructions`, signed by the acting role's id and key.

    Raises:
        ValueError: more accounts, data or instructions than the compact form can name.
    """
    role_id, signer = acting
    accounts = _Accounts(swig, signer)
    try:
        payload = bytes([len(instructions)]) + b"".join(map(accounts.compact, instructions))
        header = struct.pack("<HHI", _SIGN, len(payload), role_id)
    except (struct.error, ValueError) as error:
        raise ValueError(f"the instructions do not fit into one SignV2: {error}") from error
    data = header + payload + bytes([_SIGNER_OF_SIGN])
    return Instruction(SWIG_PROGRAM_ID, data, accounts.metas)


class _Accounts:
    """The accounts of a SignV2: its own three, then what the inner instructions name."""

    def __init__(self, swig: Pubkey, signer: Pubkey) -> None:
        wallet, _ = wallet_pda(swig)
        self.metas = [
            AccountMeta(swig, is_signer=False, is_writable=True),
            AccountMeta(wallet, is_signer=False, is_writable=True),
            AccountMeta(signer, is_signer=True, is_writable=False),
        ]
        self._program_signs = (swig, wallet)
        self._places = {meta.pubkey: place for place, meta in enumerate(self.metas)}

    def compact(self, instruction: Instruction) -> bytes:
        """The instruction by indices. Its program is listed each time, and stands for itself only.

        Raises:
            ValueError: an index or a count does not fit a byte.
            struct.error: the data is longer than 65,535 bytes.
        """
        program = len(self.metas)
        self.metas.append(AccountMeta(instruction.program_id, is_signer=False, is_writable=False))
        places = [self._place(meta) for meta in instruction.accounts]
        data = bytes(instruction.data)
        return bytes([program, len(places), *places]) + struct.pack("<H", len(data)) + data

    def _place(self, meta: AccountMeta) -> int:
        signs = meta.is_signer and meta.pubkey not in self._program_signs
        place = self._places.setdefault(meta.pubkey, len(self.metas))
        if place == len(self.metas):
            self.metas.append(AccountMeta(meta.pubkey, signs, meta.is_writable))
        else:
            held = self.metas[place]
            self.metas[place] = AccountMeta(
                meta.pubkey, held.is_signer or signs, held.is_writable or meta.is_writable
            )
        return place


def _changing(swig: Pubkey, payer: Pubkey, signer: Pubkey) -> list[AccountMeta]:
    return [
        AccountMeta(swig, is_signer=False, is_writable=True),
        AccountMeta(payer, is_signer=True, is_writable=True),
        AccountMeta(SYSTEM_PROGRAM_ID, is_signer=False, is_writable=False),
        AccountMeta(signer, is_signer=True, is_writable=False),
    ]
