"""Responses that are paid for while they are delivered.

A stream has a credit: what its vouchers paid. Each unit is reserved out of it, delivered, and
committed. When the credit is used up the stream pauses until the buyer posts a further voucher to
the address in `x-mpp-stream`, or ends. What was paid and not delivered is kept for the channel's
next stream in this process. One channel has one live stream, by a lease in the ledger: two
processes that each knew half of what is delivered could deliver it twice.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final, TypeVar
from uuid import uuid4

from session_ledger.json_text import JsonTextError, JsonValue, parse
from session_ledger.seller.answers import Answer, problem, refused, unavailable
from session_ledger.seller.credit import Credit
from session_ledger.seller.errors import LedgerUnavailable
from session_ledger.seller.gate import Gate
from session_ledger.seller.lease import Lease
from session_ledger.seller.memory import Recent
from session_ledger.seller.server import SessionServer
from session_ledger.seller.terms import amount_of
from session_ledger.seller.verdict import Verdict

T = TypeVar("T")

STREAM_HEADER: Final = "x-mpp-stream"
PRICE_HEADER: Final = "x-mpp-unit-price"
DEFAULT_PATH: Final = "/mpp/streams"
_BUSY_SECONDS: Final = 5


class PaidStream:
    """One live stream, from `Streams.open` to `close`."""

    def __init__(
        self, streams: "Streams", lease: Lease, *, price: int, verdict: Verdict, credit: Credit
    ) -> None:
        self.stream_id = str(uuid4())
        self.channel_id = verdict.channel_id or ""
        self.price = price
        self.verdict = verdict
        self.credit = credit
        self.lease = lease
        self.closed = False
        self._paused = False
        self._streams = streams
        self._changed = asyncio.Event()
        self._counted: set[bytes] = set()

    @property
    def headers(self) -> dict[str, str]:
        """Where further vouchers go, and what a unit costs."""
        return {
            STREAM_HEADER: f"{self._streams.path}/{self.stream_id}",
            PRICE_HEADER: str(self.price),
        }

    def to_json(self) -> dict[str, JsonValue]:
        """What the buyer is told of the stream. Amounts are decimal strings."""
        state = "ended" if self.closed else "paused" if self._paused else "running"
        return {
            "streamId": self.stream_id,
            "channelId": self.channel_id,
            "state": state,
            "unitPrice": str(self.price),
            "paid": str(self.credit.paid),
            "delivered": str(self.credit.delivered),
            "left": str(self.credit.left),
        }

    async def deliver(
        self,
        items: AsyncIterable[T],
        *,
        units: Callable[[T], int] | None = None,
        notice: Callable[["PaidStream"], T] | None = None,
    ) -> AsyncGenerator[T]:
        """The items, each only once it is paid: one unit each, or as many as `units` says.

        One item at most is taken from `items` before it is paid: it waits here. `notice` gives a
        free item that tells the buyer to pay, such as `pause_event`. Ends early when no voucher
        comes in time, or when the lease is lost.

        Raises:
            SellerSetupError: `units` gave no whole number, 0 or more.
        """
        try:
            async for item in items:
                cost = self.price * (1 if units is None else amount_of(units(item), "units"))
                async for note in self._reserved(cost, notice):
                    yield note
                if self.credit.reserved != cost or not self._live:
                    self.credit.release()
                    return
                yield item
                self.credit.commit()  # the next one was asked for, so this one is out
        finally:
            await self.close()

    async def close(self) -> None:
        """End the stream; may be called again."""
        await self._streams.end(self)

    def count(self, verdict: Verdict) -> bool:
        """Add what a voucher paid, once; False for a replay that this stream has not seen."""
        if verdict.valid:
            self._counted.add(verdict.digest)
            self.credit.add(verdict.amount_paid)
            self.wake()
        return verdict.digest in self._counted

    def wake(self) -> None:
        """Look again at what is paid and whether the lease is held."""
        self._changed.set()

    @property
    def _live(self) -> bool:
        return not self.closed and self.lease.held

    async def _reserved(
        self, cost: int, notice: Callable[["PaidStream"], T] | None
    ) -> AsyncGenerator[T]:
        """Reserves `cost`, waiting for it to be paid. The caller looks whether it is reserved."""
        if self._live and self.credit.reserve(cost):
            return
        self._paused = True
        try:
            if notice is not None and self._live:
                yield notice(self)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._streams.pause_seconds):
                    while self._live and not self.credit.reserve(cost):
                        self._changed.clear()
                        await self._changed.wait()
        finally:
            self._paused = False


class Streams:
    """The live streams of one process, and what its channels paid for and did not get.

    `path` is where the middleware takes further vouchers: `POST {path}/{streamId}`. A lease is
    renewed while its stream lives and ends `lease_seconds` after its process died. A pause lasts
    `pause_seconds` at most.
    """

    def __init__(
        self,
        server: SessionServer,
        *,
        path: str = DEFAULT_PATH,
        lease_seconds: int = 30,
        pause_seconds: float = 30,
    ) -> None:
        self.path = path.rstrip("/")
        self.pause_seconds = pause_seconds
        self._server = server
        self._lease_seconds = lease_seconds
        self._live: dict[str, PaidStream] = {}
        self._kept: Recent[int] = Recent()
        self._ending: set[asyncio.Task[None]] = set()

    def named_by(self, path: str) -> str | None:
        """The stream that a path names, whether it lives or not."""
        return path[len(self.path) + 1 :] if path.startswith(f"{self.path}/") else None

    async def open(self, voucher: str | None, gate: Gate, usage: Any) -> PaidStream | Answer:
        """A stream that the voucher pays for, at `gate`'s price a unit; or what to answer.

        The lease is taken first, so that no voucher is used up for a stream that cannot be. A
        voucher that was accepted before opens a stream when some of what it paid is kept.

        Raises:
            LedgerRefused: the ledger does not know this seller.
        """
        channel_id = claimed_channel(voucher)
        if channel_id is None:
            judged = await gate.judge(voucher, usage)
            return judged if isinstance(judged, Answer) else unavailable()
        lease = Lease(self._server, channel_id, self._lease_seconds)
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._released, lease)
            try:
                if not await lease.take():
                    detail = "this channel has a live stream; close it, or wait until it ends"
                    return problem(
                        HTTPStatus.CONFLICT, "stream_busy", detail, retry_after=_BUSY_SECONDS
                    )
                opened = await self._opened(voucher, gate, usage, lease)
            except LedgerUnavailable:
                return unavailable()
            if isinstance(opened, PaidStream):
                undo.pop_all()
            return opened

    async def _opened(
        self, voucher: str | None, gate: Gate, usage: Any, lease: Lease
    ) -> PaidStream | Answer:
        verdict = await replace(gate, replays=True).judge(voucher, usage)
        if isinstance(verdict, Answer):
            return verdict
        price = gate.price_for(usage)
        kept = self._kept.take((verdict.channel_id or "").encode()) or 0
        if verdict.replayed and not kept:
            return refused(await self._server.get_challenge(price), verdict)
        credit = Credit(verdict.amount_paid + kept)
        stream = PaidStream(self, lease, price=price, verdict=verdict, credit=credit)
        self._live[stream.stream_id] = stream
        lease.keep(stream.wake)
        return stream

    async def top_up(self, stream_id: str, voucher: str | None) -> Answer:
        """Take a further voucher for a live stream; the same one again changes nothing.

        A voucher for another stream or channel is not looked at, so it is not used up.

        Raises:
            LedgerRefused: the ledger does not know this seller.
        """
        stream = self._live.get(stream_id)
        if stream is None:
            return self.status(stream_id)
        if voucher is not None and claimed_channel(voucher) != stream.channel_id:
            detail = f"this stream is paid on channel {stream.channel_id}"
            return problem(HTTPStatus.CONFLICT, "channel_mismatch", detail)
        verdict = await Gate(self._server, stream.price, replays=True).judge(voucher, None)
        if isinstance(verdict, Answer):
            return verdict
        if not stream.count(verdict):
            return refused(await self._server.get_challenge(stream.price), verdict)
        if stream.closed and verdict.valid:  # meanwhile; what it pays is the next stream's
            self._keep(stream.channel_id, verdict.amount_paid)
        return Answer(HTTPStatus.OK, stream.to_json())

    def status(self, stream_id: str) -> Answer:
        """How a live stream stands."""
        stream = self._live.get(stream_id)
        if stream is None:
            detail = "no such stream lives in this process; open it again"
            return problem(HTTPStatus.NOT_FOUND, "stream_not_found", detail)
        return Answer(HTTPStatus.OK, stream.to_json())

    async def end(self, stream: PaidStream) -> None:
        """Close a stream and give its lease back."""
        if stream.closed:
            return
        stream.closed = True
        stream.wake()
        self._live.pop(stream.stream_id, None)
        self._keep(stream.channel_id, stream.credit.left)
        await self._released(stream.lease)

    def _keep(self, channel_id: str, amount: int) -> None:
        name = channel_id.encode()
        if total := amount + (self._kept.take(name) or 0):
            self._kept.put(name, total)

    async def _released(self, lease: Lease) -> None:
        """A client that went away cancels the request; the lease is given back all the same."""
        task = asyncio.create_task(lease.release())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        await asyncio.shield(task)


def claimed_channel(voucher: str | None) -> str | None:
    """The channel that a voucher names, before anything of it is verified."""
    try:
        envelope = None if voucher is None else parse(voucher)
    except JsonTextError:
        return None
    match envelope:
        case {"voucher": {"channelId": str(channel_id)}}:
            return channel_id
        case _:
            return None


def pause_event(stream: PaidStream) -> bytes:
    """The notice of a stream of server-sent events: `payment-required`, with how it stands."""
    data = json.dumps({**stream.to_json(), "topUp": stream.headers[STREAM_HEADER]})
    return f"event: payment-required\ndata: {data}\n\n".encode()
