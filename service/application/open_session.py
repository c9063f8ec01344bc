"""A seller registers a channel before its first voucher."""

from service.application.commit import Ledger, Outcome
from service.application.streams import session_stream
from service.domain.session import Session, open_session
from service.domain.terms import Terms
from service.domain.units import UnixMillis


async def register_session(ledger: Ledger, terms: Terms, now: UnixMillis) -> Outcome[Session]:
    """Open the channel's stream; the same terms again change nothing.

    Raises:
        SessionExists: the channel is known with other terms.
    """
    stream = session_stream(terms.seller_id, terms.channel_id)
    return await ledger.commit(stream, lambda session: open_session(session, terms, now))
