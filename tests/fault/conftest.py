"""A service of two processes, a migrated database for each test, and a way past the service."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from kill_harness import Serve
from ledger_checker import connect

from tests.memory import temporary


@pytest.fixture(scope="session")
def serve() -> Iterator[Serve]:
    """One listening socket, two server processes behind it, shared by the races."""
    with temporary() as directory:
        service = Serve(Path(directory), "--workers", "2", SETTLEMENT_POLL_SECONDS="0.2")
        service.start()
        yield service
        service.stop()


@pytest.fixture
def url(ledger_url: str) -> str:
    """The address of a migrated database, as SQLAlchemy reads it."""
    return ledger_url


@pytest.fixture
async def database(url: str) -> AsyncIterator[Any]:
    """A connection beside the service's."""
    connection = await connect(url)
    yield connection
    await connection.close()
