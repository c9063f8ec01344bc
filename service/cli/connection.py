"""What operators' commands work on: the settings, and a ledger without keys and without a chain.

Where DATABASE_URL is not set, a service that runs on this machine says in its data directory
where everything is.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError
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
from service.bootstrap import ConfigurationError, required_database, session_secrets
from service.cli.output import fail
from service.config import Settings
from service.domain.errors import DatabaseUnavailable, LedgerError
from service.observability import configure_logging
from service.ports import Clock, EventStore, ExposureStore, Queries, ReplayStore
from session_ledger.challenge import NETWORKS, Network

T = TypeVar("T")

DataDir = Annotated[
    Path | None,
    typer.Option(help="Data directory of a running `serve`, used where DATABASE_URL is not set."),
]
_KEYS = ("settlement_authority", "fee_payer")


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


def load_settings(**given: Any) -> Settings:
    """The settings of this process, with a readable message when one is wrong."""
    try:
        settings = Settings(**given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        fail(f"{name}: {first['msg']}")
    configure_logging(settings.log_level, settings.log_format)
    return settings


def operator_settings(
    data_dir: Path | None, *, as_json: bool, database_needed: bool = True
) -> Settings:
    """The settings, completed from a running one-machine service where they name no database."""
    given = {} if data_dir is None else {"data_dir": data_dir}
    settings = load_settings(**given)
    if settings.database_url is not None:
        return settings
    local = settings.data_dir / "local.json"
    try:
        facts: dict[str, str] = json.loads(local.read_text())
        found: dict[str, Any] = {"database_url": facts["databaseUrl"]}
        if not settings.solana_rpc_url:
            found["solana_rpc_url"] = facts["rpcUrl"]
        if "solana_network" not in settings.model_fields_set:
            found["solana_network"] = facts["network"]
        if settings.admin_token is None and facts["adminToken"]:
            found["admin_token"] = facts["adminToken"]
    except FileNotFoundError:
        if not database_needed:
            return settings
        fail(
            f"no database: set DATABASE_URL, or start `session-ledger serve` ({local} is missing; "
            "--data-dir names another directory)",
            as_json=as_json,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        fail(f"{local} cannot be read: {type(error).__name__}", as_json=as_json)
    return load_settings(**given, **found, **_kept_keys(settings))


def _kept_keys(settings: Settings) -> dict[str, str]:
    """What a one-machine service keeps in its data directory, where the settings name nothing."""
    found: dict[str, str] = {}
    for name in _KEYS:
        key = settings.data_dir / "keys" / f"{name.replace('_', '-')}.json"
        if getattr(settings, name) is None and key.exists():
            found[name] = f"file:{key}"
    secrets = settings.data_dir / "session-key-secrets"
    if settings.session_key_secrets is None and secrets.exists():
        found["session_key_secrets"] = secrets.read_text()
    return found


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
