"""How the service connects: one pool for reads, one connection of its own for the appender."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import asyncpg
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

APPLICATION_ROLE = "session_ledger_app"
"""May read and append the log, and nothing else with it (migration 0001)."""

_TAKE_ROLE = """
SELECT set_config('role', rolname, false)
  FROM pg_roles WHERE rolname = 'session_ledger_app' AND pg_has_role(oid, 'MEMBER')
"""


class Transaction(Protocol):
    """What the commit path uses of asyncpg's transaction."""

    async def start(self) -> None: ...
    async def commit(self) -> None: ...
    async def rollback(self) -> None: ...


class Connection(Protocol):
    """What the commit path uses of asyncpg's connection, which has no types of its own."""

    async def execute(self, query: str, *args: object) -> str: ...
    async def executemany(self, command: str, args: Sequence[Sequence[object]]) -> None: ...
    async def fetch(self, query: str, *args: object) -> Sequence[Mapping[str, Any]]: ...
    async def fetchval(self, query: str, *args: object) -> Any: ...
    def transaction(self) -> Transaction: ...
    def is_closed(self) -> bool: ...
    async def close(self) -> None: ...
    def terminate(self) -> None: ...


def driver_address(address: str) -> str:
    """The address as asyncpg itself reads it."""
    return make_url(address).set(drivername="postgresql").render_as_string(hide_password=False)


def reader_engine(address: str, *, pool_size: int) -> AsyncEngine:
    """A pool whose connections work as the application role where the database has it."""
    engine = create_async_engine(
        make_url(address).set(drivername="postgresql+asyncpg"),
        pool_size=pool_size,
        max_overflow=0,
        pool_pre_ping=True,
        pool_timeout=10,
        isolation_level="AUTOCOMMIT",  # single statements; whatever writes together uses the log
        connect_args={"server_settings": {"application_name": "session-ledger reader"}},
    )

    @event.listens_for(engine.sync_engine, "connect")
    def take_role(connection: Any, _record: object) -> None:  # pyright: ignore[reportUnusedFunction]
        cursor = connection.cursor()
        cursor.execute(_TAKE_ROLE)
        cursor.close()

    return engine


async def appender_connection(address: str, *, synchronous_commit: str) -> Connection:
    """A connection for the commit path: no statement timeout, because a cancelled COMMIT lies.

    Cancelling a query during the wait for a synchronous standby ends in a commit that is reported
    and not replicated, so nothing on this connection is ever cancelled (settlement rule R5).
    """
    raw = await asyncpg.connect(  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        driver_address(address),
        timeout=10,
        command_timeout=None,
        server_settings={
            "application_name": "session-ledger appender",
            "synchronous_commit": synchronous_commit,
            "statement_timeout": "0",
            "idle_in_transaction_session_timeout": "30000",
            # A batch is a handful of keys: always the index, whatever the statistics say when a
            # plan is made for an empty log and kept for a full one.
            "enable_seqscan": "off",
            "enable_hashjoin": "off",
            "enable_mergejoin": "off",
        },
    )
    connection = cast("Connection", raw)
    await connection.execute(_TAKE_ROLE)
    return connection
