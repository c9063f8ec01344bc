"""What operators' commands work on: a ledger without keys and without a chain."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from service.adapters.postgres.connections import reader_engine
from service.adapters.postgres.event_store import PostgresEventStore
from service.adapters.postgres.exposure import PostgresExposureStore
from service.adapters.postgres.group_commit import GroupCommit
from service.adapters.postgres.queries import PostgresQueries
from service.adapters.postgres.replay_store import PostgresReplayStore
from service.adapters.postgres.session_keys import PostgresSessionKeys
from service.adapters.system import SystemClock
from service.application.commit import Ledger
from service.application.session_keys import SessionKeys
from service.bootstrap import session_secrets
from service.cli.output import fail
from service.cli.settings import operator_settings
from service.config import ConfigurationError, Settings, required_database
from service.domain.errors import DatabaseUnavailable, LedgerError
from service.ports import Clock, EventStore, ExposureStore, Queries, ReplayStore
from session_ledger.challenge import NETWORKS, Network

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OpenLedger:
    """A ledger for one command."""

    settings: Settings
    network: Network
    engine: AsyncEngine
    store: EventStore
    ledger: Ledger
    queries: Queries
    replay_store: ReplayStore
    session_keys: SessionKeys
    exposure: ExposureStore
    clock: Clock


def run_on_ledger(
    command: Callable[[OpenLedger], Awaitable[T]], data_dir: Path | None, *, as_json: bool
) -> T:
    """Run a command on the ledger; what goes wrong ends it with status 1 and says what to do."""
    settings = operator_settings(data_dir, as_json=as_json)

    async def run() -> T:
        async with open_ledger(settings) as ledger:
            return await command(ledger)

    try:
        return asyncio.run(run())
    except ConfigurationError as error:
        fail(str(error), as_json=as_json)
    except LedgerError as error:
        message = error.detail if as_json else f"{error.detail}. {error.hint}"
        fail(message, as_json=as_json, code=error.code, hint=error.hint)


@asynccontextmanager
async def open_ledger(settings: Settings) -> AsyncGenerator[OpenLedger]:
    """The ledger of the configured database, which has to have the schema.

    Raises:
        ConfigurationError: no database is configured, or it cannot be used.
    """
    address = required_database(settings)
    engine = reader_engine(address, pool_size=3)
    group_commit = GroupCommit(address, synchronous_commit=settings.synchronous_commit)
    store = PostgresEventStore(engine, group_commit)
    queries = PostgresQueries(store)
    try:
        try:
            await queries.nonce_key()
        except DatabaseUnavailable as error:
            raise ConfigurationError(
                f"the database does not answer, or has no schema ({error.detail}): "
                "`session-ledger doctor` says which, `session-ledger migrate` makes the schema"
            ) from error
        await group_commit.start()
        yield OpenLedger(
            settings=settings,
            network=NETWORKS[settings.solana_network],
            engine=engine,
            store=store,
            ledger=Ledger(store),
            queries=queries,
            replay_store=PostgresReplayStore(engine),
            session_keys=SessionKeys(PostgresSessionKeys(store), session_secrets(settings)),
            exposure=PostgresExposureStore(store),
            clock=SystemClock(),
        )
    finally:
        await group_commit.stop()
        await engine.dispose()
