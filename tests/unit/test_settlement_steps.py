"""Every state of a settlement without a live attempt, against every observation."""

from dataclasses import replace
from typing import Any

import pytest
from fakes import empty_account
from settlement_cases import (
    GOOD,
    INTENDED,
    NOW,
    ORDER,
    POLICY,
    draft,
    expired,
    failed,
    fetched,
    fold,
    parked,
    recorded,
    signed,
    status,
    step,
)
from settlement_rig import (
    AUTHORITY,
    DESTINATION,
    FEE_PAYER,
    MINT,
    RECIPIENT,
    SETTLEMENT_ID,
    SOURCE,
    intended,
)

from service.domain import events as e
from service.domain.errors import Corrupt
from service.domain.failures import FAILURES, Finding
from service.domain.settlement import Settlement, evolve_settlement
from service.domain.settlement_plan import (
    FEE_PAYER_RENT,
    TOKEN_ACCOUNT_RENT,
    SettlementPolicy,
    fee_of,
)
from service.domain.settlement_steps import (
    Done,
    ReadAccounts,
    SignDraft,
    Wait,
)
from service.domain.units import Lamports, UnixMillis

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


def test_on_another_database_cluster_nothing_new_is_signed() -> None:
    """R4: a restored log may have forgotten an attempt that landed."""
    waiting = step(INTENDED, accounts=replace(GOOD, database_trusted=False))
    assert waiting == Wait(UnixMillis(NOW + POLICY.backoff_min_millis), "database_was_replaced")


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
