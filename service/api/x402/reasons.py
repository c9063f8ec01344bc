"""From our refusals to the reasons that x402 publishes: the only table of them.

A generic reason of the specification is used where one fits, else the one that the published SVM
facilitators give. Spec: x402, error reasons; npm @x402/svm 2.27.0, which has Go's.
"""

from collections.abc import Mapping
from typing import Final

from service.domain import errors
from service.domain.errors import LedgerError, SponsorshipRefused
from session_ledger.x402.exact import INVALID_PAYLOAD, INVALID_REQUIREMENTS, UNDECODABLE

UNEXPECTED_VERIFY: Final = "unexpected_verify_error"
UNEXPECTED_SETTLE: Final = "unexpected_settle_error"
PENDING: Final = "settlement_pending"
FAILED: Final = "invalid_exact_svm_transaction_failed"
FEE_PAYER_NOT_MANAGED: Final = "invalid_exact_svm_fee_payer_not_managed_by_facilitator"

_PAYLOAD: Final = "invalid_exact_svm_payload"
_STEPS: Final = f"{_PAYLOAD}_transaction_instructions"
_WALLET: Final = "invalid_exact_svm_smart_wallet"
_SIMULATION: Final = "invalid_exact_svm_transaction_simulation_failed"
_TOO_DEAR: Final = f"{_STEPS}_compute_price_instruction_too_high"

REASONS: Final[Mapping[str, str]] = {
    "no_transfer_instruction": f"{_PAYLOAD}_no_transfer_instruction",
    "recipient_mismatch": f"{_PAYLOAD}_recipient_mismatch",
    "amount_mismatch": f"{_PAYLOAD}_amount_mismatch",
    "asset_mismatch": f"{_PAYLOAD}_mint_mismatch",
    "missing_signature": f"{_PAYLOAD}_signature_invalid",
    "invalid_signature": f"{_PAYLOAD}_signature_invalid",
    "policy:lookup_table": f"{_WALLET}_alt_resolution_not_available",
    "policy:fee_payer_mismatch": "invalid_exact_svm_fee_payer_mismatch",
    "policy:fee_payer_not_isolated": f"{_WALLET}_fee_payer_not_isolated",
    "policy:too_few_instructions": f"{_STEPS}_length",
    "policy:too_many_instructions": f"{_STEPS}_length",
    "policy:program_not_allowed": f"{_PAYLOAD}_unknown_optional_instruction",
    "policy:instruction_not_allowed": f"{_PAYLOAD}_no_transfer_instruction",
    "policy:multiple_transfers": f"{_WALLET}_multiple_matching_transfers",
    "policy:inner_transfer": f"{_WALLET}_multiple_matching_transfers",
    "policy:self_payment": f"{_PAYLOAD}_transaction",
    "policy:source_not_payers": f"{_PAYLOAD}_transaction",
    "policy:unexpected_signer": f"{_PAYLOAD}_excessive_signers",
    "policy:compute_budget": f"{_WALLET}_malformed_compute_budget",
    "policy:compute_unit_limit_missing": f"{_STEPS}_compute_limit_instruction",
    "policy:compute_unit_price_missing": f"{_STEPS}_compute_price_instruction",
    "policy:compute_unit_limit": f"{_STEPS}_compute_limit_instruction_too_high",
    "policy:compute_unit_price": _TOO_DEAR,
    "policy:fee_too_high": _TOO_DEAR,
    "policy:memo": f"{_PAYLOAD}_memo_count",
    "policy:memo_count": f"{_PAYLOAD}_memo_count",
    "policy:memo_mismatch": f"{_PAYLOAD}_memo_mismatch",
    "policy:account_creation": f"{_PAYLOAD}_unknown_optional_instruction",
    "recipient_account_missing": _SIMULATION,
    "blockhash_expired": "invalid_transaction_state",
    "insufficient_balance": "insufficient_funds",
    "simulation_failed": _SIMULATION,
    "already_processed": "duplicate_settlement",
    "duplicate_settlement": "duplicate_settlement",
    "transaction_failed": FAILED,
}
"""The published reason of each refusal to sponsor, but of the caps, for which there is none."""

_BY_POSITION: Final = (
    f"{_STEPS}_compute_limit_instruction",
    f"{_STEPS}_compute_price_instruction",
    f"{_PAYLOAD}_no_transfer_instruction",
    *(f"{_PAYLOAD}_unknown_{nth}_instruction" for nth in ("fourth", "fifth", "sixth", "seventh")),
)
"""What is published for an unknown instruction, by its place."""

_BY_CLASS: Final[Mapping[type[LedgerError], str]] = {
    errors.InvalidTransaction: UNDECODABLE,
    errors.SellerNotRegistered: INVALID_REQUIREMENTS,
    errors.InvalidRequest: INVALID_PAYLOAD,
}


def reason_of(error: LedgerError, unexpected: str) -> str:
    """The published reason of an error; `unexpected` where none says more."""
    if isinstance(error, SponsorshipRefused):
        if error.instruction is not None:
            return _BY_POSITION[error.instruction]
        return REASONS.get(error.reason, unexpected)
    found = (reason for cls, reason in _BY_CLASS.items() if isinstance(error, cls))
    return next(found, unexpected)
