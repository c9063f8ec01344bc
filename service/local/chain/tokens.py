"""Token accounts and mints as the RPC shows them: layouts, parsed JSON, UI amounts.

Spec: SPL Token `state.rs`; agave `account-decoder/src/parse_token.rs`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from solders.account import Account
from solders.pubkey import Pubkey
from solders.token.state import Mint, TokenAccount, TokenAccountState
from spl.token.constants import (
    ACCOUNT_LEN,
    MINT_LEN,
    MULTISIG_LEN,
    TOKEN_2022_PROGRAM_ID,
    TOKEN_PROGRAM_ID,
)

from service.local.chain.protocol import Json

TOKEN_PROGRAMS: Final = {
    TOKEN_PROGRAM_ID: "spl-token",
    TOKEN_2022_PROGRAM_ID: "spl-token-2022",
}

AccountReader = Callable[[Pubkey], Account | None]

_MINT_TYPE: Final = 1
_ACCOUNT_TYPE: Final = 2
_EXTENSION_NAMES: Final = {7: "immutableOwner", 9: "nonTransferable", 13: "nonTransferableAccount"}
"""Token-2022 extensions without data; an account with another one is not parsed."""


def _has_layout(account: Account, base_length: int, account_type: int) -> bool:
    """Whether `account` has the base layout, alone or (Token-2022) followed by extensions."""
    if account.owner not in TOKEN_PROGRAMS:
        return False
    length = len(account.data)
    if length == base_length:
        return True
    extended = length > ACCOUNT_LEN and length != MULTISIG_LEN
    return (
        extended
        and account.owner == TOKEN_2022_PROGRAM_ID
        and account.data[ACCOUNT_LEN] == account_type
    )


def read_token_account(account: Account | None) -> TokenAccount | None:
    """The token account that `account` holds, of either token program; None when it is not one."""
    if account is None or not _has_layout(account, ACCOUNT_LEN, _ACCOUNT_TYPE):
        return None
    try:
        token = TokenAccount.from_bytes(account.data[:ACCOUNT_LEN])
    except ValueError:
        return None
    return None if token.state == TokenAccountState.Uninitialized else token


def read_mint(account: Account | None) -> Mint | None:
    """The mint that `account` holds, of either token program; None when it is not one."""
    if account is None or not _has_layout(account, MINT_LEN, _MINT_TYPE):
        return None
    try:
        mint = Mint.from_bytes(account.data[:MINT_LEN])
    except ValueError:
        return None
    return mint if mint.is_initialized else None


def ui_token_amount(amount: int, decimals: int) -> dict[str, Json]:
    """`amount` atomic units as the RPC's `UiTokenAmount`."""
    return {
        "amount": str(amount),
        "decimals": decimals,
        "uiAmount": amount / 10**decimals,  # the wire wants a float here; nothing computes with it
        "uiAmountString": _ui_amount_string(amount, decimals),
    }


def _ui_amount_string(amount: int, decimals: int) -> str:
    if decimals == 0:
        return str(amount)
    whole, fraction = divmod(amount, 10**decimals)
    return f"{whole}.{fraction:0{decimals}d}".rstrip("0").rstrip(".")


def parse_token_data(account: Account, read: AccountReader) -> dict[str, Json] | None:
    """The `jsonParsed` data of a token account or mint; None when there is no parser for it."""
    extensions = _extension_names(account)
    if extensions is None:
        return None
    if (token := read_token_account(account)) is not None:
        mint = read_mint(read(token.mint))
        if mint is None:
            return None
        kind, info = "account", _account_info(token, mint.decimals)
    elif (parsed := read_mint(account)) is not None:
        kind, info = "mint", _mint_info(parsed)
    else:
        return None
    if extensions:
        info["extensions"] = [{"extension": name} for name in extensions]
    return {
        "program": TOKEN_PROGRAMS[account.owner],
        "parsed": {"info": info, "type": kind},
        "space": len(account.data),
    }


def _account_info(token: TokenAccount, decimals: int) -> dict[str, Json]:
    info: dict[str, Json] = {
        "isNative": token.is_native is not None,
        "mint": str(token.mint),
        "owner": str(token.owner),
        "state": "frozen" if token.state == TokenAccountState.Frozen else "initialized",
        "tokenAmount": ui_token_amount(token.amount, decimals),
    }
    if token.delegate is not None:
        info["delegate"] = str(token.delegate)
        info["delegatedAmount"] = ui_token_amount(token.delegated_amount, decimals)
    if token.is_native is not None:
        info["rentExemptReserve"] = ui_token_amount(token.is_native, decimals)
    if token.close_authority is not None:
        info["closeAuthority"] = str(token.close_authority)
    return info


def _mint_info(mint: Mint) -> dict[str, Json]:
    authority, freezer = mint.mint_authority, mint.freeze_authority
    return {
        "decimals": mint.decimals,
        "freezeAuthority": None if freezer is None else str(freezer),
        "isInitialized": mint.is_initialized,
        "mintAuthority": None if authority is None else str(authority),
        "supply": str(mint.supply),
    }


def _extension_names(account: Account) -> list[str] | None:
    """The names of the account's extensions; None when one of them carries data."""
    names: list[str] = []
    rest = account.data[ACCOUNT_LEN + 1 :]
    while len(rest) >= 4 and (kind := int.from_bytes(rest[:2], "little")):  # noqa: PLR2004 - TLV
        length = int.from_bytes(rest[2:4], "little")
        if length or kind not in _EXTENSION_NAMES:
            return None
        names.append(_EXTENSION_NAMES[kind])
        rest = rest[4 + length :]
    return names


@dataclass(frozen=True, slots=True)
class TokenBalance:
    """One token account's balance around a transaction, as `meta.*TokenBalances` lists it."""

    index: int
    program: Pubkey
    token: TokenAccount
    decimals: int

    def as_json(self) -> Json:
        """One entry of `preTokenBalances` or `postTokenBalances`."""
        return {
            "accountIndex": self.index,
            "mint": str(self.token.mint),
            "owner": str(self.token.owner),
            "programId": str(self.program),
            "uiTokenAmount": ui_token_amount(self.token.amount, self.decimals),
        }


def token_balances(keys: list[Pubkey], read: AccountReader) -> list[Json]:
    """The balances of the token accounts among a transaction's `keys`, in its order."""
    balances: list[Json] = []
    for index, key in enumerate(keys):
        account = read(key)
        token = read_token_account(account)
        if account is None or token is None:
            continue
        mint = read_mint(read(token.mint))
        if mint is not None:
            balances.append(TokenBalance(index, account.owner, token, mint.decimals).as_json())
    return balances
