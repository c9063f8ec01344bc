"""The hash chain: nothing that is done to a log passes as that log."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain import events as e
from service.domain.errors import Corrupt
from service.domain.log import GENESIS_HASH, EventRow, chain, check_chain
from service.domain.units import StreamPosition, UnixMillis
from tests.golden_events import SAMPLES

STREAM = "session/slr_1/ch"
EVENTS = st.lists(st.sampled_from(sorted(SAMPLES)), min_size=1, max_size=5)


@given(names=EVENTS, data=st.data())
@settings(max_examples=300, deadline=None)
def test_a_flipped_bit_anywhere_breaks_the_chain(names: list[str], data: st.DataObject) -> None:
    rows = list(chain(STREAM, StreamPosition(0), GENESIS_HASH, [SAMPLES[n] for n in names]))
    check_chain(rows)
    index = data.draw(st.integers(0, len(rows) - 1))
    field = data.draw(st.sampled_from(["payload", "hash", "prev_hash"]))
    stored: bytes = getattr(rows[index], field)
    bit = data.draw(st.integers(0, len(stored) * 8 - 1))
    flipped = bytearray(stored)
    flipped[bit // 8] ^= 1 << bit % 8
    rows[index] = replace(rows[index], **{field: bytes(flipped)})

    with pytest.raises(Corrupt):
        check_chain(rows)


Damage = Callable[[list[EventRow], int], None]


def with_field(**values: Any) -> Damage:
    def damage(rows: list[EventRow], index: int) -> None:
        rows[index] = replace(rows[index], **values)

    return damage


def doubled(rows: list[EventRow], index: int) -> None:
    rows.insert(index, rows[index])


def swapped(rows: list[EventRow], index: int) -> None:
    other = (index + 1) % len(rows)
    rows[index], rows[other] = rows[other], rows[index]


def rewritten(rows: list[EventRow], index: int) -> None:
    """Another event in its place, with a right hash of its own."""
    row = rows[index]
    other = e.SessionRemoved(at=UnixMillis(1), by="forger")
    before = StreamPosition(row.position - 1)
    (rows[index],) = chain(row.stream_id, before, row.prev_hash, [other])


DAMAGES: dict[str, Damage] = {
    "a lost event": lambda rows, index: rows.__delitem__(index),
    "a doubled event": doubled,
    "a rewritten event": rewritten,
    "swapped events": swapped,
    "another type": with_field(type="status_seen_"),
    "another version": with_field(schema_version=7),
    "another position": with_field(position=StreamPosition(70)),
    "another stream": with_field(stream_id="session/slr_1/ch2"),
}


@pytest.mark.parametrize("damage", sorted(DAMAGES))
@given(names=st.lists(st.sampled_from(sorted(SAMPLES)), min_size=3, max_size=6), data=st.data())
@settings(max_examples=40, deadline=None)
def test_no_other_damage_passes_as_a_chain(
    damage: str, names: list[str], data: st.DataObject
) -> None:
    rows = list(chain(STREAM, StreamPosition(0), GENESIS_HASH, [SAMPLES[n] for n in names]))
    whole = check_chain(rows)
    index = data.draw(st.integers(0, len(rows) - 1))
    DAMAGES[damage](rows, index)

    try:
        head = check_chain(rows)
    except Corrupt:
        return
    # Another end is a valid chain with another head: the projection's head_hash tells.
    assert damage in ("a lost event", "a rewritten event")
    assert index == len(names) - 1
    assert head != whole
