"""What every test gets: an environment without the machine's settings, and a database."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from service import migrations
from service.local.postgres import EmbeddedPostgres, PostgresAddress
from tests.memory import temporary

_SERVICE_SETTINGS = (
    "DATABASE_URL",
    "ADMIN_TOKEN",
    "AUTO_CLOSE_",
    "CREATE_RECIPIENT_ATA",
    "FEE_PAYER",
    "FUNDING_SOURCE",
    "MPP_",
    "ONBOARD_",
    "PAYMENT_",
    "PG",
    "PUBLIC_HOSTS",
    "SESSION_KEY_",
    "SETTLE",
    "SOLANA_",
    "UNPROVEN_PAYERS",
    "WATCH_SECONDS",
)
_KEPT = ("PG_BIN",)  # decides which Postgres the suite runs on

_INTERPRETER = ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE")
"""Where these are set, a line that is never flushed arrives all the same, and starts are slow."""

for _name in list(os.environ):
    if (_name.startswith(_SERVICE_SETTINGS) and _name not in _KEPT) or _name in _INTERPRETER:
        del os.environ[_name]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Properties first: they take a processor while the end-to-end tests wait for the chain."""
    items.sort(key=lambda item: item.path.parent.name != "property")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresAddress]:
    """A server of this test process's own. Nothing survives it, so it need not sync."""
    settings = {"fsync": "off", "max_wal_size": "128MB"}
    with (
        temporary() as directory,
        EmbeddedPostgres(Path(directory), settings=settings) as address,
    ):
        yield address


@pytest.fixture
async def empty_database_url(postgres_server: PostgresAddress) -> AsyncIterator[str]:
    """The address, as SQLAlchemy reads it, of a database that this test has to itself."""
    async with _database(postgres_server, "") as url:
        yield url


@pytest.fixture(scope="session")
def migrated_template(postgres_server: PostgresAddress) -> str:
    """A database with the schema and nothing in it, to copy: migrating takes longer each time."""
    name = f"template_{uuid4().hex}"
    asyncio.run(run_statement(postgres_server, f"CREATE DATABASE {name}"))
    migrations.upgrade(replace(postgres_server, database=name).url())
    return name


@pytest.fixture
async def ledger_url(
    postgres_server: PostgresAddress, migrated_template: str
) -> AsyncIterator[str]:
    """The address of a migrated database that this test has to itself."""
    # Copying the files is a tenth of the work of logging every block, the default.
    copied = f"TEMPLATE {migrated_template} STRATEGY file_copy"
    async with _database(postgres_server, copied) as url:
        yield url


@asynccontextmanager
async def _database(server: PostgresAddress, options: str) -> AsyncIterator[str]:
    name = f"test_{uuid4().hex}"
    await run_statement(server, f"CREATE DATABASE {name} {options}")
    yield replace(server, database=name).url()
    await run_statement(server, f"DROP DATABASE {name} WITH (FORCE)")


async def run_statement(server: PostgresAddress, statement: str) -> None:
    """Run one statement as the server's own user."""
    connection = await asyncpg.connect(
        host=server.host,
        port=server.port,
        user=server.user,
        password=server.password,
        database=server.database,
    )
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
