"""Streams to append to, a group commit to append with, and what must hold afterwards."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from ledger_checker import Report, check_stream, read_stream

from service.adapters.postgres.group_commit import GroupCommit
from service.application.streams import SESSION, session_stream
from service.domain import events as e
from service.domain.log import GENESIS_HASH, chain
from service.domain.session import Session
from service.domain.terms import Terms
from service.domain.units import AtomicUsdc, StreamPosition, UnixMillis
from service.ports import Append, Claim, StreamAppend

ANSWER_SECONDS = 30


class Channel:
    """A stream that is appended to, as a process that remembers it would."""

    def __init__(self, channel_id: str) -> None:
        self.stream = session_stream("slr_1", channel_id)
        self.state: Session | None = None
        self.position = StreamPosition(0)
        self.hash = GENESIS_HASH
        self._terms = Terms(channel_id, "slr_1", "payer", "recipient", "localnet", "mint", 6)

    def next(self, *claims: Claim) -> Append:
        """The append of one more voucher; of the opening too, when there is none yet."""
        count = 0 if self.state is None else self.state.voucher_count
        opened = e.SessionOpened(UnixMillis(1_000), self._terms)
        new: list[e.SessionEvent] = [opened] if self.state is None else []
        new.append(_voucher(count + 1))
        before, self.state = self.state, SESSION.fold(self.state, new)
        assert self.state is not None
        rows = chain(self.stream.stream_id, self.position, self.hash, new)
        expected, self.position, self.hash = self.position, rows[-1].position, rows[-1].hash
        stream = StreamAppend(
            stream_id=self.stream.stream_id,
            kind="session",
            seller_id="slr_1",
            expected=expected,
            rows=rows,
            amounts=(*[None] * (len(new) - 1), (count + 1) * 10),
            projection=SESSION.project(self.state),
            lookups=SESSION.lookups(self.stream.stream_id, before, self.state),
        )
        return Append((stream,), claims)


def _voucher(number: int) -> e.VoucherAccepted:
    return e.VoucherAccepted(
        at=UnixMillis(1_000 + number),
        cumulative_amount=AtomicUsdc(number * 10),
        increment=AtomicUsdc(10),
        required=AtomicUsdc(10),
        sequence=number,
        signer="signer",
        signature=bytes(64),
        voucher="{}",
        message_hash=number.to_bytes(32, "big"),
        meter=None,
        usage="1",
        charge=None,
        price_version=1,
    )


@asynccontextmanager
async def writing(url: str) -> AsyncGenerator[GroupCommit]:
    """A group commit at work."""
    group = GroupCommit(url)
    await group.start()
    try:
        yield group
    finally:
        await asyncio.wait_for(group.stop(), ANSWER_SECONDS)


async def append_to(group: GroupCommit, append: Append) -> None:
    """Append, within a deadline."""
    await asyncio.wait_for(group.append(append), ANSWER_SECONDS)


async def expect_whole(database: Any, *channels: Channel) -> None:
    """Every append is in the log once, in order, chained, and folded into the projection."""
    report = Report()
    for channel in channels:
        image = await read_stream(database, channel.stream.stream_id)
        check_stream(image, [], report)
        assert len(image.rows) == channel.position
        assert image.rows[-1].hash == channel.hash
    assert report.violations == []
    assert await database.fetchval("SELECT count(*) - count(DISTINCT event_id) FROM events") == 0
