"""Instructions in `jsonParsed` form.

Parsed are the system program's transfers, memos, and of both token programs the transfers,
approvals and revocations. Any other instruction is shown as a validator shows one that it has no
parser for: program, accounts and data.

Spec: agave `transaction-status/src/parse_*.rs`.
"""

from collections.abc import Sequence
from typing import Final, cast

from solders.pubkey import Pubkey
from solders.system_program import ID as SYSTEM_PROGRAM_ID

from service.local.chain.base58 import base58_decode
from service.local.chain.protocol import Json
from service.local.chain.tokens import TOKEN_PROGRAMS, ui_token_amount

MEMO_PROGRAM_ID: Final = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
MEMO_V1_PROGRAM_ID: Final = Pubkey.from_string("Memo1UhkJRfHyvLMcVucJwxXeuD728EqVDDwQDxFMNo")

MEMO_V4_PROGRAM_ID: Final = Pubkey.from_string("Memo4c2pN8afCj432Lb7RMVKi9PbQnnW7ewFFaV3oAH")

_SYSTEM: Final = str(SYSTEM_PROGRAM_ID)
_MEMOS: Final = {str(MEMO_PROGRAM_ID), str(MEMO_V1_PROGRAM_ID), str(MEMO_V4_PROGRAM_ID)}
_TOKENS: Final = {str(program): name for program, name in TOKEN_PROGRAMS.items()}
_SYSTEM_TRANSFER: Final = (2).to_bytes(4, "little")

_TOKEN_LAYOUTS: Final[dict[int, tuple[str, tuple[str, ...], str]]] = {
    3: ("transfer", ("source", "destination"), "authority"),
    4: ("approve", ("source", "delegate"), "owner"),
    5: ("revoke", ("source",), "owner"),
    12: ("transferChecked", ("source", "mint", "destination"), "authority"),
    13: ("approveChecked", ("source", "mint", "delegate"), "owner"),
}
"""Instruction number -> its name, the names of its accounts, and of the authority after them."""

_CHECKED: Final = (12, 13)
_AMOUNT_BYTES: Final = 8


def parse_instruction(compiled: dict[str, Json], names: Sequence[str]) -> Json:
    """`compiled` (the `json` form) with names for indexes, parsed where there is a parser."""
    program = names[cast("int", compiled["programIdIndex"])]
    accounts = [names[index] for index in cast("list[int]", compiled["accounts"])]
    text = cast("str", compiled["data"])
    height = compiled["stackHeight"]
    parsed = _parse(program, accounts, base58_decode(text))
    if parsed is None:
        return {
            "programId": program,
            "accounts": list(accounts),
            "data": text,
            "stackHeight": height,
        }
    name, value = parsed
    return {"program": name, "programId": program, "parsed": value, "stackHeight": height}


def memo_text(program: str, data: bytes) -> str | None:
    """The text of a memo instruction; None for any other instruction."""
    if program not in _MEMOS:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _parse(program: str, accounts: list[str], data: bytes) -> tuple[str, Json] | None:
    if (memo := memo_text(program, data)) is not None:
        return "spl-memo", memo
    if program == _SYSTEM:
        return _parse_system(accounts, data)
    if program in _TOKENS:
        return _parse_token(_TOKENS[program], accounts, data)
    return None


def _parse_system(accounts: list[str], data: bytes) -> tuple[str, Json] | None:
    if data[:4] != _SYSTEM_TRANSFER or len(data) != 4 + 8 or len(accounts) < 2:  # noqa: PLR2004 - layout
        return None
    info: Json = {
        "source": accounts[0],
        "destination": accounts[1],
        "lamports": int.from_bytes(data[4:], "little"),
    }
    return "system", {"type": "transfer", "info": info}


def _parse_token(program: str, accounts: list[str], data: bytes) -> tuple[str, Json] | None:
    layout = _TOKEN_LAYOUTS.get(data[0]) if data else None
    if layout is None:
        return None
    kind, roles, authority = layout
    checked = data[0] in _CHECKED
    has_amount = kind != "revoke"
    if len(data) != 1 + _AMOUNT_BYTES * has_amount + checked or len(accounts) <= len(roles):
        return None
    info: dict[str, Json] = dict(zip(roles, accounts, strict=False))
    amount = int.from_bytes(data[1 : 1 + _AMOUNT_BYTES], "little")
    if checked:
        info["tokenAmount"] = ui_token_amount(amount, data[-1])
    elif has_amount:
        info["amount"] = str(amount)
    signers = accounts[len(roles) + 1 :]
    if signers:
        multisig = "multisig" + authority.capitalize()
        info |= {multisig: accounts[len(roles)], "signers": list(signers)}
    else:
        info[authority] = accounts[len(roles)]
    return program, {"type": kind, "info": info}
