"""What every test gets: an environment without the machine's settings, and a database."""

import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import asyncpg
import pytest

from service.local.postgres import EmbeddedPostgres, PostgresAddress

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

for _name in list(os.environ):
    if _name.startswith(_SERVICE_SETTINGS) and _name not in _KEPT:
        del os.environ[_name]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Properties first: they take a processor while the end-to-end tests wait for the chain."""
    items.sort(key=lambda item: item.path.parent.name != "property")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresAddress]:
    """A server of this test process's own. Nothing survives it, so it need not sync."""
    with TemporaryDirectory(prefix="session-ledger-") as directory:
        server = EmbeddedPostgres(Path(directory), settings={"fsync": "off"})
        with server as address:
            yield address


@pytest.fixture
async def empty_database_url(postgres_server: PostgresAddress) -> AsyncIterator[str]:
    """The address, as SQLAlchemy reads it, of a database that this test has to itself."""
    name = f"test_{uuid4().hex}"
    await run_statement(postgres_server, f"CREATE DATABASE {name}")
    yield replace(postgres_server, database=name).url()
    await run_statement(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


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
