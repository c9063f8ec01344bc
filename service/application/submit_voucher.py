"""Vouchers, from an unjudged envelope to a verdict: one append for a request.

What needs no session (shape, signature, recipient, network) is checked before the log is touched.
The rest is decided on the session; several vouchers of one channel are applied in order, and all
channels of one request are appended together. An exact replay is refused, and its verdict carries
the receipt of the first time, so that a seller neither serves twice nor loses an answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from service.application.commit import Change, Ledger, Outcome
from service.application.nonces import Nonces
from service.application.seller_terms import SellerTerms
from service.application.streams import session_stream
from service.domain.errors import ClaimTaken, VoucherRejected
from service.domain.events import SessionEvent, SessionOpened, VoucherAccepted
from service.domain.log import decode
from service.domain.pricing import (
    AmountCharge,
    Charge,
    MeteredCharge,
    Price,
    UnitsCharge,
    required,
)
from service.domain.session import Session, accept_voucher, fold
from service.domain.units import StreamPosition, UnixMillis
from service.domain.voucher import VerifiedVoucher, verify
from service.ports import Claim, Rejection, RejectionTrace
from session_ledger.voucher import Envelope

REPLAY_REASONS: Final = frozenset({"amount_not_monotonic", "session_closed"})
NONCE_SCOPE: Final = "nonce/"


@dataclass(slots=True)
class Submission:
    """One signed voucher as the buyer sent it, and what the seller says the request costs."""

    envelope: Envelope
    charge: Charge | None = None


@dataclass(slots=True)
class Receipt:
    """What the log holds of an accepted voucher. Amounts are atomic units."""

    channel_id: str
    position: StreamPosition
    amount_paid: int
    cumulative_amount: int
    sequence: int
    accepted_at: UnixMillis
    event_hash: bytes


@dataclass(slots=True)
class Verdict:
    """The answer for one voucher.

    `session` is the session that a refused voucher met, or that the whole request left behind an
    accepted one.
    """

    kind: Literal["accepted", "replayed", "rejected"]
    submission: Submission
    voucher: VerifiedVoucher | None = None
    reason: str | None = None
    error: str | None = None
    receipt: Receipt | None = None
    session: Session | None = None
    position: StreamPosition | None = None


ClaimAnswer = Callable[[Sequence[Verdict]], Sequence[Claim]]
"""Gives, from the verdicts, an idempotency claim that is taken with the append."""


@dataclass(slots=True)
class _Priced:
    index: int
    voucher: VerifiedVoucher
    price: Price
    charge: dict[str, str] | None


async def submit_vouchers(
    ledger: Ledger,
    trace: RejectionTrace,
    nonces: Nonces,
    terms: SellerTerms,
    submissions: Sequence[Submission],
    *,
    now: UnixMillis,
    claim_answer: ClaimAnswer | None = None,
) -> list[Verdict]:
    """Judge the vouchers and append those that are accepted. Durable on return.

    Raises:
        InvalidRequest: a charge that cannot be priced; nothing was written.
        ClaimTaken: the idempotency claim was taken before; nothing was written.
        Conflict, Unavailable: see `Ledger.commit_together`.
    """
    spent: frozenset[str] = frozenset()
    others: frozenset[str] = frozenset()
    while True:
        batch = _Batch(nonces, terms, submissions, now, spent, others)
        try:
            verdicts = await batch.commit(ledger, claim_answer)
            break
        except _OpenedByBuyers as found:
            others |= found.channel_ids
        except ClaimTaken as taken:
            if not taken.scope.startswith(NONCE_SCOPE):
                raise
            spent |= {taken.key}
    for verdict in verdicts:
        if verdict.kind == "rejected":
            trace.note(_rejection(terms.seller_id, verdict, now))
    return verdicts


class _OpenedByBuyers(Exception):
    """Channels that would be registered belong to sessions that buyers opened elsewhere."""

    def __init__(self, channel_ids: frozenset[str]) -> None:
        super().__init__(channel_ids)
        self.channel_ids = channel_ids


class _Batch:
    """The vouchers of one request, judged together. Deciding again overwrites the verdicts."""

    def __init__(
        self,
        nonces: Nonces,
        terms: SellerTerms,
        submissions: Sequence[Submission],
        now: UnixMillis,
        spent: frozenset[str],
        others: frozenset[str],
    ) -> None:
        self._nonces = nonces
        self._terms = terms
        self._submissions = submissions
        self._now = now
        self._spent = spent
        self._others = others
        self._verdicts: dict[int, Verdict] = {}
        self._channels: dict[str, list[_Priced]] = {}

    async def commit(self, ledger: Ledger, claim_answer: ClaimAnswer | None) -> list[Verdict]:
        for index, submission in enumerate(self._submissions):
            self._judge_alone(index, submission)
        changes = [
            Change(
                session_stream(self._terms.seller_id, channel_id),
                lambda session, items=items: self._decide(items, session),
            )
            for channel_id, items in self._channels.items()
        ]

        async def claims(outcomes: Sequence[Outcome[Any]]) -> list[Claim]:
            await self._refuse_others(ledger, outcomes)
            self._give_receipts(outcomes)
            await self._find_replays(ledger)
            answer = claim_answer(self._in_order()) if claim_answer is not None else ()
            return [*self._nonce_claims(), *answer]

        await ledger.commit_together(changes, claims)
        return self._in_order()

    async def _refuse_others(self, ledger: Ledger, outcomes: Sequence[Outcome[Any]]) -> None:
        """A channel that a buyer opened for another seller's account must not be settled twice."""
        fresh = [
            channel_id
            for channel_id, outcome in zip(self._channels, outcomes, strict=True)
            if outcome.events and isinstance(outcome.events[0], SessionOpened)
        ]
        if fresh and (known := await ledger.store.buyers_sessions(fresh)):
            raise _OpenedByBuyers(frozenset(known))

    def _judge_alone(self, index: int, submission: Submission) -> None:
        """The checks that need no session; what passes waits for its channel's decision."""
        try:
            voucher = verify(submission.envelope, self._terms.expected)
            price = required(
                self._terms.book,
                submission.charge,
                voucher_meter=voucher.meter,
                voucher_units=voucher.units,
            )
        except VoucherRejected as rejected:
            self._verdicts[index] = _rejected(submission, rejected)
            return
        priced = _Priced(index, voucher, price, _charge_json(submission.charge))
        self._channels.setdefault(voucher.channel_id, []).append(priced)

    def _decide(self, items: Sequence[_Priced], session: Session | None) -> list[SessionEvent]:
        """Apply a channel's vouchers in order; a refused one leaves no event."""
        new: list[SessionEvent] = []
        for number, item in enumerate(items, start=1):
            submission = self._submissions[item.index]
            try:
                events = self._accept(item, session)
            except VoucherRejected as rejected:
                verdict = _rejected(submission, rejected)
                self._verdicts[item.index] = replace(verdict, voucher=item.voucher, session=session)
                continue
            new += events
            if number < len(items):  # the commit folds the last one anyway
                session = fold(session, events)
            self._verdicts[item.index] = Verdict("accepted", submission, item.voucher)
        return new

    def _accept(self, item: _Priced, session: Session | None) -> list[SessionEvent]:
        terms, voucher = self._terms, item.voucher
        if session is None and terms.seller.unknown_channels == "refuse":
            raise VoucherRejected("session_not_found")
        if session is None and terms.proven_payers_only and voucher.signer != voucher.payer:
            raise VoucherRejected("payer_unproven")
        if session is None and voucher.channel_id in self._others:
            raise VoucherRejected(
                "session_not_found", detail="the buyer opened this channel for another account"
            )
        events = accept_voucher(
            session,
            voucher,
            item.price,
            # Terms are wanted for a channel that is not known; building them for nothing costs.
            terms.session_terms(voucher.channel_id, voucher.payer)
            if session is None
            else session.terms,
            charge=item.charge,
            now=self._now,
        )
        self._nonces.check(terms.seller, voucher.server_nonce, self._spent, self._now)
        return events

    def _give_receipts(self, outcomes: Sequence[Outcome[Any]]) -> None:
        """Match what was appended with the accepted vouchers, in order."""
        for items, outcome in zip(self._channels.values(), outcomes, strict=True):
            appended = zip(outcome.events, outcome.rows, strict=True)
            accepted = ((e, row) for e, row in appended if isinstance(e, VoucherAccepted))
            for item in items:
                verdict = self._verdicts[item.index]
                if verdict.kind != "accepted":
                    verdict = replace(verdict, position=outcome.position)
                else:
                    event, row = next(accepted)
                    verdict = Verdict(
                        "accepted",
                        verdict.submission,
                        item.voucher,
                        receipt=_receipt(item.voucher.channel_id, row.position, row.hash, event),
                        session=outcome.state,
                        position=row.position,
                    )
                self._verdicts[item.index] = verdict

    async def _find_replays(self, ledger: Ledger) -> None:
        for index, verdict in list(self._verdicts.items()):
            voucher = verdict.voucher
            if verdict.reason in REPLAY_REASONS and voucher is not None:
                receipt = await self._original(ledger, voucher)
                if receipt is not None:
                    self._verdicts[index] = replace(
                        verdict,
                        kind="replayed",
                        reason="amount_not_monotonic",
                        error="amount_not_monotonic",
                        receipt=receipt,
                    )

    async def _original(self, ledger: Ledger, voucher: VerifiedVoucher) -> Receipt | None:
        """The receipt of the same signed message; the signature itself may differ."""
        for item in self._channels[voucher.channel_id]:
            verdict = self._verdicts[item.index]
            if verdict.kind == "accepted" and item.voucher.message_hash == voucher.message_hash:
                return verdict.receipt
        if voucher.cumulative_amount < 0:
            return None
        stream = session_stream(self._terms.seller_id, voucher.channel_id)
        logged = await ledger.store.voucher(stream.stream_id, voucher.cumulative_amount)
        if logged is None:
            return None
        row = logged.row
        event = decode(row.type, row.schema_version, row.payload)
        assert isinstance(event, VoucherAccepted)
        if event.message_hash != voucher.message_hash:
            return None
        return _receipt(voucher.channel_id, row.position, row.hash, event)

    def _nonce_claims(self) -> list[Claim]:
        scope = NONCE_SCOPE + self._terms.seller_id
        return [
            Claim(scope, verdict.voucher.server_nonce, verdict.voucher.message_hash)
            for verdict in self._verdicts.values()
            if verdict.kind == "accepted"
            and verdict.voucher is not None
            and verdict.voucher.server_nonce is not None
            and self._nonces.issued_here(verdict.voucher.server_nonce)
        ]

    def _in_order(self) -> list[Verdict]:
        return [self._verdicts[index] for index in range(len(self._submissions))]


def _rejected(submission: Submission, rejected: VoucherRejected) -> Verdict:
    return Verdict("rejected", submission, reason=rejected.reason, error=rejected.error)


def _receipt(
    channel_id: str, position: StreamPosition, event_hash: bytes, event: VoucherAccepted
) -> Receipt:
    return Receipt(
        channel_id=channel_id,
        position=position,
        amount_paid=event.increment,
        cumulative_amount=event.cumulative_amount,
        sequence=event.sequence,
        accepted_at=event.at,
        event_hash=event_hash,
    )


def _charge_json(charge: Charge | None) -> dict[str, str] | None:
    """The charge as the event keeps it: counts as decimal strings, like every amount."""
    match charge:
        case None:
            return None
        case UnitsCharge(units):
            return {"units": str(units)}
        case AmountCharge(amount):
            return {"amount": str(amount)}
        case MeteredCharge(meter, usage):
            return {"meter": meter, "usage": str(usage)}


def _rejection(seller_id: str, verdict: Verdict, now: UnixMillis) -> Rejection:
    envelope = verdict.submission.envelope
    named = envelope.voucher.get("channelId") if isinstance(envelope.voucher, dict) else None
    return Rejection(
        seller_id=seller_id,
        channel_id=named if isinstance(named, str) else "",
        reason=verdict.reason or "",
        error=verdict.error or "",
        at=now,
        voucher=envelope.voucher_text,
    )
