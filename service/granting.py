"""Wires the session grants, as `bootstrap` does the rest."""

from collections.abc import Mapping

from service.adapters.postgres.event_store import PostgresEventStore
from service.adapters.postgres.grants import PostgresGrantStore
from service.application.commit import Ledger
from service.application.session_grants import GrantPolicy, SessionGrants
from service.config import Settings
from service.domain.terms import FundingKind
from service.ports import FundingSource
from session_ledger.challenge import NETWORKS


def wired_grants(
    settings: Settings,
    *,
    ledger: Ledger,
    store: PostgresEventStore,
    funding: Mapping[FundingKind, FundingSource],
) -> SessionGrants:
    """Which grants this deployment takes, and where it looks for who else enforces them."""
    return SessionGrants(
        ledger=ledger,
        store=PostgresGrantStore(store),
        funding=funding,
        policy=GrantPolicy(NETWORKS[settings.solana_network], settings.grant_life_seconds),
    )
