"""A database that already has the schema, for tests of the log."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import uuid4

import pytest

from service import migrations
from service.local.postgres import PostgresAddress
from tests.conftest import run_statement


@pytest.fixture(scope="session")
def migrated_template(postgres_server: PostgresAddress) -> str:
    """A database with the schema and nothing in it, to copy: migrating takes a second each time."""
    name = f"template_{uuid4().hex}"
    asyncio.run(run_statement(postgres_server, f"CREATE DATABASE {name}"))
    migrations.upgrade(replace(postgres_server, database=name).url())
    return name


@pytest.fixture
async def ledger_url(
    postgres_server: PostgresAddress, migrated_template: str
) -> AsyncIterator[str]:
    """The address of a migrated database that this test has to itself."""
    name = f"test_{uuid4().hex}"
    await run_statement(postgres_server, f"CREATE DATABASE {name} TEMPLATE {migrated_template}")
    yield replace(postgres_server, database=name).url()
    await run_statement(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")
