"""A migrated database with a store over it, and streams to append to."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from service.adapters.postgres.connections import reader_engine
from service.adapters.postgres.event_store import PostgresEventStore
from service.adapters.postgres.group_commit import GroupCommit
from service.adapters.postgres.queries import PostgresQueries
from service.application.commit import Ledger
from service.domain import events as e
from service.domain.session import open_session
from service.domain.terms import Terms
from service.domain.units import AtomicUsdc, UnixMillis


@dataclass(frozen=True)
class Log:
    """One process's view of a log."""

    store: PostgresEventStore
    group_commit: GroupCommit
    queries: PostgresQueries
    ledger: Ledger
    url: str


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[Log]:
    """A store on a migrated database, as one process has it."""
    engine = reader_engine(url, pool_size=4)
    group_commit = GroupCommit(url)
    await group_commit.start()
    store = PostgresEventStore(engine, group_commit)
    try:
        yield Log(store, group_commit, PostgresQueries(store), Ledger(store), url)
    finally:
        await group_commit.stop()
        await engine.dispose()


def terms(channel_id: str = "ch_1", seller_id: str = "slr_1") -> Terms:
    """A channel's terms."""
    return Terms(
        channel_id=channel_id,
        seller_id=seller_id,
        payer="payer",
        recipient="recipient",
        network="localnet",
        mint="mint",
        decimals=6,
    )


def voucher_event(amount: int, sequence: int = 1, *, increment: int = 10) -> e.VoucherAccepted:
    """An accepted voucher, as an event."""
    return e.VoucherAccepted(
        at=UnixMillis(1_000 + sequence),
        cumulative_amount=AtomicUsdc(amount),
        increment=AtomicUsdc(increment),
        required=AtomicUsdc(10),
        sequence=sequence,
        signer="signer",
        signature=bytes(64),
        voucher="{}",
        message_hash=amount.to_bytes(32, "big"),
        meter=None,
        usage="1",
        charge=None,
        price_version=1,
    )


def opening(channel_id: str = "ch_1") -> list[e.SessionEvent]:
    """The first event of a session."""
    return open_session(None, terms(channel_id), UnixMillis(1_000))
