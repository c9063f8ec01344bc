"""What an operator decides about a settlement: to try again, or to give up."""

from typing import Final

from service.domain import events as e
from service.domain.errors import (
    SettlementNotAbandonable,
    SettlementNotFound,
    SettlementNotRetryable,
)
from service.domain.settlement import TERMINAL_STATUSES, Settlement, Settling
from service.domain.units import UnixMillis

OPERATOR: Final = "operator"
"""Who decides here. It is not `WORKER`: an operator's word starts the growing pauses anew."""


def resume_settlement(found: Settling, *, now: UnixMillis) -> list[e.Event]:
    """Try a parked settlement again, at once.

    Raises:
        SettlementNotFound: the session has none.
        SettlementNotRetryable: it is not parked: it is under way, or has ended.
    """
    settlement = _of(found)
    if settlement.status != "parked":
        raise SettlementNotRetryable(f"the settlement is {settlement.status}, not parked")
    return [e.SettlementResumed(at=now, settlement_id=settlement.settlement_id, by=OPERATOR)]


def abandon_settlement(found: Settling, *, reason: str, now: UnixMillis) -> list[e.Event]:
    """End a settlement for ever without a payment.

    Only where no attempt is live: one that was signed and is not proven dead may still be paid.

    Raises:
        SettlementNotFound: the session has none.
        SettlementNotAbandonable: an attempt may still land, or the settlement has ended.
    """
    settlement = _of(found)
    if settlement.status in TERMINAL_STATUSES:
        raise SettlementNotAbandonable(f"the settlement is {settlement.status} already")
    if (attempt := settlement.live_attempt) is not None:
        raise SettlementNotAbandonable(f"attempt {attempt.number} may still land")
    settlement_id = settlement.settlement_id
    return [e.SettlementAbandoned(now, settlement_id, by=OPERATOR, reason=reason)]


def _of(found: Settling) -> Settlement:
    if found.settlement is None:
        raise SettlementNotFound("the session was not closed, so it has no settlement")
    return found.settlement
