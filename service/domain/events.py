"""What can happen, in the past tense. How events become bytes and rows: `log.py`."""

from dataclasses import dataclass
from typing import Literal

from service.domain.codec import JsonObject
from service.domain.direct_events import DirectEvent
from service.domain.grant_events import GrantEvent
from service.domain.terms import FundingKind, Limits, Terms
from service.domain.units import AtomicUsdc, BlockHeight, Lamports, Slot, UnixMillis
from service.domain.wallet_events import WalletEvent

# --- session stream -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """A channel is known: registered by the seller, or by its first verified voucher."""

    at: UnixMillis
    terms: Terms


@dataclass(frozen=True, slots=True)
class VoucherAccepted:
    """A voucher raised the watermark. `voucher` and `signature` let anybody verify it offline."""

    at: UnixMillis
    cumulative_amount: AtomicUsdc
    increment: AtomicUsdc
    required: AtomicUsdc
    sequence: int
    signer: str
    signature: bytes
    voucher: str
    message_hash: bytes
    meter: str | None
    usage: str | None
    charge: JsonObject | None
    price_version: int


@dataclass(frozen=True, slots=True)
class VoucherSigned:
    """We signed a voucher for the buyer with the session key; a seller may present it."""

    at: UnixMillis
    cumulative_amount: AtomicUsdc
    sequence: int
    voucher: str
    signature: bytes
    message_hash: bytes


@dataclass(frozen=True, slots=True)
class FundingObserved:
    """What the chain said of the funding source, at a slot."""

    at: UnixMillis
    funding: Literal["unverified", "verified", "insufficient", "revoked"]
    source_token_account: str
    balance: AtomicUsdc
    delegated: AtomicUsdc
    slot: Slot


@dataclass(frozen=True, slots=True)
class CloseRequested:
    """The channel accepts no further voucher."""

    at: UnixMillis
    requested_by: str


@dataclass(frozen=True, slots=True)
class SettlementIntended:
    """The one payment this channel will make; nothing in it ever changes (invariant I1)."""

    at: UnixMillis
    settlement_id: str
    amount: AtomicUsdc
    voucher_hash: bytes
    voucher_signature: bytes
    source: str
    destination: str
    recipient: str
    mint: str
    decimals: int
    token_program: str
    authority_kind: FundingKind
    authority: str
    guard: str | None
    chain_id: str
    source_owner: str | None = None
    swig_address: str | None = None
    swig_role_id: int | None = None


@dataclass(frozen=True, slots=True)
class SettlementNotNeeded:
    """The channel was closed with a watermark of 0: no money moves, and none ever will."""

    at: UnixMillis
    settlement_id: str


@dataclass(frozen=True, slots=True)
class AttemptSigned:
    """One signed transaction, durable before it is first sent (invariant I3)."""

    at: UnixMillis
    settlement_id: str
    number: int
    transaction: bytes
    signature: str
    message_hash: bytes
    blockhash: str
    last_valid_block_height: BlockHeight
    tip_height: BlockHeight
    min_context_slot: Slot
    first_available_slot: Slot
    fee: Lamports
    fee_payer: str
    creates_recipient_account: bool
    cluster_id: str


@dataclass(frozen=True, slots=True)
class AttemptSent:
    """The first send of an attempt; later sends of the same bytes leave no event."""

    at: UnixMillis
    settlement_id: str
    number: int
    provider: str
    result: str


@dataclass(frozen=True, slots=True)
class StatusSeen:
    """Progress only: a level below finalized decides nothing (invariant I6)."""

    at: UnixMillis
    settlement_id: str
    number: int
    level: Literal["processed", "confirmed"]
    slot: Slot


@dataclass(frozen=True, slots=True)
class SettlementFinalized:
    """The finalized transaction was fetched and moved exactly the amount (invariant I8)."""

    at: UnixMillis
    settlement_id: str
    number: int
    signature: str
    slot: Slot
    source_change: str
    destination_change: str
    transaction_hash: bytes


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """The attempt is finalized with an error: it moved nothing and never will."""

    at: UnixMillis
    settlement_id: str
    number: int
    slot: Slot
    failure: str
    error: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class AttemptExpired:
    """Proof that the attempt can never land (rule R2), with every answer it rests on."""

    at: UnixMillis
    settlement_id: str
    number: int
    evidence: JsonObject


@dataclass(frozen=True, slots=True)
class SettlementParked:
    """No attempt is live and the cause must change first; `retry_at` says when to look again."""

    at: UnixMillis
    settlement_id: str
    failure: str
    detail: str
    retry_at: UnixMillis | None


@dataclass(frozen=True, slots=True)
class SettlementResumed:
    """A parked settlement is tried again, by the worker or an operator."""

    at: UnixMillis
    settlement_id: str
    by: str


@dataclass(frozen=True, slots=True)
class SettlementAbandoned:
    """Terminal by an operator's decision: no attempt is live and no money moved."""

    at: UnixMillis
    settlement_id: str
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class SessionRemoved:
    """A tombstone: the seller no longer sees the session, the log and the refusals stay."""

    at: UnixMillis
    by: str


SessionEvent = (
    SessionOpened
    | VoucherAccepted
    | VoucherSigned
    | FundingObserved
    | CloseRequested
    | SettlementIntended
    | SettlementNotNeeded
    | AttemptSigned
    | AttemptSent
    | StatusSeen
    | SettlementFinalized
    | AttemptFailed
    | AttemptExpired
    | SettlementParked
    | SettlementResumed
    | SettlementAbandoned
    | SessionRemoved
)

# --- payment stream -------------------------------------------------------------------------

Dialect = Literal["mpp", "x402"]
"""By which wire a one-shot payment was submitted; it is told as paid in that one only."""


@dataclass(frozen=True, slots=True)
class PaymentSubmitted:
    """A transaction of the payer's that we signed as fee payer, before it is first sent.

    Afterwards its stream holds the events of its one attempt. `fee` is the most it can cost us.
    """

    at: UnixMillis
    payment_id: str
    dialect: Dialect
    seller_id: str | None
    payer: str
    recipient: str
    amount: AtomicUsdc
    source: str
    destination: str
    mint: str
    decimals: int
    token_program: str
    chain_id: str
    resource: str | None
    memo: str | None
    transaction: bytes
    signature: str
    message_hash: bytes
    blockhash: str
    last_valid_block_height: BlockHeight
    tip_height: BlockHeight
    min_context_slot: Slot
    first_available_slot: Slot
    fee: Lamports
    fee_payer: str
    creates_recipient_account: bool
    cluster_id: str


PaymentEvent = (
    PaymentSubmitted
    | AttemptSent
    | StatusSeen
    | SettlementFinalized
    | AttemptFailed
    | AttemptExpired
)

# --- funding stream -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DepositReserved:
    """A session's deposit out of one funding source; `available` is what the chain then allowed."""

    at: UnixMillis
    stream_id: str
    amount: AtomicUsdc
    available: AtomicUsdc
    slot: Slot


@dataclass(frozen=True, slots=True)
class DepositReleased:
    """The session has ended; `slot` is where its payment landed, if it made one."""

    at: UnixMillis
    stream_id: str
    slot: Slot | None


FundingEvent = DepositReserved | DepositReleased

# --- seller stream --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SellerRegistered:
    """A seller and the terms that its price book does not hold."""

    at: UnixMillis
    seller_id: str
    name: str
    recipient: str
    network: str
    unknown_channels: Literal["register", "refuse"]
    require_nonce: bool
    shared_recipient: bool
    limits: Limits


@dataclass(frozen=True, slots=True)
class PriceBookPublished:
    """The prices from now on; earlier versions stay, so that history can be re-priced."""

    at: UnixMillis
    version: int
    book: JsonObject


@dataclass(frozen=True, slots=True)
class SellerKeyIssued:
    """A new API key; only its hash is kept."""

    at: UnixMillis
    key_id: str
    key_hash: bytes
    label: str


@dataclass(frozen=True, slots=True)
class SellerKeyRevoked:
    """The key opens nothing any more."""

    at: UnixMillis
    key_id: str


SellerEvent = SellerRegistered | PriceBookPublished | SellerKeyIssued | SellerKeyRevoked

Event = (
    SessionEvent
    | SellerEvent
    | WalletEvent
    | PaymentEvent
    | DirectEvent
    | FundingEvent
    | GrantEvent
)
