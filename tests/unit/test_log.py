"""The hash chain: every change to a stored event is found, and named."""

import dataclasses
import hashlib
import json
import struct

import pytest

from service.domain import events as e
from service.domain.errors import Corrupt
from service.domain.log import (
    GENESIS_HASH,
    HASH_DOMAIN,
    EventRow,
    chain,
    check_chain,
    decode,
    event_hash,
)
from service.domain.units import StreamPosition, UnixMillis

STREAM = "session/slr_1/ch_1"


def rows(count: int = 4) -> list[EventRow]:
    new = [e.CloseRequested(at=UnixMillis(n), requested_by=f"by {n}") for n in range(count)]
    return list(chain(STREAM, StreamPosition(0), GENESIS_HASH, new))


def test_the_hash_is_the_documented_one() -> None:
    """Written out once more, independently: an auditor implements it from the document."""
    (row,) = rows(1)
    message = (
        HASH_DOMAIN
        + struct.pack(">I", len(STREAM)) + STREAM.encode()
        + (1).to_bytes(8, "big")
        + (15).to_bytes(4, "big") + b"close_requested"
        + (1).to_bytes(4, "big")
        + bytes(32)
        + row.payload
    )  # fmt: skip
    assert row.hash == hashlib.sha256(message).digest()
    assert json.loads(row.payload) == {"at": 0, "requestedBy": "by 0"}


def test_a_chain_checks_itself() -> None:
    made = rows()
    assert check_chain(made) == made[-1].hash
    assert check_chain(made[2:], made[1].hash, position=2) == made[-1].hash


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("payload", b"{}"),
        ("type", "session_removed"),
        ("schema_version", 2),
        ("stream_id", "session/slr_1/ch_2"),
        ("prev_hash", bytes([7]) * 32),
        ("hash", bytes([7]) * 32),
        ("position", 9),
    ],
)
def test_a_changed_field_is_found(index: int, field: str, value: object) -> None:
    made = rows()
    made[index] = dataclasses.replace(made[index], **{field: value})
    with pytest.raises(Corrupt):
        check_chain(made)


def test_a_removed_swapped_or_repeated_event_is_found() -> None:
    made = rows()
    for wrong in (made[1:], [*made[:1], *made[2:]], [made[1], made[0]], [made[0], made[0]]):
        with pytest.raises(Corrupt):
            check_chain(wrong)


def test_no_field_can_slide_into_its_neighbour() -> None:
    assert event_hash("ab", 1, "c", 1, GENESIS_HASH, b"") != event_hash(
        "a", 1, "bc", 1, GENESIS_HASH, b""
    )


@pytest.mark.parametrize(
    ("event_type", "version", "payload", "message"),
    [
        ("never_heard_of", 1, b"{}", "unknown to this version"),
        ("close_requested", 1, b"[", "not JSON"),
        ("close_requested", 1, b"{}", "requestedBy|at"),
        ("close_requested", 99, b'{"at":1,"requestedBy":"x"}', "newer than this service"),
    ],
)
def test_a_row_that_cannot_be_read_says_why(
    event_type: str, version: int, payload: bytes, message: str
) -> None:
    with pytest.raises(Corrupt, match=message):
        decode(event_type, version, payload)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("prev_hash", bytes([7]) * 32, "prev_hash is not"),
        ("position", 9, "position 3 was expected"),
    ],
)
def test_a_row_whose_own_hash_was_made_again_still_does_not_fit_its_place(
    field: str, value: object, message: str
) -> None:
    """A forger can hash a changed row again: then only its place in the chain tells."""
    made = rows()
    forged = dataclasses.replace(made[2], **{field: value})
    digest = event_hash(
        forged.stream_id,
        forged.position,
        forged.type,
        forged.schema_version,
        forged.prev_hash,
        forged.payload,
    )
    made[2] = dataclasses.replace(forged, hash=digest)
    with pytest.raises(Corrupt, match=message):
        check_chain(made[:3])
