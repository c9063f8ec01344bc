"""What a benchmark runs against: a real Postgres with durable settings, and real server processes.

Postgres runs as `serve` runs it (fsync and synchronous_commit on). The chain is not there: no
voucher ever needs it.
"""

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import asyncpg
import httpx
from load import Target
from solders.keypair import Keypair
from vouchers import PRICE, address

from service import migrations
from service.local.postgres import EmbeddedPostgres, PostgresAddress

READY_SECONDS = 60
STOP_SECONDS = 15
POSTGRES_SETTINGS = {"max_connections": "200"}
_SERVER = Path(__file__).with_name("server.py")
_NO_CHAIN = "http://127.0.0.1:9"


@contextmanager
def database(**settings: str) -> Generator[PostgresAddress]:
    """An empty log in a directory that is removed afterwards."""
    with (
        TemporaryDirectory(prefix="session-ledger-bench-") as directory,
        EmbeddedPostgres(Path(directory), settings=POSTGRES_SETTINGS | settings) as postgres,
    ):
        migrations.upgrade(postgres.url())
        yield postgres


def driver_url(postgres: PostgresAddress) -> str:
    """The address as asyncpg reads it."""
    return postgres.url().replace("+asyncpg", "")


async def connect(postgres: PostgresAddress) -> Any:
    """A connection as the database's owner; asyncpg has no types of its own."""
    return await cast("Any", asyncpg).connect(driver_url(postgres))


@dataclass(frozen=True, slots=True)
class Server:
    """One server process and the operators' token for it."""

    pid: int
    host: str
    port: int
    admin_token: str

    @property
    def url(self) -> str:
        """Its base address."""
        return f"http://{self.host}:{self.port}"

    def cpu_seconds(self) -> float:
        """Processor time that the process has used so far."""
        after_name = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        user, system = after_name[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def memory_bytes(self, name: str) -> int:
        """Resident memory: `VmRSS` now, `VmHWM` at its highest."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition(f"{name}:")[2].split()[0]) * 1_024

    def register_seller(self, name: str) -> Target:
        """A new seller, as the load needs it."""
        recipient = address(name)
        answer = httpx.post(
            f"{self.url}/v1/sellers",
            headers={"Authorization": f"Bearer {self.admin_token}"},
            json={"name": name, "recipient": recipient, "pricePerUnit": str(PRICE)},
        )
        answer.raise_for_status()
        facts = answer.json()
        return Target(
            host=self.host,
            port=self.port,
            seller_id=facts["sellerId"],
            api_key=facts["apiKey"],
            recipient=recipient,
            prefix=name,
        )


@contextmanager
def server(database_url: str) -> Generator[Server]:
    """A server process on a port of its own."""
    token = secrets.token_urlsafe(24)
    with socket.create_server(("127.0.0.1", 0), backlog=2_048) as listening:
        listening.set_inheritable(True)
        host, port = listening.getsockname()
        environment = os.environ | {
            "DATABASE_URL": database_url,
            "SOLANA_RPC_URL": _NO_CHAIN,
            "ADMIN_TOKEN": token,
            "SETTLEMENT_AUTHORITY": "env:BENCHMARK_KEY",
            "BENCHMARK_KEY": str(list(bytes(Keypair()))),
            "LOG_LEVEL": "warning",
        }
        process = subprocess.Popen(
            [sys.executable, str(_SERVER), str(listening.fileno())],
            env=environment,
            pass_fds=(listening.fileno(),),
        )
        try:
            found = Server(process.pid, host, port, token)
            _wait_until_ready(found, process)
            yield found
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)


def _wait_until_ready(found: Server, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + READY_SECONDS
    while httpx.get(f"{found.url}/healthz", timeout=READY_SECONDS).is_error:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the server did not start")
        time.sleep(0.05)
