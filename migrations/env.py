"""Runs the migrations; the address comes from DATABASE_URL or from the caller's configuration."""

import asyncio
import os

from alembic import context
from sqlalchemy import Connection, pool
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.ext.asyncio import create_async_engine

from service.adapters.postgres.tables import Xid8, metadata

config = context.config
ischema_names["xid8"] = Xid8  # so that `alembic check` can compare the column


def _address() -> str:
    address = config.get_main_option("sqlalchemy.url") or os.environ.get("DATABASE_URL", "")
    if not address:
        raise SystemExit("Set DATABASE_URL, or use `session-ledger migrate`.")
    return address.replace("postgresql://", "postgresql+asyncpg://", 1)


def _run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, compare_server_default=True)
    with context.begin_transaction():
        # Two services may start at once: one migrates, the other waits and finds nothing to do.
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7366121009)")
        context.run_migrations()


async def _online() -> None:
    engine = create_async_engine(_address(), poolclass=pool.NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(_run)
        await connection.commit()
    await engine.dispose()


if context.is_offline_mode():
    context.configure(url=_address(), target_metadata=metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    asyncio.run(_online())
