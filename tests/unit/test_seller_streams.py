"""Streams over a ledger that is played: units delivered never exceed units paid."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_ledger.json_text import JsonValue
from session_ledger.seller import (
    Gate,
    PaidStream,
    Patience,
    SellerSetupError,
    SessionServer,
    Streams,
    pause_event,
)
from session_ledger.seller.answers import Answer
from session_ledger.seller.credit import Credit
from tests.unit.test_seller_server import RECIPIENT

PRICE = 10


class Ledger:
    """Accepts each voucher once, and has one lease for each channel."""

    def __init__(self) -> None:
        self.accepted: set[str] = set()
        self.holders: dict[str, str] = {}
        self.away = False
        self.lost = False
        self.verified = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.away:
            raise httpx.ConnectError("away")
        if request.url.path.endswith("/lease"):
            return self._lease(request)
        self.verified += 1
        body = json.loads(request.content)
        voucher, name = body["voucher"], json.dumps(body["voucher"])
        receipt = {"channelId": voucher["channelId"], "sequence": voucher["sequence"]}
        if voucher["pays"] < int(body["charge"]["amount"]):
            return _verdict(valid=False, verdict="rejected", code="underpaid", error="underpaid")
        if name in self.accepted:
            return _verdict(valid=False, verdict="replayed", code="x", receipt=receipt)
        self.accepted.add(name)
        return _verdict(
            valid=True, verdict="accepted", amountPaid=str(voucher["pays"]), receipt=receipt
        )

    def _lease(self, request: httpx.Request) -> httpx.Response:
        channel = unquote(request.url.raw_path.decode().split("/")[3])
        if request.method == "DELETE":
            if self.holders.get(channel) == request.url.params["holder"]:
                del self.holders[channel]
            return httpx.Response(204)
        holder = json.loads(request.content)["holder"]
        if self.lost or self.holders.setdefault(channel, holder) != holder:
            return httpx.Response(409, json={"code": "lease_held", "detail": "held"})
        return httpx.Response(200, json={"holder": holder})


def _verdict(**members: JsonValue) -> httpx.Response:
    return httpx.Response(200, json=members)


class Rig:
    """One process of a seller; several share a ledger."""

    def __init__(self, ledger: Ledger | None = None, **settings: Any) -> None:
        self.ledger = ledger or Ledger()
        self.server = SessionServer(
            RECIPIENT,
            PRICE,
            network="devnet",
            api_key="k",
            patience=Patience(attempts=1, pause=0),
            transport=httpx.MockTransport(self.ledger),
        )
        self.streams = Streams(self.server, **{"pause_seconds": 5, **settings})
        self.gate = Gate(self.server)

    async def open(self, voucher: str | None) -> PaidStream:
        opened = await self.streams.open(voucher, self.gate, {})
        assert isinstance(opened, PaidStream), opened
        return opened

    async def refused(self, voucher: str | None) -> Answer:
        answer = await self.streams.open(voucher, self.gate, {})
        assert isinstance(answer, Answer)
        return answer


def voucher_for(units: float, number: int = 1, channel: str = "c") -> str:
    """A voucher that pays for so many units."""
    pays = round(units * PRICE)
    return json.dumps({"voucher": {"channelId": channel, "sequence": number, "pays": pays}})


class Source:
    """Counts what is taken from it, and knows when it is waited for."""

    def __init__(self, count: int) -> None:
        self.count, self.taken = count, 0

    async def __aiter__(self) -> AsyncIterator[int]:
        for number in range(self.count):
            self.taken += 1
            yield number


@contextmanager
def reading(stream: PaidStream, source: Source, **how: Any) -> Iterator[tuple[list[Any], Any]]:
    """Reads the stream in the background; gives what came so far and the task."""
    came: list[Any] = []

    async def read() -> None:
        async for item in stream.deliver(source, **how):
            came.append(item)  # noqa: PERF401  seen while it grows

    task = asyncio.create_task(read())
    try:
        yield came, task
    finally:
        task.cancel()


async def until(holds: Callable[[], bool]) -> None:
    """Let the others run until it holds."""
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0)


def paused(stream: PaidStream) -> Callable[[], bool]:
    return lambda: stream.to_json()["state"] == "paused"


async def test_a_stream_delivers_what_is_paid_and_waits_for_the_rest() -> None:
    rig = Rig()
    stream = await rig.open(voucher_for(3))
    source = Source(5)
    with reading(stream, source) as (came, task):
        await until(paused(stream))
        assert came == [0, 1, 2]
        assert source.taken == 4  # one item is made ahead, and held back
        assert stream.to_json()["left"] == "0"
        answer = await rig.streams.top_up(stream.stream_id, voucher_for(2, 2))
        assert (answer.status, answer.body["paid"]) == (200, "50")
        await task
        assert came == [0, 1, 2, 3, 4]
        assert stream.to_json()["state"] == "ended"
        assert (stream.credit.delivered, stream.credit.left) == (50, 0)
    assert rig.ledger.holders == {}


async def test_part_of_a_unit_is_no_unit() -> None:
    rig = Rig()
    stream = await rig.open(voucher_for(2.9))
    with reading(stream, Source(5)) as (came, task):
        await until(paused(stream))
        assert came == [0, 1]
        await rig.streams.top_up(stream.stream_id, voucher_for(1.1, 2))
        await until(lambda: len(came) == 4)
        task.cancel()


async def test_items_of_several_units_are_delivered_whole_or_not_at_all() -> None:
    rig = Rig()
    stream = await rig.open(voucher_for(4))
    sizes = [1, 0, 2, 3]
    with reading(stream, Source(4), units=lambda n: sizes[n]) as (came, _):
        await until(paused(stream))
        assert (came, stream.credit.delivered) == ([0, 1, 2], 30)
        await rig.streams.top_up(stream.stream_id, voucher_for(2, 2))
        await until(lambda: len(came) == 4)
        assert stream.credit.delivered == 60


@pytest.mark.parametrize("size", [-1, 0.5, None, True])
async def test_units_that_are_no_number_deliver_nothing(size: Any) -> None:
    rig = Rig()
    stream = await rig.open(voucher_for(4))
    with reading(stream, Source(4), units=lambda _: size) as (came, task):
        with pytest.raises(SellerSetupError, match="units"):
            await task
        assert (came, stream.credit.left, rig.ledger.holders) == ([], 40, {})


async def test_a_notice_is_free_and_says_where_to_pay() -> None:
    rig = Rig()
    stream = await rig.open(voucher_for(1))
    with reading(stream, Source(2), notice=pause_event) as (came, _):
        await until(lambda: len(came) == 2)
        assert came[1].startswith(b"event: payment-required\ndata: {")
        told = json.loads(came[1].split(b"data: ")[1])
        assert (told["topUp"], told["unitPrice"]) == (f"/mpp/streams/{stream.stream_id}", "10")
        assert stream.credit.delivered == 10


async def test_a_pause_without_a_voucher_ends_the_stream() -> None:
    rig = Rig(pause_seconds=0)
    stream = await rig.open(voucher_for(1))
    with reading(stream, Source(3)) as (came, task):
        await task
        assert came == [0]
    assert (stream.closed, rig.ledger.holders) == (True, {})
    assert (await rig.streams.top_up(stream.stream_id, voucher_for(1, 2))).status == 404
    assert rig.ledger.verified == 1  # so the voucher is still good


async def test_a_channel_has_one_live_stream_in_all_processes() -> None:
    rig = Rig()
    other = Rig(rig.ledger)
    stream = await rig.open(voucher_for(2))
    for process in (rig, other):
        answer = await process.refused(voucher_for(1, 2))
        assert (answer.status, answer.body["code"]) == (409, "stream_busy")
    assert rig.ledger.verified == 1  # the refused ones were not used up
    await (await other.open(voucher_for(1, 2, "another channel"))).close()
    await stream.close()
    await (await other.open(voucher_for(1, 2))).close()


async def test_what_was_paid_and_not_delivered_is_the_next_streams() -> None:
    rig = Rig()
    stream = await rig.open(voucher_for(5))
    async with aclosing(stream.deliver(Source(9))) as items:
        assert [await anext(items), await anext(items)] == [0, 1]
    # The second item may not have arrived, but it was sent: three of five are left.
    again = await rig.open(voucher_for(5))
    assert again.to_json()["left"] == "30"
    await again.close()
    third = await rig.open(voucher_for(1, 2))
    assert third.to_json()["left"] == "40"
    with reading(third, Source(9)) as (came, _):
        await until(paused(third))
        assert len(came) == 4
    await third.close()
    assert (await rig.refused(voucher_for(5))).status == 402
    assert (await rig.refused(voucher_for(1, 2))).status == 402


async def test_a_refused_voucher_opens_nothing_and_gives_the_lease_back() -> None:
    rig = Rig()
    answer = await rig.refused(voucher_for(0.5))
    assert (answer.status, answer.body["code"], rig.ledger.holders) == (402, "underpaid", {})
    assert (await rig.refused(None)).body["code"] == "payment_required"
    assert (await rig.refused("{")).status == 400


async def test_a_top_up_counts_once_however_often_it_is_sent() -> None:
    rig = Rig()
    stream = await rig.open(voucher_for(1))
    for _ in range(3):
        answer = await rig.streams.top_up(stream.stream_id, voucher_for(2, 2))
        assert (answer.status, answer.body["paid"]) == (200, "30")
    used = voucher_for(1)
    assert (await rig.streams.top_up(stream.stream_id, used)).status == 402
    assert (await rig.streams.top_up(stream.stream_id, voucher_for(0.1, 3))).status == 402
    assert (await rig.streams.top_up(stream.stream_id, "{")).status == 409
    assert (await rig.streams.top_up(stream.stream_id, None)).body["type"] == "mpp-session"
    assert stream.credit.paid == 30
    await stream.close()


async def test_a_voucher_of_another_channel_is_not_used_up() -> None:
    rig = Rig()
    stream = await rig.open(voucher_for(1))
    answer = await rig.streams.top_up(stream.stream_id, voucher_for(1, 1, "other"))
    assert (answer.status, answer.body["code"]) == (409, "channel_mismatch")
    assert rig.ledger.verified == 1
    await stream.close()


async def test_a_top_up_that_the_stream_did_not_wait_for_is_kept() -> None:
    rig = Rig()
    stream = await rig.open(voucher_for(1))
    waiting = asyncio.Event()
    verify = rig.server.verify_voucher

    async def slow(*args: Any, **options: Any) -> Any:
        verdict = await verify(*args, **options)
        await waiting.wait()
        return verdict

    rig.server.verify_voucher = slow  # type: ignore[method-assign]
    late = asyncio.create_task(rig.streams.top_up(stream.stream_id, voucher_for(2, 2)))
    await until(lambda: rig.ledger.verified == 2)
    await stream.close()
    waiting.set()
    assert (await late).body["state"] == "ended"
    again = await rig.open(voucher_for(1, 3))
    assert again.to_json()["left"] == "40"
    await again.close()


@pytest.mark.parametrize("later", [0, 1])
async def test_a_stream_whose_lease_is_lost_delivers_nothing_more(later: int) -> None:
    rig = Rig(lease_seconds=1)
    stream = await rig.open(voucher_for(9))
    sizes = [1, *[later] * 8]
    async with aclosing(stream.deliver(Source(9), units=lambda n: sizes[n])) as items:
        assert await anext(items) == 0
        rig.ledger.lost = True
        await until(lambda: not stream.lease.held)
        assert [item async for item in items] == []


async def test_a_lease_that_nobody_renews_ends_the_pause() -> None:
    rig = Rig(lease_seconds=1, pause_seconds=60)
    stream = await rig.open(voucher_for(1))
    with reading(stream, Source(2)) as (came, task):
        await until(paused(stream))
        rig.ledger.away = True
        async with asyncio.timeout(5):
            await task
        assert came == [0]


async def test_while_the_ledger_is_away_no_stream_begins() -> None:
    rig = Rig()
    rig.ledger.away = True
    assert (await rig.refused(voucher_for(1))).status == 503
    rig.ledger.away = False
    await (await rig.open(voucher_for(1))).close()


async def test_a_reader_that_is_cancelled_gives_the_lease_back() -> None:
    rig = Rig()
    stream = await rig.open(voucher_for(1))
    with reading(stream, Source(9)) as (_, task):
        await until(paused(stream))
        task.cancel()
        await until(lambda: not rig.ledger.holders)
    await (await rig.open(voucher_for(1, 2))).close()


@given(
    st.lists(st.tuples(st.sampled_from(["pay", "reserve", "commit", "release"]), st.integers(0, 9)))
)
def test_credit_is_never_reserved_or_delivered_beyond_what_is_paid(
    steps: list[tuple[str, int]],
) -> None:
    credit, paid = Credit(5), 5
    for step, amount in steps:
        match step:
            case "pay":
                credit.add(amount)
                paid += amount
            case "reserve" if not credit.reserved:
                before = credit.left
                assert credit.reserve(amount) == (amount <= before)
            case "commit":
                credit.commit()
            case _:
                credit.release()
        assert credit.reserved + credit.delivered + credit.left == credit.paid == paid
        assert credit.left >= 0
