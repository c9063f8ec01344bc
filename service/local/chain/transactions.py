"""Transactions: from wire bytes to what their execution did."""

import json
from base64 import b64encode
from dataclasses import dataclass
from typing import Final, cast

from solders.account import Account
from solders.instruction import CompiledInstruction
from solders.message import Message, MessageV0
from solders.pubkey import Pubkey
from solders.transaction import SanitizeError, VersionedTransaction
from solders.transaction_metadata import (
    FailedTransactionMetadata,
    SimulatedTransactionInfo,
    TransactionMetadata,
)

from service.local.chain.protocol import Json, invalid_params
from service.local.chain.tokens import AccountReader, token_balances
from session_ledger.encoding import base58_encode

PACKET_BYTES: Final = 1_232
"""Longest wire form of a transaction."""

_LOOKUP_TABLE_META_BYTES: Final = 56
_ADDRESS_BYTES: Final = 32


def parse_transaction(wire: bytes) -> VersionedTransaction:
    """The transaction in `wire`, checked for consistency but not for its signatures.

    Raises:
        RpcError: too long, not a transaction, inconsistent, or of a version this chain lacks.
    """
    if len(wire) > PACKET_BYTES:
        raise invalid_params(
            f"decoded solana_transaction::versioned::VersionedTransaction too large: {len(wire)}"
            f" bytes (max: {PACKET_BYTES} bytes)"
        )
    try:
        transaction = VersionedTransaction.from_bytes(wire)
    except ValueError as error:
        raise invalid_params(
            f"failed to deserialize solana_transaction::versioned::VersionedTransaction: {error}"
        ) from error
    if not isinstance(transaction.message, Message | MessageV0):
        raise invalid_params("invalid transaction: transaction version is not supported")
    try:
        transaction.sanitize()
    except SanitizeError as error:
        raise invalid_params(
            "invalid transaction: Transaction failed to sanitize accounts offsets correctly"
        ) from error
    return transaction


@dataclass(frozen=True, slots=True)
class AccountKeys:
    """Every account that a transaction names: its own keys, then those of lookup tables."""

    static: list[Pubkey]
    loaded_writable: list[Pubkey]
    loaded_readonly: list[Pubkey]

    @property
    def all(self) -> list[Pubkey]:
        """All keys in the order that instruction indexes count."""
        return [*self.static, *self.loaded_writable, *self.loaded_readonly]


def account_keys(transaction: VersionedTransaction, read: AccountReader) -> AccountKeys:
    """The keys of `transaction`, lookup tables resolved. A missing table resolves to nothing."""
    message = transaction.message
    writable: list[Pubkey] = []
    readonly: list[Pubkey] = []
    if isinstance(message, MessageV0):
        for lookup in message.address_table_lookups:
            table = _lookup_table(read(lookup.account_key))
            writable += [table[i] for i in lookup.writable_indexes if i < len(table)]
            readonly += [table[i] for i in lookup.readonly_indexes if i < len(table)]
    return AccountKeys(list(message.account_keys), writable, readonly)


def _lookup_table(account: Account | None) -> list[Pubkey]:
    packed = b"" if account is None else account.data[_LOOKUP_TABLE_META_BYTES:]
    return [
        Pubkey(packed[start : start + _ADDRESS_BYTES])
        for start in range(0, len(packed) - _ADDRESS_BYTES + 1, _ADDRESS_BYTES)
    ]


@dataclass(frozen=True, slots=True)
class Execution:
    """What the virtual machine said of one transaction. `err` is a `TransactionError` as JSON."""

    err: Json
    logs: list[str]
    fee_lamports: int
    units_consumed: int
    return_data: Json
    inner_instructions: list[Json]
    post_accounts: dict[Pubkey, Account]
    ran: bool
    """False when the transaction was refused before it ran: no fee, no trace."""

    @classmethod
    def refused(cls, err: Json) -> "Execution":
        """The outcome of a transaction that was not even given to the virtual machine."""
        return cls(err, [], 0, 0, None, [], {}, False)


def read_execution(
    outcome: TransactionMetadata | FailedTransactionMetadata | SimulatedTransactionInfo,
) -> Execution:
    """LiteSVM's outcome of a transaction in plain values."""
    meta = outcome if isinstance(outcome, TransactionMetadata) else outcome.meta()
    err: Json = None
    if isinstance(outcome, FailedTransactionMetadata):
        err = cast("Json", json.loads(outcome.to_json())["err"])
    simulated = isinstance(outcome, SimulatedTransactionInfo)
    data = meta.return_data()
    return Execution(
        err=err,
        logs=meta.logs(),
        fee_lamports=meta.fee(),
        units_consumed=meta.compute_units_consumed(),
        return_data={
            "programId": str(data.program_id),
            "data": [b64encode(data.data).decode(), "base64"],
        }
        if data.data
        else None,
        inner_instructions=[
            {
                "index": index,
                "instructions": [
                    compiled_instruction(inner.instruction(), inner.stack_height())
                    for inner in group
                ],
            }
            for index, group in enumerate(meta.inner_instructions())
            if group
        ],
        post_accounts=dict(outcome.post_accounts()) if simulated else {},
        ran=bytes(meta.signature()) != bytes(64),
    )


def compiled_instruction(
    instruction: CompiledInstruction, stack_height: int | None
) -> dict[str, Json]:
    """An instruction in the RPC's `json` form."""
    return {
        "programIdIndex": instruction.program_id_index,
        "accounts": list(instruction.accounts),
        "data": base58_encode(instruction.data),
        "stackHeight": stack_height,
    }


def transaction_meta(
    execution: Execution, keys: AccountKeys, before: AccountReader, after: AccountReader
) -> dict[str, Json]:
    """The `meta` object of a landed transaction, in its `json` form."""
    everything = keys.all
    ok: Json = {"Ok": None}
    return {
        "err": execution.err,
        "status": ok if execution.err is None else {"Err": execution.err},
        "fee": execution.fee_lamports,
        "preBalances": [_lamports(before(key)) for key in everything],
        "postBalances": [_lamports(after(key)) for key in everything],
        "preTokenBalances": token_balances(everything, before),
        "postTokenBalances": token_balances(everything, after),
        "innerInstructions": execution.inner_instructions,
        "logMessages": execution.logs,
        "rewards": [],
        "loadedAddresses": {
            "writable": [str(key) for key in keys.loaded_writable],
            "readonly": [str(key) for key in keys.loaded_readonly],
        },
        "computeUnitsConsumed": execution.units_consumed,
        **({} if execution.return_data is None else {"returnData": execution.return_data}),
    }


def _lamports(account: Account | None) -> int:
    return 0 if account is None else account.lamports
