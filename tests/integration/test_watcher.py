"""The watcher over a real log and a real chain: what it notices, and what it closes."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Sequence
from types import SimpleNamespace
from typing import Any, TypeVar

import asyncpg
from settlement_rig import RECIPIENT
from structlog.testing import capture_logs

from service.adapters.postgres.connections import driver_address, reader_engine
from service.adapters.postgres.replay_store import PostgresReplayStore
from service.adapters.postgres.watching import PostgresWatchStore
from service.adapters.solana.rpc import SolanaRpc
from service.application.close_session import close_session, remove
from service.application.replay import Replay, Scope
from service.application.streams import Stream, funding_stream
from service.application.watch_sessions import BATCH, Looked
from service.domain import events as e
from service.domain.auto_close import AutoClosePolicy
from service.domain.errors import DatabaseUnavailable
from service.domain.funding import FundingReading
from service.domain.log import decode
from service.domain.reservations import Reservations, reserve
from service.domain.session import Session
from service.domain.units import AtomicUsdc, Slot
from service.local.chain import LOCALNET_GENESIS_HASH
from service.observability import Metrics
from service.ports import Append, DueSession, NextLook
from service.watcher import PICK_UP_SECONDS, SessionWatcher
from tests.integration.log_fixtures import opened
from tests.integration.replay_rig import attempt_signed
from tests.integration.watch_rig import HOW, WatchRig, account, amount_policy, rig_fixture, wallet

T = TypeVar("T")

__all__ = ["rig_fixture"]

IDLE = AutoClosePolicy(idle_seconds=60)
RACES = 150
NOWHERE = "http://127.0.0.1:9"


# --- funding --------------------------------------------------------------------------------


async def test_a_revoked_grant_refuses_the_next_voucher_until_it_is_granted_again(
    rig: WatchRig,
) -> None:
    await rig.grant()
    stream, watch = await rig.open("c"), rig.watch()
    assert await rig.pay(stream, 10) == "accepted"
    assert (await watch.look()).funding == [(stream.stream_id, "verified")]
    await rig.revoke()
    assert await rig.pay(stream, 20) == "accepted"  # nobody has looked yet
    await rig.due()
    assert (await watch.look()).funding == [(stream.stream_id, "revoked")]
    assert await rig.pay(stream, 30) == "funding_revoked"
    await rig.grant()
    await rig.due()
    assert (await watch.look()).funding == [(stream.stream_id, "verified")]
    assert await rig.pay(stream, 30) == "accepted"


async def test_a_look_that_finds_nothing_new_writes_nothing(rig: WatchRig) -> None:
    await rig.grant()
    stream, watch = await rig.open("c"), rig.watch()
    await watch.look()
    before = await rig.events(stream)
    assert before == ["session_opened", "funding_observed"]
    for _ in range(3):
        await rig.due()
        looked = await watch.look()
        assert (looked.sessions, looked.read, looked.funding) == (1, 1, [])
    assert await rig.events(stream) == before


async def test_a_buyer_without_money_costs_no_event(rig: WatchRig) -> None:
    streams = [
        await rig.open("c", "poor"),
        await rig.open("d", payer="not an address"),
    ]
    looked = await rig.watch().look()
    assert (looked.sessions, looked.read, looked.failed) == (2, 1, [])
    assert [await rig.events(stream) for stream in streams] == [["session_opened"]] * 2


async def test_sessions_of_one_source_are_read_together_and_a_hundred_by_one_request(
    rig: WatchRig,
) -> None:
    asked: list[list[str]] = []

    class Counting:
        async def accounts(self, addresses: list[str], commitment: Any) -> Any:
            asked.append(list(addresses))
            return await rig.world.chain.accounts(addresses, commitment)

    for number in range(BATCH + 1):
        await rig.open(f"c{number}", f"buyer {number % 50}")
    watch = rig.watch(chain=Counting())  # type: ignore[arg-type]  the part that is used
    assert [(await watch.look()).sessions for _ in range(3)] == [BATCH, 1, 0]
    assert [len(addresses) for addresses in asked] == [50, 1]


async def test_a_chain_that_does_not_answer_changes_nothing_and_stops_no_close(
    rig: WatchRig,
) -> None:
    await rig.grant()
    stream = await rig.open("c")
    await rig.watch().look()
    await rig.revoke()
    await rig.due()
    rig.clock.time += 60_000
    dead = SolanaRpc(NOWHERE, LOCALNET_GENESIS_HASH)
    try:
        looked = await rig.watch(IDLE, chain=dead).look()
    finally:
        await dead.close()
    assert looked.unread is not None
    assert (looked.read, looked.funding) == (0, [])
    assert looked.closed == [(stream.stream_id, "idle")]
    assert (await rig.session(stream)).funding == "verified"


# --- leases ---------------------------------------------------------------------------------


async def test_processes_share_the_sessions_out(rig: WatchRig) -> None:
    for number in range(BATCH * 2):
        await rig.open(f"c{number}")
    async with opened(rig.log.url) as other:
        stores = [PostgresWatchStore(log.store) for log in (rig.log, other)]
        leases = await asyncio.gather(
            *(store.lease_sessions(seconds=30, limit=25) for store in stores * 5)
        )
    leased = [due.stream_id for lease in leases for due in lease]
    assert len(leased) == len(set(leased)) == BATCH * 2


async def test_what_a_killed_process_held_is_due_again(rig: WatchRig) -> None:
    stream = await rig.open("c")
    store = PostgresWatchStore(rig.log.store)
    assert [due.stream_id for due in await store.lease_sessions(seconds=30, limit=9)] == [
        stream.stream_id
    ]
    assert await store.lease_sessions(seconds=0.05, limit=9) == []
    left = (await rig.seconds_left())[stream.stream_id]
    assert 25 < left <= 30
    await rig.due()
    assert len(await store.lease_sessions(seconds=0.05, limit=9)) == 1
    async with asyncio.timeout(10):
        while not await store.lease_sessions(seconds=30, limit=9):
            await asyncio.sleep(0.01)


async def test_a_new_session_is_due_at_once_and_a_closed_one_never(rig: WatchRig) -> None:
    stream, watch = await rig.open("c"), rig.watch(AutoClosePolicy(age_seconds=60))
    assert (await watch.look()).sessions == 1
    assert (await watch.look()).sessions == 0
    rig.clock.time += 60_000
    await rig.due()
    assert (await watch.look()).closed == [(stream.stream_id, "age")]
    await rig.due()
    assert (await watch.look()).sessions == 0


async def test_a_row_that_an_append_holds_is_not_waited_for(rig: WatchRig) -> None:
    held, free = await rig.open("c"), await rig.open("d")
    store = PostgresWatchStore(rig.log.store)
    connection = await asyncpg.connect(driver_address(rig.log.url))
    try:
        async with connection.transaction(), asyncio.timeout(10):
            lock = "SELECT FROM sessions WHERE stream_id = $1 FOR UPDATE"
            await connection.execute(lock, held.stream_id)
            await store.schedule([NextLook(s.stream_id, 500, None) for s in (held, free)])
            assert [due.stream_id for due in await store.lease_sessions(seconds=30, limit=9)] == []
    finally:
        await connection.close()
    left = await rig.seconds_left()
    assert left[held.stream_id] <= 0
    assert left[free.stream_id] > 400


# --- auto-close -----------------------------------------------------------------------------


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


async def test_what_the_watcher_notes_beside_the_log_is_no_difference_to_a_replay(
    rig: WatchRig,
) -> None:
    await rig.grant()
    stream = await rig.open("c")
    await rig.watch().look()
    engine = reader_engine(rig.log.url, pool_size=3)
    try:
        replay = Replay(PostgresReplayStore(engine), rig.log.store)
        assert (await replay.run(Scope())).differences == []
        await replay.run(Scope(stream_id=stream.stream_id, rebuild=True, force=True))
        assert (await replay.run(Scope())).differences == []
    finally:
        await engine.dispose()
    assert (await rig.watch().look()).sessions == 1  # remade, so due again


async def buyers_session(rig: WatchRig, channel: str, deposit: int) -> Stream[Session]:
    """A session that its buyer opened, with a deposit reserved out of the buyer's account."""
    stream = await rig.open(
        channel,
        opened_by="buyer",
        deposit=AtomicUsdc(deposit),
        source_token_account=account("buyer"),
    )
    reading = FundingReading(AtomicUsdc(100), AtomicUsdc(100), Slot(1), None)
    now = rig.clock.now()

    def decide(held: Reservations | None) -> Sequence[e.FundingEvent]:
        return reserve(
            held,
            stream.stream_id,
            AtomicUsdc(deposit),
            reading,
            spend_limit=None,
            needs={},
            now=now,
        )

    await rig.log.ledger.commit(funding_stream(account("buyer")), decide)
    return stream


async def reserved(rig: WatchRig) -> int:
    held = await rig.log.ledger.read(funding_stream(account("buyer")))
    assert held is not None
    assert held.state is not None
    return sum(one.amount for one in held.state.open)


async def test_the_deposit_of_a_buyers_session_is_released_after_its_end_and_once(
    rig: WatchRig,
) -> None:
    await rig.grant()
    used, unused = await buyers_session(rig, "used", 30), await buyers_session(rig, "unused", 20)
    await buyers_session(rig, "kept", 7)
    assert await rig.pay(used, 10) == "accepted"
    watch = rig.watch()
    assert (await watch.look()).released == 0
    for stream in (used, unused):
        await close_session(
            rig.log.ledger, stream, HOW, source=None, by="buyer", now=rig.clock.now()
        )
    await rig.due()
    looked = await watch.look()  # `unused` had nothing to settle, `used` is being settled
    assert (looked.sessions, looked.released, await reserved(rig)) == (2, 1, 37)
    assert await rig.settle(used) == ["settled"]
    await rig.due()
    assert (await watch.look()).released == 1
    assert await reserved(rig) == 7
    await rig.due()
    looked = await watch.look()
    assert (looked.sessions, looked.released, looked.failed) == (1, 0, [])


async def test_a_session_removed_while_it_is_settled_keeps_its_deposit_until_it_is_paid(
    rig: WatchRig,
) -> None:
    await rig.grant()
    stream, now = await buyers_session(rig, "c", 30), rig.clock.now()
    assert await rig.pay(stream, 10) == "accepted"
    await close_session(rig.log.ledger, stream, HOW, source=None, by="buyer", now=now)
    await remove(rig.log.ledger, stream, by="slr_1", now=now)
    watch = rig.watch()
    for released, left in ((0, 30), (1, 0)):
        await rig.due()
        assert (await watch.look()).released == released
        assert await reserved(rig) == left
        assert await rig.settle(stream) == ["settled"]


# --- the process ----------------------------------------------------------------------------


async def test_the_watcher_lets_go_of_a_look_that_hangs_when_the_process_stops(
    rig: WatchRig,
) -> None:
    looking = asyncio.Event()

    class Hanging:
        async def look(self) -> Looked:
            looking.set()
            await asyncio.Event().wait()
            return Looked()

    watcher = watcher_of(Hanging())
    task = asyncio.create_task(watcher.run())
    async with asyncio.timeout(10):
        await looking.wait()
        watcher._services.stopping.set()
        await task


async def test_a_backlog_is_worked_off_without_pauses(rig: WatchRig) -> None:
    looks = iter([BATCH, BATCH, BATCH, BATCH, BATCH, 3])
    done = asyncio.Event()

    class Busy:
        async def look(self) -> Looked:
            sessions = next(looks, 0)
            if not sessions:
                done.set()
            return Looked(sessions=sessions)

    watcher = watcher_of(Busy())
    began = asyncio.get_running_loop().time()
    task = asyncio.create_task(watcher.run())
    async with asyncio.timeout(10):
        await done.wait()
    assert asyncio.get_running_loop().time() - began < PICK_UP_SECONDS
    watcher._services.stopping.set()
    await task
    total = watcher._services.metrics.sessions_watched._value.get()
    assert total == BATCH * 5 + 3


async def test_a_database_that_does_not_answer_ends_no_watcher(rig: WatchRig) -> None:
    class Failing:
        async def look(self) -> Looked:
            raise DatabaseUnavailable("gone")

    with capture_logs() as lines:
        assert await watcher_of(Failing())._look() == 0
    assert [line["event"] for line in lines] == ["sessions_not_watched"]


def watcher_of(watch: Any) -> SessionWatcher:
    """The process loop around a watch."""
    services = SimpleNamespace(watch=watch, metrics=Metrics(), stopping=asyncio.Event())
    return SessionWatcher(services)  # type: ignore[arg-type]  what the loop uses of them


def _everything(streams: Sequence[Stream[Session]]) -> Any:
    async def lease(**_: Any) -> list[DueSession]:
        return [DueSession(stream.stream_id, None) for stream in streams]

    return lease


async def _soon(chance: random.Random, act: Awaitable[T]) -> T:
    """Start while a look is under way, or just after it."""
    await asyncio.sleep(chance.uniform(0, 0.05))
    return await act
