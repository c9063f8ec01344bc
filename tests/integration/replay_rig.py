"""A log with real vouchers in it, and the means of somebody who may do anything to its database.

Test modules import `history_fixture` and `rig_fixture` to have the fixtures.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from nacl.signing import SigningKey

from service.adapters.postgres.connections import driver_address, reader_engine
from service.adapters.postgres.replay_store import PostgresReplayStore
from service.application.close_session import close_session, remove
from service.application.nonces import Nonces
from service.application.replay import Replay, Report, Scope
from service.application.seller_terms import SellerTerms
from service.application.sellers import NewSeller, issue_key, register_seller
from service.application.settlement_terms import SettlementTerms
from service.application.streams import session_stream, voucher_amount
from service.application.submit_voucher import submit_vouchers
from service.application.verdicts import Submission
from service.domain import events as e
from service.domain.log import GENESIS_HASH, chain, decode
from service.domain.pricing import UnitsCharge
from service.domain.session import Session
from service.domain.settlement import Settlement
from service.domain.units import BlockHeight, Lamports, Slot, StreamPosition, UnixMillis
from service.local.postgres import PostgresAddress
from service.ports import Rejection
from session_ledger.encoding import base58_encode
from session_ledger.voucher import parse_envelope, sign_voucher
from tests.conftest import run_statement
from tests.integration.log_fixtures import Log, opened

NOW = UnixMillis(1_700_000_000_000)
PRICE = 10_000
EVENTS_OF_PAID = 7
FLIP = "set_byte({0}, 10, get_byte({0}, 10) # 1)"
"""An expression that flips one bit of a column."""


def address(name: str) -> str:
    """A base58 address that follows from a name."""
    return base58_encode(hashlib.sha256(name.encode()).digest())


class NoTrace:
    """Nothing is refused here."""

    def note(self, rejection: Rejection) -> None:
        raise AssertionError(rejection)


@dataclass
class Rig:
    """One seller with a session that is being settled (`paid`) and one that was removed."""

    log: Log
    seller_id: str
    store: PostgresReplayStore
    replay: Replay
    root: asyncpg.Connection

    @property
    def paid(self) -> str:
        return session_stream(self.seller_id, "paid").stream_id

    @property
    def seller(self) -> str:
        return f"seller/{self.seller_id}"

    async def run(self, **scope: Any) -> Report:
        return await self.replay.run(Scope(**scope))

    async def tamper(self, statement: str, *values: object) -> None:
        """Change the database as only its superuser can."""
        await self.root.execute("ALTER TABLE events DISABLE TRIGGER ALL")
        await self.root.execute(statement, *values)

    async def rewrite(self, stream_id: str, change: Callable[[list[e.Event]], None]) -> None:
        """Replace a session's history by another that is whole: hashes, columns and projection."""
        events = [
            decode(row.type, row.schema_version, row.payload)
            async for row in _rows(self.log, stream_id)
        ]
        change(events)
        await self.tamper("DELETE FROM events WHERE stream_id = $1", stream_id)
        rows = chain(stream_id, StreamPosition(0), GENESIS_HASH, events)
        for row, event in zip(rows, events, strict=True):
            amount = voucher_amount(event)
            await self.root.execute(
                "INSERT INTO events (stream_id, position, type, schema_version, payload, prev_hash,"
                " hash, event_id, seller_id, cumulative_amount)"
                " VALUES ($1, $2, $3, $4, $5, $6, $7, gen_random_uuid(), $8, $9)",
                *(stream_id, row.position, row.type, row.schema_version, row.payload),
                *(row.prev_hash, row.hash, self.seller_id, amount and Decimal(amount)),
            )
        await self.run(stream_id=stream_id, rebuild=True, force=True)

    async def log_digest(self) -> str:
        """What the log holds, in one value."""
        return await self.root.fetchval(
            "SELECT md5(string_agg(events::text, '|' ORDER BY stream_id, position)) FROM events"
        )


async def _rows(log: Log, stream_id: str) -> AsyncGenerator[Any]:
    async for logged in log.store.read(stream_id):
        yield logged.row


@asynccontextmanager
async def rigged(url: str, seller_id: str) -> AsyncGenerator[Rig]:
    """The log that `write_history` wrote, and a superuser's connection."""
    engine = reader_engine(url, pool_size=3)
    root: asyncpg.Connection = await asyncpg.connect(driver_address(url))
    try:
        async with opened(url) as log:
            store = PostgresReplayStore(engine)
            yield Rig(log, seller_id, store, Replay(store, log.store), root)
    finally:
        await root.close()
        await engine.dispose()


async def write_history(url: str) -> str:
    """Write what a `Rig` starts with; gives the seller's id."""
    async with opened(url) as log:
        return await _history(log)


async def _history(log: Log) -> str:
    new = NewSeller("seller", address("recipient"), "localnet", {"pricePerUnit": str(PRICE)})
    seller, _ = await register_seller(log.ledger, new, NOW)
    await issue_key(log.ledger, seller.seller_id, "second", NOW)
    terms = SellerTerms.of(seller)
    for channel in ("paid", "removed"):
        await pay(log, terms, channel, range(1, 4))
    how = SettlementTerms(
        address("authority"), address("program"), "chain", lambda owner, _: owner, lambda swig: swig
    )
    paid = session_stream(seller.seller_id, "paid")
    await close_session(log.ledger, paid, how, source=address("source"), by="seller", now=NOW)
    await log.ledger.record(paid.stream_id, lambda session: [attempt_signed(session)])
    await remove(log.ledger, session_stream(seller.seller_id, "removed"), by="seller", now=NOW)
    return seller.seller_id


async def pay(log: Log, terms: SellerTerms, channel: str, numbers: Sequence[int]) -> None:
    """Submit vouchers with rising sequence numbers, each for one unit more."""
    key = SigningKey(hashlib.sha256(channel.encode()).digest())
    submissions = [
        Submission(
            parse_envelope(
                json.dumps(
                    sign_voucher(
                        {
                            "channelId": channel,
                            "payer": address("payer"),
                            "recipient": terms.seller.recipient,
                            "cumulativeAmount": str(number * PRICE),
                            "sequence": number,
                        },
                        key,
                    )
                )
            ),
            UnitsCharge(1),
        )
        for number in numbers
    ]
    verdicts = await submit_vouchers(
        log.ledger, NoTrace(), Nonces(bytes(32)), terms, submissions, now=NOW
    )
    assert [verdict.kind for verdict in verdicts] == ["accepted"] * len(submissions)


def attempt_signed(session: Session) -> e.AttemptSigned:
    """The first attempt of a session's settlement."""
    settlement = session.settlement
    assert isinstance(settlement, Settlement)
    return e.AttemptSigned(
        at=NOW,
        settlement_id=settlement.settlement_id,
        number=1,
        transaction=b"transaction",
        signature="signature",
        message_hash=bytes(32),
        blockhash="blockhash",
        last_valid_block_height=BlockHeight(150),
        tip_height=BlockHeight(1),
        min_context_slot=Slot(1),
        first_available_slot=Slot(0),
        fee=Lamports(5_000),
        fee_payer=address("fee payer"),
        creates_recipient_account=False,
        cluster_id="cluster/1",
    )


def named(report: Report) -> set[tuple[str, int | None, str]]:
    """The differences by stream, position and kind."""
    return {(d.stream_id, d.position, d.what) for d in report.differences}


@pytest.fixture(name="history", scope="session")
def history_fixture(postgres_server: PostgresAddress, migrated_template: str) -> tuple[str, str]:
    """A database with a history, to copy for each test, and its seller."""
    name = f"history_{uuid4().hex}"
    create = f"CREATE DATABASE {name} TEMPLATE {migrated_template}"
    asyncio.run(run_statement(postgres_server, create))
    return name, asyncio.run(write_history(replace(postgres_server, database=name).url()))


@pytest.fixture(name="rig")
async def rig_fixture(
    postgres_server: PostgresAddress, history: tuple[str, str]
) -> AsyncIterator[Rig]:
    template, seller_id = history
    name = f"test_{uuid4().hex}"
    await run_statement(postgres_server, f"CREATE DATABASE {name} TEMPLATE {template}")
    async with rigged(replace(postgres_server, database=name).url(), seller_id) as rig:
        yield rig
    await run_statement(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")
