"""Why our fee payer does not sign a transaction, by code, for the documents and the wires."""

from collections.abc import Mapping
from typing import Final

REFUSALS: Final[Mapping[str, str]] = {
    "no_transfer_instruction": "the transaction has no TransferChecked instruction",
    "recipient_mismatch": "the transfer does not pay the recipient's own token account",
    "amount_mismatch": "the transfer is of another amount, or of nothing",
    "asset_mismatch": "the transfer is of another mint, or names other decimals",
    "missing_signature": "the payer has not signed the transaction",
    "invalid_signature": "the payer's signature does not hold",
    "policy:lookup_table": "the transaction uses an address lookup table",
    "policy:fee_payer_mismatch": "the transaction names another fee payer than ours",
    "policy:fee_payer_not_isolated": "an instruction names the fee payer",
    "policy:too_many_instructions": "the transaction has too many instructions",
    "policy:program_not_allowed": "an instruction is of a program that is not allowed",
    "policy:instruction_not_allowed": "the token program is asked for more than the transfer",
    "policy:multiple_transfers": "the transaction has more than one transfer",
    "policy:self_payment": "payer and recipient are the same wallet",
    "policy:source_not_payers": "the source is not the payer's associated token account",
    "policy:unexpected_signer": "somebody else than the payer and the fee payer has to sign",
    "policy:compute_budget": "a compute budget instruction is repeated or of another kind",
    "policy:compute_unit_limit": "the compute unit limit is too high",
    "policy:compute_unit_price": "the compute unit price is too high",
    "policy:fee_too_high": "the priority fee is too high",
    "policy:memo": "there are several memos, or one that is long, no text, or signed by others",
    "policy:account_creation": "another account would be created than the recipient's, or by us",
    "recipient_account_missing": "the recipient has no token account for this mint",
    "blockhash_expired": "the blockhash is unknown or too old: prepare again",
    "insufficient_balance": "the payer holds less than the amount",
    "simulation_failed": "the transaction would fail; `detail` says why",
    "already_processed": "the chain has it though we did not send it, or x402 has paid with it",
    "global_settle_cap_exceeded": "no more payments are sponsored today",
    "seller_settle_cap_exceeded": "no more payments to this recipient are sponsored today",
}
"""What each refusal of a one-shot payment means, by the wire's code. Source of docs/errors.md."""

EXACT_REFUSALS: Final[Mapping[str, str]] = {
    "policy:too_few_instructions": "unit limit, unit price and transfer are the least",
    "policy:compute_unit_limit_missing": "no compute unit limit is set",
    "policy:compute_unit_price_missing": "no compute unit price is set",
    "policy:memo_count": "there is not exactly the one memo that was asked for",
    "policy:memo_mismatch": "the memo is not the one that was asked for",
    "policy:inner_transfer": "a program that the transaction calls would move tokens too",
    "duplicate_settlement": "the payment has bought something already, or by another protocol",
    "transaction_failed": "the payment was sent and has failed for good",
}
"""What scheme `exact` refuses beside these. Source of docs/x402.md."""
