"""Every state of a settlement against every observation, and the rules I4, I6, I7, I8, R2, R3."""

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from fakes import empty_account
from settlement_rig import (
    AMOUNT,
    AUTHORITY,
    DESTINATION,
    FEE_PAYER,
    MINT,
    RECIPIENT,
    SETTLEMENT_ID,
    SOL,
    SOURCE,
    intended,
)

from service.domain import events as e
from service.domain.errors import Corrupt
from service.domain.failures import FAILURES, Finding
from service.domain.onchain import (
    ChainHeights,
    FinalizedTransaction,
    LatestBlockhash,
    SignatureStatus,
    Simulation,
    chain_id_of,
)
from service.domain.settlement import Settlement, evolve_settlement
from service.domain.settlement_plan import (
    FEE_PAYER_RENT,
    TOKEN_ACCOUNT_RENT,
    Accounts,
    Draft,
    Observation,
    SettlementPolicy,
    fee_of,
    order_of,
)
from service.domain.settlement_steps import (
    Done,
    Fetch,
    ReadAccounts,
    ReadHeights,
    ReadStatus,
    Record,
    Send,
    SignDraft,
    Wait,
    next_step,
)
from service.domain.units import BlockHeight, Lamports, Slot, UnixMillis
from service.local.chain import LOCALNET_GENESIS_HASH

NOW = UnixMillis(1_700_000_000_000)
POLICY = SettlementPolicy()
RAW = b"signed transaction bytes"
SIGNATURE = "sig-1"
LAST_VALID = 1_150
SIGNED_SLOT = 1_500


def fold(*events: Any) -> Settlement:
    settlement = None
    for event in events:
        settlement = evolve_settlement(settlement, event)
    assert settlement is not None
    return settlement


def signed(number: int = 1, **changes: Any) -> e.AttemptSigned:
    event = e.AttemptSigned(
        at=NOW,
        settlement_id=SETTLEMENT_ID,
        number=number,
        transaction=RAW,
        signature=f"sig-{number}",
        message_hash=bytes(32),
        blockhash="blockhash",
        last_valid_block_height=BlockHeight(LAST_VALID),
        tip_height=BlockHeight(1_000),
        min_context_slot=Slot(SIGNED_SLOT),
        first_available_slot=Slot(0),
        fee=Lamports(11_000),
        fee_payer=FEE_PAYER,
        creates_recipient_account=False,
        cluster_id="test/1",
    )
    return replace(event, **changes)


def sent(number: int = 1) -> e.AttemptSent:
    return e.AttemptSent(NOW, SETTLEMENT_ID, number, "fake", "accepted")


def failed(code: str, number: int = 1) -> e.AttemptFailed:
    retryable = FAILURES[code].failure_class != "bug"
    return e.AttemptFailed(NOW, SETTLEMENT_ID, number, Slot(1), code, "{}", retryable)


def expired(number: int = 1) -> e.AttemptExpired:
    return e.AttemptExpired(NOW, SETTLEMENT_ID, number, {})


def parked(code: str, retry_at: int | None) -> e.SettlementParked:
    return e.SettlementParked(
        NOW, SETTLEMENT_ID, code, "detail", None if retry_at is None else UnixMillis(retry_at)
    )


INTENDED = fold(intended())
SIGNED = fold(intended(), signed())
IN_FLIGHT = fold(intended(), signed(), sent())
ORDER = order_of(INTENDED, POLICY, FEE_PAYER)

GOOD = Accounts(
    chain_id=chain_id_of(LOCALNET_GENESIS_HASH),
    authority=AUTHORITY,
    fee_payer=FEE_PAYER,
    fee_payer_lamports=Lamports(SOL),
    source=None,
    destination=empty_account(DESTINATION, owner=RECIPIENT, mint=MINT),
)


def draft(error: object = None, **changes: Any) -> Draft:
    return Draft(
        order=replace(ORDER, **changes),
        transaction=RAW,
        signature=SIGNATURE,
        message_hash=bytes(32),
        blockhash=LatestBlockhash(
            "blockhash", BlockHeight(LAST_VALID), BlockHeight(1_000), Slot(SIGNED_SLOT), Slot(0)
        ),
        fee=Lamports(11_000),
        cluster_id="test/1",
        simulation=Simulation(error, (), 700),
    )


def status(level: Any = None, context_slot: int = 2_000, error: object = None) -> SignatureStatus:
    slot = None if level is None else Slot(1_600)
    return SignatureStatus(level, slot, error, Slot(context_slot))


def heights(tip: int, finalized: int, *, slot: int = 1_900, first: int = 0) -> ChainHeights:
    return ChainHeights(BlockHeight(tip), BlockHeight(finalized), Slot(slot), Slot(first))


def fetched(error: object = None, **changes: Any) -> FinalizedTransaction:
    transaction = FinalizedTransaction(
        signature=SIGNATURE,
        slot=Slot(1_600),
        error=error,
        token_changes={} if error else {SOURCE: -AMOUNT, DESTINATION: AMOUNT},
        memos=(SETTLEMENT_ID,),
        raw_hash=hashlib.sha256(RAW).digest(),
    )
    return replace(transaction, **changes)


def step(settlement: Settlement, policy: SettlementPolicy = POLICY, **seen: Any) -> Any:
    return next_step(settlement, Observation(provider="fake", **seen), NOW, policy)


def recorded(settlement: Settlement, policy: SettlementPolicy = POLICY, **seen: Any) -> Any:
    found = step(settlement, policy, **seen)
    assert isinstance(found, Record), found
    return found.event


# --- terminal and parked --------------------------------------------------------------------


@pytest.mark.parametrize(
    "settlement",
    [
        fold(e.SettlementNotNeeded(NOW, SETTLEMENT_ID)),
        fold(intended(), signed(), failed("wrong_decimals")),
        fold(intended(), e.SettlementAbandoned(NOW, SETTLEMENT_ID, "operator", "agreed")),
    ],
    ids=["settled", "failed", "abandoned"],
)
def test_a_terminal_settlement_does_nothing_whatever_is_seen(settlement: Settlement) -> None:
    assert step(settlement) == Done()
    assert step(settlement, accounts=GOOD, status=status(), fetched=fetched()) == Done()


def test_parked_for_an_operator_waits_without_end_and_reads_nothing() -> None:
    assert step(fold(intended(), parked("delegate_revoked", None))) == Wait(None)


def test_parked_until_a_time_reads_nothing_before_it() -> None:
    assert step(fold(intended(), parked("insufficient_funds", NOW + 1))) == Wait(NOW + 1)


def test_parked_and_due_looks_first_and_resumes_only_when_the_cause_is_gone() -> None:
    due = fold(intended(), parked("insufficient_funds", NOW))
    assert isinstance(step(due), ReadAccounts)
    assert recorded(due, accounts=GOOD) == e.SettlementResumed(NOW, SETTLEMENT_ID, "worker")
    still = replace(GOOD, source=Finding("insufficient_funds", "0"))
    again = recorded(due, accounts=still)
    assert (type(again), again.failure) == (e.SettlementParked, "insufficient_funds")


def test_pauses_double_with_every_parking_up_to_the_longest_and_an_operator_resets_them() -> None:
    poor = replace(GOOD, source=Finding("insufficient_funds", "0"))
    settlement, pauses = INTENDED, list[int]()
    for _ in range(12):
        event = recorded(settlement, accounts=poor)
        pauses.append(event.retry_at - NOW)
        settlement = evolve_settlement(settlement, event)
        settlement = evolve_settlement(
            settlement, e.SettlementResumed(NOW, SETTLEMENT_ID, "worker")
        )
    minutes = [pause // 60_000 for pause in pauses]
    assert minutes == [1, 2, 4, 8, 16, 32, 64, 128, 256, 360, 360, 360]
    settlement = evolve_settlement(settlement, parked("insufficient_funds", NOW))
    settlement = evolve_settlement(settlement, e.SettlementResumed(NOW, SETTLEMENT_ID, "ada"))
    assert recorded(settlement, accounts=poor).retry_at == NOW + 60_000


# --- intended -------------------------------------------------------------------------------


def test_intended_reads_accounts_then_signs_then_records_the_attempt() -> None:
    assert isinstance(step(INTENDED), ReadAccounts)
    assert step(INTENDED, accounts=GOOD) == SignDraft(ORDER)
    event = recorded(INTENDED, accounts=GOOD, draft=draft())
    assert event == signed()


OBSTACLES = [
    ("wrong_cluster", {"chain_id": "solana:other"}),
    ("authority_mismatch", {"authority": FEE_PAYER}),
    ("allowance_too_small", {"source": Finding("allowance_too_small", "1")}),
    ("delegate_revoked", {"source": Finding("delegate_revoked", "nobody")}),
    ("recipient_account_missing", {"destination": None}),
    ("wrong_mint", {"destination": empty_account(DESTINATION, owner=RECIPIENT, mint=SOURCE)}),
    (
        "destination_owner_mismatch",
        {"destination": empty_account(DESTINATION, owner=AUTHORITY, mint=MINT)},
    ),
    (
        "destination_account_frozen",
        {
            "destination": replace(
                empty_account(DESTINATION, owner=RECIPIENT, mint=MINT), frozen=True
            )
        },
    ),
    ("fee_payer_missing", {"fee_payer_lamports": Lamports(0)}),
    ("fee_payer_poor", {"fee_payer_lamports": Lamports(11_000 + FEE_PAYER_RENT - 1)}),
]


@pytest.mark.parametrize(("code", "changes"), OBSTACLES, ids=[code for code, _ in OBSTACLES])
def test_an_obstacle_parks_before_anything_is_signed(code: str, changes: dict[str, Any]) -> None:
    event = recorded(INTENDED, accounts=replace(GOOD, **changes))
    assert (event.failure, bool(event.detail)) == (code, True)
    automatic = FAILURES[code].failure_class == "automatic"
    assert event.retry_at == (NOW + 60_000 if automatic else None)


def test_an_account_that_pays_itself_is_never_signed_for() -> None:
    own = fold(intended(destination=SOURCE))
    assert recorded(own, accounts=GOOD).failure == "source_is_destination"


def test_a_fee_payer_with_exactly_enough_is_enough() -> None:
    exact = replace(GOOD, fee_payer_lamports=Lamports(fee_of(ORDER) + FEE_PAYER_RENT))
    assert isinstance(step(INTENDED, accounts=exact), SignDraft)


def test_a_missing_recipient_account_is_created_only_by_policy_and_its_rent_is_counted() -> None:
    policy = SettlementPolicy(create_recipient_account=True)
    missing = replace(GOOD, destination=None)
    sign = step(INTENDED, policy, accounts=missing)
    assert isinstance(sign, SignDraft)
    assert sign.order.create_recipient_account
    rentless = Lamports(fee_of(ORDER) + FEE_PAYER_RENT + TOKEN_ACCOUNT_RENT - 1)
    poor = recorded(INTENDED, policy, accounts=replace(missing, fee_payer_lamports=rentless))
    assert poor.failure == "fee_payer_poor"
    assert not step(INTENDED, policy, accounts=GOOD).order.create_recipient_account


@pytest.mark.parametrize("error", ["BlockhashNotFound", "AlreadyProcessed", "AccountInUse"])
def test_a_simulation_that_says_nothing_lasting_is_repeated(error: str) -> None:
    assert step(INTENDED, accounts=GOOD, draft=draft(error)) == Wait(NOW + POLICY.poll_millis)


def test_a_simulation_that_fails_parks_and_records_no_attempt() -> None:
    event = recorded(INTENDED, accounts=GOOD, draft=draft({"InstructionError": [2, {"Custom": 4}]}))
    assert (type(event), event.failure) == (e.SettlementParked, "delegate_revoked")
    assert "Custom" in event.detail


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


# --- after an attempt -----------------------------------------------------------------------


FAILED_CODES = sorted(
    code
    for code, kind in FAILURES.items()
    if kind.failure_class != "bug" and code != "blockhash_expired"  # an attempt expires by that
)


@pytest.mark.parametrize("code", FAILED_CODES)
def test_a_failed_attempt_parks_before_another_is_signed(code: str) -> None:
    event = recorded(fold(intended(), signed(), failed(code)), accounts=GOOD)
    assert (type(event), event.failure) == (e.SettlementParked, code)


def test_a_missing_account_found_on_chain_is_created_by_the_next_attempt_at_once() -> None:
    policy = SettlementPolicy(create_recipient_account=True)
    settlement = fold(intended(), signed(), failed("recipient_account_missing"))
    assert isinstance(step(settlement, policy), ReadAccounts)
    already = fold(
        intended(),
        signed(creates_recipient_account=True),
        failed("recipient_account_missing"),
    )
    assert isinstance(recorded(already, policy), e.SettlementParked)


def test_an_expired_attempt_is_followed_by_another_and_the_third_in_a_row_pauses() -> None:
    twice = fold(intended(), signed(1), expired(1), signed(2), expired(2))
    assert isinstance(step(twice), ReadAccounts)
    assert recorded(twice, accounts=GOOD, draft=draft()).number == 3
    thrice = fold(intended(), signed(1), expired(1), signed(2), expired(2), signed(3), expired(3))
    event = recorded(thrice, accounts=GOOD)
    assert (event.failure, event.retry_at) == ("blockhash_expired", NOW + 60_000)


def test_each_attempt_out_of_compute_doubles_the_limit_of_the_next() -> None:
    resumed = e.SettlementResumed(NOW, SETTLEMENT_ID, "worker")
    events: list[Any] = [intended()]
    limits: list[int] = []
    for number in range(1, 7):
        events += [
            signed(number),
            failed("compute_exceeded", number),
            parked("compute_exceeded", NOW),
            resumed,
        ]
        limits.append(step(fold(*events), accounts=GOOD).order.compute_unit_limit)
    assert limits == [200_000, 400_000, 800_000, 1_400_000, 1_400_000, 1_400_000]


def test_a_second_live_attempt_is_corruption() -> None:
    with pytest.raises(Corrupt, match="I4"):
        fold(intended(), signed(1), signed(2))


def test_parking_with_a_live_attempt_is_corruption() -> None:
    with pytest.raises(Corrupt, match="live attempt"):
        fold(intended(), signed(1), parked("unknown_failure", None))
