"""Channels under a session grant: which they are, and what their vouchers use up of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.application.commit import Ledger
from service.application.streams import Stream, session_stream
from service.domain.events import SessionEvent, VoucherAccepted
from service.domain.grants import Use
from service.domain.pricing import Price
from service.domain.session import Session, fold
from service.domain.voucher import VerifiedVoucher


@dataclass(slots=True)
class Priced:
    """A verified voucher with what its request costs, and its place in the request."""

    index: int
    voucher: VerifiedVoucher
    price: Price
    charge: dict[str, str] | None


@dataclass(slots=True)
class Granted:
    """A channel under a grant."""

    channel_id: str
    items: list[Priced]
    stream: Stream[Session]
    grant_id: str


def grant_of(items: Sequence[Priced], session: Session | None) -> str | None:
    """The grant of a channel: of a known one for good, of an unknown one as its first voucher
    names it."""
    return items[0].voucher.grant_id if session is None else session.terms.grant_id


def granted_of(
    channels: Mapping[str, list[Priced]],
    seller_id: str,
    ledger: Ledger,
    known: Mapping[str, str | None],
) -> list[Granted]:
    """The channels that are taken to be under a grant: as `known`, or as the process remembers."""
    granted: list[Granted] = []
    for channel_id, items in channels.items():
        stream = session_stream(seller_id, channel_id)
        if channel_id in known:
            grant_id = known[channel_id]
        else:
            grant_id = grant_of(items, ledger.remembered(stream))
        if grant_id is not None:
            granted.append(Granted(channel_id, items, stream, grant_id))
    return granted


def use_of(stream_id: str, session: Session | None, events: Sequence[SessionEvent]) -> Use:
    """What an accepted voucher uses up; `session` is the one before its events."""
    after, accepted = session or fold(None, events[:1]), events[-1]
    assert after is not None
    assert isinstance(accepted, VoucherAccepted)
    return Use(
        session=after.terms,
        stream_id=stream_id,
        signer=accepted.signer,
        amount=accepted.increment,
        message_hash=accepted.message_hash,
    )
