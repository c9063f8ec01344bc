"""Deposits of one funding source: never promised twice, released late rather than early."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain import events as e
from service.domain.errors import Corrupt, DepositExceeded, FundingSourceRefused, ReadingTooOld
from service.domain.failures import Finding
from service.domain.funding import FundingReading
from service.domain.limits import RESERVATIONS_MAX
from service.domain.reservations import Need, Reservation, Reservations, fold, release, reserve
from service.domain.units import AtomicUsdc, Slot, UnixMillis

NOW = UnixMillis(1_000)
NONE: dict[str, Need] = {}


def usdc(amount: int) -> AtomicUsdc:
    return AtomicUsdc(amount)


def reading(available: int, slot: int = 10) -> FundingReading:
    return FundingReading(usdc(available), usdc(available), Slot(slot), None)


def held(*amounts: int, slot: int = 0) -> Reservations:
    """Sessions s0, s1, ... with these deposits."""
    reserved = (Reservation(f"s{n}", usdc(amount)) for n, amount in enumerate(amounts))
    return Reservations(tuple(reserved), Slot(slot))


def asked(
    reservations: Reservations | None,
    deposit: int,
    seen: FundingReading,
    *,
    limit: int | None = None,
    needs: dict[str, Need] = NONE,
) -> Reservations:
    """The reservations after a session `new` asked for a deposit."""
    bound = None if limit is None else usdc(limit)
    events = reserve(
        reservations, "new", usdc(deposit), seen, spend_limit=bound, needs=needs, now=NOW
    )
    after = fold(reservations, events)
    assert after is not None
    return after


def test_deposits_fit_up_to_exactly_what_the_chain_allows() -> None:
    after = asked(held(60), 40, reading(100))
    assert [one.amount for one in after.open] == [60, 40]


def test_one_atomic_unit_more_than_the_chain_allows_is_refused() -> None:
    with pytest.raises(DepositExceeded, match="41 is asked for and 60 is reserved"):
        asked(held(60), 41, reading(100))


def test_the_smaller_of_balance_and_allowance_counts() -> None:
    for balance, allowance in ((100, 50), (50, 100)):
        seen = FundingReading(usdc(balance), usdc(allowance), Slot(1), None)
        with pytest.raises(DepositExceeded):
            asked(None, 51, seen)


def test_a_source_that_cannot_pay_covers_no_deposit() -> None:
    gone = FundingReading(usdc(100), usdc(100), Slot(1), Finding("delegate_revoked", "nobody"))
    with pytest.raises(DepositExceeded):
        asked(None, 1, gone)


def test_the_buyers_own_limit_bounds_the_open_deposits_too() -> None:
    assert asked(held(60), 10, reading(100), limit=70)
    with pytest.raises(DepositExceeded):
        asked(held(60), 11, reading(100), limit=70)


def test_a_session_that_has_ended_makes_room_in_the_same_decision() -> None:
    needs = {"s0": Need(usdc(0), Slot(9)), "s1": Need(usdc(60))}
    after = asked(held(60, 60), 40, reading(100), needs=needs)
    assert [one.stream_id for one in after.open] == ["s1", "new"]
    assert after.slot == 9


def test_a_closing_session_counts_only_what_it_still_needs() -> None:
    after = asked(held(60), 90, reading(100), needs={"s0": Need(usdc(10))})
    assert len(after.open) == 2
    with pytest.raises(DepositExceeded):
        asked(held(60), 91, reading(100), needs={"s0": Need(usdc(10))})


def test_a_need_never_counts_for_more_than_the_deposit() -> None:
    assert asked(held(60), 40, reading(100), needs={"s0": Need(usdc(99))})


def test_a_reading_from_before_a_released_payment_is_not_relied_upon() -> None:
    with pytest.raises(ReadingTooOld):
        asked(held(slot=11), 1, reading(100, slot=10))
    with pytest.raises(ReadingTooOld):
        asked(held(60), 1, reading(100, slot=10), needs={"s0": Need(usdc(0), Slot(11))})
    assert asked(held(slot=10), 1, reading(100, slot=10))


def test_a_session_that_ended_without_a_payment_is_released_without_a_slot() -> None:
    after = asked(held(60, slot=4), 100, reading(100), needs={"s0": Need(usdc(0))})
    assert [one.stream_id for one in after.open] == ["new"]
    assert after.slot == 4


def test_a_source_serves_a_thousand_open_sessions_and_no_more() -> None:
    full = held(*([1] * (RESERVATIONS_MAX - 1)))
    full = asked(full, 1, reading(10_000))
    assert len(full.open) == RESERVATIONS_MAX == 1_000
    with pytest.raises(FundingSourceRefused) as refused:
        reserve(full, "one more", usdc(1), reading(10_000), spend_limit=None, needs={}, now=NOW)
    assert refused.value.reason == "too_many_open_sessions"


def test_releasing_again_is_no_event() -> None:
    needs = {"s0": Need(usdc(0), Slot(7)), "s1": Need(usdc(5)), "unknown": Need(usdc(0))}
    first = release(held(60, 5), needs, NOW)
    assert first == [e.DepositReleased(NOW, "s0", Slot(7))]
    after = fold(held(60, 5), first)
    assert after == Reservations((Reservation("s1", usdc(5)),), Slot(7))
    assert release(after, needs, NOW) == []
    assert release(None, needs, NOW) == []


def test_the_slot_of_releases_never_goes_back() -> None:
    after = fold(
        held(1, 2),
        [e.DepositReleased(NOW, "s0", Slot(9)), e.DepositReleased(NOW, "s1", Slot(3))],
    )
    assert after == Reservations((), Slot(9))


def test_a_log_that_reserves_or_releases_twice_is_corrupt() -> None:
    with pytest.raises(Corrupt):
        fold(held(1), [e.DepositReserved(NOW, "s0", usdc(1), usdc(1), Slot(1))])
    with pytest.raises(Corrupt):
        fold(held(1), [e.DepositReleased(NOW, "s1", None)])


@given(st.lists(st.tuples(st.integers(1, 60), st.booleans()), max_size=40))
def test_open_deposits_never_pass_what_the_chain_allows(steps: list[tuple[int, bool]]) -> None:
    """Sessions open, and end with a payment of their deposit, which the next reading shows."""
    state, available, slot = held(), 100, 1
    for number, (deposit, ends) in enumerate(steps):
        slot += 1
        if ends and state.open:
            one = state.open[0]
            available -= one.amount
            state = fold(state, release(state, {one.stream_id: Need(usdc(0), Slot(slot))}, NOW))
            assert state is not None
        try:
            events = reserve(
                state,
                f"new{number}",
                usdc(deposit),
                reading(available, slot),
                spend_limit=None,
                needs={},
                now=NOW,
            )
        except DepositExceeded:
            assert sum(one.amount for one in state.open) + deposit > available
            continue
        state = fold(state, events)
        assert state is not None
        assert sum(one.amount for one in state.open) <= available
