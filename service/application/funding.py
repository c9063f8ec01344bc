"""What the chain says of a session's funding source: is there money behind the vouchers?

A reading is not a reservation: the payer may revoke or spend at any time, so the settlement reads
again. A chain that does not answer never stops a session; it stays `unverified`.
"""

from collections.abc import Sequence

from service.application.commit import Ledger
from service.application.streams import Stream
from service.domain.errors import ChainUnavailable
from service.domain.events import FundingObserved, SessionEvent
from service.domain.onchain import TokenAccount
from service.domain.session import Funding, Session
from service.domain.units import AtomicUsdc, UnixMillis
from service.ports import Chain


async def observe_funding(
    ledger: Ledger,
    chain: Chain,
    stream: Stream[Session],
    authority: str,
    now: UnixMillis,
    *,
    source: str | None = None,
) -> None:
    """Read the session's source account, or the one named here, and append what changed."""
    held = await ledger.read(stream)
    if held is None or held.state is None:
        return
    source = source or held.state.source_token_account
    if source is None:
        return
    try:
        account = await chain.token_account(source, "confirmed")
    except ChainUnavailable:
        return

    def decide(session: Session | None) -> Sequence[SessionEvent]:
        if session is None or session.state != "open" or account is None:
            return ()
        funding = judge(session, account, authority)
        if (funding, source) == (session.funding, session.source_token_account):
            return ()
        return [
            FundingObserved(
                at=now,
                funding=funding,
                source_token_account=source,
                balance=account.amount,
                delegated=account.delegated_amount
                if account.delegate == authority
                else AtomicUsdc(0),
                slot=account.slot,
            )
        ]

    await ledger.commit(stream, decide)


def judge(session: Session, account: TokenAccount, authority: str) -> Funding:
    """Whether the account covers the deposit (or, without one, what is promised so far)."""
    needed = session.terms.deposit or session.cumulative_amount
    owners = (session.terms.payer, session.terms.swig_address)
    if account.mint != session.terms.mint or account.frozen or account.owner not in owners:
        return "insufficient"
    if account.delegate != authority:
        return "revoked" if session.funding in ("verified", "revoked") else "insufficient"
    covered = min(account.amount, account.delegated_amount)
    return "verified" if covered >= needed and covered > 0 else "insufficient"
