"""The watcher over a real log and a real chain: what it notices, whose turn it is, what it gives
back, and its process.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
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
from service.domain.reservations import Reservations, reserve
from service.domain.session import Session
from service.domain.units import AtomicUsdc, Slot
from service.local.chain import LOCALNET_GENESIS_HASH
from service.ports import NextLook
from service.watcher import PICK_UP_SECONDS
from tests.integration.log_fixtures import opened
from tests.integration.watch_rig import (
    HOW,
    IDLE,
    NOWHERE,
    WatchRig,
    account,
    rig_fixture,
    watcher_of,
)

__all__ = ["rig_fixture"]


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
