"""Judges a log against what clients were told: the only voice that counts after a crash.

`check_stream` is pure, so that it can itself be tested with logs that are broken on purpose.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import asyncpg

from service.application.streams import SESSION, session_stream
from service.domain.errors import LedgerError
from service.domain.events import VoucherAccepted
from service.domain.log import EventRow, check_chain, decode
from service.domain.units import StreamPosition

VIOLATIONS_MAX = 20
"""Kept of each run; one broken stream would otherwise fill the screen."""


@dataclass(frozen=True, slots=True)
class Ack:
    """One answer that a client was given, with when it asked and was answered (nanoseconds).

    A refusal has position 0 and no hash: `rejected` for an amount that does not rise, `closed`.
    """

    channel_id: str
    amount: int
    verdict: str
    position: int
    event_hash: str
    invoked: int
    returned: int

    @property
    def refused(self) -> bool:
        """Whether the client was told that this voucher does not count."""
        return self.verdict in ("rejected", "closed")

    def line(self) -> bytes:
        """As it is written to a client's file."""
        facts = (self.amount, self.verdict, self.position, self.event_hash or "-")
        times = (self.invoked, self.returned)
        return " ".join(map(str, (self.channel_id, *facts, *times))).encode() + b"\n"

    @classmethod
    def parse(cls, line: str) -> "Ack":
        """The inverse of `line`."""
        channel_id, amount, verdict, position, event_hash, invoked, returned = line.split()
        numbers = int(position), event_hash.strip("-"), int(invoked), int(returned)
        return cls(channel_id, int(amount), verdict, *numbers)


@dataclass(frozen=True, slots=True)
class StreamImage:
    """One stream as the database has it: the rows in order, and the head beside them."""

    stream_id: str
    rows: Sequence[EventRow]
    amounts: Sequence[int | None]
    head_position: int
    head_hash: bytes
    projection: bytes


@dataclass(slots=True)
class Report:
    """What was looked at and what was wrong."""

    acks: int = 0
    events: int = 0
    lost: int = 0
    violations: list[str] = field(default_factory=list[str])

    def violated(self, what: str) -> None:
        """Note a violation."""
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(what)


def read_acks(directory: Path) -> list[Ack]:
    """Every answer in every client's file."""
    files = sorted(directory.glob("*.acks"))
    return [Ack.parse(line) for file in files for line in file.read_text().splitlines()]


async def check_log(database_url: str, seller_id: str, acks: Iterable[Ack]) -> Report:
    """Check all streams that the answers speak of, and that no event stands in the log twice."""
    by_channel: dict[str, list[Ack]] = defaultdict(list)
    for ack in acks:
        by_channel[ack.channel_id].append(ack)
    report = Report()
    connection = await connect(database_url)
    try:
        for channel_id, found in by_channel.items():
            stream_id = session_stream(seller_id, channel_id).stream_id
            check_stream(await read_stream(connection, stream_id), found, report)
        twice = await connection.fetchval("SELECT count(*) - count(DISTINCT event_id) FROM events")
        if twice:
            report.violated(f"{twice} events stand in the log twice")
    finally:
        await connection.close()
    return report


async def connect(database_url: str) -> Any:
    """A connection past the service, as the database's owner; asyncpg has no types of its own."""
    return await cast("Any", asyncpg).connect(database_url.replace("+asyncpg", ""))


async def read_stream(connection: Any, stream_id: str) -> StreamImage:
    """The stream as it stands."""
    rows = await connection.fetch(
        "SELECT * FROM events WHERE stream_id = $1 ORDER BY position", stream_id
    )
    head = await connection.fetchrow("SELECT * FROM streams WHERE stream_id = $1", stream_id)
    return StreamImage(
        stream_id,
        [
            EventRow(
                row["stream_id"],
                StreamPosition(row["position"]),
                row["type"],
                row["schema_version"],
                row["payload"],
                row["prev_hash"],
                row["hash"],
            )
            for row in rows
        ],
        [None if (held := row["cumulative_amount"]) is None else int(held) for row in rows],
        head["position"] if head else 0,
        head["head_hash"] if head else b"",
        head["projection"] if head else b"",
    )


def check_stream(image: StreamImage, acks: Sequence[Ack], report: Report) -> None:
    """Everything that must hold of one stream and the answers about it."""
    report.acks += len(acks)
    report.events += len(image.rows)
    try:
        vouchers = _check_rows(image, report)
    except LedgerError as error:
        report.violated(error.detail)
        return
    _check_acks(image, vouchers, acks, report)
    _check_order(image.stream_id, acks, report)


def _check_rows(image: StreamImage, report: Report) -> dict[int, EventRow]:
    """Gap-free, chained, rising, and folding into the stored projection; gives rows by amount."""
    last_hash = check_chain(image.rows)
    events = [decode(row.type, row.schema_version, row.payload) for row in image.rows]
    vouchers: dict[int, EventRow] = {}
    messages: set[bytes] = set()
    watermark = -1
    for row, event, amount in zip(image.rows, events, image.amounts, strict=True):
        if not isinstance(event, VoucherAccepted):
            continue
        where = f"{row.stream_id} at {row.position}"
        if event.cumulative_amount <= watermark:
            report.violated(f"{where}: {event.cumulative_amount} does not rise above {watermark}")
        if amount != event.cumulative_amount:
            report.violated(f"{where}: the column says {amount}, the event another amount")
        if event.message_hash in messages:
            report.violated(f"{where}: this voucher was accepted before")
        messages.add(event.message_hash)
        watermark = event.cumulative_amount
        vouchers[watermark] = row
    state = SESSION.fold(None, events)
    projection = b"" if state is None else SESSION.project(state)
    if (image.head_position, image.projection) != (len(image.rows), projection):
        report.violated(f"{image.stream_id}: the projection is not what its events fold into")
    if image.rows and image.head_hash != last_hash:
        report.violated(f"{image.stream_id}: the head's hash is not the last event's")
    return vouchers


def _check_acks(
    image: StreamImage, vouchers: dict[int, EventRow], acks: Sequence[Ack], report: Report
) -> None:
    accepted: set[int] = set()
    for ack in acks:
        what = f"{image.stream_id}: {ack.amount} was {ack.verdict}"
        row = vouchers.get(ack.amount)
        if ack.refused:
            if row is not None:
                report.violated(f"{what}, but stands at {row.position}")
            continue
        if row is None:
            report.lost += 1
            report.violated(f"{what} at {ack.position}, but is lost")
        elif (row.position, row.hash.hex()) != (ack.position, ack.event_hash):
            report.violated(f"{what} at {ack.position}, but stands at {row.position}")
        if ack.verdict == "accepted" and ack.amount in accepted:
            report.violated(f"{what} twice")
        accepted |= {ack.amount} if ack.verdict == "accepted" else set()


def _check_order(stream_id: str, acks: Sequence[Ack], report: Report) -> None:
    """The history is linear: positions never contradict the order in which answers were given.

    Who was accepted at a later position must not have been answered before an earlier one was
    asked for, and an amount is rejected only after a greater one was asked for.
    """
    earliest = float("inf")
    accepted = (ack for ack in acks if ack.verdict == "accepted")
    for ack in sorted(accepted, key=lambda ack: -ack.position):
        if ack.invoked > earliest:
            report.violated(f"{stream_id}: {ack.position} was asked for after its successor stood")
        earliest = min(earliest, ack.returned)
    earliest = float("inf")
    for _, same in groupby(sorted(acks, key=_falling), key=_falling):
        asked = earliest
        for ack in same:
            if not ack.refused:
                earliest = min(earliest, ack.invoked)
            elif ack.verdict == "rejected" and ack.returned < asked:
                report.violated(f"{stream_id}: {ack.amount} was refused with nothing above it")


def _falling(ack: Ack) -> int:
    return -ack.amount
