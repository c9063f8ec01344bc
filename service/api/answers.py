"""The bodies that routes answer with, as OpenAPI describes them. Nothing here runs on a request."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from service.api.schemas import AMOUNT_PATTERN

State = Literal["open", "closing", "settled", "failed", "removed"]
Status = Literal["intended", "signed", "in_flight", "settled", "failed", "parked", "abandoned"]


class Answer(BaseModel):
    """An answer's body."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")


def _amount(example: str = "10000") -> Any:
    return Field(pattern=AMOUNT_PATTERN, examples=[example])


class Receipt(Answer):
    """What the log holds of an accepted voucher."""

    channel_id: str
    position: int
    amount_paid: str = _amount()
    cumulative_amount: str = _amount("30000")
    sequence: int
    accepted_at: str
    event_hash: str


class SettlementBrief(Answer):
    """A settlement inside another answer."""

    settlement_id: str
    status: Status
    amount: str = _amount("30000")
    signature: str | None = None


class Failure(Answer):
    """Why a settlement waits or ended without payment."""

    code: str
    detail: str
    hint: str | None
    at: str


class ClosedSettlement(SettlementBrief):
    """The settlement of a closed session."""

    failure: Failure | None = None


class Closed(Answer):
    """A closed session."""

    channel_id: str
    state: State
    settlement: ClosedSettlement


class LimitsAnswer(Answer):
    """Bounds beside the deposit."""

    max_increment: str | None
    max_cumulative: str | None
    max_vouchers: int | None


class SessionContext(Answer):
    """The session context."""

    channel_id: str
    state: State
    session_pubkey: str | None
    cumulative_amount: str = _amount("30000")
    voucher_count: int
    last_sequence: int | None
    payer: str
    recipient: str
    network: str
    deposit: str | None
    remaining: str | None
    funding: Literal["unverified", "verified", "insufficient", "revoked"]
    funding_slot: int | None
    source_token_account: str | None
    swig_address: str | None
    valid_until: str | None
    limits: LimitsAnswer
    position: int
    opened_at: str
    last_voucher_at: str | None
    close_requested_at: str | None
    settlement: SettlementBrief | None
    grant_id: str | None


class SessionPage(Answer):
    """A page of sessions."""

    sessions: list[SessionContext]
    next_cursor: str | None


class LeaseAnswer(Answer):
    """A lease as it was just taken or renewed."""

    channel_id: str
    holder: str
    expires_at: str


class GrantRefusalAnswer(Answer):
    """Which limit of a session grant stood in the way; `status` is what to answer the buyer."""

    status: int
    grant_id: str | None
    limit: str | None
    used: str | None
    requested: str | None
    retryable: bool
    fallback: Literal["owner_signature"] | None
    alias: str | None
    retry_after: int | None


class VerdictAnswer(Answer):
    """The verdict for one voucher; docs/errors.md lists the codes."""

    valid: bool
    verdict: Literal["accepted", "replayed", "rejected"]
    code: str | None = None
    error: str | None = None
    detail: str | None = None
    amount_paid: str | None = None
    grant: GrantRefusalAnswer | None = None
    receipt: Receipt | None = None
    session: SessionContext | None = None
    voucher: dict[str, Any] | None = None


class Verdicts(Answer):
    """Verdicts in the order of the request."""

    results: list[VerdictAnswer]


class VoucherRow(Answer):
    """An accepted voucher with all that is needed to verify it offline."""

    position: int
    time: str
    recorded_at: str
    raw_voucher: str
    signature: str
    signer: str
    signature_type: Literal["ed25519"]
    amount_paid: str = _amount()
    cumulative_amount: str = _amount("30000")
    required: str = _amount()
    sequence: int
    meter: str | None
    usage: str | None
    charge: dict[str, Any] | None
    price_version: int
    event_hash: str
    voucher: dict[str, Any]


class VoucherPage(Answer):
    """A page of the voucher history."""

    vouchers: list[VoucherRow]
    next_cursor: int | None


class RejectionCount(Answer):
    """How often vouchers were refused for one reason."""

    code: str
    count: int
    last_at: str


class RecentRejection(Answer):
    """A refused voucher."""

    code: str
    error: str
    time: str
    raw_voucher: str


class Rejections(Answer):
    """Refused vouchers."""

    counts: list[RejectionCount]
    recent: list[RecentRejection]


class AttemptAnswer(Answer):
    """One signed transaction."""

    number: int
    signature: str
    last_valid_block_height: int
    state: Literal["signed", "in_flight", "finalized", "failed", "expired"]


class SettlementAnswer(Answer):
    """A settlement in full."""

    settlement_id: str
    channel_id: str | None
    status: Status
    amount: str = _amount("30000")
    signature: str | None
    slot: int | None
    confirmation_status: Literal["processed", "confirmed", "finalized"] | None
    source: str | None
    destination: str | None
    authority: str | None
    attempts: list[AttemptAnswer]
    failure: Failure | None
    retry_at: str | None
    explorer_url: str | None


class EventAnswer(Answer):
    """One event; `payload` is exactly the bytes that were hashed, or null for a `voucher_signed`,
    which is the buyer's."""

    cursor: str
    stream: Literal["session", "seller", "payment", "direct"]
    channel_id: str | None
    position: int
    type: str
    schema_version: int
    recorded_at: str
    prev_hash: str
    hash: str
    payload: dict[str, Any] | None


class EventPage(Answer):
    """A page of the feed; `next` is what to pass as `after`."""

    events: list[EventAnswer]
    next: str


class ExposureSums(Answer):
    """What sessions that are not settled come to."""

    open_sessions: int
    closing_sessions: int
    unsettled: str = _amount("30000")
    deposits: str = _amount("1000000")
    oldest_at: str | None
    age_seconds: int | None


class ExposureAnswer(ExposureSums):
    """The sessions of one buyer or one seller; `headroom` is negative when they are not covered."""

    buyer: str | None
    seller: str | None
    funding: Literal["unverified", "verified", "insufficient", "revoked"] | None
    available: str | None
    headroom: str | None
    slot: int | None


class ExposurePage(Answer):
    """A page of exposures; `totals` comes with the first."""

    by: Literal["buyer", "seller"]
    exposures: list[ExposureAnswer]
    totals: ExposureSums | None
    next_cursor: str | None


class Health(Answer):
    """How the process fares."""

    status: str
    database: str | None = None
    rpc: str | None = None


class ChallengeAnswer(Answer):
    """What to answer a client that sent no voucher."""

    type: Literal["mpp-session"]
    recipient: str
    network: str
    price_per_unit: str = _amount()
    meter: str
    suggested_deposit: str
    channel_program: str
    chain_id: str
    server_nonce: str | None = None


class KeyAnswer(Answer):
    """An API key without its secret."""

    key_id: str
    label: str
    issued_at: str
    revoked_at: str | None


class SellerAnswer(Answer):
    """A seller with its current prices."""

    seller_id: str
    name: str
    recipient: str
    network: str
    price_per_unit: str = _amount()
    meter: str
    meters: dict[str, Any]
    suggested_deposit: str | None
    strict_meter: bool
    price_version: int
    unknown_channels: Literal["register", "refuse"]
    require_nonce: bool
    shared_recipient: bool
    limits: LimitsAnswer
    registered_at: str
    keys: list[KeyAnswer]


class SellerList(Answer):
    """All sellers."""

    sellers: list[SellerAnswer]


class NewKeyAnswer(SellerAnswer):
    """A seller with a key that is shown this once."""

    api_key: str
    key_id: str
