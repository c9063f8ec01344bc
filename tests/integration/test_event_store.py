"""The log in a real Postgres: what is appended is there, once, in order, for ever."""

import asyncio

import asyncpg
import pytest
import sqlalchemy as sa

from service.adapters.postgres import append_sql
from service.adapters.postgres.connections import driver_address
from service.application.commit import Change, Outcome
from service.application.streams import SESSION, Stream, session_stream
from service.domain import events as e
from service.domain.errors import ClaimTaken, DatabaseUnavailable, SessionExists, WrongPosition
from service.domain.log import GENESIS_HASH, chain, check_chain
from service.domain.session import Session, open_session
from service.domain.units import StreamPosition, UnixMillis
from service.ports import Append, Claim, StreamAppend
from tests.integration.event_store_rig import accept, log_fixture
from tests.integration.log_fixtures import Log, opened, opening, terms, voucher_event

__all__ = ["log_fixture"]


def stream_append(
    stream: Stream[Session], expected: int, prev: bytes, *new: e.SessionEvent
) -> StreamAppend:
    rows = chain(stream.stream_id, StreamPosition(expected), prev, new)
    amounts = tuple(
        event.cumulative_amount if isinstance(event, e.VoucherAccepted) else None for event in new
    )
    return StreamAppend(
        stream.stream_id, "session", "slr_1", StreamPosition(expected), rows, amounts, b"{}"
    )


async def rows_of(log: Log, channel_id: str) -> list[int]:
    stream = session_stream("slr_1", channel_id)
    rows = [logged.row async for logged in log.store.read(stream.stream_id)]
    check_chain(rows)
    return [row.position for row in rows]


async def test_an_append_is_read_back_with_its_chain_and_projection(log: Log) -> None:
    outcome = await accept(log, "ch_1", 10)
    assert [row.type for row in outcome.rows] == ["session_opened", "voucher_accepted"]
    assert await rows_of(log, "ch_1") == [1, 2]
    held = await log.ledger.read(session_stream("slr_1", "ch_1"))
    assert held is not None
    assert held.state == outcome.state
    assert (held.position, held.hash) == (2, outcome.rows[-1].hash)
    head = await log.store.head("session/slr_1/ch_1")
    assert head is not None
    assert outcome.state is not None
    assert head.projection == SESSION.project(outcome.state)


async def test_a_wrong_expected_position_writes_nothing(log: Log) -> None:
    await accept(log, "ch_1", 10)
    stale = stream_append(session_stream("slr_1", "ch_1"), 1, bytes(32), voucher_event(20, 2))
    with pytest.raises(WrongPosition):
        await log.store.append(Append((stale,)))
    assert await rows_of(log, "ch_1") == [1, 2]


async def test_several_streams_are_appended_together_or_not_at_all(log: Log) -> None:
    await accept(log, "a", 10)
    good = stream_append(session_stream("slr_1", "b"), 0, GENESIS_HASH, *opening("b"))
    stale = stream_append(session_stream("slr_1", "a"), 7, bytes(32), voucher_event(20, 2))
    with pytest.raises(WrongPosition):
        await log.store.append(Append((good, stale)))
    assert await log.store.head("session/slr_1/b") is None


async def test_a_refused_append_leaves_its_neighbours_of_the_batch_alone(log: Log) -> None:
    await accept(log, "a", 10)
    stale = stream_append(session_stream("slr_1", "a"), 1, bytes(32), voucher_event(20, 2))
    fresh = [
        stream_append(session_stream("slr_1", f"n{n}"), 0, GENESIS_HASH, *opening(f"n{n}"))
        for n in range(20)
    ]
    results = await asyncio.gather(
        *(log.store.append(Append((append,))) for append in (*fresh[:10], stale, *fresh[10:])),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [type(None)] * 10 + [WrongPosition] + [
        type(None)
    ] * 10


async def test_two_processes_that_open_one_stream_give_one_opening(ledger_url: str) -> None:
    async with opened(ledger_url) as one, opened(ledger_url) as other:
        for n in range(30):
            results = await asyncio.gather(accept(one, f"c{n}", 10), accept(other, f"c{n}", 20))
            assert all(isinstance(result, Outcome) for result in results)
            assert await rows_of(one, f"c{n}") in ([1, 2], [1, 2, 3])


async def test_two_processes_give_one_linear_history(ledger_url: str) -> None:
    async with opened(ledger_url) as one, opened(ledger_url) as other:

        async def writer(log: Log, offset: int) -> int:
            accepted = 0
            for step in range(60):
                try:
                    outcome = await accept(log, "shared", 10 * (2 * step + offset) + 10)
                except WrongPosition:
                    continue
                accepted += len([row for row in outcome.rows if row.type == "voucher_accepted"])
            return accepted

        counts = await asyncio.gather(writer(one, 0), writer(other, 1))
        positions = await rows_of(one, "shared")
        assert positions == list(range(1, len(positions) + 1))
        assert len(positions) == 1 + sum(counts)
        amounts = [
            logged.row.payload async for logged in one.store.read("session/slr_1/shared", after=1)
        ]
        assert len(set(amounts)) == len(amounts)


async def test_a_decision_on_a_remembered_state_is_made_again_before_it_is_refused(
    ledger_url: str,
) -> None:
    """One process remembers a channel that another process has moved on."""
    async with opened(ledger_url) as one, opened(ledger_url) as other:
        stream = session_stream("slr_1", "ch_1")
        await one.ledger.commit(stream, lambda s: open_session(s, terms(), UnixMillis(1)))
        await accept(other, "ch_1", 10)

        def decide(session: Session | None) -> list[e.SessionEvent]:
            assert session is not None
            if session.cumulative_amount == 0:
                raise SessionExists("judged on a stale state")
            return [voucher_event(20, 2)]

        outcome = await one.ledger.commit(stream, decide)
        assert outcome.position == 3


async def test_a_claim_is_taken_once_with_the_append_that_it_belongs_to(log: Log) -> None:
    claim = Claim("scope", "key", b"h" * 32, b"answer")
    first = stream_append(session_stream("slr_1", "a"), 0, GENESIS_HASH, *opening("a"))
    second = stream_append(session_stream("slr_1", "b"), 0, GENESIS_HASH, *opening("b"))
    results = await asyncio.gather(
        log.store.append(Append((first,), (claim,))),
        log.store.append(Append((second,), (claim,))),
        return_exceptions=True,
    )
    assert sorted(type(result).__name__ for result in results) == ["ClaimTaken", "NoneType"]
    heads = [await log.store.head(f"session/slr_1/{name}") for name in "ab"]
    assert [head is None for head in heads] == [isinstance(r, ClaimTaken) for r in results]
    assert await log.store.claim("scope", "key") == claim


async def test_a_refused_append_takes_no_claim(log: Log) -> None:
    await accept(log, "a", 10)
    stale = stream_append(session_stream("slr_1", "a"), 1, bytes(32), voucher_event(20, 2))
    with pytest.raises(WrongPosition):
        await log.store.append(Append((stale,), (Claim("scope", "key", b"h"),)))
    assert await log.store.claim("scope", "key") is None


async def test_the_database_refuses_a_second_voucher_of_the_same_total(log: Log) -> None:
    """Even a writer that decided wrongly cannot accept one total twice in a channel."""
    outcome = await accept(log, "a", 10)
    twice = stream_append(
        session_stream("slr_1", "a"), 2, outcome.rows[-1].hash, voucher_event(10, 2)
    )
    with pytest.raises(Exception, match="events_voucher"):
        await log.store.append(Append((twice,)))
    assert await rows_of(log, "a") == [1, 2]


async def test_commit_together_applies_every_stream_at_one_instant(log: Log) -> None:
    changes = [
        Change(
            session_stream("slr_1", name),
            lambda session, name=name: opening(name) if session is None else [],
        )
        for name in ("x", "y", "z")
    ]
    await log.ledger.commit_together(changes)
    connection = await asyncpg.connect(driver_address(log.url))
    try:
        ids = await connection.fetch("SELECT DISTINCT tx_id::text FROM events")
    finally:
        await connection.close()
    assert len(ids) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET payload = '\\x00'",
        "DELETE FROM events",
        "TRUNCATE events",
        "INSERT INTO events SELECT stream_id, 0, type, 1, payload, hash, hash FROM events",
    ],
)
async def test_the_log_cannot_be_changed_even_by_its_owner(log: Log, statement: str) -> None:
    await accept(log, "a", 10)
    connection = await asyncpg.connect(driver_address(log.url))
    try:
        for prelude in ("SET session_replication_role = replica", "SET ROLE session_ledger_app"):
            await connection.execute(prelude)
            with pytest.raises(asyncpg.PostgresError):
                await connection.execute(statement)
    finally:
        await connection.close()
    assert await rows_of(log, "a") == [1, 2]


async def test_the_service_works_as_a_role_that_cannot_change_the_log(log: Log) -> None:
    await accept(log, "a", 10)
    connection = await asyncpg.connect(driver_address(log.url))
    try:
        roles = await connection.fetch(
            "SELECT has_table_privilege('session_ledger_app', 'events', p) AS has"
            " FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) AS p"
        )
    finally:
        await connection.close()
    assert [row["has"] for row in roles] == [True, True, False, False, False]
    (row,) = await log.store.fetch(sa.text("SELECT current_user AS name"))
    assert row.name == "session_ledger_app"


async def test_the_first_cluster_is_trusted_and_another_one_is_not_until_somebody_says_so(
    log: Log,
) -> None:
    first = await log.queries.cluster()
    assert first.current == first.trusted
    await log.store.fetch(
        sa.text("UPDATE deployment SET cluster_id = 'before the restore' RETURNING 1")
    )
    restored = await log.queries.cluster()
    assert (restored.current, restored.trusted) == (first.current, "before the restore")
    assert await log.queries.trust_cluster() == first


async def test_a_bug_in_the_appender_fails_its_callers_and_not_the_appends_after(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    await accept(log, "a", 10)

    async def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(append_sql, "write_plain", broken)
        with pytest.raises(DatabaseUnavailable, match="RuntimeError"):
            await asyncio.wait_for(accept(log, "a", 20), 10)
    await accept(log, "a", 30)
    assert await rows_of(log, "a") == [1, 2, 3]


async def test_a_large_batch_of_streams_is_appended_in_one_go_and_read_back(log: Log) -> None:
    """300 sessions in one request: opened together, then each moved on together."""
    names = [f"many-{n:03}" for n in range(300)]

    def decide(name: str, amount: int, session: Session | None) -> list[e.SessionEvent]:
        start = opening(name) if session is None else []
        sequence = 1 if session is None else session.voucher_count + 1
        return [*start, voucher_event(amount, sequence)]

    for amount in (10, 20):
        changes = [
            Change(
                session_stream("slr_1", name),
                lambda session, name=name, amount=amount: decide(name, amount, session),
            )
            for name in names
        ]
        await log.ledger.commit_together(changes)
    assert [await rows_of(log, name) for name in names[::97]] == [[1, 2, 3]] * 4
