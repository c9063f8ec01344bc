"""Why a settlement fails or waits: the table of causes, and how the chain's errors map to it.

Spec: docs/settlement.md, "Failure classes". The codes are part of the API.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, cast

FailureClass = Literal["automatic", "attention", "bug"]
"""`automatic`: the worker looks again, with growing pauses. `attention`: the payer, the seller or
an operator must act and then retry. `bug`: these bytes can never succeed; nothing is retried."""

InstructionRole = Literal["compute_budget", "create_account", "transfer", "memo"]


@dataclass(frozen=True, slots=True)
class FailureKind:
    """One row of the table: `meaning` for people, `remedy` says what to do about it."""

    code: str
    failure_class: FailureClass
    meaning: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A failure that was found, with what exactly was seen. `code` is a key of `FAILURES`."""

    code: str
    detail: str


_ROWS: Final = (
    FailureKind(
        "recipient_account_missing",
        "automatic",
        "The recipient has no token account for this mint.",
        "Create the recipient's associated token account, or set CREATE_RECIPIENT_ATA=true.",
    ),
    FailureKind(
        "delegate_revoked",
        "attention",
        "The payer revoked the delegation or gave it to another key.",
        "Ask the payer to approve the settlement key again, then retry the settlement.",
    ),
    FailureKind(
        "allowance_too_small",
        "automatic",
        "The payer's delegation is smaller than the amount.",
        "Ask the payer to approve at least the amount.",
    ),
    FailureKind(
        "insufficient_funds",
        "automatic",
        "The payer's token account holds less than the amount.",
        "Ask the payer to fund the account.",
    ),
    FailureKind(
        "source_account_missing",
        "attention",
        "The payer's token account does not exist or was closed.",
        "Ask the payer to restore and fund the account and approve again, then retry.",
    ),
    FailureKind(
        "source_owner_mismatch",
        "attention",
        "The account that should pay does not belong to the payer.",
        "Nothing is taken from it: name the payer's own account, or abandon the settlement.",
    ),
    FailureKind(
        "swig_account_missing",
        "attention",
        "There is no Swig wallet at the address.",
        "Check the address and the network; the buyer creates the wallet by onboarding.",
    ),
    FailureKind(
        "swig_v1",
        "attention",
        "The Swig wallet has the old layout (version 1), which cannot be paid from.",
        "Ask the buyer to migrate it (Migrate, then TransferAssets) in its wallet's app.",
    ),
    FailureKind(
        "swig_role_missing",
        "attention",
        "The Swig wallet has no role for our key, or the role was removed.",
        "Ask the buyer to onboard again, which adds the role; then retry the settlement.",
    ),
    FailureKind(
        "swig_role_wrong_key",
        "attention",
        "The Swig wallet's role belongs to another key.",
        "Ask the buyer to onboard again; then retry the settlement.",
    ),
    FailureKind(
        "swig_role_expired",
        "attention",
        "The session of the Swig wallet's role is over.",
        "Ask the buyer to renew the role's session; then retry the settlement.",
    ),
    FailureKind(
        "swig_permission_missing",
        "attention",
        "The Swig wallet's role may not move this token, or not to this recipient.",
        "Ask the buyer to onboard again: the role needs a token limit and the token program.",
    ),
    FailureKind(
        "swig_limit_too_small",
        "automatic",
        "The Swig wallet's role allows less than the amount.",
        "Ask the buyer to raise the role's limit.",
    ),
    FailureKind(
        "source_account_frozen",
        "attention",
        "The mint's freeze authority has frozen the payer's token account.",
        "Only the mint's issuer can thaw the account; retry when it did.",
    ),
    FailureKind(
        "destination_account_frozen",
        "attention",
        "The mint's freeze authority has frozen the recipient's token account.",
        "Only the mint's issuer can thaw the account; retry when it did.",
    ),
    FailureKind(
        "destination_owner_mismatch",
        "attention",
        "The recipient's token account belongs to another wallet.",
        "Have the account's ownership restored to the recipient, then retry.",
    ),
    FailureKind(
        "fee_payer_poor",
        "automatic",
        "The fee payer holds too little SOL for the fee and the rent.",
        "Send SOL to the fee payer.",
    ),
    FailureKind(
        "fee_payer_missing",
        "automatic",
        "The fee payer has never held SOL on this cluster.",
        "Send SOL to the fee payer, or correct FEE_PAYER.",
    ),
    FailureKind(
        "blockhash_expired",
        "automatic",
        "The transaction was not included before its blockhash expired.",
        "Nothing to do: it is signed again. If it recurs, raise the compute unit price.",
    ),
    FailureKind(
        "compute_exceeded",
        "automatic",
        "The transaction ran out of compute units.",
        "Raise the compute unit limit; after an attempt on chain the next one has twice the limit.",
    ),
    FailureKind(
        "wrong_mint",
        "bug",
        "A token account is of another mint than the settlement.",
        "Report it; abandon the settlement and settle outside the service.",
    ),
    FailureKind(
        "wrong_decimals",
        "bug",
        "The mint has other decimals than the settlement.",
        "Report it; abandon the settlement and settle outside the service.",
    ),
    FailureKind(
        "mint_unsupported",
        "attention",
        "The mint carries Token-2022 extensions, which may change the amount that arrives.",
        "Use a mint without extensions; abandon the settlement and settle outside the service.",
    ),
    FailureKind(
        "source_is_destination",
        "bug",
        "Payer and recipient are the same token account, so no balance can change.",
        "Abandon the settlement: there is nothing to pay.",
    ),
    FailureKind(
        "wrong_cluster",
        "automatic",
        "The RPC provider serves another cluster than the settlement's.",
        "Correct SOLANA_RPC_URL or SOLANA_NETWORK.",
    ),
    FailureKind(
        "authority_mismatch",
        "attention",
        "The configured settlement key is not the one that the settlement names.",
        "Configure the named key as SETTLEMENT_AUTHORITY, then retry.",
    ),
    FailureKind(
        "transaction_refused",
        "attention",
        "The transaction is refused before it runs: a signature or its form is wrong.",
        "Check the signing keys with `session-ledger doctor`, then retry.",
    ),
    FailureKind(
        "unknown_failure",
        "attention",
        "The chain answered with an error that has no row of its own.",
        "Read the error and the logs in `settlement show`, remove the cause, then retry.",
    ),
)

FAILURES: Final[Mapping[str, FailureKind]] = {row.code: row for row in _ROWS}
"""Every cause by its code."""

_TRANSFER_ERRORS: Final[Mapping[str, tuple[str, ...]]] = {
    "Custom:1": ("insufficient_funds", "allowance_too_small"),
    "Custom:3": ("wrong_mint",),
    "Custom:4": ("delegate_revoked",),
    "Custom:17": ("source_account_frozen", "destination_account_frozen"),
    "Custom:18": ("wrong_decimals",),
    "InvalidAccountData": (
        "unknown_failure",
        "recipient_account_missing",
        "source_account_missing",
    ),
    "IncorrectProgramId": (
        "unknown_failure",
        "recipient_account_missing",
        "source_account_missing",
    ),
}
"""What an error of the transfer can mean: the first unless reading the accounts shows another.

Spec: spl-token `TokenError`; a missing account is `InvalidAccountData`, in Token-2022
`IncorrectProgramId`.
"""

_SWIG_ERRORS: Final[Mapping[str, tuple[str, ...]]] = {
    "Custom:0": ("swig_account_missing",),
    "Custom:1": ("swig_account_missing",),
    "Custom:12": ("swig_role_missing",),
    "Custom:46": ("swig_v1",),
    "Custom:47": ("swig_v1",),
    "Custom:3005": ("swig_role_wrong_key",),
    "Custom:3006": ("swig_permission_missing",),
    "Custom:3011": ("swig_limit_too_small",),
    "Custom:3014": ("swig_role_expired",),
    "Custom:3031": ("swig_limit_too_small",),
    "Custom:3032": ("swig_limit_too_small",),
    "InsufficientFunds": ("swig_limit_too_small",),
}
"""What an error of the Swig program itself means. Spec: SwigError; a recurring limit that is used
up is the builtin `InsufficientFunds`. Numbers from 44 on drifted between versions."""

_FAILED: Final = re.compile(r"Program ([1-9A-HJ-NP-Za-km-z]{32,44}) failed: ", re.ASCII)
_SYSTEM_POOR: Final = "Custom:1"  # SystemError::ResultWithNegativeLamports, creating the account
_COMPUTE_ERRORS: Final = frozenset({"ComputationalBudgetExceeded", "ProgramFailedToComplete"})
_TRANSACTION_CODES: Final[Mapping[str, str]] = {
    "AccountNotFound": "fee_payer_missing",
    "InsufficientFundsForFee": "fee_payer_poor",
    "InsufficientFundsForRent": "fee_payer_poor",
    "InvalidAccountForFee": "fee_payer_missing",
    "SignatureFailure": "transaction_refused",
    "SanitizeFailure": "transaction_refused",
    "MissingSignatureForFee": "transaction_refused",
}
_PASSING: Final = frozenset(
    {
        "BlockhashNotFound",
        "AlreadyProcessed",
        "AccountInUse",
        "TooManyAccountLocks",
        "ClusterMaintenance",
        "WouldExceedMaxBlockCostLimit",
        "WouldExceedMaxAccountCostLimit",
        "WouldExceedMaxVoteCostLimit",
        "WouldExceedAccountDataBlockLimit",
    }
)


def is_passing(error: object) -> bool:
    """Whether an error says nothing lasting: the node is behind, or the scheduler busy."""
    return _name(error) in _PASSING


def instruction_roles(*, creates_recipient_account: bool) -> tuple[InstructionRole, ...]:
    """What each instruction of a settlement transaction is for, by its index."""
    create: tuple[InstructionRole, ...] = ("create_account",) if creates_recipient_account else ()
    return ("compute_budget", "compute_budget", *create, "transfer", "memo")


def failed_program(logs: Iterable[str]) -> str | None:
    """The program that failed first: an inner one fails before the one that called it."""
    return next((found[1] for line in logs if (found := _FAILED.match(line))), None)


def classify(
    error: object,
    roles: tuple[InstructionRole, ...],
    *,
    source: Finding | None,
    destination: Finding | None,
    by_wallet: bool = False,
) -> str:
    """The code for a transaction error in its JSON form.

    The token program answers several causes alike (a small balance and a small delegation are both
    `Custom: 1`), so `source` and `destination` say what reading the accounts shows. `by_wallet`
    says that the smart wallet itself refused the transfer: its numbers mean other things.
    """
    match error:
        case {"InstructionError": [int() as index, object() as reason]} if 0 <= index < len(roles):
            if by_wallet and roles[index] == "transfer" and _name(reason) in _SWIG_ERRORS:
                return _likeliest(_SWIG_ERRORS[_name(reason)], source, destination)
            return _of_instruction(roles[index], reason, source, destination)
        case _:
            return _TRANSACTION_CODES.get(_name(error), "unknown_failure")


def classify_transfer(error: object) -> str:
    """The code for an error of a transaction in which a transfer is all that can fail."""
    match error:
        case {"InstructionError": [int(), object() as reason]}:
            return _of_instruction("transfer", reason, None, None)
        case _:
            return _TRANSACTION_CODES.get(_name(error), "unknown_failure")


def _of_instruction(
    role: InstructionRole, reason: object, source: Finding | None, destination: Finding | None
) -> str:
    name = _name(reason)
    if name in _COMPUTE_ERRORS:
        return "compute_exceeded"
    match role:
        case "transfer":
            codes = _TRANSFER_ERRORS.get(name, ("unknown_failure",))
            return _likeliest(codes, source, destination)
        case "create_account":
            if name == _SYSTEM_POOR:
                return "fee_payer_poor"
            return destination.code if destination else "unknown_failure"
        case "compute_budget" | "memo":
            return "unknown_failure"


def _likeliest(codes: tuple[str, ...], source: Finding | None, destination: Finding | None) -> str:
    """The cause that reading the accounts shows, or else the first."""
    seen = {finding.code for finding in (source, destination) if finding}
    return next((code for code in codes if code in seen), codes[0])


def _name(error: object) -> str:
    """`"AccountNotFound"`, `{"InsufficientFundsForRent": {...}}` and `{"Custom": 1}` by a name."""
    match error:
        case str():
            return error
        case {"Custom": int() as code}:
            return f"Custom:{code}"
        case dict():
            return ",".join(map(str, cast("dict[object, object]", error)))
        case _:
            return ""
