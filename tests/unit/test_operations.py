"""What an operator may decide about a settlement, and what its log holds against it."""

from typing import Any

import pytest

from service.domain import events as e
from service.domain.errors import (
    SettlementNotAbandonable,
    SettlementNotFound,
    SettlementNotRetryable,
)
from service.domain.operations import OPERATOR, abandon_settlement, resume_settlement
from service.domain.session import Session, fold
from service.domain.settlement import WORKER
from service.domain.terms import Terms
from service.domain.units import AtomicUsdc, Slot, UnixMillis
from tests.golden_events import SAMPLES

NOW = UnixMillis(1_700_000_000_000)
TERMS = Terms("ch", "slr_1", "payer", "recipient", "localnet", "mint", 6)
SIGNED = SAMPLES["attempt_signed"]
SETTLEMENT = "stl_1"


def parked(at: int = 0) -> e.SettlementParked:
    return e.SettlementParked(UnixMillis(at), SETTLEMENT, "delegate_revoked", "none", None)


HISTORIES: dict[str, list[Any]] = {
    "intended": [],
    "signed": [SIGNED],
    "in_flight": [SIGNED, e.AttemptSent(NOW, SETTLEMENT, 1, "rpc", "accepted")],
    "parked": [parked()],
    "failed": [SIGNED, e.AttemptFailed(NOW, SETTLEMENT, 1, Slot(5), "wrong_mint", "{}", False)],
    "abandoned": [e.SettlementAbandoned(NOW, SETTLEMENT, "operator", "why")],
    "settled": [
        SIGNED,
        e.SettlementFinalized(NOW, SETTLEMENT, 1, "s", Slot(5), "-10", "10", bytes(32)),
    ],
}


def session(status: str) -> Session:
    intended = SAMPLES["settlement_intended"]
    opened = e.SessionOpened(NOW, TERMS)
    found = fold(None, [opened, e.CloseRequested(NOW, "seller"), intended, *HISTORIES[status]])
    assert found is not None
    assert found.settlement is not None
    assert found.settlement.status == status
    return found


def test_a_parked_settlement_is_tried_again_and_its_pauses_start_anew() -> None:
    waiting = fold(session("parked"), [e.SettlementResumed(NOW, SETTLEMENT, WORKER), parked(1)])
    assert waiting is not None
    assert waiting.settlement is not None
    assert waiting.settlement.parks == 2

    again = fold(waiting, resume_settlement(waiting, now=NOW))

    assert again is not None
    assert again.settlement is not None
    assert (again.settlement.status, again.settlement.parks) == ("intended", 0)
    assert OPERATOR != WORKER


@pytest.mark.parametrize("status", sorted(set(HISTORIES) - {"parked"}))
def test_only_a_parked_settlement_is_retried(status: str) -> None:
    with pytest.raises(SettlementNotRetryable, match=status):
        resume_settlement(session(status), now=NOW)


@pytest.mark.parametrize("status", ["intended", "parked"])
def test_without_a_live_attempt_a_settlement_can_be_abandoned(status: str) -> None:
    before = session(status)

    after = fold(before, abandon_settlement(before, reason="paid by hand", now=NOW))

    assert after is not None
    assert after.settlement is not None
    assert (after.settlement.status, after.state) == ("abandoned", "failed")
    assert after.settlement.failure is not None
    assert after.settlement.failure.detail == "paid by hand"


@pytest.mark.parametrize("status", ["signed", "in_flight"])
def test_an_attempt_that_may_still_land_forbids_to_abandon(status: str) -> None:
    with pytest.raises(SettlementNotAbandonable, match="attempt 1 may still land"):
        abandon_settlement(session(status), reason="impatience", now=NOW)


@pytest.mark.parametrize("status", ["settled", "failed", "abandoned"])
def test_what_has_ended_is_not_abandoned(status: str) -> None:
    with pytest.raises(SettlementNotAbandonable, match="already"):
        abandon_settlement(session(status), reason="late", now=NOW)


def test_an_open_session_has_no_settlement_to_decide_about() -> None:
    opened = fold(None, [e.SessionOpened(at=NOW, terms=TERMS)])
    assert opened is not None
    assert opened.cumulative_amount == AtomicUsdc(0)
    with pytest.raises(SettlementNotFound):
        resume_settlement(opened, now=NOW)
    with pytest.raises(SettlementNotFound):
        abandon_settlement(opened, reason="none", now=NOW)
