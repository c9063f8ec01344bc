"""Group commit with rows that Postgres refuses, and callers that go away."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from appending import Channel, append_to, expect_whole, writing
from ledger_checker import read_stream

from service.adapters.postgres.group_commit import GroupCommit
from service.domain.errors import Corrupt, InvalidRequest, LedgerError
from service.domain.log import EventRow
from service.ports import Append

NEIGHBOURS = 8


def _with(append: Append, **changes: Any) -> Append:
    return replace(append, streams=(replace(append.streams[0], **changes),))


def _with_row(append: Append, **changes: Any) -> Append:
    rows: Sequence[EventRow] = append.streams[0].rows
    return _with(append, rows=(*rows[:-1], replace(rows[-1], **changes)))


def _with_amounts(append: Append, amount: int) -> Append:
    return _with(append, amounts=(amount,) * len(append.streams[0].rows))


def _session_row(append: Append, **changes: Any) -> Append:
    (table, values), *others = append.streams[0].lookups
    return _with(append, lookups=((table, {**values, **changes}), *others))


Spoil = Callable[[Append], Append]
BAD_EVENTS: dict[str, tuple[Spoil, type[LedgerError]]] = {
    "surrogate": (lambda good: _with_row(good, type="\ud800"), InvalidRequest),
    "nul": (lambda good: _with_row(good, type="a\0b"), InvalidRequest),
    "version_too_large": (lambda good: _with_row(good, schema_version=2**40), InvalidRequest),
    "short_hash": (lambda good: _with_row(good, hash=bytes(31)), Corrupt),
    "amount_above_u64": (lambda good: _with_amounts(good, 2**64), Corrupt),
    "amount_twice": (lambda good: _with_amounts(good, 10), Corrupt),
}
BAD_LOOKUPS: dict[str, tuple[Spoil, type[LedgerError]]] = {
    "nul": (lambda good: _session_row(good, payer="a\0b"), InvalidRequest),
    "surrogate": (lambda good: _session_row(good, payer="\ud800"), InvalidRequest),
    "number": (lambda good: _session_row(good, payer=7), InvalidRequest),
    "nothing": (lambda good: _session_row(good, payer=None), Corrupt),
}


@pytest.mark.parametrize(("spoil", "error"), BAD_EVENTS.values(), ids=BAD_EVENTS.keys())
@pytest.mark.parametrize("opens", [True, False], ids=["opening", "voucher"])
async def test_a_bad_event_fails_alone_and_at_once(
    url: str, database: Any, spoil: Spoil, error: type[LedgerError], *, opens: bool
) -> None:
    await _expect_alone(url, database, spoil, error, opens=opens)


@pytest.mark.parametrize(("spoil", "error"), BAD_LOOKUPS.values(), ids=BAD_LOOKUPS.keys())
async def test_a_bad_lookup_fails_alone_and_at_once(
    url: str, database: Any, spoil: Spoil, error: type[LedgerError]
) -> None:
    await _expect_alone(url, database, spoil, error, opens=True)


async def _expect_alone(
    url: str, database: Any, spoil: Spoil, error: type[LedgerError], *, opens: bool
) -> None:
    """Among neighbours of both kinds: on streams that exist, and opening theirs."""
    old = [Channel(f"old-{number}") for number in range(NEIGHBOURS)]
    new = [Channel(f"new-{number}") for number in range(NEIGHBOURS)]
    bad = Channel("bad")
    async with writing(url) as group:
        known = old if opens else [*old, bad]
        await asyncio.gather(*(append_to(group, channel.next()) for channel in known))
        stood_at = bad.position
        appends = [channel.next() for channel in (*old, *new)]
        appends.insert(NEIGHBOURS, spoil(bad.next()))
        async with asyncio.timeout(3):  # no reconnecting, no waiting
            results = await asyncio.gather(*map(group.append, appends), return_exceptions=True)
        refusal = results.pop(NEIGHBOURS)
        assert isinstance(refusal, error), refusal
        assert results == [None] * NEIGHBOURS * 2
        await asyncio.gather(*(append_to(group, channel.next()) for channel in (*old, *new)))
    await expect_whole(database, *old, *new)
    image = await read_stream(database, bad.stream.stream_id)
    assert (len(image.rows), image.head_position) == (stood_at, stood_at)


async def test_callers_that_go_away_poison_nothing(url: str, database: Any) -> None:
    patient = [Channel(f"patient-{number}") for number in range(32)]
    gone = [Channel(f"gone-{number}") for number in range(32)]
    async with writing(url) as group:
        for delay in (0.0, 0.0, 0.001, 0.002, 0.005):
            stay = [asyncio.create_task(group.append(channel.next())) for channel in patient]
            leave = [asyncio.create_task(group.append(channel.next())) for channel in gone]
            await asyncio.sleep(delay)
            for task in leave:
                task.cancel()
            await asyncio.gather(*stay)
            await asyncio.gather(*leave, return_exceptions=True)
            # Whoever left before it was queued wrote nothing: read where the stream stands.
            gone = [await _as_it_stands(group, database, channel) for channel in gone]
    await expect_whole(database, *patient)
    await expect_whole(database, *(channel for channel in gone if channel.position))


async def _as_it_stands(group: GroupCommit, database: Any, channel: Channel) -> Channel:
    marker = Channel(f"marker of {channel.stream.stream_id} {channel.position}")
    await append_to(group, marker.next())  # whatever was queued before it is decided now
    image = await read_stream(database, channel.stream.stream_id)
    found = Channel(channel.stream.stream_id.rpartition("/")[2])
    while found.position < len(image.rows):
        found.next()
    return found
