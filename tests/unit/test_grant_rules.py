"""What a session grant pays for: every limit at its very edge, and no state beyond one."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain import grant_errors as r
from service.domain import grant_events as e
from service.domain import session as session_rules
from service.domain.errors import Corrupt
from service.domain.grants import (
    SKEW_MILLIS,
    WINDOW_PARTS,
    Grant,
    Use,
    check_channel,
    evolve,
    fold,
    register,
    revoke,
    use,
)
from service.domain.pricing import Price
from service.domain.terms import Terms
from service.domain.units import AtomicUsdc, UnixMillis
from service.domain.voucher import VerifiedVoucher

START = 1_000_000
END = 1_003_600
NOW = UnixMillis(START * 1_000)
STREAM = "session/slr_1/ch"
TERMS = e.GrantTerms(
    grant_id="g",
    owner="owner",
    session_pubkey="key",
    network="localnet",
    mint="mint",
    recipients=("shop", "bar"),
    max_payment=AtomicUsdc(10),
    max_calls=3,
    max_total=AtomicUsdc(25),
    window_seconds=None,
    window_max=None,
    valid_from=START,
    valid_until=END,
    owner_may_sign=False,
    label=None,
)
WINDOWED = replace(
    TERMS,
    max_calls=1_000,
    max_total=AtomicUsdc(10_000),
    window_seconds=60,
    window_max=AtomicUsdc(20),
)
SESSION = Terms("ch", "slr_1", "owner", "shop", "localnet", "mint", 6, "key")


def granted(terms: e.GrantTerms = TERMS) -> Grant:
    """A grant of which nothing is used."""
    grant = fold(None, register(None, terms, "{}", bytes(64), previous=None, now=NOW))
    assert grant is not None
    return grant


def asks(amount: int, session: Terms = SESSION, signer: str = "key") -> Use:
    return Use(session, STREAM, signer, AtomicUsdc(amount), bytes(32))


def after(grant: Grant, *amounts: int, at: int = NOW) -> Grant:
    """The grant once it has paid these amounts."""
    for amount in amounts:
        found = fold(grant, use(grant, asks(amount), UnixMillis(at)))
        assert found is not None
        grant = found
    return grant


def later(seconds: float) -> UnixMillis:
    return UnixMillis(int(NOW + seconds * 1_000))


def test_a_payment_may_be_as_large_as_the_limit_and_no_larger() -> None:
    assert after(granted(), 10).amount_used == 10
    with pytest.raises(r.GrantPaymentTooLarge) as refused:
        use(granted(), asks(11), NOW)
    assert refused.value.details == r.GrantDetails("g", "10", None, "11")


def test_the_last_call_is_paid_and_the_next_one_is_not() -> None:
    spent = after(granted(), 1, 1, 1)
    assert (spent.remaining_calls, spent.state(NOW)) == (0, "exhausted")
    with pytest.raises(r.GrantMaxCallsExceeded) as refused:
        use(spent, asks(1), NOW)
    assert refused.value.details == r.GrantDetails("g", "3", "3", "1")
    assert refused.value.fallback == "owner_signature"


def test_the_total_is_paid_out_to_the_last_unit_and_not_beyond() -> None:
    spent = after(granted(), 10, 10)
    with pytest.raises(r.GrantBudgetExceeded) as refused:
        use(spent, asks(6), NOW)
    assert refused.value.details == r.GrantDetails("g", "25", "20", "6")
    assert after(spent, 5).state(NOW) == "exhausted"


def test_a_use_that_takes_the_last_of_either_limit_says_that_the_grant_is_exhausted() -> None:
    many = replace(TERMS, max_calls=100)
    for spent, amount in ((after(granted(many), 10, 10), 5), (after(granted(), 1, 1), 1)):
        told = [type(event) for event in use(spent, asks(amount), NOW)]
        assert told == [e.GrantUsed, e.GrantExhausted]
    assert [type(x) for x in use(after(granted(), 1), asks(1), NOW)] == [e.GrantUsed]


@pytest.mark.parametrize("edge", [START * 1_000 - SKEW_MILLIS, END * 1_000 + SKEW_MILLIS])
def test_a_grant_is_valid_to_both_edges_of_its_life_with_the_skew(edge: int) -> None:
    early = replace(granted(), at=UnixMillis(0))
    assert use(early, asks(1), UnixMillis(edge))
    assert early.state(UnixMillis(edge)) == "active"


def test_a_millisecond_before_its_life_a_grant_pays_nothing_and_says_when_it_will() -> None:
    early = replace(granted(), at=UnixMillis(0))
    before = UnixMillis(START * 1_000 - SKEW_MILLIS - 1)
    assert early.state(before) == "pending"
    with pytest.raises(r.GrantNotYetValid) as refused:
        use(early, asks(1), before)
    assert refused.value.details.retry_after == 1


def test_a_millisecond_after_its_life_a_grant_pays_nothing() -> None:
    behind = UnixMillis(END * 1_000 + SKEW_MILLIS + 1)
    assert granted().state(behind) == "expired"
    with pytest.raises(r.GrantExpired) as refused:
        use(granted(), asks(1), behind)
    assert refused.value.fallback == "owner_signature"


def test_a_revoked_grant_pays_nothing_and_is_revoked_once() -> None:
    events = revoke(granted(), START, bytes(64), NOW)
    ended = fold(granted(), events)
    assert ended is not None
    assert revoke(ended, START, bytes(64), NOW) == []
    assert ended.state(NOW) == "revoked"
    with pytest.raises(r.GrantRevoked):
        use(ended, asks(1), NOW)


def test_only_listed_recipients_are_paid_and_a_star_means_everybody() -> None:
    assert use(granted(), asks(1, replace(SESSION, recipient="bar")), NOW)
    stranger = asks(1, replace(SESSION, recipient="stranger"))
    with pytest.raises(r.GrantRecipientNotAllowed):
        use(granted(), stranger, NOW)
    assert use(granted(replace(TERMS, recipients=("*",))), stranger, NOW)


@pytest.mark.parametrize(
    ("other", "error"),
    [
        ({"payer": "somebody"}, r.GrantNotFound),
        ({"network": "devnet"}, r.GrantRecipientNotAllowed),
        ({"mint": "another"}, r.GrantRecipientNotAllowed),
    ],
)
def test_a_grant_pays_for_its_owner_on_its_network_in_its_mint(
    other: dict[str, str], error: type[r.GrantRefused]
) -> None:
    session = replace(SESSION, **other)
    with pytest.raises(error):
        use(granted(), asks(1, session), NOW)
    with pytest.raises(error):
        check_channel(granted(), session, "key", NOW)


def test_no_other_key_uses_a_grant_not_even_the_owners() -> None:
    for signer in ("owner", "another"):
        with pytest.raises(r.GrantSignerMismatch):
            use(granted(), asks(1, signer=signer), NOW)
        with pytest.raises(r.GrantSignerMismatch):
            check_channel(granted(), SESSION, signer, NOW)


def test_the_owner_signs_beyond_the_limits_where_the_grant_allows_it() -> None:
    spent = replace(after(granted(), 1, 1, 1), terms=replace(TERMS, owner_may_sign=True))
    assert use(spent, asks(1_000, signer="owner"), later(10_000)) == []
    with pytest.raises(r.GrantSignerMismatch):
        use(spent, asks(1, signer="another"), NOW)
    ended = fold(spent, revoke(spent, START, bytes(64), NOW))
    assert ended is not None
    with pytest.raises(r.GrantRevoked):
        use(ended, asks(1, signer="owner"), NOW)


def test_the_window_is_full_to_the_last_unit_and_not_beyond() -> None:
    full = after(granted(WINDOWED), 10, 10)
    with pytest.raises(r.GrantWindowExceeded) as refused:
        use(full, asks(1), NOW)
    assert refused.value.details == r.GrantDetails("g", "20", "20", "1", 60)


def test_a_payment_leaves_the_window_when_it_is_exactly_as_old_as_the_window() -> None:
    full = after(granted(WINDOWED), 10, 10)
    with pytest.raises(r.GrantWindowExceeded) as refused:
        use(full, asks(1), UnixMillis(later(60) - 1))
    assert refused.value.details.retry_after == 1
    assert use(full, asks(10), later(60))


def test_retry_after_is_when_enough_has_left_the_window() -> None:
    grant = after(after(granted(WINDOWED), 5), 5, at=later(20))
    grant = after(grant, 10, at=later(40))
    for amount, seconds in ((5, 20), (6, 40), (10, 40)):
        with pytest.raises(r.GrantWindowExceeded) as refused:
            use(grant, asks(amount), later(40))
        assert refused.value.details.retry_after == seconds
        assert use(grant, asks(amount), later(40 + seconds))


def test_a_clock_that_is_behind_counts_what_another_process_saw_later() -> None:
    full = after(granted(WINDOWED), 10, 10, at=later(100))
    with pytest.raises(r.GrantWindowExceeded):
        use(full, asks(1), NOW)
    assert after(granted(WINDOWED), 10, at=later(100)).at == later(100)
    used = use(after(granted(WINDOWED), 10, at=later(100)), asks(1), NOW)
    assert used[0].at == later(100)


def test_payments_that_are_remembered_as_one_leave_the_window_with_the_latest() -> None:
    full = after(after(granted(WINDOWED), 10), 10, at=later(0.9))
    assert len(full.window) == 1
    with pytest.raises(r.GrantWindowExceeded):
        use(full, asks(10), UnixMillis(later(60.9) - 1))
    assert use(full, asks(10), later(60.9))


PAUSES = st.integers(0, 90_000) | st.integers(0, 2_000)


@given(st.lists(st.tuples(PAUSES, st.integers(1, 10)), max_size=80))
def test_no_window_of_its_length_ever_holds_more_than_the_maximum(
    payments: list[tuple[int, int]],
) -> None:
    """Checked against every payment, not against what the grant remembers."""
    grant, paid, now = granted(WINDOWED), list[tuple[int, int]](), int(NOW)
    for pause, amount in payments:
        now += pause
        try:
            grant = after(grant, amount, at=now)
        except r.GrantWindowExceeded:
            kept = sum(a for at, a in paid if now - at < 60_000 + 60_000 // WINDOW_PARTS)
            assert kept + amount > 20, "refused although it would have fitted"
            continue
        paid.append((now, amount))
        assert sum(a for at, a in paid if now - at < 60_000) <= 20
        assert len(grant.window) <= WINDOW_PARTS + 4


def test_what_the_window_remembers_is_bounded_however_often_it_is_used() -> None:
    wide = replace(WINDOWED, max_calls=10_000, window_max=AtomicUsdc(10_000))
    grant = granted(wide)
    for number in range(3_000):
        grant = after(grant, 1, at=int(NOW) + number * 20)
    assert len(grant.window) <= WINDOW_PARTS + 4
    assert grant.window_used(UnixMillis(int(NOW) + 2_999 * 20)) == 3_000


def test_registering_twice_changes_nothing_and_a_renewal_names_the_one_before() -> None:
    assert register(granted(), TERMS, "{}", bytes(64), previous=None, now=NOW) == []
    renewed = fold(None, register(None, TERMS, "{}", bytes(64), previous="g0", now=NOW))
    assert renewed is not None
    assert renewed.previous_grant_id == "g0"


@pytest.mark.parametrize(
    "event",
    [
        e.GrantUsed(NOW, STREAM, AtomicUsdc(11), 1, bytes(32)),
        e.GrantUsed(NOW, STREAM, AtomicUsdc(1), 4, bytes(32)),
        e.GrantUsed(UnixMillis(NOW - 1), STREAM, AtomicUsdc(1), 1, bytes(32)),
        e.GrantRegistered(NOW, TERMS, "{}", bytes(64)),
    ],
)
def test_a_log_that_passes_a_limit_is_corrupt(event: e.GrantEvent) -> None:
    with pytest.raises(Corrupt):
        evolve(granted(), event)


def test_a_log_that_passes_the_total_or_the_window_or_goes_on_after_the_end_is_corrupt() -> None:
    one = e.GrantUsed(NOW, STREAM, AtomicUsdc(10), 1, bytes(32))
    ended = fold(granted(), revoke(granted(), START, bytes(64), NOW))
    assert ended is not None
    full = after(granted(WINDOWED), 10, 10)
    for grant in (after(granted(), 10, 10), full, ended, None):
        with pytest.raises(Corrupt):
            evolve(grant, one)


def test_a_session_under_a_grant_takes_its_key_or_the_owners_and_keeps_its_key() -> None:
    terms = replace(SESSION, session_pubkey="key", grant_id="g")
    session = session_rules.fold(None, session_rules.open_session(None, terms, NOW))
    assert session is not None

    def voucher(signer: str, amount: int) -> VerifiedVoucher:
        return VerifiedVoucher(
            channel_id="ch",
            payer="owner",
            recipient="shop",
            cumulative_amount=amount,
            sequence=amount,
            meter=None,
            units=1,
            server_nonce=None,
            expires_at=None,
            signer=signer,
            signature=bytes(64),
            voucher_text="{}",
            message_hash=bytes(32),
        )

    def accepted(signer: str, amount: int) -> session_rules.Session:
        events = session_rules.accept_voucher(
            session, voucher(signer, amount), Price(1, None, 1, 1), terms, charge=None, now=NOW
        )
        found = session_rules.fold(session, events)
        assert found is not None
        return found

    with pytest.raises(r.GrantSignerMismatch):
        accepted("another", 1)
    for signer in ("key", "owner"):
        assert accepted(signer, 1).session_pubkey == "key"
