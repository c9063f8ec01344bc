"""The session against a small model of the contract, and the log against everything it promises.

The model below is written from the HTTP contract and the settlement's specification, not from the
code: it keeps a handful of plain values and says what must happen next.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.application.streams import SESSION
from service.domain import events as e
from service.domain.errors import Corrupt, VoucherRejected
from service.domain.log import GENESIS_HASH, chain, check_chain, decode
from service.domain.pricing import Price
from service.domain.session import (
    Session,
    accept_voucher,
    evolve,
    fold,
    open_session,
    remove_session,
    request_close,
)
from service.domain.terms import Limits, Terms
from service.domain.units import AtomicUsdc, Slot, StreamPosition, UnixMillis
from service.domain.voucher import VerifiedVoucher
from tests.golden_events import SAMPLES

STREAM = "session/slr_1/ch"
SETTLEMENT = "stl_1"
START = 1_700_000_000
SMALL = st.integers(0, 30)
BOUND = st.none() | st.integers(5, 60)
KINDS = st.integers(0, 8)
ENDED = {"settled", "failed", "abandoned"}


class SessionModel(RuleBasedStateMachine):
    """One channel; every rule asks the model first and the session then."""

    def __init__(self) -> None:
        super().__init__()
        self.session: Session | None = None
        self.history: list[e.SessionEvent] = []
        self.now = START
        self.state = "open"
        self.removed = False
        self.revoked = False
        self.signer: str | None = None
        self.amount = 0
        self.sequence: int | None = None
        self.count = 0
        self.status: str | None = None
        self.attempts = 0
        self.live = False

    def append(self, new: list[e.SessionEvent]) -> None:
        self.session = fold(self.session, new)
        self.history += new

    @property
    def millis(self) -> UnixMillis:
        return UnixMillis(self.now * 1_000)

    @initialize(
        deposit=BOUND,
        until=st.none() | st.integers(1, 40),
        limits=st.tuples(BOUND, BOUND, st.none() | st.integers(1, 5)),
        key=st.sampled_from([None, "key-0"]),
        closed=st.booleans(),
    )
    def register(
        self,
        *,
        deposit: Any,
        until: int | None,
        limits: tuple[Any, Any, Any],
        key: str | None,
        closed: bool,
    ) -> None:
        """Half of the runs are about vouchers, half begin with a settlement to carry out."""
        if closed:
            deposit, until, limits = None, None, (None, None, None)
        self.terms = Terms(
            channel_id="ch",
            seller_id="slr_1",
            payer="payer-0",
            recipient="recipient",
            network="localnet",
            mint="mint",
            decimals=6,
            session_pubkey=key,
            deposit=deposit,
            valid_until=None if until is None else START + until,
            limits=Limits(*limits),
        )
        self.signer = key
        self.append(open_session(None, self.terms, self.millis))
        if closed:
            self.voucher(5, 1, "key-0", "payer-0", 5, None)
            self.close(sure=0)

    @rule(seconds=st.integers(0, 5))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule(
        amount=st.integers(-15, 30),
        sequence=st.integers(-1, 2),
        signer=st.sampled_from(["key-0", "key-0", "key-0", "key-1"]),
        payer=st.sampled_from(["payer-0", "payer-0", "payer-0", "payer-1"]),
        price=st.integers(0, 12),
        expires=st.none() | st.integers(-1, 20),
    )
    def voucher(
        self,
        amount: int,
        sequence: int,
        signer: str,
        payer: str,
        price: int,
        expires: int | None,
    ) -> None:
        submitted = VerifiedVoucher(
            channel_id="ch",
            payer=payer,
            recipient="recipient",
            cumulative_amount=self.amount + amount,
            sequence=max(0, (self.sequence or 0) + sequence),
            meter=None,
            units=1,
            server_nonce=None,
            expires_at=None if expires is None else self.now + expires,
            signer=signer,
            signature=bytes(64),
            voucher_text="{}",
            message_hash=bytes(32),
        )
        expected = self.refusal(submitted, price)
        decide = partial(
            accept_voucher,
            self.session,
            submitted,
            Price(price, None, 1, 1),
            self.terms,
            charge=None,
            now=self.millis,
        )
        if expected is not None:
            with pytest.raises(VoucherRejected) as refused:
                decide()
            assert refused.value.reason == expected
            return
        new = decide()
        assert [type(event) for event in new] == [e.VoucherAccepted]
        increment = submitted.cumulative_amount - self.amount
        assert isinstance(new[0], e.VoucherAccepted)
        assert (new[0].increment, new[0].required) == (increment, price)
        self.append(new)
        self.signer = signer
        self.amount, self.sequence = submitted.cumulative_amount, submitted.sequence
        self.count += 1

    @rule(bound=st.integers(0, 2), off=st.integers(-1, 1), expires=st.none() | st.integers(0, 1))
    def voucher_at_a_bound(self, bound: int, off: int, expires: int | None) -> None:
        """A right voucher for an amount just below, at or just above what is allowed."""
        limits = self.terms.limits
        step = None if limits.max_increment is None else limits.max_increment + self.amount
        highest = (self.terms.deposit, step, limits.max_cumulative)[bound]
        if highest is not None:
            amount, signer = highest + off - self.amount, self.signer or "key-0"
            self.voucher(amount, 1, signer, "payer-0", 1, expires)

    def refusal(self, voucher: VerifiedVoucher, price: int) -> str | None:
        """The contract's order: state, signer, payer, amount, sequence, price, deposit, limits."""
        terms, limits = self.terms, self.terms.limits
        increment = voucher.cumulative_amount - self.amount
        first = self.sequence is None
        ends = [end for end in (voucher.expires_at, terms.valid_until) if end is not None]
        in_order: list[tuple[bool, str]] = [
            (self.removed, "session_removed"),
            (self.state != "open", "session_closed"),
            (any(end <= self.now for end in ends), "voucher_expired"),
            (self.revoked, "funding_revoked"),
            (self.signer not in (None, voucher.signer), "signer_changed_mid_session"),
            (voucher.payer != terms.payer, "payer_changed"),
            (first and (increment < 0 or increment < price), "underpaid"),
            (not first and increment <= 0, "amount_not_monotonic"),
            (not first and voucher.sequence <= (self.sequence or 0), "sequence_not_monotonic"),
            (not first and increment < price, "underpaid"),
            (exceeds(voucher.cumulative_amount, terms.deposit), "deposit_exceeded"),
            (exceeds(increment, limits.max_increment), "limit_exceeded"),
            (exceeds(voucher.cumulative_amount, limits.max_cumulative), "limit_exceeded"),
            (exceeds(self.count + 1, limits.max_vouchers), "limit_exceeded"),
        ]
        return next((reason for holds, reason in in_order if holds), None)

    @rule(funding=st.sampled_from(["verified", "insufficient", "revoked", "verified"]))
    def funding_is_observed(self, funding: Any) -> None:
        amount = AtomicUsdc(1)
        self.append([e.FundingObserved(self.millis, funding, "s", amount, amount, Slot(1))])
        self.revoked = funding == "revoked"

    @rule(sure=st.integers(0, 5))
    def close(self, sure: int) -> None:
        if sure:  # seldom, or no session would live to see its limits
            return
        assert self.session is not None
        intent = replace(
            SAMPLES["settlement_intended"],
            settlement_id=SETTLEMENT,
            amount=AtomicUsdc(self.amount),
        )
        nothing = e.SettlementNotNeeded(self.millis, SETTLEMENT)
        new = request_close(
            self.session, intent if self.amount else nothing, by="seller", now=self.millis
        )
        assert bool(new) is (self.status is None)
        if self.status is None:
            self.status = "intended" if self.amount else "settled"
            self.state = "closing" if self.amount else "settled"
        self.append(new)

    @rule(sure=st.integers(0, 9))
    def remove(self, sure: int) -> None:
        if sure:
            return
        assert self.session is not None
        new = remove_session(self.session, by="seller", now=self.millis)
        assert bool(new) is not self.removed
        self.removed = True
        self.append(new)

    @precondition(lambda self: self.status is not None)
    @rule(
        kind=st.sampled_from(range(9)),
        off=st.sampled_from([0, 0, 0, 0, -1, 1]),
        retryable=st.booleans(),
    )
    def settlement_event(self, kind: int, off: int, *, retryable: bool) -> None:
        """Any settlement event at any time: it follows exactly where the specification says so."""
        at, which = self.millis, self.attempts + (kind == 0) + off
        name, event = (
            ("sign", replace(SAMPLES["attempt_signed"], number=which)),
            ("send", e.AttemptSent(at, SETTLEMENT, which, "rpc", "accepted")),
            ("see", e.StatusSeen(at, SETTLEMENT, which, "confirmed", Slot(7))),
            ("pay", e.SettlementFinalized(at, SETTLEMENT, which, "s", Slot(7), "", "", b"")),
            ("fail", e.AttemptFailed(at, SETTLEMENT, which, Slot(7), "code", "{}", retryable)),
            ("expire", e.AttemptExpired(at, SETTLEMENT, which, {})),
            ("park", e.SettlementParked(at, SETTLEMENT, "code", "", None)),
            ("resume", e.SettlementResumed(at, SETTLEMENT, "operator")),
            ("abandon", e.SettlementAbandoned(at, SETTLEMENT, "operator", "why")),
        )[kind]
        if name == "sign" and self.status == "parked":
            return  # the worker resumes first; the fold does not insist on it
        if not self.may(name, which):
            with pytest.raises(Corrupt):
                evolve(self.session, event)
            return
        self.append([event])
        self.attempts += name == "sign"
        self.live = name in ("sign", "send", "see")
        self.status = {
            "sign": "signed",
            "send": "in_flight",
            "see": self.status,
            "pay": "settled",
            "fail": "intended" if retryable else "failed",
            "expire": "intended",
            "park": "parked",
            "resume": "intended",
            "abandon": "abandoned",
        }[name]
        ended = {"settled": "settled", "failed": "failed", "abandoned": "failed"}
        self.state = ended.get(self.status or "", "closing")

    @precondition(lambda self: self.status is not None)
    @rule(off=st.sampled_from([0, 0, 1]))
    def another_attempt(self, off: int) -> None:
        self.settlement_event(kind=0, off=off, retryable=True)

    def may(self, name: str, number: int) -> bool:
        """Spec: settlement safety, states and invariants I1, I4."""
        if self.status in ENDED:
            return False
        match name:
            case "sign":
                return not self.live and number == self.attempts + 1
            case "park" | "abandon":
                return not self.live
            case "resume":
                return self.status == "parked"
            case _:
                return self.live and number == self.attempts

    @invariant()
    def the_session_is_as_the_model_says(self) -> None:
        session = self.session
        if session is None:
            return
        assert session.state == ("removed" if self.removed else self.state)
        assert session.lifecycle == self.state
        assert session.cumulative_amount == self.amount
        assert (session.voucher_count, session.last_sequence) == (self.count, self.sequence)
        assert session.session_pubkey == self.signer
        settlement = session.settlement
        assert (settlement and settlement.status) == self.status
        if settlement is not None:
            assert (settlement.live_attempt is not None) is self.live
            assert len(settlement.attempts) == self.attempts
            kept = [attempt.transaction is not None for attempt in settlement.attempts]
            assert sum(kept) == self.live, "only what may be resent is kept"

    @invariant()
    def the_log_gives_the_projection_byte_for_byte(self) -> None:
        if self.session is None:
            return
        rows = chain(STREAM, StreamPosition(0), GENESIS_HASH, self.history)
        assert check_chain(rows) == rows[-1].hash
        again = [decode(row.type, row.schema_version, row.payload) for row in rows]
        assert again == self.history
        projection = SESSION.project(self.session)
        refolded = SESSION.fold(None, again)
        assert refolded is not None
        assert SESSION.project(refolded) == projection
        assert SESSION.load(projection) == self.session

    @invariant()
    def folding_in_two_parts_is_folding_at_once(self) -> None:
        half = len(self.history) // 2
        assert fold(fold(None, self.history[:half]), self.history[half:]) == self.session


def exceeds(value: int, bound: int | None) -> bool:
    return bound is not None and value > bound


SessionModel.TestCase.settings = settings(
    max_examples=200, stateful_step_count=50, deadline=None, derandomize=False
)
TestSessionModel = SessionModel.TestCase
