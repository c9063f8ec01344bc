"""The transaction of a direct payment: `TransferChecked`, with what binds it to a resource.

Spec: SPL Token, associated token account and memo programs; Solana Pay for the reference.
"""

import secrets
from dataclasses import dataclass
from typing import Final

from solders.compute_budget import set_compute_unit_limit
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

_ASSOCIATED_TOKEN_PROGRAM: Final = Pubkey.from_string(
    "ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL"
)
_MEMO_PROGRAM: Final = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
_SYSTEM_PROGRAM: Final = Pubkey.default()

_TRANSFER_CHECKED: Final = 12
_CREATE_IDEMPOTENT: Final = 1
_COMPUTE_UNITS_MIN: Final = 200_000
_COMPUTE_UNITS_SPREAD: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Transfer:
    """One payment to be made. `amount` is in atomic units of the mint."""

    mint: Pubkey
    token_program: Pubkey
    decimals: int
    recipient: Pubkey
    amount: int
    memo: str | None = None
    reference: str | None = None


def token_account(owner: Pubkey, mint: Pubkey, token_program: Pubkey) -> Pubkey:
    """The owner's associated token account."""
    seeds = [bytes(owner), bytes(token_program), bytes(mint)]
    return Pubkey.find_program_address(seeds, _ASSOCIATED_TOKEN_PROGRAM)[0]


def signed(wallet: Keypair, transfer: Transfer, blockhash: str) -> bytes:
    """The wire bytes of the payment, with the recipient's account created if it is missing.

    Two equal payments are two transactions: the compute limit, which costs nothing, differs.
    """
    limit = _COMPUTE_UNITS_MIN + secrets.randbelow(_COMPUTE_UNITS_SPREAD)
    instructions = [
        set_compute_unit_limit(limit),
        _create(wallet.pubkey(), transfer),
        _transfer(wallet.pubkey(), transfer),
    ]
    if transfer.memo is not None:
        instructions.append(Instruction(_MEMO_PROGRAM, transfer.memo.encode(), []))
    message = MessageV0.try_compile(wallet.pubkey(), instructions, [], Hash.from_string(blockhash))
    return bytes(VersionedTransaction(message, [wallet]))


def _create(payer: Pubkey, transfer: Transfer) -> Instruction:
    account = token_account(transfer.recipient, transfer.mint, transfer.token_program)
    accounts = [
        AccountMeta(payer, is_signer=True, is_writable=True),
        AccountMeta(account, is_signer=False, is_writable=True),
        _read(transfer.recipient),
        _read(transfer.mint),
        _read(_SYSTEM_PROGRAM),
        _read(transfer.token_program),
    ]
    return Instruction(_ASSOCIATED_TOKEN_PROGRAM, bytes([_CREATE_IDEMPOTENT]), accounts)


def _transfer(payer: Pubkey, transfer: Transfer) -> Instruction:
    mint, program = transfer.mint, transfer.token_program
    accounts = [
        AccountMeta(token_account(payer, mint, program), is_signer=False, is_writable=True),
        _read(mint),
        AccountMeta(
            token_account(transfer.recipient, mint, program), is_signer=False, is_writable=True
        ),
        AccountMeta(payer, is_signer=True, is_writable=False),
    ]
    if transfer.reference is not None:
        accounts.append(_read(Pubkey.from_string(transfer.reference)))
    data = bytes([_TRANSFER_CHECKED]) + transfer.amount.to_bytes(8, "little")
    return Instruction(program, data + bytes([transfer.decimals]), accounts)


def _read(address: Pubkey) -> AccountMeta:
    return AccountMeta(address, is_signer=False, is_writable=False)
