"""Payments that buyers send themselves, honest and not: instructions, wire bytes, X-PAYMENT."""

import base64
import time
from collections.abc import Callable, Sequence
from typing import Any

from solders.address_lookup_table_account import AddressLookupTableAccount
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction
from spl.memo.constants import MEMO_PROGRAM_ID
from spl.token.constants import (
    ASSOCIATED_TOKEN_PROGRAM_ID,
    TOKEN_2022_PROGRAM_ID,
    TOKEN_PROGRAM_ID,
)
from spl.token.instructions import get_associated_token_address, transfer_checked
from spl.token.models import TransferCheckedParams

from session_ledger.x402.direct import PaymentPayload, payment_header

Call = Callable[..., Any]
"""An RPC method and its parameters, to the result."""

SOL = 10**9
FEE_BASIS_POINTS = 100
_MINT_BYTES = 82
_TABLE_PROGRAM = "AddressLookupTab1e1111111111111111111111111"
_CONFIRM_SECONDS = 20


def ata(owner: Pubkey, mint: Pubkey, program: Pubkey = TOKEN_PROGRAM_ID) -> Pubkey:
    """The owner's associated token account."""
    return get_associated_token_address(owner, mint, program)


def transfer(
    source: Pubkey,
    destination: Pubkey,
    authority: Pubkey,
    amount: int,
    mint: Pubkey,
    *,
    program: Pubkey = TOKEN_PROGRAM_ID,
) -> Instruction:
    """A TransferChecked of a mint with 6 decimals."""
    return transfer_checked(
        TransferCheckedParams(
            program_id=program,
            source=source,
            mint=mint,
            dest=destination,
            owner=authority,
            amount=amount,
            decimals=6,
            signers=[],
        )
    )


def plain_transfer(
    source: Pubkey, destination: Pubkey, authority: Pubkey, amount: int
) -> Instruction:
    """A Transfer (tag 3), which names no mint."""
    accounts = [
        AccountMeta(source, is_signer=False, is_writable=True),
        AccountMeta(destination, is_signer=False, is_writable=True),
        AccountMeta(authority, is_signer=True, is_writable=False),
    ]
    return Instruction(TOKEN_PROGRAM_ID, b"\x03" + amount.to_bytes(8, "little"), accounts)


def recover_nested(wallet: Pubkey, owner_mint: Pubkey, mint: Pubkey) -> Instruction:
    """Has the associated token program transfer, by a program-derived authority: what the wallet's
    account of `owner_mint` owns of `mint` goes to the wallet."""
    owner = ata(wallet, owner_mint)
    accounts = [
        AccountMeta(ata(owner, mint), is_signer=False, is_writable=True),
        AccountMeta(mint, is_signer=False, is_writable=False),
        AccountMeta(ata(wallet, mint), is_signer=False, is_writable=True),
        AccountMeta(owner, is_signer=False, is_writable=False),
        AccountMeta(owner_mint, is_signer=False, is_writable=False),
        AccountMeta(wallet, is_signer=True, is_writable=True),
        AccountMeta(TOKEN_PROGRAM_ID, is_signer=False, is_writable=False),
    ]
    return Instruction(ASSOCIATED_TOKEN_PROGRAM_ID, b"\x02", accounts)


def memo(text: str) -> Instruction:
    return Instruction(MEMO_PROGRAM_ID, text.encode(), [])


def with_reference(step: Instruction, reference: Pubkey) -> Instruction:
    """The instruction with one more account, as Solana Pay adds references."""
    extra = AccountMeta(reference, is_signer=False, is_writable=False)
    return Instruction(step.program_id, bytes(step.data), [*step.accounts, extra])


def give(
    call: Call, owner: Pubkey, mint: Pubkey, amount: int, program: Pubkey = TOKEN_PROGRAM_ID
) -> Pubkey:
    """Give the owner tokens and, if it is a wallet, SOL; gives its token account."""
    call("surfnet_setTokenAccount", str(owner), str(mint), {"amount": amount}, str(program))
    if owner.is_on_curve():
        call("surfnet_setAccount", str(owner), {"lamports": SOL})
    return ata(owner, mint, program)


def write_mint(call: Call, mint: Pubkey, *, with_fee: bool = False) -> None:
    """A mint of 6 decimals; with a fee, one of Token-2022 that keeps 1 % of each transfer."""
    data = bytes(36) + (10**18).to_bytes(8, "little") + b"\x06\x01" + bytes(36)
    assert len(data) == _MINT_BYTES
    if with_fee:
        fee = bytes(8) + (2**64 - 1).to_bytes(8, "little") + FEE_BASIS_POINTS.to_bytes(2, "little")
        config = bytes(64) + bytes(8) + fee + fee
        entry = (1).to_bytes(2, "little") + len(config).to_bytes(2, "little") + config
        data += bytes(165 - _MINT_BYTES) + b"\x01" + entry
    owner = str(TOKEN_2022_PROGRAM_ID if with_fee else TOKEN_PROGRAM_ID)
    call("surfnet_setAccount", str(mint), {"lamports": SOL, "data": data.hex(), "owner": owner})


def write_table(call: Call, address: Pubkey, *listed: Pubkey) -> AddressLookupTableAccount:
    """A lookup table that never ends."""
    meta = (1).to_bytes(4, "little") + (2**64 - 1).to_bytes(8, "little") + bytes(44)
    data = (meta + b"".join(map(bytes, listed))).hex()
    account = {"lamports": SOL, "data": data, "owner": _TABLE_PROGRAM}
    call("surfnet_setAccount", str(address), account)
    return AddressLookupTableAccount(address, list(listed))


def land(
    call: Call,
    *steps: Instruction,
    signers: Sequence[Keypair],
    tables: Sequence[AddressLookupTableAccount] = (),
    skip_preflight: bool = False,
) -> str:
    """Sign, send, and wait until it is confirmed; the first signer pays the fee."""
    blockhash = call("getLatestBlockhash", {"commitment": "processed"})["value"]["blockhash"]
    message = MessageV0.try_compile(
        signers[0].pubkey(), list(steps), list(tables), Hash.from_string(blockhash)
    )
    raw = base64.b64encode(bytes(VersionedTransaction(message, list(signers)))).decode()
    options = {
        "encoding": "base64",
        "preflightCommitment": "processed",
        "skipPreflight": skip_preflight,
    }
    signature: str = call("sendTransaction", raw, options)
    deadline = time.monotonic() + _CONFIRM_SECONDS
    while True:
        status = call("getSignatureStatuses", [signature])["value"][0]
        if status is not None and status["confirmationStatus"] in ("confirmed", "finalized"):
            return signature
        assert time.monotonic() < deadline, status
        time.sleep(0.02)


def header_of(
    signature: str, payer: Pubkey | str, amount: int, mint: Pubkey | str, **changes: Any
) -> str:
    """The X-PAYMENT of a payment, as the published client builds it."""
    given: dict[str, Any] = {
        "signature": signature,
        "payer": str(payer),
        "amount": amount,
        "mint": str(mint),
        "timestamp": int(time.time() * 1_000),
        "network": "localnet",
    }
    return payment_header(PaymentPayload(**{**given, **changes}))
