"""The session's decisions: which check speaks, in which order, and what follows."""

from dataclasses import replace
from typing import Any

import pytest

from service.domain import events as e
from service.domain.errors import Corrupt, SessionExists, VoucherRejected
from service.domain.pricing import Price
from service.domain.session import (
    Session,
    accept_voucher,
    fold,
    open_session,
    remove_session,
    request_close,
)
from service.domain.terms import Limits, Terms
from service.domain.units import AtomicUsdc, UnixMillis
from service.domain.voucher import VerifiedVoucher

NOW = UnixMillis(1_700_000_000_000)
PRICE = Price(amount=10, meter=None, usage=1, version=1)
TERMS = Terms(
    channel_id="ch",
    seller_id="slr_1",
    payer="payer",
    recipient="recipient",
    network="localnet",
    mint="mint",
    decimals=6,
    deposit=AtomicUsdc(100),
    valid_until=NOW // 1_000 + 60,
    limits=Limits(max_increment=AtomicUsdc(40), max_cumulative=AtomicUsdc(90), max_vouchers=3),
)


def voucher(amount: int, sequence: int = 1, **changes: Any) -> VerifiedVoucher:
    return replace(
        VerifiedVoucher(
            channel_id="ch",
            payer="payer",
            recipient="recipient",
            cumulative_amount=amount,
            sequence=sequence,
            meter=None,
            units=1,
            server_nonce=None,
            expires_at=None,
            signer="signer",
            signature=bytes(64),
            voucher_text="{}",
            message_hash=amount.to_bytes(32, "big", signed=True),
        ),
        **changes,
    )


def accept(
    session: Session | None, submitted: VerifiedVoucher, *, now: UnixMillis = NOW
) -> list[e.SessionEvent]:
    return accept_voucher(session, submitted, PRICE, TERMS, charge=None, now=now)


def after(*submitted: VerifiedVoucher, terms: Terms = TERMS) -> Session:
    session = fold(None, [e.SessionOpened(at=NOW, terms=terms)])
    for one in submitted:
        session = fold(session, accept(session, one))
    assert session is not None
    return session


def refusal(session: Session | None, submitted: VerifiedVoucher) -> str:
    with pytest.raises(VoucherRejected) as caught:
        accept(session, submitted)
    return caught.value.error


def test_the_first_voucher_opens_the_session_and_binds_its_signer() -> None:
    events = accept(None, voucher(10))
    assert [type(event) for event in events] == [e.SessionOpened, e.VoucherAccepted]
    session = fold(None, events)
    assert session is not None
    assert (session.session_pubkey, session.cumulative_amount, session.voucher_count) == (
        "signer", 10, 1,
    )  # fmt: skip
    assert session.remaining == 90


# Each row breaks everything that the rows below it break too, so the order itself is tested.
ORDER: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("session_removed", {"removed_at": NOW}, {}),
    ("session_closed: the session is closing", {"lifecycle": "closing"}, {}),
    ("voucher_expired: expiresAt was 1", {}, {"expires_at": 1}),
    ("funding_revoked", {"funding": "revoked"}, {}),
    ("signer_changed_mid_session", {}, {"signer": "another"}),
    ("payer_changed: expected payer, got another", {}, {"payer": "another"}),
    ("amount_not_monotonic", {}, {"cumulative_amount": 10}),
    ("sequence_not_monotonic", {}, {"cumulative_amount": 11, "sequence": 1}),
    ("underpaid: expected 10, got 1", {}, {"cumulative_amount": 11}),
]


@pytest.mark.parametrize("index", range(len(ORDER)))
def test_checks_speak_in_the_order_of_the_contract(index: int) -> None:
    session, submitted = after(voucher(10)), voucher(20, 2)
    for _, of_session, of_voucher in reversed(ORDER[index:]):
        session, submitted = replace(session, **of_session), replace(submitted, **of_voucher)
    assert refusal(session, submitted) == ORDER[index][0]


@pytest.mark.parametrize(
    ("history", "submitted", "error"),
    [
        ([], voucher(9), "underpaid: expected at least 10, got 9"),
        ([], voucher(-5), "underpaid: expected at least 10, got -5"),
        ([voucher(10)], voucher(101, 2), "deposit_exceeded: the deposit is 100, got 101"),
        ([voucher(10)], voucher(51, 2), "limit_exceeded: maxIncrement is 40, got 41"),
        (
            [voucher(40), voucher(80, 2)],
            voucher(91, 3),
            "limit_exceeded: maxCumulative is 90, got 91",
        ),
        (
            [voucher(10), voucher(20, 2), voucher(30, 3)],
            voucher(40, 4),
            "limit_exceeded: maxVouchers is 3, got 4",
        ),
    ],
)
def test_prices_deposits_and_limits_name_both_numbers(
    history: list[VerifiedVoucher], submitted: VerifiedVoucher, error: str
) -> None:
    assert refusal(after(*history), submitted) == error


def test_a_session_past_its_end_accepts_nothing() -> None:
    session = after(voucher(10))
    assert TERMS.valid_until is not None
    end = UnixMillis(TERMS.valid_until * 1_000)
    assert accept(session, voucher(20, 2), now=UnixMillis(end - 1))
    with pytest.raises(VoucherRejected, match="voucher_expired: validUntil"):
        accept(session, voucher(20, 2), now=end)


def test_at_price_zero_the_first_voucher_may_be_zero_and_only_the_first() -> None:
    free = Price(amount=0, meter=None, usage=1, version=1)
    events = accept_voucher(None, voucher(0), free, TERMS, charge=None, now=NOW)
    session = fold(None, events)
    with pytest.raises(VoucherRejected, match="amount_not_monotonic"):
        accept_voucher(session, voucher(0, 2), free, TERMS, charge=None, now=NOW)


def test_registering_again_with_the_same_terms_is_no_event_and_with_others_a_conflict() -> None:
    session = after()
    assert open_session(session, TERMS, NOW) == []
    with pytest.raises(SessionExists):
        open_session(session, replace(TERMS, deposit=AtomicUsdc(1)), NOW)


def test_a_close_intends_one_settlement_for_ever() -> None:
    session = after(voucher(10))
    nothing = e.SettlementNotNeeded(at=NOW, settlement_id="stl_1")
    closed = fold(session, request_close(session, nothing, by="seller", now=NOW))
    assert closed is not None
    assert (closed.state, closed.close_requested_at) == ("settled", NOW)
    assert request_close(closed, nothing, by="seller", now=NOW) == []
    with pytest.raises(Corrupt, match="I1"):
        fold(closed, [nothing])


def test_removal_hides_the_session_and_keeps_what_it_was() -> None:
    session = after(voucher(10))
    removed = fold(session, remove_session(session, by="seller", now=NOW))
    assert removed is not None
    assert (removed.state, removed.lifecycle) == ("removed", "open")
    assert remove_session(removed, by="seller", now=NOW) == []


def test_events_out_of_place_are_corrupt() -> None:
    accepted = accept(None, voucher(10))[1]
    with pytest.raises(Corrupt, match="before the session was opened"):
        fold(None, [accepted])
    with pytest.raises(Corrupt, match="opened twice"):
        fold(after(), [e.SessionOpened(at=NOW, terms=TERMS)])
