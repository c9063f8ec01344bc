"""The rules of onboarding: what replaces what, whose signature counts, when a permission ends."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey
from solders.pubkey import Pubkey

from service.domain import wallet_events as e
from service.domain.codec import canonical, from_json, to_json
from service.domain.errors import Corrupt, SignatureInvalid, TransactionAltered
from service.domain.failures import FAILURES, Finding
from service.domain.funding import FundingReading, SourceRef
from service.domain.onboarding import (
    PENDING_MILLIS,
    Seen,
    Wallet,
    checked_signatures,
    complete,
    fold,
    grant,
    issue,
    revoke,
    submit,
)
from service.domain.units import AtomicUsdc, BlockHeight, Slot, UnixMillis

AT = UnixMillis(1_763_700_000_500)
KEY = SigningKey(bytes(range(32)))
BUYER = str(Pubkey(bytes(KEY.verify_key)))
OURS = SigningKey(bytes(32))
FEE_PAYER = str(Pubkey(bytes(OURS.verify_key)))
PROOF = {"address": BUYER, "domain": "localhost", "nonce": "0" * 32, "issuedAt": "now"}

FIRST = e.IssuedTransaction("create_swig", b"\x80 first", (BUYER,), BlockHeight(250))
SECOND = e.IssuedTransaction("add_role", b"\x80 second", (FEE_PAYER, BUYER), BlockHeight(250))
ISSUED = e.OnboardingIssued(
    at=AT,
    kind="delegate",
    network="localnet",
    spend_limit=AtomicUsdc(5_000_000),
    ttl_seconds=None,
    recipients=(),
    swig_address=None,
    transactions=(FIRST, SECOND),
    proof=PROOF,
)
SUBMITTED = e.OnboardingSubmitted(AT, ("one", "two"), (b"wire one", b"wire two"))
SOURCE = SourceRef("delegate", "account", BUYER, "mint")
READING = FundingReading(AtomicUsdc(9), AtomicUsdc(7), Slot(100), None)
SEEN = Seen(SOURCE, READING, PROOF, AT)


def wallet_of(*events: e.WalletEvent) -> Wallet:
    wallet = fold(None, events)
    assert wallet is not None
    return wallet


def onboarded(**changes: Any) -> e.WalletOnboarded:
    (event,) = complete(None, SEEN, ISSUED, SUBMITTED)
    assert isinstance(event, e.WalletOnboarded)
    return replace(event, **changes)


def later(millis: int) -> UnixMillis:
    return UnixMillis(AT + millis)


# --- status ---------------------------------------------------------------------------------


def test_a_wallet_that_nobody_asked_for_is_not_onboarded() -> None:
    assert Wallet().status(AT) == "not_onboarded"


def test_an_onboarding_is_pending_until_nothing_can_come_of_it() -> None:
    for wallet in (wallet_of(ISSUED), wallet_of(ISSUED, SUBMITTED)):
        assert wallet.status(AT) == "pending"
        assert wallet.status(later(PENDING_MILLIS - 1)) == "pending"
        assert wallet.status(later(PENDING_MILLIS)) == "not_onboarded"


def test_a_permission_is_active_until_its_end() -> None:
    endless = wallet_of(ISSUED, SUBMITTED, onboarded())
    assert endless.status(UnixMillis(2**53)) == "active"
    end = AT // 1_000 + 60
    ending = wallet_of(ISSUED, SUBMITTED, onboarded(expires_at=end))
    assert ending.status(UnixMillis(end * 1_000 - 1)) == "active"
    assert ending.status(UnixMillis(end * 1_000)) == "expired"


def test_a_permission_is_revoked_until_the_wallet_onboards_again() -> None:
    revoked = e.OnboardingRevoked(AT, Slot(101), "delegate_revoked")
    wallet = wallet_of(ISSUED, SUBMITTED, onboarded(), revoked)
    assert wallet.status(AT) == "revoked"
    assert fold(wallet, [onboarded()]) == wallet_of(ISSUED, SUBMITTED, onboarded())
    again = fold(wallet, [replace(ISSUED, at=later(1))])
    assert again is not None
    assert again.status(AT) == "pending"
    assert again.status(later(PENDING_MILLIS + 1)) == "revoked"


def test_asking_again_takes_nothing_from_a_permission_that_stands() -> None:
    wallet = wallet_of(ISSUED, SUBMITTED, onboarded(), replace(ISSUED, at=later(1)))
    assert wallet.status(later(1)) == "active"


def test_a_wallet_may_limit_who_is_paid() -> None:
    assert Wallet().allows("anybody")
    assert wallet_of(onboarded()).allows("anybody")
    limited = wallet_of(onboarded(recipients=("first", "second")))
    assert limited.allows("second")
    assert not limited.allows("third")


# --- what replaces what ---------------------------------------------------------------------


def test_the_newest_issue_replaces_what_nobody_signed() -> None:
    newer = replace(ISSUED, at=later(1))
    assert issue(None, ISSUED, over=None) == [ISSUED]
    assert issue(wallet_of(ISSUED), newer, over=None) == [newer]
    assert wallet_of(ISSUED, newer).issued == newer


def test_nothing_replaces_a_submission_that_may_still_land() -> None:
    newer = replace(ISSUED, at=later(1))
    in_flight = wallet_of(ISSUED, SUBMITTED)
    another = replace(SUBMITTED, at=later(2))
    assert issue(in_flight, newer, over=None) == []
    assert issue(in_flight, newer, over=another) == []
    assert issue(in_flight, newer, over=SUBMITTED) == [newer]
    assert fold(in_flight, [newer]) == wallet_of(newer)


def test_an_earlier_permission_does_not_end_a_submission() -> None:
    wallet = wallet_of(onboarded(signatures=("earlier",)), ISSUED, SUBMITTED)
    assert issue(wallet, replace(ISSUED, at=later(1)), over=None) == []


def test_a_completed_submission_may_be_replaced() -> None:
    newer = replace(ISSUED, at=later(1))
    assert issue(wallet_of(ISSUED, SUBMITTED, onboarded()), newer, over=None) == [newer]


def test_what_was_submitted_first_is_what_is_sent() -> None:
    assert submit(wallet_of(ISSUED), SUBMITTED, ISSUED) == [SUBMITTED]
    another = replace(SUBMITTED, transactions=(b"other", b"bytes"))
    assert submit(wallet_of(ISSUED, SUBMITTED), another, ISSUED) == []


def test_nothing_is_submitted_for_an_issue_that_was_replaced() -> None:
    newer = replace(ISSUED, at=later(1))
    for wallet in (None, Wallet(), wallet_of(ISSUED, newer), wallet_of(newer, SUBMITTED)):
        with pytest.raises(TransactionAltered):
            submit(wallet, SUBMITTED, ISSUED)


# --- what the chain grants ------------------------------------------------------------------


def test_a_completed_onboarding_records_what_was_signed_and_where_it_was_seen() -> None:
    asked = replace(ISSUED, ttl_seconds=60, recipients=("seller",))
    (event,) = complete(wallet_of(asked, SUBMITTED), SEEN, asked, SUBMITTED)
    assert event == e.WalletOnboarded(
        at=AT,
        kind="delegate",
        source="account",
        owner=BUYER,
        swig_address=None,
        role_id=None,
        spend_limit=AtomicUsdc(5_000_000),
        expires_at=AT // 1_000 + 60,
        recipients=("seller",),
        signatures=("one", "two"),
        slot=Slot(100),
        proof=PROOF,
    )
    assert wallet_of(asked, SUBMITTED, event).completed


def test_two_confirmations_of_one_submission_are_one_permission() -> None:
    wallet = wallet_of(ISSUED, SUBMITTED, onboarded())
    newer = replace(SEEN, at=later(5_000), reading=replace(READING, slot=Slot(120)))
    assert complete(wallet, newer, ISSUED, SUBMITTED) == []
    assert complete(wallet, newer, replace(ISSUED, spend_limit=AtomicUsdc(1)), SUBMITTED) != []


def granted(wallet: Wallet | None, **changes: Any) -> Sequence[e.WalletEvent]:
    asked: dict[str, Any] = {"spend_limit": None, "ttl_seconds": None, "recipients": None}
    return grant(wallet, replace(SEEN, at=later(1)), **{**asked, **changes})


def test_what_the_chain_grants_already_is_recorded_once() -> None:
    (event,) = granted(None)
    assert isinstance(event, e.WalletOnboarded)
    assert event.spend_limit == READING.allowance
    assert (event.signatures, event.expires_at, event.recipients) == ((), None, ())
    assert granted(wallet_of(event)) == []


def test_a_limit_that_is_asked_for_is_the_limit() -> None:
    (event,) = granted(None, spend_limit=AtomicUsdc(3))
    assert isinstance(event, e.WalletOnboarded)
    assert event.spend_limit == 3
    assert granted(wallet_of(event)) == []  # nobody asked for another
    (wider,) = granted(wallet_of(event), spend_limit=AtomicUsdc(4))
    assert isinstance(wider, e.WalletOnboarded)
    assert wider.spend_limit == 4


def test_the_limit_of_a_permission_that_ended_is_not_kept() -> None:
    ended = onboarded(expires_at=AT // 1_000, spend_limit=AtomicUsdc(3))
    (event,) = granted(wallet_of(ended))
    assert isinstance(event, e.WalletOnboarded)
    assert event.spend_limit == READING.allowance


def test_recipients_that_are_not_spoken_of_stay_and_none_is_anybody() -> None:
    wallet = wallet_of(onboarded(recipients=("seller",), signatures=()))
    assert granted(wallet) == []
    (event,) = granted(wallet, recipients=())
    assert isinstance(event, e.WalletOnboarded)
    assert event.recipients == ()
    (other,) = granted(wallet, recipients=("another",))
    assert isinstance(other, e.WalletOnboarded)
    assert other.recipients == ("another",)


def test_a_permission_with_an_end_ends_when_it_was_asked_to() -> None:
    (event,) = granted(None, ttl_seconds=60)
    assert isinstance(event, e.WalletOnboarded)
    assert event.expires_at == later(1) // 1_000 + 60


def test_seeing_that_a_submission_took_effect_completes_it() -> None:
    (event,) = granted(wallet_of(ISSUED, SUBMITTED))
    assert wallet_of(ISSUED, SUBMITTED, event).completed


def test_what_is_granted_again_after_it_ended_is_recorded_again() -> None:
    (event,) = granted(None)
    assert isinstance(event, e.WalletOnboarded)
    revoked = e.OnboardingRevoked(AT, Slot(101), "delegate_revoked")
    assert granted(wallet_of(event, revoked)) == [event]


def found(code: str, slot: int = 101) -> FundingReading:
    return replace(READING, slot=Slot(slot), finding=Finding(code, ""))


@pytest.mark.parametrize(
    "code",
    [
        "delegate_revoked",
        "source_account_missing",
        "source_owner_mismatch",
        "swig_account_missing",
        "swig_role_missing",
        "swig_role_wrong_key",
        "swig_role_expired",
        "swig_permission_missing",
    ],
)
def test_a_permission_that_is_gone_from_the_chain_is_revoked_once(code: str) -> None:
    assert code in FAILURES
    (event,) = revoke(wallet_of(onboarded()), found(code), later(1))
    assert event == e.OnboardingRevoked(later(1), Slot(101), code)
    assert revoke(wallet_of(onboarded(), event), found(code, 102), later(2)) == []


def test_only_a_newer_reading_revokes() -> None:
    wallet = wallet_of(onboarded())
    assert revoke(wallet, found("delegate_revoked", 100), AT) == []
    assert revoke(wallet, found("delegate_revoked", 101), AT) != []


def test_what_is_not_the_wallets_doing_revokes_nothing() -> None:
    wallet = wallet_of(onboarded())
    for code in ("source_account_frozen", "insufficient_funds", "swig_limit_too_small"):
        assert revoke(wallet, found(code), AT) == []
    assert revoke(wallet, replace(READING, slot=Slot(101)), AT) == []
    for nobody in (None, Wallet(), wallet_of(ISSUED, SUBMITTED)):
        assert revoke(nobody, found("delegate_revoked"), AT) == []


# --- what comes back ------------------------------------------------------------------------


def wire(issued: e.IssuedTransaction, key: SigningKey = KEY) -> bytes:
    """The transaction with the buyer's signature in its place and nobody else's."""
    signature = key.sign(issued.message).signature
    slots = [signature if signer == BUYER else bytes(64) for signer in issued.signers]
    return bytes([len(slots)]) + b"".join(slots) + issued.message


WIRES = (wire(FIRST), wire(SECOND))


def test_the_buyers_signatures_are_found_in_their_places() -> None:
    wanted = tuple(KEY.sign(each.message).signature for each in ISSUED.transactions)
    assert checked_signatures(ISSUED, WIRES, BUYER) == wanted


@pytest.mark.parametrize(
    "wires",
    [
        (),
        WIRES[:1],
        (*WIRES, WIRES[1]),
        WIRES[::-1],
        (WIRES[0], WIRES[1] + b"\0"),
        (WIRES[0], WIRES[1][:-1]),
        (WIRES[0], b""),
        (WIRES[0], b"\x02"),
        (WIRES[0], b"\x01" + WIRES[1][1:65] + SECOND.message),
        (WIRES[0], b"\x82\x00" + WIRES[1][1:]),
        (WIRES[0], WIRES[1].replace(b"second", b"Second")),
    ],
)
def test_only_what_was_issued_comes_back_all_of_it_in_order(wires: tuple[bytes, ...]) -> None:
    with pytest.raises(TransactionAltered):
        checked_signatures(ISSUED, wires, BUYER)


@pytest.mark.parametrize(
    "second",
    [
        wire(SECOND, OURS),
        b"\x02" + bytes(128) + SECOND.message,
        b"\x02" + WIRES[1][65:129] + WIRES[1][1:65] + SECOND.message,
        b"\x02" + bytes(64) + KEY.sign(FIRST.message).signature + SECOND.message,
    ],
    ids=["another key", "no signature", "another place", "another transaction"],
)
def test_a_transaction_without_the_buyers_own_signature_is_refused(second: bytes) -> None:
    with pytest.raises(SignatureInvalid, match="transaction 1"):
        checked_signatures(ISSUED, (WIRES[0], second), BUYER)


@given(st.integers(0, len(WIRES[1]) - 1), st.integers(1, 255))
def test_any_altered_byte_is_noticed_but_for_the_fee_payers_place(at: int, mask: int) -> None:
    altered = bytearray(WIRES[1])
    altered[at] ^= mask
    if 1 <= at < 65:  # our own signature, which we make ourselves
        assert checked_signatures(ISSUED, (WIRES[0], bytes(altered)), BUYER)
    else:
        with pytest.raises((TransactionAltered, SignatureInvalid)):
            checked_signatures(ISSUED, (WIRES[0], bytes(altered)), BUYER)


@given(st.lists(st.binary(max_size=200), max_size=4))
def test_arbitrary_bytes_are_refused_and_nothing_else(wires: list[bytes]) -> None:
    with pytest.raises((TransactionAltered, SignatureInvalid)):
        checked_signatures(ISSUED, wires, BUYER)


# --- fold -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "events",
    [
        [SUBMITTED],
        [ISSUED, SUBMITTED, SUBMITTED],
        [e.OnboardingRevoked(AT, Slot(1), "delegate_revoked")],
        [ISSUED, e.OnboardingRevoked(AT, Slot(1), "delegate_revoked")],
    ],
)
def test_a_log_that_cannot_be_is_noticed(events: list[e.WalletEvent]) -> None:
    with pytest.raises(Corrupt):
        fold(None, events)


def test_the_projection_holds_the_whole_wallet() -> None:
    revoked = e.OnboardingRevoked(AT, Slot(101), "delegate_revoked")
    wallet = wallet_of(ISSUED, SUBMITTED, onboarded(), revoked)
    document = to_json(wallet)
    assert from_json(Wallet, document) == wallet
    assert canonical(document) == canonical(to_json(from_json(Wallet, document)))
