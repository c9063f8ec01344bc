"""A migrated database for each test, and a way past the service into it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from ledger_checker import connect

from service import migrations


@pytest.fixture
async def url(empty_database_url: str) -> str:
    """The address of a migrated database, as SQLAlchemy reads it."""
    await asyncio.to_thread(migrations.upgrade, empty_database_url)
    return empty_database_url


@pytest.fixture
async def database(url: str) -> AsyncIterator[Any]:
    """A connection beside the service's."""
    connection = await connect(url)
    yield connection
    await connection.close()
