"""Answers of the buyers' wire, as OpenAPI describes them. Nothing here runs on a request.

Spec: the reference SDK @dexterai/mpp 0.5.0 and its documentation; docs/buyers.md.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from service.api.mpp.schemas import absent_not_null
from service.api.schemas import AMOUNT_PATTERN


class WireAnswer(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=absent_not_null)


class CamelAnswer(WireAnswer):
    """A part of an answer whose members are spelled in camelCase."""

    model_config = ConfigDict(alias_generator=to_camel)


class Success(WireAnswer):
    """An answer that went well: `success` for the client's code, `ok` for its documentation."""

    success: Literal[True]
    ok: Literal[True]


class CamelSuccess(CamelAnswer, Success):
    """The same, with members in camelCase."""


class Refusal(WireAnswer):
    """An answer that did not go well; `detail` is for people."""

    success: Literal[False]
    ok: Literal[False]
    detail: str


class WireError(Refusal):
    """A refusal: `error` is a stable code, `detail` is for people."""

    error: str


def _amount(example: str = "1000000", description: str | None = None) -> Any:
    return Field(pattern=AMOUNT_PATTERN, description=description, examples=[example])


# --- sessions -------------------------------------------------------------------------------


class OpenReply(Success):
    """An open session and its key."""

    channel_id: str
    session_pubkey: str
    deposit_atomic: str = _amount()
    network: str
    channel_program: str
    state: Literal["open"]
    buyer_wallet: str
    buyer_swig_address: str | None = None
    seller_wallet: str
    funding_source: Literal["delegate", "swig"]
    source_token_account: str
    opened_at: str
    settles: Literal["presented", "signed"] = Field(
        description="What a close pays: vouchers that the seller presented here, or all signed."
    )
    idle_timeout_seconds: int | None = None
    expires_at: str | None = None


class BuyersVoucher(CamelAnswer):
    """The voucher; these members are what was signed."""

    channel_id: str
    payer: str
    recipient: str
    cumulative_amount: str = _amount("10000")
    meter: str
    units: str
    server_nonce: str
    chain_id: str
    channel_program: str
    sequence: int


class VoucherReply(Success):
    """A signed voucher; its first four members are what the seller is sent."""

    voucher: BuyersVoucher
    signature: str
    signer: str
    signatureType: Literal["ed25519"]  # noqa: N815  the wire's spelling
    channel_id: str
    sequence: int
    amount: str = _amount("10000")
    cumulative_amount: str = _amount("10000")
    remaining_atomic: str = _amount("990000")


class NotRising(Refusal):
    """A total that does not rise, with the last one to go on from."""

    error: Literal["amount_not_monotonic"]
    last_amount: str = _amount("30000")
    last_sequence: int


class SettlementFacts(WireAnswer):
    """What the session came to."""

    seller: str
    amount_settled: str = _amount("30000")
    buyer_refund: str = _amount("970000", "What is left of the deposit; it was never taken.")
    voucher_count: int
    session_duration_seconds: int
    signature: str | None = None
    slot: int | None = None
    explorer_url: str | None = None


class CloseReply(Success):
    """A session that is over; its payment is finalized."""

    channel_id: str
    state: Literal["settled"]
    settlement: SettlementFacts


class ClosePending(Refusal):
    """The payment is under way."""

    error: Literal["settlement_pending"]
    channel_id: str
    state: Literal["open", "closing", "settled", "failed", "removed"]


class NotSettled(Refusal):
    """The payment waits for somebody, or was given up; `failure` is the code of docs/errors.md."""

    error: str
    failure: str
    channel_id: str
    settlement_status: Literal["parked", "failed", "abandoned"]


# --- one-shot payments ----------------------------------------------------------------------


class PrepareReply(CamelSuccess):
    """What to build the transfer with."""

    fee_payer: str
    recent_blockhash: str
    blockhash: str
    last_valid_block_height: int
    network: str
    spl_token: str
    token_program: str
    decimals: int


class PaidTransfer(CamelAnswer):
    """The transfer."""

    recipient: str
    amount: str = _amount("10000")
    asset: str
    fee_payer: str


class PaymentDetails(CamelAnswer):
    """What is known beside it."""

    slot: int | None = None
    memo: str | None = None
    submitted_at: str | None = None
    explorer_url: str | None = None


class SettleReply(PaidTransfer, CamelSuccess):
    """A payment that is finalized, flat and as `settlement`."""

    payment_id: str
    signature: str
    payer: str
    network: str
    settlement: PaidTransfer
    details: PaymentDetails


class PaymentRefused(CamelAnswer, WireError):
    """A payment that is not settled. `retryable`: send the same transaction again."""

    error_code: str
    retryable: bool
    payment_id: str | None = None
    signature: str | None = None
    payer: str | None = None
    network: str | None = None


class PreparedCounts(WireAnswer):
    """Calls of `/mpp/prepare`."""

    total: int
    today: int


class SettledCounts(CamelAnswer):
    """Payments in the log, and calls that became none."""

    total: int
    today: int
    success: int
    fail: int
    success_rate: str = Field(examples=["98.3%"])
    refused: int
    refused_today: int


class RecentSettlement(WireAnswer):
    """A payment that was finalized."""

    signature: str
    recipient: str
    amount: str = _amount("10000")
    network: str
    payer: str
    at: str


class StatsReply(CamelSuccess):
    """How one-shot payments fare."""

    prepare: PreparedCounts
    settle: SettledCounts
    recent_settlements: list[RecentSettlement]
    last_settlement: str | None


# --- onboarding -----------------------------------------------------------------------------


class RoleDetails(WireAnswer):
    """What is granted, and to which key."""

    spend_limit_atomic: str = _amount()
    ttl_seconds: int | None
    dexter_session_pubkey: str
    programs: list[str]


class TransactionToSign(WireAnswer):
    """A transaction with an empty place for every signature, as base64."""

    type: str
    tx: str


class OnboardReply(Success):
    """Whether something is left to sign, and what."""

    status: Literal["ready", "transactions_required"]
    buyer_wallet: str
    network: str
    funding_source: Literal["delegate", "swig"]
    swig_address: str
    spend_limit_remaining: str | None = None
    role_id: int | None = None
    source_token_account: str | None = None
    recipients: list[str]
    expires_at: str | None = None
    role_details: RoleDetails
    transactions: list[TransactionToSign] | None = None
    next_step: str


class NotOnboarding(Refusal):
    """The onboarding does not go on; `detail` says what to do."""

    error: Literal["not_eligible", "temporarily_unavailable"]
    status: Literal["not_eligible", "temporarily_unavailable"]
    buyer_wallet: str
    network: str
    funding_source: Literal["delegate", "swig"]
    swig_address: str


class ConfirmReply(Success):
    """`ready` once the chain shows the permission; `pending`: confirm again."""

    status: Literal["ready", "pending"]
    buyer_wallet: str
    swig_address: str
    message: str
    onboard_tx_signatures: list[str] | None = None
    role_id: int | None = None
    source_token_account: str | None = None
    recipients: list[str] | None = None
    expires_at: str | None = None


class NotConfirmed(Refusal):
    """The chain or the key does not answer; confirm again with the same transactions."""

    error: Literal["temporarily_unavailable"]
    status: Literal["temporarily_unavailable"]
    buyer_wallet: str
    swig_address: str
    message: str
    onboard_tx_signatures: list[str] | None = None


class StatusReply(Success):
    """How it stands with a wallet; null where nothing is known."""

    buyer_wallet: str
    wallet: str
    network: str
    status: Literal["not_onboarded", "pending", "active", "expired", "revoked"]
    swig_address: str | None
    role_id: int | None
    funding_source: Literal["delegate", "swig"] | None
    source_token_account: str | None
    spend_limit_atomic: str | None
    spend_limit_remaining: str | None
    role_expires_at: str | None
    recipients: list[str]
