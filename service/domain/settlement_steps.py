"""The next step of a settlement: pure, from what the log says and what the chain shows.

`next_step` asks for one reading at a time (`ReadStatus`, `ReadHeights`, ...) until it knows what to
do, so it alone decides what costs an RPC call. It ends with one effect: `Record` an event, `Send`
bytes that the log already holds, or `Wait`.

Two things keep a settlement from paying twice, and both are here. A new attempt is signed only
while none is live (invariant I4), and a live attempt ends only with its finalized transaction or
with the proof that it can never land (rule R2). An absent answer, a timeout or an error is never
such a proof (invariant I7).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, assert_never

from service.domain import events as e
from service.domain.codec import canonical
from service.domain.errors import Corrupt
from service.domain.failures import (
    FAILURES,
    Finding,
    classify,
    classify_transfer,
    failed_program,
    instruction_roles,
    is_passing,
)
from service.domain.limits import BLOCKHASH_WINDOW_BLOCKS
from service.domain.onchain import FinalizedTransaction, SignatureStatus, TransferOrder
from service.domain.settlement import WORKER, Attempt, Settlement
from service.domain.settlement_plan import (
    Accounts,
    Draft,
    Observation,
    SettlementPolicy,
    destination_finding,
    in_a_row,
    is_of,
    named,
    obstacle,
    order_of,
)
from service.domain.units import UnixMillis

EXPIRIES_BEFORE_PAUSE: Final = 3
"""Attempts that expire in a row before the settlement pauses."""
_DOUBLINGS_MAX: Final = 32  # keeps the shift small; the longest pause comes far earlier
_LEVEL_RANK: Final = {None: 0, "processed": 1, "confirmed": 2, "finalized": 3}


# --- steps: readings, then the ends ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReadAccounts:
    """Read the accounts of `order`."""

    order: TransferOrder


@dataclass(frozen=True, slots=True)
class SignDraft:
    """Build, sign and simulate `order` with a fresh blockhash (rule R1)."""

    order: TransferOrder


@dataclass(frozen=True, slots=True)
class ReadStatus:
    """Ask for the signature's status."""

    signature: str


@dataclass(frozen=True, slots=True)
class ReadHeights:
    """Ask for the heights and the history's bound."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """Fetch the finalized transaction."""

    signature: str


@dataclass(frozen=True, slots=True)
class Send:
    """Send the attempt's bytes, as the log holds them (rule R3)."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Record:
    """Append the event."""

    event: e.SessionEvent


@dataclass(frozen=True, slots=True)
class Wait:
    """Look again at `until`, Unix milliseconds; `None` is when an operator acts.

    `alarm` names something that should not be: a person has to look.
    """

    until: UnixMillis | None
    alarm: str | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """The settlement is terminal."""


Reading = ReadAccounts | SignDraft | ReadStatus | ReadHeights | Fetch
Step = Reading | Send | Record | Wait | Done


def next_step(
    settlement: Settlement, seen: Observation, now: UnixMillis, policy: SettlementPolicy
) -> Step:
    """What to do next. `now` paces the work; only heights and finalized facts decide.

    Raises:
        Corrupt: the settlement cannot have come from its log.
    """
    case = _Case(settlement, seen, now, policy)
    match settlement.status:
        case "settled" | "failed" | "abandoned":
            return Done()
        case "parked":
            return _parked(case)
        case "intended":
            return _intended(case)
        case "signed" | "in_flight":
            attempt = settlement.live_attempt
            if attempt is None:
                raise Corrupt(f"a settlement is {settlement.status} without a live attempt")
            return _live(case, attempt)
        case _:
            assert_never(settlement.status)


@dataclass(frozen=True, slots=True)
class _Case:
    """The arguments of `next_step`, and the two answers that need nothing else."""

    settlement: Settlement
    seen: Observation
    now: UnixMillis
    policy: SettlementPolicy

    def wait(self, alarm: str | None = None) -> Wait:
        millis = self.policy.backoff_min_millis if alarm else self.policy.poll_millis
        return Wait(UnixMillis(self.now + millis), alarm)

    def park(self, finding: Finding) -> Record:
        """Give up for now. The pauses grow with the number of parkings."""
        retry_at = None
        if FAILURES[finding.code].failure_class == "automatic":
            doublings = min(self.settlement.parks, _DOUBLINGS_MAX)
            pause = self.policy.backoff_min_millis << doublings
            retry_at = UnixMillis(self.now + min(self.policy.backoff_max_millis, pause))
        return Record(
            e.SettlementParked(
                at=self.now,
                settlement_id=self.settlement.settlement_id,
                failure=finding.code,
                detail=finding.detail,
                retry_at=retry_at,
            )
        )

    def code_of(
        self, error: object, accounts: Accounts, logs: Sequence[str], *, creates: bool
    ) -> str:
        """The failure code of a transaction error, told apart by the accounts and the logs."""
        order = order_of(self.settlement, self.policy)
        wallet = order.authority_kind == "swig"
        return classify(
            error,
            instruction_roles(creates_recipient_account=creates),
            source=accounts.source,
            destination=destination_finding(order, accounts.destination),
            by_wallet=wallet and failed_program(logs) != order.token_program,
        )


# --- no attempt is live ---------------------------------------------------------------------


def _parked(case: _Case) -> Step:
    settlement, retry_at = case.settlement, case.settlement.retry_at
    if retry_at is None or case.now < retry_at:
        return Wait(retry_at)
    if case.seen.accounts is None:
        return ReadAccounts(order_of(settlement, case.policy))
    if finding := obstacle(settlement, case.seen.accounts, case.policy):
        return case.park(finding)
    return Record(e.SettlementResumed(case.now, settlement.settlement_id, by=WORKER))


def _intended(case: _Case) -> Step:
    settlement, accounts, draft = case.settlement, case.seen.accounts, case.seen.draft
    if (failure := settlement.failure) and not _cured_by_another_attempt(case):
        return case.park(Finding(failure.code, failure.detail))
    if accounts is None:
        return ReadAccounts(order_of(settlement, case.policy))
    if finding := obstacle(settlement, accounts, case.policy):
        return case.park(finding)
    if not accounts.database_trusted:
        # R4: an attempt that this log has forgotten may have landed. Nothing is signed.
        return case.wait("database_was_replaced")
    if draft is None:
        create = accounts.destination is None
        return SignDraft(order_of(settlement, case.policy, accounts.fee_payer, create=create))
    return _after_simulation(case, accounts, draft)


def _after_simulation(case: _Case, accounts: Accounts, draft: Draft) -> Step:
    error = draft.simulation.error
    if error is None:
        return Record(_signed(case.settlement, draft, case.now))
    if is_passing(error):
        return case.wait()
    creates = draft.order.create_recipient_account
    code = case.code_of(error, accounts, draft.simulation.logs, creates=creates)
    return case.park(Finding(code, f"simulation: {_text(error)}"))


def _cured_by_another_attempt(case: _Case) -> bool:
    """Whether the last attempt ended in a way that a new one cures by itself."""
    attempts = case.settlement.attempts
    last = attempts[-1]
    if last.failure == "recipient_account_missing":
        return case.policy.create_recipient_account and not last.creates_recipient_account
    in_row = in_a_row(attempts, "blockhash_expired")
    return last.failure == "blockhash_expired" and in_row % EXPIRIES_BEFORE_PAUSE != 0


def _signed(settlement: Settlement, draft: Draft, now: UnixMillis) -> e.AttemptSigned:
    seen = draft.blockhash
    return e.AttemptSigned(
        at=now,
        settlement_id=settlement.settlement_id,
        number=len(settlement.attempts) + 1,
        transaction=draft.transaction,
        signature=draft.signature,
        message_hash=draft.message_hash,
        blockhash=seen.blockhash,
        last_valid_block_height=seen.last_valid_block_height,
        tip_height=seen.tip_height,
        min_context_slot=seen.slot,
        first_available_slot=seen.first_available_slot,
        fee=draft.fee,
        fee_payer=draft.order.fee_payer,
        creates_recipient_account=draft.order.create_recipient_account,
        cluster_id=draft.cluster_id,
    )


# --- an attempt is live ---------------------------------------------------------------------


def _live(case: _Case, attempt: Attempt) -> Step:
    status = case.seen.status
    if attempt.state == "signed" and case.seen.sent_at is None:
        return Send(attempt)
    if status is None:
        return ReadStatus(attempt.signature)
    match status.level:
        case None:
            return _unseen(case, attempt, status)
        case "finalized":
            return _finalized(case, attempt)
        case "processed" | "confirmed" as level:
            # Advisory (I6). Only upwards, so that a provider that wavers cannot fill the log.
            if (
                status.slot is None
                or _LEVEL_RANK[level] <= _LEVEL_RANK[attempt.confirmation_status]
            ):
                return case.wait()
            settlement_id = case.settlement.settlement_id
            return Record(e.StatusSeen(case.now, settlement_id, attempt.number, level, status.slot))


def _unseen(case: _Case, attempt: Attempt, status: SignatureStatus) -> Step:
    """The provider knows nothing: send the same bytes again, or prove them dead (R3 and R2)."""
    sent_at, heights = case.seen.sent_at, case.seen.heights
    if sent_at is not None and 0 <= case.now - sent_at < case.policy.resend_millis:
        return case.wait()
    if heights is None:
        return ReadHeights()
    # A provider may have named too low a height, so our own bound counts as well.
    bound = max(attempt.last_valid_block_height, attempt.tip_height + BLOCKHASH_WINDOW_BLOCKS)
    if heights.tip <= bound:
        return Send(attempt)
    margin = case.policy.expiry_margin_blocks
    if (
        heights.finalized <= bound + margin
        or status.context_slot < heights.finalized_slot  # the null is older than the height
        or heights.first_available_slot > attempt.min_context_slot  # its history was pruned
    ):
        return case.wait()
    # One "found" beats any number of nulls, so the transaction itself is asked for as well.
    if case.seen.fetched != "nothing":
        return _finalized(case, attempt)
    evidence = {
        "bound": bound,
        "margin": margin,
        "signedAtSlot": attempt.min_context_slot,
        "answers": [
            {
                "finalizedHeight": heights.finalized,
                "finalizedSlot": heights.finalized_slot,
                "firstAvailableSlot": heights.first_available_slot,
                "provider": case.seen.provider,
                "status": None,
                "statusContextSlot": status.context_slot,
                "transaction": None,
            }
        ],
    }
    settlement_id = case.settlement.settlement_id
    return Record(e.AttemptExpired(case.now, settlement_id, attempt.number, evidence))


def _finalized(case: _Case, attempt: Attempt) -> Step:
    """Only the transaction itself settles or fails an attempt (invariant I8)."""
    fetched = case.seen.fetched
    if fetched is None:
        return Fetch(attempt.signature)
    if fetched == "nothing":
        return case.wait()
    if not is_of(attempt, fetched, by_payer=case.settlement.signed_by_payer):
        return case.wait("another_transaction_was_served")
    return (_failed if fetched.error is not None else _paid)(case, attempt, fetched)


def _failed(case: _Case, attempt: Attempt, fetched: FinalizedTransaction) -> Step:
    by_payer = case.settlement.signed_by_payer
    if by_payer:
        code = classify_transfer(fetched.error)
    elif case.seen.accounts is None:
        return ReadAccounts(order_of(case.settlement, case.policy))
    else:
        creates = attempt.creates_recipient_account
        code = case.code_of(fetched.error, case.seen.accounts, fetched.logs, creates=creates)
    return Record(
        e.AttemptFailed(
            at=case.now,
            settlement_id=case.settlement.settlement_id,
            number=attempt.number,
            slot=fetched.slot,
            failure=code,
            error=_text(fetched.error),
            retryable=not by_payer and FAILURES[code].failure_class != "bug",
        )
    )


def _paid(case: _Case, attempt: Attempt, fetched: FinalizedTransaction) -> Step:
    settlement = case.settlement
    source, destination = named(settlement.source), named(settlement.destination)
    changes = {account: change for account, change in fetched.token_changes.items() if change}
    if changes != {source: -settlement.amount, destination: settlement.amount}:
        return case.wait("balance_changes_do_not_match")
    return Record(
        e.SettlementFinalized(
            at=case.now,
            settlement_id=settlement.settlement_id,
            number=attempt.number,
            signature=attempt.signature,
            slot=fetched.slot,
            source_change=str(changes[source]),
            destination_change=str(changes[destination]),
            transaction_hash=fetched.raw_hash,
        )
    )


def _text(error: object) -> str:
    return canonical(error).decode()
