"""Releasing the deposits of sessions that have ended."""

from service.application.commit import Ledger
from service.application.streams import SESSION, funding_stream
from service.domain.reservations import Need, Reservations, release
from service.domain.units import UnixMillis


async def needs_of(ledger: Ledger, reservations: Reservations) -> dict[str, Need]:
    """What each session with a deposit may still take, as the database has them now."""
    heads = await ledger.store.heads([one.stream_id for one in reservations.open])
    needs: dict[str, Need] = {}
    for stream_id, head in heads.items():
        session = SESSION.load(head.projection)
        slot = None if session.settlement is None else session.settlement.slot
        needs[stream_id] = Need(session.reserved, slot)
    return needs


async def release_settled(ledger: Ledger, token_account: str, now: UnixMillis) -> int:
    """Release the deposits of sessions on a funding source that have ended; gives how many.

    May be repeated, and by several processes at once.
    """
    stream = funding_stream(token_account)
    held = await ledger.read(stream)
    if held is None or held.state is None or not held.state.open:
        return 0
    needs = await needs_of(ledger, held.state)
    if all(need.amount for need in needs.values()):
        return 0
    outcome = await ledger.commit(stream, lambda reserved: release(reserved, needs, now))
    return len(outcome.events)
