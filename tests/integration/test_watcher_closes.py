"""Sessions that the watcher closes, over a real log and a real chain: when, why, and once."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

import asyncpg
from settlement_rig import RECIPIENT
from structlog.testing import capture_logs

from service.adapters.postgres.connections import driver_address
from service.adapters.postgres.watching import PostgresWatchStore
from service.adapters.solana.rpc import SolanaRpc
from service.application.close_session import remove
from service.application.streams import Stream
from service.domain.log import decode
from service.domain.session import Session
from service.local.chain import LOCALNET_GENESIS_HASH
from service.ports import Append, DueSession
from tests.integration.log_fixtures import opened
from tests.integration.replay_rig import attempt_signed
from tests.integration.watch_rig import (
    IDLE,
    NOWHERE,
    WatchRig,
    account,
    amount_policy,
    rig_fixture,
    wallet,
    watcher_of,
)

__all__ = ["rig_fixture"]

T = TypeVar("T")
RACES = 150


async def test_the_next_look_is_at_the_idle_deadline_and_a_voucher_moves_it(rig: WatchRig) -> None:
    own = await rig.open("own", idle_timeout_seconds=10)
    plain = await rig.open("plain")
    await rig.watch(IDLE, every=100).look()
    left = await rig.seconds_left()
    assert 9 < left[own.stream_id] <= 10
    assert 59 < left[plain.stream_id] <= 60
    rig.clock.time += 9_000
    assert await rig.pay(own, 10) == "accepted"
    rig.clock.time += 9_000
    await rig.due()
    assert (await rig.watch(IDLE, every=100).look()).closed == []
    assert 0 < (await rig.seconds_left())[own.stream_id] <= 1


async def test_a_process_that_just_started_closes_what_became_idle_before(rig: WatchRig) -> None:
    await rig.grant()
    stream = await rig.open("c")
    assert await rig.pay(stream, 10) == "accepted"
    await rig.watch(IDLE).look()
    rig.clock.time += 60_000
    await rig.due()
    async with opened(rig.log.url) as restarted:
        looked = await rig.watch(IDLE, log=restarted).look()
    assert looked.closed == [(stream.stream_id, "idle")]
    session = await rig.session(stream)
    assert session.settlement is not None
    assert (session.state, session.settlement.amount) == ("closing", 10)
    types = await rig.events(stream)
    assert types[-2:] == ["close_requested", "settlement_intended"]
    assert await rig.pay(stream, 20) == "session_closed"


async def test_the_log_says_who_closed_and_why(rig: WatchRig) -> None:
    stream = await rig.open("c")
    assert await rig.pay(stream, 10) == "accepted"
    await rig.watch(amount_policy(amount=10)).look()
    closes = [
        decode(logged.row.type, logged.row.schema_version, logged.row.payload)
        async for logged in rig.log.store.read(stream.stream_id)
        if logged.row.type == "close_requested"
    ]
    assert [close.requested_by for close in closes] == ["auto:amount"]  # type: ignore[union-attr]


async def test_two_watchers_close_a_session_once(rig: WatchRig) -> None:
    streams = [await rig.open(f"c{number}") for number in range(20)]
    for stream in streams:
        assert await rig.pay(stream, 10) == "accepted"
    rig.clock.time += 60_000
    async with opened(rig.log.url) as other:
        watches = [rig.watch(IDLE), rig.watch(IDLE, log=other)]
        for watch in watches:  # as if each lease had run out under the other
            watch._store.lease_sessions = _everything(streams)  # type: ignore[method-assign]
        looks = await asyncio.gather(*(watch.look() for watch in watches))
    closed = [stream_id for looked in looks for stream_id, _ in looked.closed]
    assert sorted(closed) == sorted(stream.stream_id for stream in streams)
    for stream in streams:
        types = await rig.events(stream)
        assert types.count("close_requested") == types.count("settlement_intended") == 1


async def test_a_voucher_that_races_an_idle_close_is_settled_or_refused(rig: WatchRig) -> None:
    """A voucher that comes first makes the session active, so that it must stay open."""
    chance, outcomes = random.Random(7), Counter[tuple[str, str]]()
    async with opened(rig.log.url) as other:
        for number in range(RACES):
            stream = await rig.open(f"c{number}")
            assert await rig.pay(stream, 10) == "accepted"
            rig.clock.time += 60_000
            await rig.due()
            watch = rig.watch(IDLE, log=other)
            verdict, _ = await asyncio.gather(_soon(chance, rig.pay(stream, 20)), watch.look())
            session = await rig.session(stream)
            outcomes[verdict, session.state] += 1
            if session.state == "closing":
                assert session.settlement is not None
                assert session.settlement.amount == session.cumulative_amount == 10
            else:
                assert session.cumulative_amount == 20
    print(outcomes)
    assert set(outcomes) == {("accepted", "open"), ("session_closed", "closing")}


async def test_a_voucher_accepted_after_the_watcher_decided_keeps_the_session_open(
    rig: WatchRig,
) -> None:
    stream = await rig.open("c")
    assert await rig.pay(stream, 10) == "accepted"
    rig.clock.time += 60_000
    await rig.due()
    async with opened(rig.log.url) as other:
        append, verdicts = other.store.append, list[str]()

        async def late(wanted: Append) -> None:
            if not verdicts:
                verdicts.append(await rig.pay(stream, 20))
            await append(wanted)

        other.store.append = late  # type: ignore[method-assign]
        looked = await rig.watch(IDLE, log=other).look()
    assert verdicts == ["accepted"]
    assert (looked.closed, looked.failed) == ([], [])
    session = await rig.session(stream)
    assert (session.state, session.cumulative_amount) == ("open", 20)


async def test_a_session_removed_after_the_watcher_decided_is_no_failure(rig: WatchRig) -> None:
    stream = await rig.open("c")
    assert await rig.pay(stream, 10) == "accepted"
    rig.clock.time += 60_000
    await rig.due()
    async with opened(rig.log.url) as other:
        append, removed = other.store.append, list[bool]()

        async def late(wanted: Append) -> None:
            if not removed:
                removed.append(True)
                await remove(rig.log.ledger, stream, by="slr_1", now=rig.clock.now())
            await append(wanted)

        other.store.append = late  # type: ignore[method-assign]
        looked = await rig.watch(IDLE, log=other).look()
    assert removed
    assert (looked.closed, looked.failed) == ([], [])
    assert (await rig.session(stream)).state == "removed"


async def test_low_headroom_settles_before_the_money_is_gone(rig: WatchRig) -> None:
    await rig.grant(amount=100)
    streams = [await rig.open("c"), await rig.open("d", seller="slr_2")]
    idle = await rig.open("nothing owed")
    for stream in streams:
        assert await rig.pay(stream, 40) == "accepted"
    watch = rig.watch(amount_policy(headroom=20))
    assert (await watch.look()).closed == []  # 100 - 80 is not below 20
    await rig.grant(amount=99)
    await rig.due()
    closed = (await watch.look()).closed
    assert sorted(closed) == sorted((stream.stream_id, "headroom") for stream in streams)
    assert (await rig.session(idle)).state == "open"
    assert await rig.settle(*streams) == ["settled", "settled"]
    assert await rig.balance(RECIPIENT) == 80


async def test_what_closing_sessions_are_owed_weighs_on_the_source(rig: WatchRig) -> None:
    await rig.grant(amount=100)
    first, second = await rig.open("c"), await rig.open("d")
    store = PostgresWatchStore(rig.log.store)
    watch = rig.watch(amount_policy(amount=50))
    for stream, amount in ((first, 60), (second, 30)):
        assert await rig.pay(stream, amount) == "accepted"
    owed = {account("buyer"): 90}
    assert await store.unsettled([account("buyer")], {wallet("buyer"): account("buyer")}) == owed
    assert await store.unsettled([account("buyer")], {}) == {}  # nobody has looked yet
    assert (await watch.look()).closed == [(first.stream_id, "amount")]
    assert await store.unsettled([account("buyer")], {}) == owed
    settlement = (await rig.session(first)).settlement
    assert settlement is not None
    await rig.log.ledger.record(first.stream_id, lambda session: [attempt_signed(session)])
    # It was sent: the account's balance may know of it, and to count it twice would close others.
    assert await store.unsettled([account("buyer")], {}) == {account("buyer"): 30}


async def test_a_session_that_nobody_can_pay_stays_open_and_is_reported_once(
    rig: WatchRig,
) -> None:
    stream = await rig.open("c", payer="not an address")
    assert await rig.pay(stream, 10) == "accepted"
    rig.clock.time += 60_000
    watcher = watcher_of(rig.watch(IDLE))
    with capture_logs() as lines:
        for _ in range(3):
            await rig.due()
            assert await watcher._look() == 1
    assert [line["event"] for line in lines] == ["session_not_auto_closed"]
    assert lines[0]["stream"] == stream.stream_id
    assert (await rig.session(stream)).state == "open"
    assert 25 < (await rig.seconds_left())[stream.stream_id] <= 30


async def test_an_outage_of_the_chain_is_reported_once_and_so_is_its_end(rig: WatchRig) -> None:
    await rig.open("c")
    dead = SolanaRpc(NOWHERE, LOCALNET_GENESIS_HASH)
    watcher = watcher_of(rig.watch(chain=dead))
    with capture_logs() as lines:
        for _ in range(3):
            await rig.due()
            await watcher._look()
        watcher._services.watch = rig.watch()
        for _ in range(2):
            await rig.due()
            await watcher._look()
    await dead.close()
    assert [line["event"] for line in lines] == ["funding_not_read", "funding_read_again"]


async def test_one_session_that_cannot_be_read_holds_up_no_other(rig: WatchRig) -> None:
    await rig.grant()
    broken, good = await rig.open("broken"), await rig.open("good")
    connection = await asyncpg.connect(driver_address(rig.log.url))
    damage = "UPDATE streams SET projection = '{}' WHERE stream_id = $1"
    await connection.execute(damage, broken.stream_id)
    await connection.close()
    watcher = watcher_of(rig.watch())
    with capture_logs() as lines:
        for _ in range(3):
            assert await watcher._look() == 2
            await rig.due()
    assert [(line["event"], line["stream"]) for line in lines] == [
        ("funding_changed", good.stream_id),
        ("session_not_watched", broken.stream_id),
    ]
    assert (await rig.session(good)).funding == "verified"


def _everything(streams: Sequence[Stream[Session]]) -> Any:
    async def lease(**_: Any) -> list[DueSession]:
        return [DueSession(stream.stream_id, None) for stream in streams]

    return lease


async def _soon(chance: random.Random, act: Awaitable[T]) -> T:
    """Start while a look is under way, or just after it."""
    await asyncio.sleep(chance.uniform(0, 0.05))
    return await act
