"""Replay against a real Postgres: whatever is changed behind the service's back is found and named.

The tampering is done as the database's superuser with the triggers off: the role of the service
could not do any of it.
"""

# ruff: noqa: S608  every statement is made of this file's own constants

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from service.application.replay import Scope
from service.application.streams import session_stream, session_stream_of
from service.domain import events as e
from service.domain.errors import DatabaseUnavailable, SessionNotFound
from service.domain.log import chain
from service.domain.units import AtomicUsdc, StreamPosition, UnixMillis
from tests.integration.log_fixtures import opening, voucher_event
from tests.integration.replay_rig import (
    EVENTS_OF_PAID,
    FLIP,
    NOW,
    Rig,
    address,
    history_fixture,
    named,
    rig_fixture,
)

__all__ = ["history_fixture", "rig_fixture"]

STREAMS = 3


async def test_a_log_that_nobody_touched_is_clean(rig: Rig) -> None:
    report = await rig.run(verify_vouchers=True)

    assert report.differences == []
    assert (report.streams, report.events, report.vouchers) == (STREAMS, 16, 6)


LOG_FAULTS = {
    "a byte of a payload": (f"UPDATE events SET payload = {FLIP.format('payload')}", 3, {3}),
    "a byte of a hash": (f"UPDATE events SET hash = {FLIP.format('hash')}", 3, {3, 4}),
    "a byte of prev_hash": (f"UPDATE events SET prev_hash = {FLIP.format('prev_hash')}", 3, {3}),
    "a type": ("UPDATE events SET type = 'session_removed'", 3, {3}),
    "a schema version": ("UPDATE events SET schema_version = 2", 3, {3}),
    "a deleted event": ("DELETE FROM events", 3, {4}),
    "a deleted first event": ("DELETE FROM events", 1, {2}),
    "a moved event": ("UPDATE events SET position = 9", 3, {4, 9}),
    "another stream's name": ("UPDATE events SET stream_id = 'session/slr_0/x'", 3, {4}),
}


@pytest.mark.parametrize("fault", LOG_FAULTS)
async def test_a_fault_in_the_log_is_found_where_it_is(rig: Rig, fault: str) -> None:
    statement, position, named = LOG_FAULTS[fault]
    await rig.tamper(f"{statement} WHERE stream_id = $1 AND position = $2", rig.paid, position)

    report = await rig.run()

    found = {(d.stream_id, d.position) for d in report.differences if d.what == "chain"}
    assert {(rig.paid, at) for at in named} <= found
    assert all(d.stream_id in (rig.paid, "session/slr_0/x") for d in report.differences)


async def test_events_that_were_swapped_are_both_named(rig: Rig) -> None:
    for old, new in ((2, 100), (3, 2), (100, 3)):
        move = "UPDATE events SET position = $1 WHERE stream_id = $2 AND position = $3"
        await rig.tamper(move, new, rig.paid, old)

    report = await rig.run()

    assert {2, 3} <= {d.position for d in report.differences if d.what == "chain"}


async def test_an_event_that_was_put_behind_the_end_is_found(rig: Rig) -> None:
    copy = """INSERT INTO events (stream_id, position, type, schema_version, payload, prev_hash,
                                  hash, event_id, seller_id)
              SELECT stream_id, position + 1, type, schema_version, payload, prev_hash, hash,
                     event_id, seller_id FROM events WHERE stream_id = $1 AND position = $2"""
    await rig.tamper(copy, rig.paid, EVENTS_OF_PAID)

    report = await rig.run()

    assert named(report) >= {(rig.paid, EVENTS_OF_PAID + 1, "chain")}


async def test_a_forged_event_with_right_hashes_is_found_through_the_projection(rig: Rig) -> None:
    head = await rig.log.store.head(rig.paid)
    assert head is not None
    forged = e.SessionRemoved(at=NOW, by="nobody")
    (row,) = chain(rig.paid, head.position, head.hash, [forged])
    await rig.tamper(
        "INSERT INTO events (stream_id, position, type, schema_version, payload, prev_hash, hash,"
        " event_id, seller_id) VALUES ($1, $2, $3, 1, $4, $5, $6, gen_random_uuid(), $7)",
        *(rig.paid, row.position, row.type, row.payload, row.prev_hash, row.hash, rig.seller_id),
    )

    report = await rig.run()

    assert named(report) >= {(rig.paid, EVENTS_OF_PAID, "projection")}


async def test_another_head_hash_is_evidence_of_another_history(rig: Rig) -> None:
    flip = f"UPDATE streams SET head_hash = {FLIP.format('head_hash')} WHERE stream_id = $1"
    await rig.root.execute(flip, rig.paid)

    report = await rig.run(rebuild=True)

    assert named(report) == {(rig.paid, EVENTS_OF_PAID, "log_end")}
    assert report.remaining == 1


@pytest.mark.parametrize("column", ["cumulative_amount = 77", "seller_id = 'slr_x'"])
async def test_columns_that_no_hash_covers_are_compared(rig: Rig, column: str) -> None:
    where = "WHERE stream_id = $1 AND position = 3"
    await rig.tamper(f"UPDATE events SET {column} {where}", rig.paid)

    assert (rig.paid, 3, "column") in named(await rig.run())


async def test_a_stream_of_no_known_kind_is_named(rig: Rig) -> None:
    rename = "UPDATE events SET stream_id = 'unheard-of/' || position WHERE stream_id = $1"
    await rig.tamper(rename, rig.paid)

    assert ("unheard-of/1", None, "event") in named(await rig.run())


Change = Callable[[list[e.Event]], None]


def changed(position: int, **values: Any) -> Change:
    """A rewriting that changes one event and leaves every hash right."""

    def change(events: list[e.Event]) -> None:
        events[position - 1] = replace(events[position - 1], **values)

    return change


def other_text(events: list[e.Event]) -> None:
    voucher = events[2]
    assert isinstance(voucher, e.VoucherAccepted)
    text = voucher.voucher.replace(address("recipient"), address("thief"))
    events[2] = replace(voucher, voucher=text)


def flipped_signature(events: list[e.Event]) -> None:
    voucher = events[2]
    assert isinstance(voucher, e.VoucherAccepted)
    signature = bytes([voucher.signature[0] ^ 1]) + voucher.signature[1:]
    events[2] = replace(voucher, signature=signature)


def repeated(events: list[e.Event]) -> None:
    """The same voucher twice is stopped by the log's own unique index; an older one is not."""
    events[2], events[3] = events[3], events[2]


VOUCHER_FORGERIES: dict[str, Change] = {
    "the signature": flipped_signature,
    "the text": other_text,
    "the amount": changed(3, cumulative_amount=AtomicUsdc(29_999)),
    "the increment": changed(3, increment=AtomicUsdc(1)),
    "the price": changed(3, required=AtomicUsdc(1)),
    "the price version": changed(3, price_version=2),
    "the charge": changed(3, charge={"units": "2"}),
    "the signer": changed(3, signer=address("thief")),
    "the sequence": changed(3, sequence=7),
    "the order": repeated,
}


@pytest.mark.parametrize("forgery", VOUCHER_FORGERIES)
async def test_a_forged_voucher_in_a_history_of_right_hashes_is_found(
    rig: Rig, forgery: str
) -> None:
    await rig.rewrite(rig.paid, VOUCHER_FORGERIES[forgery])

    plain, verified = await rig.run(), await rig.run(verify_vouchers=True)

    assert plain.differences == []
    assert (rig.paid, 3, "voucher") in named(verified)
    assert {d.what for d in verified.differences} == {"voucher"}


async def test_a_replay_to_a_position_gives_the_state_of_then(rig: Rig) -> None:
    report = await rig.run(stream_id=rig.paid, to_position=3)

    assert report.events == 3
    assert report.state is not None
    assert b'"cumulativeAmount":"20000"' in report.state
    assert report.differences == []


async def test_a_replay_to_the_end_gives_the_projection(rig: Rig) -> None:
    head = await rig.log.store.head(rig.paid)
    assert head is not None
    assert (await rig.run(stream_id=rig.paid)).state == head.projection


async def test_a_replay_to_a_time_leaves_out_what_came_later(rig: Rig) -> None:
    await rig.tamper("UPDATE events SET recorded_at = to_timestamp(position) WHERE position < 100")

    report = await rig.run(to_millis=UnixMillis(3_000))

    assert (report.streams, report.events) == (STREAMS, 9)
    assert report.differences == []


async def test_a_stream_that_does_not_exist_is_said_to(rig: Rig) -> None:
    with pytest.raises(SessionNotFound):
        await rig.run(stream_id="session/slr_0/nothing")


async def test_many_differences_are_counted_and_the_first_are_kept(rig: Rig) -> None:
    await fill(rig, "long", 1_200)
    name = session_stream(rig.seller_id, "long").stream_id
    await rig.tamper("UPDATE events SET seller_id = 'slr_x' WHERE stream_id = $1", name)

    report = await rig.run(stream_id=name)

    assert (report.count, len(report.differences)) == (1_201, 1_000)


async def test_memory_does_not_grow_with_the_log(rig: Rig) -> None:
    """A long stream and a short one take the same memory, far below what their rows would."""
    peaks: dict[int, int] = {}
    for count in (1_000, 6_000):
        await fill(rig, f"ch_{count}", count)
        stream_id = session_stream(rig.seller_id, f"ch_{count}").stream_id
        tracemalloc.start()
        report = await rig.replay.run(Scope(stream_id=stream_id))
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert report.events == count + 1
    assert peaks[6_000] < peaks[1_000] + 1_000_000


async def test_many_streams_are_read_page_by_page(rig: Rig) -> None:
    for number in range(450):
        stream = session_stream(rig.seller_id, f"ch {number:03}")
        await rig.log.ledger.commit(stream, lambda _, n=number: opening(f"ch {n:03}"))

    report = await rig.run()

    assert (report.streams, report.events) == (STREAMS + 450, 16 + 450)


async def test_a_database_that_is_gone_is_said_so(rig: Rig) -> None:
    await rig.root.execute("ALTER TABLE streams RENAME TO elsewhere")

    with pytest.raises(DatabaseUnavailable):
        await rig.run()


async def fill(rig: Rig, channel: str, count: int) -> None:
    """A session with many vouchers that nobody signed, written in bulk as the service would."""
    stream = session_stream(rig.seller_id, channel)
    terms_of_seller = replace(opening(channel)[0].terms, seller_id=rig.seller_id)  # type: ignore[union-attr]  the first event opens
    events: list[e.Event] = [e.SessionOpened(NOW, terms_of_seller)]
    events += [voucher_event(number * 10, number) for number in range(1, count + 1)]
    rows = chain(stream.stream_id, StreamPosition(0), bytes(32), events)
    columns = [
        *("stream_id", "position", "type", "schema_version", "payload", "prev_hash", "hash"),
        *("event_id", "seller_id", "cumulative_amount"),
    ]
    await rig.root.copy_records_to_table(
        "events",
        columns=columns,
        records=[
            (
                *(row.stream_id, row.position, row.type, row.schema_version, row.payload),
                *(row.prev_hash, row.hash, f"{row.position:032x}", rig.seller_id),
                event.cumulative_amount if isinstance(event, e.VoucherAccepted) else None,
            )
            for row, event in zip(rows, events, strict=True)
        ],
    )
    await rig.replay.run(Scope(stream_id=stream.stream_id, rebuild=True))
    assert session_stream_of(stream.stream_id).stream_id == stream.stream_id
