"""Token accounts and mints from their bytes, for both SPL token programs.

Spec: spl-token `state.rs`; Token-2022 puts extensions as type-length-value entries behind the 165
bytes of an account and one byte that says what it is.
"""

import struct
from typing import Final

from solders.token import state
from spl.token.constants import TOKEN_2022_PROGRAM_ID, TOKEN_PROGRAM_ID

from service.domain.onchain import Mint, TokenAccount
from service.domain.units import AtomicUsdc, Slot

_TOKEN_PROGRAMS: Final = (str(TOKEN_PROGRAM_ID), str(TOKEN_2022_PROGRAM_ID))
_ACCOUNT_BYTES: Final = 165
_MINT_BYTES: Final = 82
_EXTENSIONS_OFFSET: Final = 166
HEAD_BYTES: Final = _EXTENSIONS_OFFSET
"""As much of an account's data as `token_account` looks at."""
_MINT_TYPE, _ACCOUNT_TYPE = 1, 2

_MINT_EXTENSIONS: Final = {
    1: "transfer_fee_config",
    3: "mint_close_authority",
    4: "confidential_transfer_mint",
    6: "default_account_state",
    9: "non_transferable",
    10: "interest_bearing_config",
    12: "permanent_delegate",
    14: "transfer_hook",
    16: "confidential_transfer_fee_config",
    18: "metadata_pointer",
    19: "token_metadata",
    20: "group_pointer",
    21: "token_group",
    22: "group_member_pointer",
    23: "token_group_member",
    24: "confidential_mint_burn",
    25: "scaled_ui_amount",
    26: "pausable",
    28: "permissioned_burn",
}
"""Extension types that a mint can carry. Spec: spl-token-2022 `ExtensionType`."""


def token_account(address: str, program: str, data: bytes, slot: Slot) -> TokenAccount | None:
    """The account; `None` when the bytes are not an initialized token account."""
    if program not in _TOKEN_PROGRAMS or not _is_type(data, _ACCOUNT_BYTES, _ACCOUNT_TYPE):
        return None
    try:
        account = state.TokenAccount.from_bytes(data[:_ACCOUNT_BYTES])
    except ValueError:
        return None
    return TokenAccount(
        address=address,
        mint=str(account.mint),
        owner=str(account.owner),
        program=program,
        amount=AtomicUsdc(account.amount),
        delegate=None if account.delegate is None else str(account.delegate),
        delegated_amount=AtomicUsdc(account.delegated_amount),
        frozen=account.state == state.TokenAccountState.Frozen,
        slot=slot,
    )


def mint(address: str, program: str, data: bytes) -> Mint | None:
    """The mint; `None` when the bytes are not an initialized mint."""
    if program not in _TOKEN_PROGRAMS or not _is_type(data, _MINT_BYTES, _MINT_TYPE):
        return None
    try:
        decimals = state.Mint.from_bytes(data[:_MINT_BYTES]).decimals
    except ValueError:
        return None
    return Mint(address, program, decimals, _extensions(data[_EXTENSIONS_OFFSET:]))


def _is_type(data: bytes, plain_bytes: int, account_type: int) -> bool:
    """Whether the bytes have the plain form, or the extended one of that type."""
    if len(data) < _EXTENSIONS_OFFSET:
        return len(data) == plain_bytes
    return data[_ACCOUNT_BYTES] == account_type


def _extensions(entries: bytes) -> tuple[str, ...]:
    names: list[str] = []
    while len(entries) >= struct.calcsize("<HH"):
        kind, length = struct.unpack_from("<HH", entries)
        if kind == 0:  # zeros fill the rest
            break
        names.append(_MINT_EXTENSIONS.get(kind, f"extension_{kind}"))
        entries = entries[struct.calcsize("<HH") + length :]
    return tuple(names)
