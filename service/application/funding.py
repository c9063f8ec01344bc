"""What the chain says of a session's funding source: is there money behind the vouchers?

A reading is not a reservation: the payer may revoke or spend at any time, so the settlement reads
again. A chain that does not answer never stops a session; it stays `unverified`.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from service.application.commit import Ledger
from service.application.settlement_terms import SettlementTerms
from service.application.streams import Stream
from service.domain.errors import ChainUnavailable, FundingSourceUnknown
from service.domain.events import FundingObserved, SessionEvent
from service.domain.funding import FundingReading, SourceRef
from service.domain.session import Funding, Session
from service.domain.terms import FundingKind
from service.domain.units import UnixMillis
from service.ports import FundingSource

WITHDRAWN: Final = frozenset(
    {
        "delegate_revoked",
        "swig_account_missing",
        "swig_role_missing",
        "swig_role_wrong_key",
        "swig_role_expired",
    }
)
"""Findings that say the payer took back what it had granted."""


async def observe_funding(
    ledger: Ledger,
    funding: Mapping[FundingKind, FundingSource],
    how: SettlementTerms,
    stream: Stream[Session],
    now: UnixMillis,
    *,
    named: str | None = None,
) -> None:
    """Read the session's source account, or the one named here, and append what changed."""
    held = await ledger.read(stream)
    if held is None or held.state is None:
        return
    if named is None and held.state.source_token_account is None:
        return
    try:
        source = how.source_of(held.state, named)
        reading = (await funding[source.kind].readings([source]))[0]
    except (ChainUnavailable, FundingSourceUnknown):
        return
    await record_reading(ledger, stream, source, reading, now)


async def record_reading(
    ledger: Ledger,
    stream: Stream[Session],
    source: SourceRef,
    reading: FundingReading,
    now: UnixMillis,
) -> Session | None:
    """Append what a reading changes; gives the session afterwards."""

    def decide(session: Session | None) -> Sequence[SessionEvent]:
        if session is None or session.state != "open":
            return ()
        if reading.finding and reading.finding.code == "source_account_missing":
            return ()
        funding = judge(session, reading)
        if (funding, source.token_account) == (session.funding, session.source_token_account):
            return ()
        return [
            FundingObserved(
                at=now,
                funding=funding,
                source_token_account=source.token_account,
                balance=reading.balance,
                delegated=reading.allowance,
                slot=reading.slot,
            )
        ]

    return (await ledger.commit(stream, decide)).state


def judge(session: Session, reading: FundingReading) -> Funding:
    """Whether the source covers the deposit (or, without one, what is promised so far)."""
    if reading.finding is not None:
        withdrawn = reading.finding.code in WITHDRAWN and session.funding in ("verified", "revoked")
        return "revoked" if withdrawn else "insufficient"
    needed = session.terms.deposit or session.cumulative_amount
    return "verified" if reading.available >= needed and reading.available > 0 else "insufficient"
