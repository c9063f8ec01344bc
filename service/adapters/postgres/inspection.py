"""What a database says of itself, asked as the service's own role."""

from typing import Any, Final

import asyncpg
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from service.domain.errors import DatabaseUnavailable
from service.domain.health import DatabaseFacts
from service.domain.units import UnixMillis

_REVISION: Final = sa.text("SELECT version_num FROM alembic_version")
_FACTS: Final = sa.text("""
SELECT current_setting('server_version_num')::int AS version,
       current_setting('fsync') AS fsync,
       current_setting('full_page_writes') AS full_page_writes,
       current_user::text AS role,
       ARRAY(SELECT privilege FROM unnest(ARRAY['UPDATE', 'DELETE', 'TRUNCATE']) AS privilege
              WHERE has_table_privilege('events', privilege)) AS may_change_log,
       ARRAY(SELECT tgname || '=' || tgenabled::text FROM pg_trigger
              WHERE tgrelid = 'events'::regclass AND NOT tgisinternal) AS triggers,
       (SELECT coalesce(max(newest.tx_id::text::numeric), 0)
          FROM (SELECT DISTINCT seller_id FROM streams) AS known
         CROSS JOIN LATERAL (SELECT tx_id FROM events WHERE events.seller_id = known.seller_id
                              ORDER BY tx_id DESC LIMIT 1) AS newest) AS newest_transaction,
       pg_snapshot_xmax(pg_current_snapshot())::text::numeric AS next_transaction,
       (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now
""")
_SAMPLE: Final = sa.text("SELECT stream_id FROM streams ORDER BY random() LIMIT :size")


async def schema_revision(engine: AsyncEngine) -> str | None:
    """The newest migration that was applied; `None` without any.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    try:
        async with engine.connect() as connection:
            await connection.execute(sa.text("SELECT 1"))
    except (SQLAlchemyError, asyncpg.PostgresError, OSError) as error:
        raise DatabaseUnavailable(f"no connection: {type(error).__name__}") from error
    try:
        async with engine.connect() as raw:
            connection = await raw.execution_options(isolation_level="READ COMMITTED")
            # The migrations' own table is the login's, not the application role's.
            await connection.execute(sa.text("SET LOCAL ROLE NONE"))
            return (await connection.execute(_REVISION)).scalar()
    except SQLAlchemyError:
        return None


async def inspect(engine: AsyncEngine) -> DatabaseFacts:
    """The facts of a database that has the schema.

    Raises:
        DatabaseUnavailable: the database does not answer, or has no schema.
    """
    row = (await _rows(engine, _FACTS))[0]
    return DatabaseFacts(
        version=row.version,
        fsync=row.fsync,
        full_page_writes=row.full_page_writes,
        role=row.role,
        may_change_log=tuple(row.may_change_log),
        triggers=dict(text.split("=") for text in row.triggers),
        newest_transaction=int(row.newest_transaction),
        next_transaction=int(row.next_transaction),
        now=UnixMillis(row.now),
    )


async def sample_streams(engine: AsyncEngine, size: int) -> list[str]:
    """Some streams, by chance.

    Raises:
        DatabaseUnavailable: the database does not answer, or has no schema.
    """
    return [row.stream_id for row in await _rows(engine, _SAMPLE, size=size)]


async def _rows(engine: AsyncEngine, query: sa.TextClause, **values: Any) -> list[Any]:
    try:
        async with engine.connect() as connection:
            return list((await connection.execute(query, values)).all())
    except (SQLAlchemyError, asyncpg.PostgresError, OSError) as error:
        raise DatabaseUnavailable(f"a read failed: {type(error).__name__}") from error
