"""Wires the direct payments, as `bootstrap` does the rest."""

from dataclasses import dataclass
from typing import Final

import structlog

from service.adapters.postgres.direct_payments import PostgresDirectStore
from service.adapters.postgres.event_store import PostgresEventStore
from service.adapters.system import SystemClock
from service.application.accept_payment import AcceptPayment, DirectTerms
from service.application.commit import Ledger
from service.application.payment_challenges import PaymentChallenges
from service.application.recheck_payments import RecheckPayments
from service.config import Settings
from service.domain.health import WEAK_BINDING
from service.ports import Chain, DirectStore
from session_ledger.challenge import NETWORKS

log = structlog.get_logger()

RECHECK_SECONDS: Final = 5.0
"""Between looks at a payment that is not final; finality takes some 13 seconds."""


@dataclass(frozen=True, slots=True)
class Direct:
    """What the routes and the watcher of direct payments need."""

    accept: AcceptPayment
    challenges: PaymentChallenges
    payments: DirectStore
    recheck: RecheckPayments


def wired_direct(
    settings: Settings,
    *,
    ledger: Ledger,
    store: PostgresEventStore,
    chain: Chain,
    key: bytes,
) -> Direct:
    """How this deployment judges payments that buyers send themselves."""
    if settings.solana_network == "mainnet-beta" and settings.required_binding == "optional":
        log.warning(
            "payments_need_no_binding", network=settings.solana_network, detail=WEAK_BINDING
        )
    payments = PostgresDirectStore(store)
    challenges = PaymentChallenges(key)
    accept = AcceptPayment(
        ledger=ledger,
        store=payments,
        chain=chain,
        challenges=challenges,
        clock=SystemClock(),
        terms=DirectTerms(
            network=NETWORKS[settings.solana_network],
            commitment=settings.payment_commitment,
            age_seconds_max=settings.payment_age_seconds,
            unbound=settings.required_binding == "optional",
        ),
    )
    recheck = RecheckPayments(
        ledger=ledger,
        store=payments,
        chain=chain,
        clock=SystemClock(),
        every_seconds=RECHECK_SECONDS,
    )
    return Direct(accept, challenges, payments, recheck)
