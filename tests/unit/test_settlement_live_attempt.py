"""A live attempt against every observation: the rules I6, I7, I8, R2 and R3."""

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from settlement_cases import (
    GOOD,
    IN_FLIGHT,
    LAST_VALID,
    NOW,
    POLICY,
    RAW,
    SIGNATURE,
    SIGNED,
    SIGNED_SLOT,
    fetched,
    fold,
    heights,
    recorded,
    sent,
    signed,
    status,
    step,
)
from settlement_rig import (
    AMOUNT,
    AUTHORITY,
    DESTINATION,
    SETTLEMENT_ID,
    SOURCE,
    intended,
)

from service.domain import events as e
from service.domain.failures import Finding
from service.domain.onchain import (
    ChainHeights,
)
from service.domain.settlement import evolve_settlement
from service.domain.settlement_steps import (
    Fetch,
    ReadAccounts,
    ReadHeights,
    ReadStatus,
    Send,
    Wait,
)
from service.domain.units import BlockHeight, Slot, UnixMillis

# --- a live attempt -------------------------------------------------------------------------


def test_a_signed_attempt_is_sent_at_once_with_the_bytes_of_the_log() -> None:
    found = step(SIGNED)
    assert isinstance(found, Send)
    assert found.attempt.transaction == RAW


def test_an_attempt_whose_send_was_not_recorded_is_looked_for_before_it_is_sent_again() -> None:
    assert step(SIGNED, sent_at=NOW) == ReadStatus(SIGNATURE)


def test_in_flight_asks_for_the_status_first() -> None:
    assert step(IN_FLIGHT) == ReadStatus(SIGNATURE)


def test_an_unseen_attempt_is_sent_again_only_after_the_resend_time() -> None:
    just = UnixMillis(NOW - POLICY.resend_millis + 1)
    assert step(IN_FLIGHT, status=status(), sent_at=just) == Wait(NOW + POLICY.poll_millis)
    due = UnixMillis(NOW - POLICY.resend_millis)
    assert step(IN_FLIGHT, status=status(), sent_at=due) == ReadHeights()
    at_last = heights(LAST_VALID, LAST_VALID - 32)
    assert isinstance(step(IN_FLIGHT, status=status(), sent_at=due, heights=at_last), Send)


def test_a_clock_that_jumped_back_does_not_stop_the_sending() -> None:
    later = UnixMillis(NOW + 3_600_000)
    assert step(IN_FLIGHT, status=status(), sent_at=later) == ReadHeights()


@pytest.mark.parametrize(
    "seen",
    [
        heights(LAST_VALID + 1, LAST_VALID - 31),
        heights(LAST_VALID + 182, LAST_VALID + 150),
        heights(LAST_VALID + 400, LAST_VALID + 368, slot=2_001),
        heights(LAST_VALID + 400, LAST_VALID + 368, first=SIGNED_SLOT + 1),
    ],
    ids=["expired, not final", "within the margin", "an older null", "pruned history"],
)
def test_without_full_proof_an_attempt_stays_live_and_is_not_sent(seen: ChainHeights) -> None:
    answer = step(IN_FLIGHT, status=status(), heights=seen, fetched="nothing")
    assert answer == Wait(NOW + POLICY.poll_millis)


DEAD = heights(LAST_VALID + 183, LAST_VALID + 151)


def test_an_attempt_is_dead_only_after_the_transaction_itself_was_asked_for() -> None:
    assert step(IN_FLIGHT, status=status(), heights=DEAD) == Fetch(SIGNATURE)
    event = recorded(IN_FLIGHT, status=status(), heights=DEAD, fetched="nothing")
    assert isinstance(event, e.AttemptExpired)
    assert event.evidence["bound"] == LAST_VALID
    assert event.evidence["answers"][0] == {
        "finalizedHeight": LAST_VALID + 151,
        "finalizedSlot": 1_900,
        "firstAvailableSlot": 0,
        "provider": "fake",
        "status": None,
        "statusContextSlot": 2_000,
        "transaction": None,
    }


def test_one_found_beats_the_nulls() -> None:
    event = recorded(IN_FLIGHT, status=status(), heights=DEAD, fetched=fetched())
    assert isinstance(event, e.SettlementFinalized)


def test_a_last_valid_height_that_is_too_low_kills_nothing() -> None:
    low = fold(intended(), signed(last_valid_block_height=BlockHeight(900)), sent())
    seen = heights(1_100, 1_068)
    assert isinstance(step(low, status=status(), heights=seen, fetched="nothing"), Send)


def test_progress_is_recorded_once_and_only_upwards() -> None:
    event = recorded(IN_FLIGHT, status=status("processed"))
    assert event == e.StatusSeen(NOW, SETTLEMENT_ID, 1, "processed", Slot(1_600))
    processed = evolve_settlement(IN_FLIGHT, event)
    assert step(processed, status=status("processed")) == Wait(NOW + POLICY.poll_millis)
    confirmed = evolve_settlement(processed, recorded(processed, status=status("confirmed")))
    assert step(confirmed, status=status("processed")) == Wait(NOW + POLICY.poll_millis)


@pytest.mark.parametrize("level", ["processed", "confirmed"])
def test_an_error_below_finalized_decides_nothing(level: str) -> None:
    event = recorded(IN_FLIGHT, status=status(level, error={"InstructionError": [2, "X"]}))
    assert isinstance(event, e.StatusSeen)


def test_finalized_fetches_and_settles_with_the_exact_balance_changes() -> None:
    done = status("finalized")
    assert step(IN_FLIGHT, status=done) == Fetch(SIGNATURE)
    event = recorded(IN_FLIGHT, status=done, fetched=fetched())
    assert event == e.SettlementFinalized(
        at=NOW,
        settlement_id=SETTLEMENT_ID,
        number=1,
        signature=SIGNATURE,
        slot=Slot(1_600),
        source_change=str(-AMOUNT),
        destination_change=str(AMOUNT),
        transaction_hash=hashlib.sha256(RAW).digest(),
    )


def test_finalized_but_not_served_waits() -> None:
    answer = step(IN_FLIGHT, status=status("finalized"), fetched="nothing")
    assert answer == Wait(NOW + POLICY.poll_millis)


@pytest.mark.parametrize(
    "lie",
    [
        {"token_changes": {SOURCE: -AMOUNT, DESTINATION: AMOUNT - 1}},
        {"token_changes": {SOURCE: -AMOUNT + 1, DESTINATION: AMOUNT}},
        {"token_changes": {SOURCE: -AMOUNT, DESTINATION: AMOUNT, AUTHORITY: 1}},
        {"token_changes": {}},
        {"raw_hash": bytes(32)},
    ],
    ids=["too little arrives", "too little leaves", "a third account", "nothing", "other bytes"],
)
def test_nothing_is_settled_on_another_transaction_or_other_amounts(lie: dict[str, Any]) -> None:
    answer = step(IN_FLIGHT, status=status("finalized"), fetched=fetched(**lie))
    assert isinstance(answer, Wait)
    assert answer.alarm


def test_finalized_with_an_error_reads_the_accounts_to_tell_the_cause() -> None:
    seen = {
        "status": status("finalized"),
        "fetched": fetched({"InstructionError": [2, {"Custom": 1}]}),
    }
    assert isinstance(step(IN_FLIGHT, **seen), ReadAccounts)
    small = replace(GOOD, source=Finding("allowance_too_small", "1"))
    event = recorded(IN_FLIGHT, accounts=small, **seen)
    assert (event.failure, event.retryable, event.slot) == ("allowance_too_small", True, 1_600)
    assert event.error == '{"InstructionError":[2,{"Custom":1}]}'


def test_a_bug_that_is_finalized_ends_the_settlement() -> None:
    seen = {
        "status": status("finalized"),
        "fetched": fetched({"InstructionError": [2, {"Custom": 18}]}),
    }
    event = recorded(IN_FLIGHT, accounts=GOOD, **seen)
    assert evolve_settlement(IN_FLIGHT, event).status == "failed"
