"""The settlement of a session or of a one-shot payment: its state, and how events change it.

    intended --sign--> signed --send--> in_flight --finalized--> settled
        ^                 |                 |
        |                 +--- expired -----+--- failed on chain ---> intended or parked
        +---- resumed ---- parked ---- abandoned

A one-shot payment begins at `signed`, because the payer signed it, and has that one attempt only:
where a session's settlement would be intended again, it has failed.

Only a finalized observation or an operator ends a settlement. Spec: docs/settlement.md, which also
numbers the invariants (I1 to I9) and rules (R1 to R6) that the comments name.
"""

from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol, assert_never

from service.domain import events as e
from service.domain.errors import Corrupt
from service.domain.terms import FundingKind
from service.domain.units import AtomicUsdc, BlockHeight, Slot, UnixMillis

Status = Literal["intended", "signed", "in_flight", "settled", "failed", "parked", "abandoned"]
AttemptState = Literal["signed", "in_flight", "finalized", "failed", "expired"]

TERMINAL_STATUSES: Final[frozenset[Status]] = frozenset({"settled", "failed", "abandoned"})
WORKER: Final = "worker"
"""Who resumes a parked settlement when its time has come; anybody else is an operator."""
LIVE_STATES: Final[frozenset[AttemptState]] = frozenset({"signed", "in_flight"})


@dataclass(frozen=True, slots=True)
class Attempt:
    """One signed transaction. `transaction` is kept while the attempt is live, to be resent."""

    number: int
    state: AttemptState
    signature: str
    transaction: bytes | None
    blockhash: str
    last_valid_block_height: BlockHeight
    tip_height: BlockHeight
    first_available_slot: Slot
    min_context_slot: Slot
    fee_payer: str
    creates_recipient_account: bool
    cluster_id: str
    signed_at: UnixMillis
    confirmation_status: Literal["processed", "confirmed", "finalized"] | None
    slot: Slot | None
    failure: str | None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a settlement waits or ended without payment. `code` is a row of docs/errors.md."""

    code: str
    detail: str
    at: UnixMillis


@dataclass(frozen=True, slots=True)
class Settlement:
    """One payment. From `amount` to `swig_role_id` nothing ever changes.

    `authority_kind` is `None` where no key of ours moves money: nothing is to be paid, or the payer
    signed the transaction itself.

    `failure` of an intended settlement is why its last attempt came to nothing; signing again, or
    resuming, clears it. `parks` counts the parkings since an operator last resumed it.
    """

    settlement_id: str
    status: Status
    amount: AtomicUsdc
    source: str | None
    destination: str | None
    recipient: str | None
    mint: str | None
    decimals: int | None
    token_program: str | None
    authority_kind: FundingKind | None
    authority: str | None
    guard: str | None
    chain_id: str | None
    source_owner: str | None
    swig_address: str | None
    swig_role_id: int | None
    intended_at: UnixMillis
    attempts: tuple[Attempt, ...]
    failure: Failure | None
    signature: str | None
    slot: Slot | None
    retry_at: UnixMillis | None
    parks: int

    @property
    def live_attempt(self) -> Attempt | None:
        """The attempt that may still land; at most one exists (invariant I4)."""
        if self.attempts and self.attempts[-1].state in LIVE_STATES:
            return self.attempts[-1]
        return None

    @property
    def signed_by_payer(self) -> bool:
        """Whether this is a one-shot payment: we cannot sign a second attempt."""
        return self.authority_kind is None and self.source is not None


class Settling(Protocol):
    """What a settlement is of: a session, or a one-shot payment."""

    @property
    def settlement(self) -> Settlement | None: ...


SettlementEvent = (
    e.SettlementIntended
    | e.PaymentSubmitted
    | e.SettlementNotNeeded
    | e.AttemptSigned
    | e.AttemptSent
    | e.StatusSeen
    | e.SettlementFinalized
    | e.AttemptFailed
    | e.AttemptExpired
    | e.SettlementParked
    | e.SettlementResumed
    | e.SettlementAbandoned
)


def evolve_settlement(settlement: Settlement | None, event: SettlementEvent) -> Settlement:
    """The settlement after one event.

    Raises:
        Corrupt: the event breaks an invariant; the log was not written by these rules.
    """
    if isinstance(event, e.SettlementIntended | e.SettlementNotNeeded):
        if settlement is not None:
            raise Corrupt("a second settlement was intended (invariant I1)")
        return _begin(event)
    if isinstance(event, e.PaymentSubmitted):
        if settlement is not None:
            raise Corrupt("a payment was submitted twice")
        return _submitted(event)
    if settlement is None or settlement.settlement_id != event.settlement_id:
        raise Corrupt(f"{type(event).__name__} does not belong to this settlement")
    if settlement.status in TERMINAL_STATUSES:
        raise Corrupt(f"{type(event).__name__} stands after a terminal settlement")
    return _advance(settlement, event)


def _begin(event: e.SettlementIntended | e.SettlementNotNeeded) -> Settlement:
    intended = event if isinstance(event, e.SettlementIntended) else None
    return Settlement(
        settlement_id=event.settlement_id,
        status="intended" if intended else "settled",
        amount=intended.amount if intended else AtomicUsdc(0),
        source=intended and intended.source,
        destination=intended and intended.destination,
        recipient=intended and intended.recipient,
        mint=intended and intended.mint,
        decimals=intended and intended.decimals,
        token_program=intended and intended.token_program,
        authority_kind=intended and intended.authority_kind,
        authority=intended and intended.authority,
        guard=intended and intended.guard,
        chain_id=intended and intended.chain_id,
        source_owner=intended and intended.source_owner,
        swig_address=intended and intended.swig_address,
        swig_role_id=intended and intended.swig_role_id,
        intended_at=event.at,
        attempts=(),
        failure=None
        if intended
        else Failure("nothing_to_settle", "no voucher was accepted", event.at),
        signature=None,
        slot=None,
        retry_at=None,
        parks=0,
    )


def _submitted(event: e.PaymentSubmitted) -> Settlement:
    return Settlement(
        settlement_id=event.payment_id,
        status="signed",
        amount=event.amount,
        source=event.source,
        destination=event.destination,
        recipient=event.recipient,
        mint=event.mint,
        decimals=event.decimals,
        token_program=event.token_program,
        authority_kind=None,
        authority=event.payer,
        guard=None,
        chain_id=event.chain_id,
        source_owner=event.payer,
        swig_address=None,
        swig_role_id=None,
        intended_at=event.at,
        attempts=(_attempt(event, 1),),
        failure=None,
        signature=None,
        slot=None,
        retry_at=None,
        parks=0,
    )


def _advance(  # noqa: PLR0911  one return per event
    settlement: Settlement,
    event: e.AttemptSigned
    | e.AttemptSent
    | e.StatusSeen
    | e.SettlementFinalized
    | e.AttemptFailed
    | e.AttemptExpired
    | e.SettlementParked
    | e.SettlementResumed
    | e.SettlementAbandoned,
) -> Settlement:
    match event:
        case e.AttemptSigned():
            _require(settlement.live_attempt is None, "two live attempts (invariant I4)")
            _require(settlement.status == "intended", f"signed while {settlement.status}")
            _require(event.number == len(settlement.attempts) + 1, "attempt numbers have a gap")
            attempts = (*settlement.attempts, _attempt(event, event.number))
            return replace(settlement, status="signed", attempts=attempts, failure=None)
        case e.AttemptSent():
            return replace(
                _attempt_becomes(settlement, event.number, "in_flight"), status="in_flight"
            )
        case e.StatusSeen():
            attempt = _live(settlement, event.number)
            seen = replace(attempt, confirmation_status=event.level, slot=event.slot)
            return replace(settlement, attempts=(*settlement.attempts[:-1], seen))
        case e.SettlementFinalized():
            done = _attempt_becomes(settlement, event.number, "finalized", event.slot)
            return replace(done, status="settled", signature=event.signature, slot=event.slot)
        case e.AttemptFailed():
            failed = _attempt_becomes(settlement, event.number, "failed", event.slot, event.failure)
            failure = Failure(event.failure, event.error, event.at)
            again = event.retryable and not settlement.signed_by_payer
            status = "intended" if again else "failed"
            return replace(failed, status=status, failure=failure)
        case e.AttemptExpired():
            code = "blockhash_expired"
            expired = _attempt_becomes(settlement, event.number, "expired", failure=code)
            failure = Failure(code, f"attempt {event.number} can never land", event.at)
            status = "failed" if settlement.signed_by_payer else "intended"
            return replace(expired, status=status, failure=failure)
        case e.SettlementParked():
            _require(settlement.live_attempt is None, "parked with a live attempt")
            failure = Failure(event.failure, event.detail, event.at)
            return replace(
                settlement,
                status="parked",
                failure=failure,
                retry_at=event.retry_at,
                parks=settlement.parks + 1,
            )
        case e.SettlementResumed():
            _require(settlement.status == "parked", "resumed, but was not parked")
            parks = settlement.parks if event.by == WORKER else 0
            return replace(settlement, status="intended", failure=None, retry_at=None, parks=parks)
        case e.SettlementAbandoned():
            _require(settlement.live_attempt is None, "abandoned with a live attempt")
            failure = Failure("abandoned", event.reason, event.at)
            return replace(settlement, status="abandoned", failure=failure, retry_at=None)
        case _:
            assert_never(event)


def _attempt(event: e.AttemptSigned | e.PaymentSubmitted, number: int) -> Attempt:
    return Attempt(
        number=number,
        state="signed",
        signature=event.signature,
        transaction=event.transaction,
        blockhash=event.blockhash,
        last_valid_block_height=event.last_valid_block_height,
        tip_height=event.tip_height,
        first_available_slot=event.first_available_slot,
        min_context_slot=event.min_context_slot,
        fee_payer=event.fee_payer,
        creates_recipient_account=event.creates_recipient_account,
        cluster_id=event.cluster_id,
        signed_at=event.at,
        confirmation_status=None,
        slot=None,
        failure=None,
    )


def _live(settlement: Settlement, number: int) -> Attempt:
    attempt = settlement.live_attempt
    if attempt is None or attempt.number != number:
        raise Corrupt(f"attempt {number} is not the live attempt")
    return attempt


def _attempt_becomes(
    settlement: Settlement,
    number: int,
    state: AttemptState,
    slot: Slot | None = None,
    failure: str | None = None,
) -> Settlement:
    attempt = _live(settlement, number)
    changed = replace(
        attempt,
        state=state,
        transaction=attempt.transaction if state in LIVE_STATES else None,
        confirmation_status="finalized"
        if state in ("finalized", "failed")
        else attempt.confirmation_status,
        slot=attempt.slot if slot is None else slot,
        failure=failure,
    )
    return replace(settlement, attempts=(*settlement.attempts[:-1], changed))


def _require(holds: bool, broken: str) -> None:
    if not holds:
        raise Corrupt(f"settlement: {broken}")
