"""A long log, written quickly: rows as the domain makes them, brought in by COPY.

Every event is made by the domain's own functions (canonical payload, hash chain, fold, projection),
so the log passes every check but one: the vouchers' signatures are empty.
"""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

from vouchers import PRICE, Buyer

from service.application.streams import SESSION, Stream, session_stream
from service.domain import events as e
from service.domain.log import GENESIS_HASH, EventRow, chain
from service.domain.session import Session
from service.domain.terms import Terms
from service.domain.units import AtomicUsdc, StreamPosition, UnixMillis
from session_ledger.challenge import NETWORKS

AT = 1_767_225_600_000
"""Unix milliseconds of the first event."""
STREAMS_IN_ONE_COPY = 50
_EVENT_COLUMNS = (
    "stream_id", "position", "type", "schema_version", "payload", "prev_hash", "hash", "event_id",
    "seller_id", "cumulative_amount",
)  # fmt: skip
_STREAM_COLUMNS = ("stream_id", "kind", "seller_id", "position", "head_hash", "projection")
_SESSION_COLUMNS = ("stream_id", "seller_id", "channel_id", "state", "payer", "opened_at")


def terms(seller_id: str, buyer: Buyer) -> Terms:
    """What a filled channel is registered with."""
    mint = NETWORKS["localnet"].usdc_mint
    return Terms(buyer.channel_id, seller_id, buyer.payer, buyer.recipient, "localnet", mint, 6)


def voucher(number: int) -> e.VoucherAccepted:
    """The event of the `number`-th voucher of a channel."""
    return e.VoucherAccepted(
        at=UnixMillis(AT + number),
        cumulative_amount=AtomicUsdc(number * PRICE),
        increment=AtomicUsdc(PRICE),
        required=AtomicUsdc(PRICE),
        sequence=number,
        signer="signer",
        signature=bytes(64),
        voucher="{" + " " * 500 + "}",
        message_hash=number.to_bytes(32, "big"),
        meter="request",
        usage="1",
        charge=None,
        price_version=1,
    )


async def fill(connection: Any, *, seller_id: str, buyers: Sequence[Buyer], vouchers: int) -> int:
    """Write a session for each buyer, `vouchers` events behind its opening; gives the events."""
    written = 0
    for first in range(0, len(buyers), STREAMS_IN_ONE_COPY):
        events: list[tuple[Any, ...]] = []
        heads: list[tuple[Any, ...]] = []
        sessions: list[tuple[Any, ...]] = []
        for number, buyer in enumerate(buyers[first : first + STREAMS_IN_ONE_COPY], start=first):
            stream = session_stream(seller_id, buyer.channel_id)
            opened = e.SessionOpened(UnixMillis(AT), terms(seller_id, buyer))
            new = [opened, *(voucher(n) for n in range(1, vouchers + 1))]
            rows = chain(stream.stream_id, StreamPosition(0), GENESIS_HASH, new)
            state = SESSION.fold(None, new)
            assert state is not None
            events += _event_records(rows, seller_id, number)
            heads.append(_head_record(stream, rows[-1], state))
            ((_, looked_up),) = SESSION.lookups(stream.stream_id, None, state)
            sessions.append(tuple(looked_up[name] for name in _SESSION_COLUMNS))
        copy = connection.copy_records_to_table
        await copy("events", records=events, columns=_EVENT_COLUMNS)
        await copy("streams", records=heads, columns=_STREAM_COLUMNS)
        await copy("sessions", records=sessions, columns=_SESSION_COLUMNS)
        written += len(events)
    await connection.execute("VACUUM ANALYZE")  # as autovacuum would leave it after a while
    await connection.execute("CHECKPOINT")
    return written


def _event_records(
    rows: tuple[EventRow, ...], seller_id: str, stream_number: int
) -> Iterator[tuple[Any, ...]]:
    for row in rows:
        amount = None if row.position == 1 else Decimal((row.position - 1) * PRICE)
        event_id = UUID(int=(stream_number << 64) + row.position)
        yield (
            row.stream_id, row.position, row.type, row.schema_version, row.payload, row.prev_hash,
            row.hash, event_id, seller_id, amount,
        )  # fmt: skip


def _head_record(stream: Stream[Session], last: EventRow, state: Session) -> tuple[Any, ...]:
    projection = SESSION.project(state)
    return stream.stream_id, "session", stream.seller_id, last.position, last.hash, projection
