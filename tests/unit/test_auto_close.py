"""When a session is closed without being asked, and what a reading of its source changes."""

from dataclasses import replace
from typing import Any

import pytest

from service.application.funding import observed
from service.domain import events as e
from service.domain.auto_close import (
    AutoClosePolicy,
    AutoCloseReason,
    SourceLoad,
    close_reason,
    next_look,
)
from service.domain.failures import Finding
from service.domain.funding import FundingReading, SourceRef
from service.domain.session import Session, SignedVoucher, fold
from service.domain.terms import Terms
from service.domain.units import AtomicUsdc, Slot, UnixMillis

OPENED = 1_700_000_000_000
ALL = AutoClosePolicy(
    idle_seconds=60, age_seconds=3_600, amount=AtomicUsdc(500), headroom=AtomicUsdc(100)
)
OFF = AutoClosePolicy()
PLENTY = SourceLoad(available=AtomicUsdc(10_000), unsettled=AtomicUsdc(40))
SOURCE = SourceRef("delegate", "account", "payer", "mint")
TERMS = Terms("ch", "slr_1", "payer", "recipient", "localnet", "mint", 6)


def session(*, owed: int = 40, at: int = OPENED, **changes: Any) -> Session:
    """A session with one voucher."""
    opened = fold(None, [e.SessionOpened(UnixMillis(OPENED), TERMS)])
    assert opened is not None
    return replace(
        opened,
        **{
            "cumulative_amount": AtomicUsdc(owed),
            "last_voucher_at": UnixMillis(at),
            **changes,
        },
    )


def reason(
    of: Session,
    *,
    policy: AutoClosePolicy = ALL,
    load: SourceLoad | None = PLENTY,
    after: int = 0,
) -> AutoCloseReason | None:
    return close_reason(of, policy, load, UnixMillis(OPENED + after))


@pytest.mark.parametrize(("millis", "closes"), [(59_999, None), (60_000, "idle")])
def test_idle_time_counts_from_the_last_voucher(millis: int, closes: str | None) -> None:
    quiet = session(at=OPENED + 10_000)
    assert reason(quiet, after=10_000 + millis) == closes


def test_a_session_without_a_voucher_is_idle_from_its_opening() -> None:
    untouched = session(owed=0, last_voucher_at=None)
    assert reason(untouched, after=59_999) is None
    assert reason(untouched, after=60_000) == "idle"


def test_a_sessions_own_idle_timeout_comes_before_the_operators() -> None:
    patient = session(terms=replace(TERMS, idle_timeout_seconds=120))
    assert reason(patient, after=60_000) is None
    assert reason(patient, after=120_000) == "idle"
    assert reason(patient, policy=OFF, after=120_000) == "idle"


def test_age_counts_from_the_opening_however_busy_the_session_is() -> None:
    assert reason(session(at=OPENED + 3_599_999), after=3_599_999) is None
    assert reason(session(at=OPENED + 3_600_000), after=3_600_000) == "age"


def test_an_amount_that_is_reached_closes() -> None:
    assert reason(session(owed=499)) is None
    assert reason(session(owed=500)) == "amount"


def test_what_was_signed_counts_where_that_is_what_a_close_settles() -> None:
    signed = SignedVoucher(AtomicUsdc(500), 1, "{}", bytes(64), bytes(32), 1)
    assert reason(session(owed=0, signed=signed)) is None
    other = session(owed=0, signed=signed, terms=replace(TERMS, settles="signed"))
    assert reason(other) == "amount"


def test_low_headroom_closes_what_is_owed_something_while_the_source_still_pays() -> None:
    def load(available: int, unsettled: int) -> SourceLoad:
        return SourceLoad(AtomicUsdc(available), AtomicUsdc(unsettled))

    assert reason(session(), load=load(140, 40)) is None
    assert reason(session(), load=load(139, 40)) == "headroom"
    assert reason(session(), load=load(30, 40)) == "headroom"
    assert reason(session(owed=0), load=load(30, 40)) is None
    assert reason(session(), load=load(0, 40)) is None
    assert reason(session(), load=None) is None
    assert reason(session(), policy=OFF, load=load(30, 40)) is None


def test_nothing_closes_by_default_or_twice() -> None:
    assert reason(session(owed=10**9), policy=OFF, after=10**9) is None
    assert reason(session(lifecycle="closing"), after=10**9) is None
    assert reason(session(removed_at=UnixMillis(OPENED)), after=10**9) is None


def look(of: Session, *, after: int = 0, policy: AutoClosePolicy = ALL) -> int:
    now = UnixMillis(OPENED + after)
    return next_look(of, policy, now, every_millis=30_000) - now


def test_the_next_look_is_a_period_away_or_at_an_earlier_deadline() -> None:
    assert look(session()) == 30_000
    assert look(session(), after=45_000) == 15_000
    assert look(session(at=OPENED + 3_590_000), after=3_590_000) == 10_000
    assert look(session(), after=45_000, policy=OFF) == 30_000


def test_a_deadline_that_has_passed_is_not_looked_at_in_a_hurry() -> None:
    assert look(session(), after=60_000) == 30_000
    assert look(session(), after=10**9) == 30_000


# --- readings -------------------------------------------------------------------------------


def reading(
    available: int, code: str | None = None, *, slot: int = 10, allowance: int | None = None
) -> FundingReading:
    held = available if allowance is None else allowance
    finding = Finding(code, "detail") if code else None
    return FundingReading(AtomicUsdc(available), AtomicUsdc(held), Slot(slot), finding)


def after_reading(before: Session, read: FundingReading, **options: Any) -> Session:
    events = observed(before, SOURCE, read, UnixMillis(OPENED), **options)
    folded = fold(before, events)
    assert folded is not None
    return folded


def granted(**changes: Any) -> Session:
    return replace(after_reading(session(), reading(40)), **changes)


WITHDRAWALS = [
    "delegate_revoked", "source_account_missing", "swig_account_missing", "swig_role_missing",
    "swig_role_wrong_key", "swig_role_expired",
]  # fmt: skip


@pytest.mark.parametrize("code", WITHDRAWALS)
def test_what_was_granted_and_is_gone_is_revoked_until_it_is_granted_again(code: str) -> None:
    revoked = after_reading(granted(), reading(0, code, slot=11))
    assert revoked.funding == "revoked"
    assert observed(revoked, SOURCE, reading(0, code, slot=12), UnixMillis(OPENED)) == ()
    assert after_reading(revoked, reading(39, slot=12)).funding == "insufficient"
    assert after_reading(revoked, reading(40, slot=12)).funding == "verified"


@pytest.mark.parametrize("code", WITHDRAWALS)
def test_what_was_never_granted_is_not_revoked(code: str) -> None:
    before = session(source_token_account="account")
    after = after_reading(before, reading(0, code))
    missing = code == "source_account_missing"
    assert after.funding == ("unverified" if missing else "insufficient")


def test_a_grant_that_shrank_first_is_still_seen_to_be_revoked() -> None:
    shrunk = after_reading(granted(), reading(5, slot=11))
    assert shrunk.funding == "insufficient"
    assert after_reading(shrunk, reading(0, "delegate_revoked", slot=12)).funding == "revoked"


def test_a_first_grant_that_is_too_small_is_remembered() -> None:
    asked = after_reading(session(), reading(40, "delegate_revoked", allowance=0))
    small = after_reading(asked, reading(5, slot=11))
    assert (asked.funding, small.funding) == ("insufficient", "insufficient")
    assert after_reading(small, reading(0, "delegate_revoked", slot=12)).funding == "revoked"


def test_a_grant_of_one_account_says_nothing_of_another() -> None:
    other = replace(SOURCE, token_account="other")
    read = reading(0, "delegate_revoked", slot=11)
    [event] = observed(granted(), other, read, UnixMillis(OPENED))
    assert isinstance(event, e.FundingObserved)
    assert event.funding == "insufficient"
    moved = fold(granted(), [event])
    assert moved is not None
    assert not moved.granted


def test_a_provider_that_lags_behind_changes_nothing() -> None:
    late = reading(0, "delegate_revoked", slot=9)
    assert observed(granted(), SOURCE, late, UnixMillis(OPENED)) == ()


def test_what_nobody_named_is_worth_an_event_only_when_it_pays() -> None:
    poor, rich = reading(0, "delegate_revoked"), reading(40)
    assert after_reading(session(), poor, unasked=True).funding == "unverified"
    assert after_reading(session(), reading(39), unasked=True).funding == "unverified"
    seen = after_reading(session(), rich, unasked=True)
    assert (seen.funding, seen.source_token_account) == ("verified", "account")
    revoked = reading(0, "delegate_revoked", slot=11)
    assert after_reading(seen, revoked, unasked=True).funding == "revoked"


def test_a_reading_of_a_closed_session_changes_nothing() -> None:
    for closed in (granted(lifecycle="closing"), granted(removed_at=UnixMillis(OPENED))):
        revoked = reading(0, "delegate_revoked", slot=11)
        assert observed(closed, SOURCE, revoked, UnixMillis(OPENED)) == ()
