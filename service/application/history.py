"""A session as it was: its events folded up to a position or a time."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from service.application.streams import Stream
from service.domain.errors import InvalidRequest, SessionNotFound
from service.domain.log import decode
from service.domain.session import Session
from service.domain.units import StreamPosition
from service.ports import EventStore

_POSITION: Final = re.compile(r"[0-9]{1,18}\Z", re.ASCII)
_MILLIS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Instant:
    """A position in a stream, or a time in Unix milliseconds; exactly one is given."""

    position: int | None = None
    millis: int | None = None


def parse_instant(text: str) -> Instant:
    """A position (`12`) or an RFC 3339 time with its zone (`2026-11-21T12:00:00Z`).

    Raises:
        InvalidRequest: neither.
    """
    if _POSITION.match(text):
        return Instant(position=int(text))
    try:
        # In a query string an unescaped `+` of a zone arrives as a blank.
        moment = datetime.fromisoformat(text.replace(" ", "+"))
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise InvalidRequest("at must be a position or an RFC 3339 time with its zone")
    return Instant(millis=int(moment.timestamp() * _MILLIS))


async def session_at(
    store: EventStore, stream: Stream[Session], instant: Instant
) -> tuple[Session, StreamPosition]:
    """The session after the last event at or before `instant`, and that event's position.

    Raises:
        SessionNotFound: there was none yet.
    """
    session: Session | None = None
    position = StreamPosition(0)
    async for logged in store.read(stream.stream_id, up_to=instant.position):
        row = logged.row
        if instant.millis is not None and logged.recorded_at > instant.millis:
            break
        session = stream.type.fold(session, [decode(row.type, row.schema_version, row.payload)])
        position = row.position
    if session is None:
        raise SessionNotFound("the session did not exist then")
    return session, position
