"""What the chain says of a session's funding source: is there money behind the vouchers?

A reading is not a reservation: the payer may revoke or spend at any time, so the settlement reads
again. A chain that does not answer never stops a session; it stays as it was last seen.
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
        "source_account_missing",
        "delegate_revoked",
        "swig_account_missing",
        "swig_permission_missing",
        "swig_role_missing",
        "swig_role_wrong_key",
        "swig_role_expired",
    }
)
"""Findings that say, of a source that once was granted, that the payer took it back."""


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
    *,
    unasked: bool = False,
) -> Session | None:
    """Append what a reading changes; gives the session afterwards. See `observed`."""
    outcome = await ledger.commit(
        stream, lambda session: observed(session, source, reading, now, unasked=unasked)
    )
    return outcome.state


def observed(
    session: Session | None,
    source: SourceRef,
    reading: FundingReading,
    now: UnixMillis,
    *,
    unasked: bool = False,
) -> Sequence[SessionEvent]:
    """What a reading changes of an open session. `unasked`: where nobody named a source, only one
    that covers the session is worth an event."""
    if session is None or session.state != "open":
        return ()
    if session.funding_slot is not None and reading.slot < session.funding_slot:
        return ()  # a provider that lags behind what was seen before
    granted = session.granted and session.source_token_account == source.token_account
    code = reading.finding.code if reading.finding else None
    if code == "source_account_missing" and not granted:
        return ()
    funding = _judge(session, reading, granted=granted)
    if unasked and session.source_token_account is None and funding != "verified":
        return ()
    after = funding, source.token_account, granted or reading.allowance > 0
    if after == (session.funding, session.source_token_account, session.granted):
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


def _judge(session: Session, reading: FundingReading, *, granted: bool) -> Funding:
    """Whether the source covers the deposit (or, without one, what is owed so far)."""
    if reading.finding is not None:
        return "revoked" if granted and reading.finding.code in WITHDRAWN else "insufficient"
    needed = session.terms.deposit or session.owed
    return "verified" if reading.available >= needed and reading.available > 0 else "insufficient"
