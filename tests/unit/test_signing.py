"""Vouchers that we sign: totals and sequence numbers rise, up to the deposit, and never twice."""

from dataclasses import replace
from typing import Any

import pytest

from service.domain import events as e
from service.domain.errors import (
    AmountNotRising,
    ChannelClosed,
    ChannelExpired,
    DepositExceeded,
    FundingRevoked,
    Rejected,
)
from service.domain.session import Session, fold, remove_session, request_close
from service.domain.signing import sign_next
from service.domain.terms import Terms
from service.domain.units import AtomicUsdc, Slot, UnixMillis

NOW = UnixMillis(1_700_000_000_000)
TERMS = Terms(
    channel_id="ch",
    seller_id="slr_1",
    payer="payer",
    recipient="recipient",
    network="localnet",
    mint="mint",
    decimals=6,
    session_pubkey="key",
    deposit=AtomicUsdc(100),
    valid_until=NOW // 1_000 + 60,
    opened_by="buyer",
)


def opened(**changes: Any) -> Session:
    session = fold(None, [e.SessionOpened(at=NOW, terms=replace(TERMS, **changes))])
    assert session is not None
    return session


def next_of(
    session: Session, amount: int, *, nonce: str = "n", now: int = NOW
) -> list[e.SessionEvent]:
    def sign(sequence: int) -> e.VoucherSigned:
        text = f"{amount} {sequence} {nonce}"
        return e.VoucherSigned(
            UnixMillis(now), AtomicUsdc(amount), sequence, text, text.encode(), text.encode()
        )

    return sign_next(session, AtomicUsdc(amount), sign, UnixMillis(now))


def signed(session: Session, *amounts: int) -> Session:
    for amount in amounts:
        after = fold(session, next_of(session, amount))
        assert after is not None
        session = after
    return session


def test_sequence_numbers_start_at_one_and_rise_by_one() -> None:
    session = opened()
    for number, amount in enumerate((1, 2, 50, 100), start=1):
        session = signed(session, amount)
        assert session.signed is not None
        assert (session.signed.sequence, session.signed.count) == (number, number)
        assert session.signed.cumulative_amount == amount


def test_a_voucher_signed_twice_is_one_voucher() -> None:
    session = signed(opened(), 10, 20)
    assert next_of(session, 20) == []


@pytest.mark.parametrize(("amount", "nonce"), [(20, "other"), (19, "n"), (10, "n"), (0, "n")])
def test_a_total_that_does_not_rise_is_refused_with_the_last_one(amount: int, nonce: str) -> None:
    session = signed(opened(), 10, 20)
    with pytest.raises(AmountNotRising) as refused:
        next_of(session, amount, nonce=nonce)
    assert (refused.value.last_amount, refused.value.last_sequence) == (20, 2)


def test_the_first_total_must_be_above_zero() -> None:
    with pytest.raises(AmountNotRising) as refused:
        next_of(opened(), 0)
    assert (refused.value.last_amount, refused.value.last_sequence) == (0, 0)


def test_the_whole_deposit_can_be_signed_and_nothing_above_it() -> None:
    with pytest.raises(DepositExceeded, match="the deposit is 100, got 101"):
        next_of(opened(), 101)
    assert next_of(opened(), 100)


def test_what_the_seller_presented_does_not_hold_back_the_next_signature() -> None:
    """Both totals live in one stream; only ours decides what is signed next."""
    session = replace(signed(opened(), 10), cumulative_amount=AtomicUsdc(10), last_sequence=1)
    assert signed(session, 20).cumulative_amount == 10


def _revoked(session: Session) -> Session:
    seen = e.FundingObserved(NOW, "revoked", "source", AtomicUsdc(0), AtomicUsdc(0), Slot(1))
    after = fold(session, [seen])
    assert after is not None
    return after


def _closed(session: Session) -> Session:
    intent = e.SettlementNotNeeded(NOW, "stl")
    after = fold(session, request_close(session, intent, by="payer", now=NOW))
    assert after is not None
    return after


def _removed(session: Session) -> Session:
    after = fold(session, remove_session(session, by="seller", now=NOW))
    assert after is not None
    return after


@pytest.mark.parametrize(
    ("change", "refusal"),
    [(_revoked, FundingRevoked), (_closed, ChannelClosed), (_removed, ChannelClosed)],
)
def test_a_session_that_is_over_signs_nothing_not_even_the_same_again(
    change: Any, refusal: type[Rejected]
) -> None:
    session = change(signed(opened(), 10))
    for amount in (10, 20):
        with pytest.raises(refusal):
            next_of(session, amount)


def test_a_session_signs_until_its_end_and_not_in_that_second() -> None:
    until = (TERMS.valid_until or 0) * 1_000
    assert next_of(opened(), 1, now=until - 1)
    with pytest.raises(ChannelExpired):
        next_of(opened(), 1, now=until)


def test_what_is_owed_is_what_was_presented_or_what_was_signed() -> None:
    presented = replace(signed(opened(), 30), cumulative_amount=AtomicUsdc(10))
    unregistered = replace(signed(opened(settles="signed"), 30), cumulative_amount=AtomicUsdc(10))
    assert (presented.owed, unregistered.owed) == (10, 30)
    assert opened(settles="signed").owed == 0


def test_a_session_removed_before_its_close_needs_nothing_of_its_source() -> None:
    assert signed(opened(), 30).reserved == 100
    assert _removed(signed(opened(), 30)).reserved == 0
