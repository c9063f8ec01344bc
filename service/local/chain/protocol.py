"""JSON-RPC 2.0 as a Solana validator speaks it: values, errors and their codes.

Spec: solana.com/docs/rpc, and the custom codes of agave's `rpc-client-api`.
"""

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

Json: TypeAlias = "Mapping[str, Json] | Sequence[Json] | str | int | float | bool | None"
"""An outgoing JSON value. `float` exists for `uiAmount` alone, which the wire wants so."""

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
BLOCK_CLEANED_UP: Final = -32001
PREFLIGHT_FAILURE: Final = -32002
SIGNATURE_VERIFICATION_FAILURE: Final = -32003
BLOCK_NOT_AVAILABLE: Final = -32004
NODE_UNHEALTHY: Final = -32005
UNSUPPORTED_TRANSACTION_VERSION: Final = -32015
MIN_CONTEXT_SLOT_NOT_REACHED: Final = -32016


class RpcError(Exception):
    """An answer that is an error object: `code`, `message` and optional `data`."""

    def __init__(self, code: int, message: str, data: Json = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data

    def as_json(self) -> Json:
        """The `error` member of the response."""
        body: dict[str, Json] = {"code": self.code, "message": self.message}
        if self.data is not None:
            body["data"] = self.data
        return body


def invalid_params(message: str) -> RpcError:
    """The error for a parameter that is missing, mistyped or out of range."""
    return RpcError(INVALID_PARAMS, message)


_TRANSACTION_ERRORS: Final = {
    "AccountInUse": "Account in use",
    "AccountNotFound": "Attempt to debit an account but found no record of a prior credit.",
    "ProgramAccountNotFound": "Attempt to load a program that does not exist",
    "InsufficientFundsForFee": "Insufficient funds for fee",
    "InvalidAccountForFee": "This account may not be used to pay transaction fees",
    "AlreadyProcessed": "This transaction has already been processed",
    "BlockhashNotFound": "Blockhash not found",
    "SignatureFailure": "Transaction did not pass signature verification",
    "InvalidProgramForExecution": "This program may not be used for executing instructions",
    "SanitizeFailure": "Transaction failed to sanitize accounts offsets correctly",
    "AddressLookupTableNotFound": "Transaction loads an address table account that doesn't exist",
}

_INSTRUCTION_ERRORS: Final = {
    "GenericError": "generic instruction error",
    "InvalidArgument": "invalid program argument",
    "InvalidInstructionData": "invalid instruction data",
    "InvalidAccountData": "invalid account data for instruction",
    "AccountDataTooSmall": "account data too small for instruction",
    "InsufficientFunds": "insufficient funds for instruction",
    "IncorrectProgramId": "incorrect program id for instruction",
    "MissingRequiredSignature": "missing required signature for instruction",
    "AccountAlreadyInitialized": "instruction requires an uninitialized account",
    "UninitializedAccount": "instruction requires an initialized account",
    "ExternalAccountDataModified": "instruction modified data of an account it does not own",
    "ReadonlyLamportChange": "instruction changed the balance of a read-only account",
    "ReadonlyDataModified": "instruction modified data of a read-only account",
    "NotEnoughAccountKeys": "insufficient account keys for instruction",
    "MissingAccount": "An account required by the instruction is missing",
    "InvalidAccountOwner": "Invalid account owner",
    "ProgramFailedToComplete": "Program failed to complete",
    "ComputationalBudgetExceeded": "Computational budget exceeded",
    "IllegalOwner": "Provided owner is not allowed",
    "ArithmeticOverflow": "Program arithmetic overflowed",
}


def transaction_error_text(err: Json) -> str:
    """What a validator prints for `err`, a `TransactionError` in its JSON form.

    Errors without an entry in the tables are printed by their bare name.
    """
    match err:
        case str():
            return _TRANSACTION_ERRORS.get(err, err)
        case {"InstructionError": [int() as index, inner]}:
            return f"Error processing Instruction {index}: {_instruction_error_text(inner)}"
        case {"InsufficientFundsForRent": {"account_index": int() as index}}:
            return f"Transaction results in an account ({index}) with insufficient funds for rent"
        case {"DuplicateInstruction": int() as index}:
            return f"Transaction contains a duplicate instruction ({index}) that is not allowed"
        case _:
            return str(err)


def _instruction_error_text(inner: Json) -> str:
    match inner:
        case {"Custom": int() as code}:
            return f"custom program error: {code:#x}"
        case str():
            return _INSTRUCTION_ERRORS.get(inner, inner)
        case _:
            return str(inner)
