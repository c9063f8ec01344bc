"""Closing and removing a session.

A close is one append: the channel accepts no further voucher, and the one settlement it will ever
make is intended. What happens then is the worker's business (`settle_session`).
"""

import hashlib
from collections.abc import Callable, Sequence

from service.application.commit import Ledger, Outcome
from service.application.settlement_terms import SettlementTerms
from service.application.streams import Stream
from service.domain.errors import SessionNotFound
from service.domain.events import SessionEvent, SettlementIntended, SettlementNotNeeded
from service.domain.session import Session, remove_session, request_close
from service.domain.units import UnixMillis


def settlement_id(stream_id: str) -> str:
    """A session's settlement has one name for ever: it follows from the stream's."""
    return "stl_" + hashlib.sha256(b"settlement\x00" + stream_id.encode()).hexdigest()[:32]


async def close_session(
    ledger: Ledger,
    stream: Stream[Session],
    how: SettlementTerms,
    *,
    source: str | None,
    by: str,
    now: UnixMillis,
    provided: Callable[[Session], bool] = lambda _: True,
    removed_too: bool = False,
) -> Outcome[Session]:
    """Close the session and intend its settlement; closing again gives the same settlement.

    `source` names the token account to pay from; without it the registered one is used, or the
    payer's associated token account. Where `provided` does not hold of the session that the close
    would follow upon, nothing is closed. `removed_too` is for who does not look with the seller's
    eyes: what was accepted before a removal is still owed.

    Raises:
        SessionNotFound: unknown, or removed and that counts.
        FundingSourceUnknown: there is value to settle and no account to take it from.
    """

    def decide(session: Session | None) -> Sequence[SessionEvent]:
        if session is None or (session.removed_at is not None and not removed_too):
            raise SessionNotFound("no voucher was verified and no open recorded for this channel")
        if session.settlement is not None or not provided(session):
            return ()
        return request_close(
            session, _intent(session, stream.stream_id, how, source, now), by=by, now=now
        )

    return await ledger.commit(stream, decide)


async def remove(ledger: Ledger, stream: Stream[Session], *, by: str, now: UnixMillis) -> None:
    """Remove the session from the seller's view; an unknown or removed one is left as it is."""

    def decide(session: Session | None) -> Sequence[SessionEvent]:
        return () if session is None else remove_session(session, by=by, now=now)

    await ledger.commit(stream, decide)


def _intent(
    session: Session, stream_id: str, how: SettlementTerms, source: str | None, now: UnixMillis
) -> SettlementIntended | SettlementNotNeeded:
    name = settlement_id(stream_id)
    if session.owed == 0:
        return SettlementNotNeeded(at=now, settlement_id=name)
    terms = session.terms
    paying = how.source_of(session, source)
    voucher_hash, voucher_signature = session.owed_voucher
    return SettlementIntended(
        at=now,
        settlement_id=name,
        amount=session.owed,
        voucher_hash=voucher_hash,
        voucher_signature=voucher_signature,
        source=paying.token_account,
        destination=how.token_address(terms.recipient, terms.mint),
        recipient=terms.recipient,
        mint=terms.mint,
        decimals=terms.decimals,
        token_program=how.token_program,
        authority_kind=paying.kind,
        authority=how.authority,
        guard=None,
        chain_id=how.chain_id,
        source_owner=paying.owner,
        swig_address=paying.swig_address,
        swig_role_id=paying.swig_role_id,
    )
