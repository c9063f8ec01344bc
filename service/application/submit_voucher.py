"""Vouchers, from an unjudged envelope to a verdict: one append for a request.

What needs no session (shape, signature, recipient, network) is checked before the log is touched.
The rest is decided on the session; several vouchers of one channel are applied in order, and all
channels of one request are appended together. An exact replay is refused, and its verdict carries
the receipt of the first time, so that a seller neither serves twice nor loses an answer.

A channel under a session grant is decided together with the grant's own stream, and both are
appended in one: no limit is passed by whoever else uses the grant at the same moment. Which grant
that is stands in the session's terms for good, so a remembered session says it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from service.application.commit import Change, Joint, Ledger, Outcome
from service.application.granted_channels import Granted, Priced, grant_of, granted_of, use_of
from service.application.nonces import Nonces
from service.application.seller_terms import SellerTerms
from service.application.streams import grant_stream, session_stream
from service.application.verdicts import (
    ClaimAnswer,
    Receipt,
    Submission,
    Verdict,
    charge_json,
    receipt_of,
    rejected_verdict,
    rejection_of,
)
from service.domain import grants as grant_rules
from service.domain.errors import ClaimTaken, VoucherRejected
from service.domain.events import Event, SessionEvent, SessionOpened, VoucherAccepted
from service.domain.grant_errors import GrantDetails, GrantNotFound, GrantRefused
from service.domain.grant_events import GrantEvent
from service.domain.grants import Grant
from service.domain.log import decode
from service.domain.pricing import required
from service.domain.session import Session, accept_voucher, fold
from service.domain.terms import Terms
from service.domain.units import UnixMillis
from service.domain.voucher import VerifiedVoucher, verify
from service.ports import Claim, RejectionTrace
from session_ledger.grant import is_grant_id

REPLAY_REASONS: Final = frozenset({"amount_not_monotonic", "session_closed"})
NONCE_SCOPE: Final = "nonce/"


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
    grants: dict[str, str | None] = {}
    while True:
        batch = _Batch(nonces, terms, submissions, now, spent, others, grants)
        try:
            verdicts = await batch.commit(ledger, claim_answer)
            break
        except _OpenedByBuyers as found:
            others |= found.channel_ids
        except _UnderGrants as found:
            grants |= found.grant_ids
        except ClaimTaken as taken:
            if not taken.scope.startswith(NONCE_SCOPE):
                raise
            spent |= {taken.key}
    for verdict in verdicts:
        if verdict.kind == "rejected":
            trace.note(rejection_of(terms.seller_id, verdict, now))
    return verdicts


class _OpenedByBuyers(Exception):
    """Channels that would be registered belong to sessions that buyers opened elsewhere."""

    def __init__(self, channel_ids: frozenset[str]) -> None:
        super().__init__(channel_ids)
        self.channel_ids = channel_ids


class _UnderGrants(Exception):
    """Channels that are under other grants, or none, than was assumed; by channel id."""

    def __init__(self, grant_ids: Mapping[str, str | None]) -> None:
        super().__init__(grant_ids)
        self.grant_ids = grant_ids


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
        grants: Mapping[str, str | None],
    ) -> None:
        self._nonces = nonces
        self._terms = terms
        self._submissions = submissions
        self._now = now
        self._spent = spent
        self._others = others
        self._grants = grants
        self._misjudged: dict[str, str | None] = {}
        self._verdicts: dict[int, Verdict] = {}
        self._channels: dict[str, list[Priced]] = {}

    async def commit(self, ledger: Ledger, claim_answer: ClaimAnswer | None) -> list[Verdict]:
        for index, submission in enumerate(self._submissions):
            self._judge_alone(index, submission)
        granted = granted_of(self._channels, self._terms.seller_id, ledger, self._grants)
        for each in granted:
            del self._channels[each.channel_id]
        changes = [
            Change(
                session_stream(self._terms.seller_id, channel_id),
                lambda session, items=items: self._decide(items, session),
            )
            for channel_id, items in self._channels.items()
        ]
        joint = self._joint(granted) if granted else None
        for each in granted:
            self._channels[each.channel_id] = each.items  # last, as their outcomes are

        async def claims(outcomes: Sequence[Outcome[Any]]) -> list[Claim]:
            if self._misjudged:
                raise _UnderGrants(self._misjudged)
            await self._refuse_others(ledger, outcomes)
            self._give_receipts(outcomes)
            await self._find_replays(ledger)
            answer = claim_answer(self._in_order()) if claim_answer is not None else ()
            return [*self._nonce_claims(), *answer]

        await ledger.commit_together(changes, claims, joint)
        return self._in_order()

    async def _refuse_others(self, ledger: Ledger, outcomes: Sequence[Outcome[Any]]) -> None:
        """A channel that a buyer opened for another seller's account must not be settled twice."""
        fresh = [
            channel_id
            for channel_id, outcome in zip(self._channels, outcomes, strict=False)
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
            self._verdicts[index] = rejected_verdict(submission, rejected)
            return
        priced = Priced(index, voucher, price, charge_json(submission.charge))
        self._channels.setdefault(voucher.channel_id, []).append(priced)

    def _decide(self, items: Sequence[Priced], session: Session | None) -> list[SessionEvent]:
        """Apply a channel's vouchers in order; a refused one leaves no event."""
        if (grant_id := grant_of(items, session)) is not None:
            self._misjudged[items[0].voucher.channel_id] = grant_id
            return []
        new: list[SessionEvent] = []
        for number, item in enumerate(items, start=1):
            try:
                events = self._accept(item, session, None, None)
            except (VoucherRejected, GrantRefused) as rejected:
                self._refuse(item, session, rejected)
                continue
            new += events
            if number < len(items):  # the commit folds the last one anyway
                session = fold(session, events)
            self._note_accepted(item)
        return new

    def _joint(self, granted: Sequence[Granted]) -> Joint:
        grant_ids = list(dict.fromkeys(g.grant_id for g in granted if is_grant_id(g.grant_id)))
        streams = [each.stream for each in granted]

        def decide(states: Sequence[Any]) -> list[Sequence[Event]]:
            sessions = dict(zip((each.channel_id for each in granted), states, strict=False))
            grants = dict(zip(grant_ids, states[len(granted) :], strict=True))
            return self._decide_granted(granted, sessions, grants)

        return Joint([*streams, *map(grant_stream, grant_ids)], decide)

    def _decide_granted(
        self,
        granted: Sequence[Granted],
        sessions: dict[str, Session | None],
        grants: dict[str, Grant | None],
    ) -> list[Sequence[Event]]:
        """Apply the vouchers of channels under grants in the order of the request."""
        new: dict[str, list[SessionEvent]] = {each.channel_id: [] for each in granted}
        uses: dict[str, list[GrantEvent]] = {grant_id: [] for grant_id in grants}
        ordered = sorted(
            ((item, each) for each in granted for item in each.items), key=lambda one: one[0].index
        )
        for item, each in ordered:
            session, grant_id = sessions[each.channel_id], each.grant_id
            if (actual := grant_of(each.items, session)) != grant_id:
                self._misjudged[each.channel_id] = actual
                continue
            grant = grants.get(grant_id)
            try:
                events = self._accept(item, session, grant_id, grant)
                assert grant is not None
                voucher = use_of(each.stream.stream_id, session, events)
                used = grant_rules.use(grant, voucher, self._now)
            except (VoucherRejected, GrantRefused) as rejected:
                self._refuse(item, session, rejected)
                continue
            new[each.channel_id] += events
            uses[grant_id] += used
            sessions[each.channel_id] = fold(session, events)
            grants[grant_id] = grant_rules.fold(grant, used)
            self._note_accepted(item)
        return [*new.values(), *uses.values()]

    def _refuse(
        self, item: Priced, session: Session | None, rejected: VoucherRejected | GrantRefused
    ) -> None:
        submission = self._submissions[item.index]
        verdict = rejected_verdict(submission, rejected, item.voucher, session)
        self._verdicts[item.index] = verdict

    def _note_accepted(self, item: Priced) -> None:
        submission = self._submissions[item.index]
        self._verdicts[item.index] = Verdict("accepted", submission, item.voucher)

    def _accept(
        self, item: Priced, session: Session | None, grant_id: str | None, grant: Grant | None
    ) -> list[SessionEvent]:
        voucher = item.voucher
        if voucher.grant_id is not None and voucher.grant_id != grant_id:
            raise GrantNotFound(
                "the channel is not under the grant that the voucher names",
                GrantDetails(voucher.grant_id),
            )
        if grant_id is not None and grant is None:
            raise GrantNotFound("no grant has this id", GrantDetails(grant_id))
        events = accept_voucher(
            session,
            voucher,
            item.price,
            # Terms are wanted for a channel that is not known; building them for nothing costs.
            self._terms_of_new(voucher, grant) if session is None else session.terms,
            charge=item.charge,
            now=self._now,
        )
        self._nonces.check(self._terms.seller, voucher.server_nonce, self._spent, self._now)
        return events

    def _terms_of_new(self, voucher: VerifiedVoucher, grant: Grant | None) -> Terms:
        """What an unknown channel is registered with. A grant proves that the payer signed for the
        session key.

        Raises:
            VoucherRejected: it is not registered by a voucher.
        """
        terms = self._terms
        if terms.seller.unknown_channels == "refuse":
            raise VoucherRejected("session_not_found")
        if terms.proven_payers_only and grant is None and voucher.signer != voucher.payer:
            raise VoucherRejected("payer_unproven")
        if voucher.channel_id in self._others:
            raise VoucherRejected(
                "session_not_found", detail="the buyer opened this channel for another account"
            )
        default = terms.session_terms(voucher.channel_id, voucher.payer)
        if grant is None:
            return default
        key = grant.terms.session_pubkey
        return replace(default, session_pubkey=key, grant_id=grant.terms.grant_id)

    def _give_receipts(self, outcomes: Sequence[Outcome[Any]]) -> None:
        """Match what was appended with the accepted vouchers, in order."""
        for items, outcome in zip(self._channels.values(), outcomes, strict=False):
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
                        receipt=receipt_of(item.voucher.channel_id, row.position, row.hash, event),
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
        return receipt_of(voucher.channel_id, row.position, row.hash, event)

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
