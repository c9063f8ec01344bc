"""Session keys: sealed at rest, rotated under load, forgotten when their session is over."""

import asyncio
import base64
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import sqlalchemy as sa
from buyer_rig import DEPOSIT, PAYER, SECRET, Process, allow, processes

from service.application import session_keys
from service.application.close_session import close_session
from service.application.session_keys import SessionKeys, SessionSecret, parse_secrets
from service.application.streams import session_stream_of
from service.domain.errors import (
    ChannelClosed,
    ChannelNotFound,
    DatabaseUnavailable,
    SessionKeysNotConfigured,
    SessionKeyUnavailable,
    WrongPosition,
)
from service.domain.session import Session
from service.domain.units import UnixMillis
from service.domain.voucher import Expected, verify
from service.worker import SettlementWorker
from session_ledger.challenge import CHANNEL_PROGRAM
from session_ledger.voucher import parse_envelope

NEWER = SessionSecret(bytes(range(1, 33)))


@pytest.fixture
async def process(ledger_url: str) -> AsyncIterator[Process]:
    async with processes(ledger_url) as (one,):
        await one.onboard()
        await allow(one.world, 10 * DEPOSIT)
        yield one


def restarted(process: Process, *secrets: SessionSecret) -> Process:
    """Another process on the same database, with these secrets and nothing remembered."""
    return Process(process.log, process.world, secrets, clock=process.clock)


def check(process: Process, session: Session, signed: object) -> None:
    """The voucher verifies with the signer that the session was opened with."""
    assert signed.signer == session.session_pubkey  # type: ignore[attr-defined]
    voucher = signed.voucher  # type: ignore[attr-defined]
    signature = base64.b64encode(voucher.signature).decode()
    text = f'{{"voucher":{voucher.voucher},"signature":"{signature}","signer":"{signed.signer}",'  # type: ignore[attr-defined]
    envelope = parse_envelope(text + '"signatureType":"ed25519"}')
    expected = Expected(session.terms.recipient, process.signing._chain_id, CHANNEL_PROGRAM)
    verified = verify(envelope, expected)
    assert verified.message_hash == voucher.message_hash
    assert verified.channel_id == session.terms.channel_id


async def dumped(process: Process) -> str:
    """All that the database holds, as text; bytes as hex."""
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    names = await process.log.store.fetch(sa.text(f"{tables} AND tablename <> 'alembic_version'"))
    parts: list[str] = []
    for (name,) in names:
        rows = await process.log.store.fetch(sa.text(f'SELECT t::text FROM "{name}" t'))  # noqa: S608
        parts += [row[0] for row in rows]
    return "\n".join(parts)


async def test_a_signed_voucher_verifies_and_survives_a_restart(process: Process) -> None:
    session = await process.open()
    check(process, session, await process.sign(session, 10))
    again = restarted(process, SECRET)
    signed = await again.sign(session, 20)
    check(again, session, signed)
    assert signed.voucher.sequence == 2


async def test_a_warm_session_signs_without_reading_the_database(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await process.open()
    await process.sign(session, 10)

    async def unread(*_: object) -> Any:
        raise DatabaseUnavailable("nothing should be read")

    monkeypatch.setattr(process.log.store, "fetch", unread)
    for amount in range(11, 20):
        check(process, session, await process.sign(session, amount))
    with pytest.raises(DatabaseUnavailable):  # a refusal is made sure of
        await process.sign(session, 5)


async def test_a_voucher_that_lost_its_races_is_tried_again(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await process.open()
    lost = iter([WrongPosition("another voucher was first")] * 4)
    commit = process.log.ledger.commit

    async def racing(*given: Any) -> Any:
        if (error := next(lost, None)) is not None:
            raise error
        return await commit(*given)

    monkeypatch.setattr(process.log.ledger, "commit", racing)
    check(process, session, await process.sign(session, 10))
    assert next(lost, None) is None


async def test_the_same_request_again_gives_the_same_bytes_also_after_a_restart(
    process: Process,
) -> None:
    session = await process.open()
    first = (await process.sign(session, 10)).voucher
    assert (await process.sign(session, 10)).voucher == first
    assert (await restarted(process, SECRET).sign(session, 10)).voucher == first


async def test_neither_seed_nor_secret_is_in_the_database_or_in_any_text(
    process: Process,
) -> None:
    session = await process.open()
    await process.sign(session, 10)
    stream_id = process.stream_of(session).stream_id
    stored = await process.key_store.get(stream_id)
    assert stored is not None
    seed, secret = SECRET.open(stored.sealed), bytes(range(32))
    opened = await process.keys.opened(stream_id)
    shown = [await dumped(process), repr(stored), repr(opened), repr(SECRET), repr(process.keys)]
    assert stored.sealed.hex() in shown[0]  # the dump does show what is there
    for text in shown:
        for hidden in (seed, secret):
            assert hidden.hex() not in text
            assert base64.b64encode(hidden).decode() not in text
            assert repr(hidden) not in text


async def test_every_session_has_a_key_of_its_own(process: Process) -> None:
    keys = {(await process.open(1)).session_pubkey for _ in range(5)}
    assert len(keys) == 5


async def test_rotation_seals_every_key_again_and_the_old_secret_can_go(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_keys, "ROTATE_BATCH", 2)
    sessions = [await process.open(1) for _ in range(5)]
    both = restarted(process, NEWER, SECRET)
    assert [count async for count in both.keys.rotate()] == [2, 2, 1]
    assert await both.keys.counts() == {NEWER.key_id: 5, SECRET.key_id: 0}
    assert [count async for count in both.keys.rotate()] == []
    newer = restarted(process, NEWER)
    for session in sessions:
        check(newer, session, await newer.sign(session, 1))


async def test_an_interrupted_rotation_is_simply_run_again(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_keys, "ROTATE_BATCH", 2)
    for _ in range(5):
        await process.open(1)
    keys = restarted(process, NEWER, SECRET).keys
    async for _ in keys.rotate():
        break
    assert await keys.counts() == {NEWER.key_id: 2, SECRET.key_id: 3}
    assert sum([count async for count in keys.rotate()]) == 3


async def test_two_rotations_at_once_lose_no_key(process: Process) -> None:
    sessions = [await process.open(1) for _ in range(20)]

    async def rotate() -> int:
        return sum([count async for count in restarted(process, NEWER, SECRET).keys.rotate()])

    assert sum(await asyncio.gather(rotate(), rotate())) == len(sessions)
    newer = restarted(process, NEWER)
    for session in sessions:
        check(newer, session, await newer.sign(session, 1))


async def test_a_secret_that_went_too_early_is_named_and_harms_no_other_session(
    process: Process,
) -> None:
    session = await process.open()
    newer = restarted(process, NEWER)
    with pytest.raises(SessionKeyUnavailable, match=SECRET.key_id):
        await newer.sign(session, 1)
    with pytest.raises(SessionKeyUnavailable, match=f"1 session keys.*{SECRET.key_id}"):
        [count async for count in newer.keys.rotate()]
    assert not newer.keys.knows(SECRET.key_id)
    check(newer, other := await newer.open(), await newer.sign(other, 1))


async def test_a_row_that_was_altered_or_exchanged_signs_nothing(process: Process) -> None:
    first, second = await process.open(1), await process.open(1)
    names = [process.stream_of(session).stream_id for session in (first, second)]
    swap = sa.text(
        "UPDATE session_keys a SET sealed = b.sealed FROM session_keys b "
        "WHERE a.stream_id = :one AND b.stream_id = :other RETURNING 1"
    )
    await process.log.store.fetch(swap, {"one": names[0], "other": names[1]})
    with pytest.raises(SessionKeyUnavailable, match="not the one that it was opened with"):
        await restarted(process, SECRET).sign(first, 1)
    cut = sa.text("UPDATE session_keys SET sealed = substr(sealed, 2) RETURNING 1")
    await process.log.store.fetch(cut)
    with pytest.raises(SessionKeyUnavailable, match=f"with the secret {SECRET.key_id}"):
        await restarted(process, SECRET).sign(second, 1)


async def test_a_key_is_forgotten_with_its_session_and_the_session_says_closed(
    process: Process,
) -> None:
    session, other = await process.open(), await process.open()
    stream = process.stream_of(session)
    await close_session(
        process.log.ledger, stream, process.how, source=None, by=PAYER, now=UnixMillis(1)
    )
    await process.keys.forget(stream.stream_id)
    assert await process.keys.counts() == {SECRET.key_id: 1}
    for one in (process, restarted(process, SECRET)):
        with pytest.raises(ChannelClosed):
            await one.sign(session, 1)
    check(process, other, await process.sign(other, 1))


async def test_a_lost_key_of_an_open_session_is_an_operators_matter(process: Process) -> None:
    session = await process.open()
    await process.key_store.delete([process.stream_of(session).stream_id])
    with pytest.raises(SessionKeyUnavailable, match="session_keys"):
        await restarted(process, SECRET).sign(session, 1)


async def test_the_sweep_forgets_keys_of_closed_sessions_and_old_orphans_only(
    process: Process,
) -> None:
    kept, closed = await process.open(), await process.open()
    await close_session(
        process.log.ledger,
        process.stream_of(closed),
        process.how,
        source=None,
        by=PAYER,
        now=UnixMillis(1),
    )
    await process.keys.create("session/slr_1/young")
    await process.keys.create("session/slr_1/old")
    age = "UPDATE session_keys SET created_at = now() - interval '61 minutes'"
    await process.log.store.fetch(
        sa.text(age + " WHERE stream_id <> 'session/slr_1/young' RETURNING 1")
    )
    assert await process.keys.sweep() == 2
    assert await process.keys.sweep() == 0
    left = await process.log.store.fetch(sa.text("SELECT stream_id FROM session_keys ORDER BY 1"))
    wanted = [process.stream_of(kept).stream_id, "session/slr_1/young"]
    assert [row[0] for row in left] == sorted(wanted)


async def test_a_channel_that_no_buyer_opened_is_not_found(process: Process) -> None:
    session = await process.open()
    stream = session_stream_of(process.stream_of(session).stream_id)
    assert await process.channels.stream(session.terms.channel_id) == stream
    with pytest.raises(ChannelNotFound):
        await process.channels.stream("no such channel")


@pytest.mark.parametrize("text", ["x", "AAAA", base64.b64encode(bytes(31)).decode(), "-" * 44])
def test_a_malformed_secret_is_refused_without_being_shown(text: str) -> None:
    good = base64.b64encode(bytes(32)).decode()
    with pytest.raises(ValueError, match="entry 2 is not base64 of 32 bytes") as refused:
        parse_secrets(f"{good}, {text}")
    assert text not in str(refused.value)


def test_secrets_are_a_list_newest_first() -> None:
    texts = [base64.b64encode(bytes([n]) * 32).decode() for n in range(2)]
    secrets = parse_secrets(f" {texts[1]} ,{texts[0]},")
    assert [secret.key_id for secret in secrets] == [
        SessionSecret(bytes([n]) * 32).key_id for n in (1, 0)
    ]
    assert parse_secrets(" , ") == ()


async def test_without_a_secret_nothing_is_sealed_or_rotated(process: Process) -> None:
    keys = SessionKeys(process.key_store, ())
    with pytest.raises(SessionKeysNotConfigured):
        await keys.create("session/slr_1/ch")
    with pytest.raises(SessionKeysNotConfigured):
        [count async for count in keys.rotate()]


async def test_the_worker_sweeps_at_its_start_and_then_once_a_minute(process: Process) -> None:
    services = SimpleNamespace(buyers=SimpleNamespace(keys=process.keys))
    worker = SettlementWorker(cast("Any", services))
    for left in (0, 1):
        session = await process.open()
        await close_session(
            process.log.ledger,
            process.stream_of(session),
            process.how,
            source=None,
            by=PAYER,
            now=UnixMillis(1),
        )
        await worker._sweep_keys()
        assert await process.keys.counts() == {SECRET.key_id: left}
