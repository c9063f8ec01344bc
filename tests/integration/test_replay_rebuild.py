"""A rebuild remakes what the log can repair, beside writers, and hides nothing that was lost."""

# ruff: noqa: S608  every statement is made of this file's own constants

import asyncio

import pytest

from service.application.streams import session_stream
from service.domain import events as e
from service.domain.session import Session
from tests.integration.log_fixtures import opening, voucher_event
from tests.integration.replay_rig import (
    EVENTS_OF_PAID,
    FLIP,
    NOW,
    Rig,
    history_fixture,
    named,
    rig_fixture,
)

__all__ = ["history_fixture", "rig_fixture"]


@pytest.mark.parametrize(("least", "ends"), [(EVENTS_OF_PAID, 6), (3, 2), (1, 0)])
async def test_a_log_whose_end_is_gone_is_found_through_the_projection(
    rig: Rig, least: int, ends: int
) -> None:
    cut = "DELETE FROM events WHERE stream_id = $1 AND position >= $2"
    await rig.tamper(cut, rig.paid, least)

    report = await rig.run(rebuild=True)

    assert (rig.paid, ends, "log_end") in named(report)
    lost = f"the projection stands at {EVENTS_OF_PAID}, the log ends at {ends}"
    assert lost in [difference.detail for difference in report.differences]
    assert report.remaining > 0
    head = await rig.log.store.head(rig.paid)
    assert head is not None
    assert head.position == EVENTS_OF_PAID, "a rebuild must not hide that events were lost"


async def test_a_rebuild_by_force_follows_a_log_that_was_cut(rig: Rig) -> None:
    await rig.tamper("DELETE FROM events WHERE stream_id = $1 AND position > 4", rig.paid)

    report = await rig.run(stream_id=rig.paid, rebuild=True, force=True)

    assert report.count > 0
    assert (await rig.run()).differences == []


DERIVED_FAULTS = {
    "a byte of the projection": (
        f"UPDATE streams SET projection = {FLIP.format('projection')} WHERE stream_id = $1",
        "projection",
    ),
    "a projection that fell behind": (
        "UPDATE streams SET position = position - 1 WHERE stream_id = $1",
        "projection",
    ),
    "another seller's projection": (
        "UPDATE streams SET seller_id = 'slr_x' WHERE stream_id = $1",
        "projection",
    ),
    "a lost projection": ("DELETE FROM streams WHERE stream_id = $1", "projection"),
    "a lost session row": ("DELETE FROM sessions WHERE stream_id = $1", "lookup"),
    "another state": ("UPDATE sessions SET state = 'settled' WHERE stream_id = $1", "lookup"),
    "another amount": ("UPDATE settlements SET amount = 1 WHERE stream_id = $1", "lookup"),
    "a lost settlement": ("DELETE FROM settlements WHERE stream_id = $1", "lookup"),
    "a lost attempt": ("DELETE FROM attempts WHERE stream_id = $1", "lookup"),
    "an attempt too many": (
        "INSERT INTO attempts VALUES ($1, 2, 'other', 'expired')",
        "lookup",
    ),
}


@pytest.mark.parametrize("fault", DERIVED_FAULTS)
async def test_what_is_derived_is_compared_and_remade_from_the_log(rig: Rig, fault: str) -> None:
    statement, what = DERIVED_FAULTS[fault]
    await rig.root.execute(statement, rig.paid)
    before = await rig.log_digest()

    found = await rig.run()
    rebuilt = await rig.run(rebuild=True)

    assert {(d.stream_id, d.what, d.repaired) for d in found.differences} == {
        (rig.paid, what, False)
    }
    assert (rebuilt.count, rebuilt.remaining, rebuilt.rebuilt) == (found.count, 0, 1)
    assert (await rig.run()).differences == []
    assert await rig.log_digest() == before


async def test_a_projection_is_not_remade_from_a_damaged_log(rig: Rig) -> None:
    damage = f"UPDATE events SET payload = {FLIP.format('payload')}"
    await rig.tamper(f"{damage} WHERE stream_id = $1 AND position = 3", rig.paid)
    await rig.root.execute(
        "UPDATE streams SET position = position - 1 WHERE stream_id = $1", rig.paid
    )
    before = await rig.log.store.head(rig.paid)

    for force in (False, True):
        report = await rig.run(rebuild=True, force=force)
        assert (rig.paid, 3, "chain") in named(report)
        assert not any(d.repaired for d in report.differences)

    assert await rig.log.store.head(rig.paid) == before


async def test_a_lock_that_wrote_nothing_leaves_nothing(rig: Rig) -> None:
    """A lost projection of a damaged log cannot be remade; nothing may stand in its place."""
    damage = f"UPDATE events SET payload = {FLIP.format('payload')}"
    await rig.tamper(f"{damage} WHERE stream_id = $1 AND position = 3", rig.paid)
    await rig.root.execute("DELETE FROM streams WHERE stream_id = $1", rig.paid)

    await rig.run(rebuild=True)

    assert await rig.log.store.head(rig.paid) is None


@pytest.mark.parametrize("channel", ["paid", "new"])
async def test_nobody_appends_to_a_stream_while_it_is_remade(rig: Rig, channel: str) -> None:
    stream = session_stream(rig.seller_id, channel)

    def decide(session: Session | None) -> list[e.SessionEvent]:
        new = opening(channel) if session is None else []
        return [*new, e.SessionRemoved(at=NOW, by="seller")]

    async with rig.store.locked(stream.stream_id):
        append = asyncio.create_task(rig.log.ledger.commit(stream, decide))
        await until_somebody_waits_for_a_lock(rig)
        assert not append.done()

    await append
    assert (await rig.run()).differences == []


async def until_somebody_waits_for_a_lock(rig: Rig) -> None:
    waiting = """SELECT count(*) FROM pg_stat_activity
                  WHERE datname = current_database() AND wait_event_type = 'Lock'"""
    async with asyncio.timeout(10):
        while not await rig.root.fetchval(waiting):
            await asyncio.sleep(0.01)


SELLER_FAULTS = {
    "a name": "UPDATE sellers SET name = 'other' WHERE seller_id = $1",
    "a lost seller": "DELETE FROM sellers WHERE seller_id = $1",
    "a key that came back": "UPDATE seller_keys SET revoked = NOT revoked WHERE seller_id = $1",
    "a foreign key hash": "UPDATE seller_keys SET key_hash = '\\x00' WHERE seller_id = $1",
    "a key too many": "INSERT INTO seller_keys VALUES ('feed', $1, '\\x00', false)",
}


@pytest.mark.parametrize("fault", SELLER_FAULTS)
async def test_rows_of_sellers_and_keys_are_compared_and_remade(rig: Rig, fault: str) -> None:
    await rig.root.execute(SELLER_FAULTS[fault], rig.seller_id)

    rebuilt = await rig.run(rebuild=True)

    assert {(d.stream_id, d.what) for d in rebuilt.differences} == {(rig.seller, "lookup")}
    assert rebuilt.remaining == 0
    assert (await rig.run()).differences == []


async def test_a_row_without_any_event_is_evidence_and_kept_unless_forced(rig: Rig) -> None:
    ghost = "session/slr_0/ghost"
    insert = "INSERT INTO sessions VALUES ($1, 'slr_0', 'ghost', 'open', 'payer', 1)"
    await rig.root.execute(insert, ghost)

    kept = await rig.run(rebuild=True)
    forced = await rig.run(rebuild=True, force=True)

    assert [(d.stream_id, d.what, d.repaired) for d in kept.differences] == [
        (ghost, "log_end", False)
    ]
    assert forced.remaining == 0
    assert (await rig.run()).differences == []
    assert await rig.root.fetchval("SELECT count(*) FROM streams WHERE position = 0") == 0


async def test_a_rebuild_beside_writers_loses_nothing(rig: Rig) -> None:
    """Every stream is remade again and again while vouchers are appended to them."""
    done = asyncio.Event()

    async def write(channel: str) -> None:
        stream = session_stream(rig.seller_id, channel)
        await rig.log.ledger.commit(stream, lambda _: opening(channel))
        for number in range(1, 61):
            voucher = voucher_event(number * 10, number)
            await rig.log.ledger.commit(stream, lambda _, voucher=voucher: [voucher])

    async def rebuild() -> int:
        runs = 0
        while not done.is_set() or runs == 0:
            report = await rig.run(rebuild=True, force=True)
            assert [d for d in report.differences if d.what != "column"] == []
            runs += 1
        return runs

    rebuilding = asyncio.create_task(rebuild())
    await asyncio.gather(*(write(f"ch_{number}") for number in range(6)))
    done.set()
    assert await rebuilding >= 1
    report = await rig.run()
    assert report.events == 16 + 6 * 61
    assert {d.what for d in report.differences} <= {"column"}
