"""A seller registers a channel before its first voucher."""

from service.application.commit import Ledger, Outcome
from service.application.streams import session_stream
from service.domain.errors import SessionExists
from service.domain.session import Session, open_session
from service.domain.terms import Terms
from service.domain.units import UnixMillis


async def register_session(ledger: Ledger, terms: Terms, now: UnixMillis) -> Outcome[Session]:
    """Open the channel's stream; the same terms again change nothing.

    Raises:
        SessionExists: the channel is known with other terms, or a buyer opened it elsewhere.
    """
    stream = session_stream(terms.seller_id, terms.channel_id)
    known = await ledger.store.buyers_sessions([terms.channel_id])
    if known.get(terms.channel_id, stream.stream_id) != stream.stream_id:
        raise SessionExists("the buyer opened this channel for another seller's account")
    return await ledger.commit(stream, lambda session: open_session(session, terms, now))
