"""What a benchmark runs against: a real Postgres with durable settings, and real server processes.

Postgres runs as `serve` runs it (fsync and synchronous_commit on). The local chain is there only
for those who ask for it: no voucher ever needs it.
"""

import base64
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import asyncpg
import httpx
from load import Target
from solders.keypair import Keypair
from vouchers import PRICE, Buyer, address

from service import migrations
from service.local.lifeline import PARENT_VARIABLE
from service.local.postgres import EmbeddedPostgres, PostgresAddress
from session_ledger.challenge import NETWORKS

READY_SECONDS = 60
ANSWER_SECONDS = 120
BATCH = 1_000
"""Vouchers in one verify-batch."""
STOP_SECONDS = 15
POSTGRES_SETTINGS = {"max_connections": "200"}
_SERVER = Path(__file__).with_name("server.py")
_NO_CHAIN = "http://127.0.0.1:9"
SLOT_SECONDS = 0.05
FEE_PAYER_LAMPORTS = 100_000_000_000
_ENDS_WITH_US = {PARENT_VARIABLE: str(os.getpid())}
_PACE_SECONDS = 0.125
"""Between looks at a settlement, as `serve` has it on a local chain with these slots."""


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


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used so far."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system = after_name[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Chain:
    """A local chain in a process of its own, on disk as `serve` has it."""

    pid: int
    host: str
    port: int

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self.host}:{self.port}"

    def call(self, method: str, *params: Any) -> Any:
        """The result of one request."""
        return self.call_all([(method, params)])[0]

    def call_all(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """The results of many requests in one batch, in order."""
        bodies = [rpc(method, *params, number=n) for n, (method, params) in enumerate(calls)]
        answers = httpx.post(self.url, json=bodies, timeout=ANSWER_SECONDS).json()
        failed = [answer for answer in answers if "error" in answer]
        if failed or len(answers) != len(calls):
            raise RuntimeError(f"the local chain refused: {failed[:1]}")
        return [answer["result"] for answer in answers]

    def give_usdc(self, owners: Sequence[str], amount: int, delegate: str | None = None) -> None:
        """Each owner holds `amount`, all of it delegated."""
        mint = NETWORKS["localnet"].usdc_mint
        changes: dict[str, Any] = {"amount": amount}
        if delegate is not None:
            changes |= {"delegate": delegate, "delegatedAmount": amount}
        self.call_all([("surfnet_setTokenAccount", (owner, mint, changes)) for owner in owners])


def rpc(method: str, *params: Any, number: int = 1) -> dict[str, Any]:
    """A JSON-RPC request."""
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": list(params)}


@contextmanager
def local_chain() -> Generator[Chain]:
    """An empty chain in a directory that is removed afterwards."""
    with TemporaryDirectory(prefix="session-ledger-bench-") as directory:
        command = [sys.executable, "-m", "service.cli", "devchain", "--json", "--port", "0"]
        command += ["--data-dir", directory, "--slot-seconds", str(SLOT_SECONDS)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | _ENDS_WITH_US)
        assert process.stdout is not None
        try:
            url = json.loads(process.stdout.readline())["rpcUrl"]
            host, _, port = url.removeprefix("http://").rpartition(":")
            yield Chain(process.pid, host, int(port))
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)
            process.stdout.close()


@dataclass(frozen=True, slots=True)
class Server:
    """One server process, the operators' token for it, and the key that it settles with."""

    pid: int
    host: str
    port: int
    admin_token: str
    authority: Keypair

    @property
    def url(self) -> str:
        """Its base address."""
        return f"http://{self.host}:{self.port}"

    def cpu_seconds(self) -> float:
        """Processor time that the process has used so far."""
        return cpu_seconds(self.pid)

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

    def pay_once(self, target: Target, buyers: Sequence[Buyer]) -> None:
        """The first voucher of each buyer's channel, many in a request."""
        with httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {target.api_key}"},
            timeout=ANSWER_SECONDS,
        ) as client:
            for first in range(0, len(buyers), BATCH):
                vouchers = [buyer.voucher(1) for buyer in buyers[first : first + BATCH]]
                answer = client.post(
                    "/v1/vouchers/verify-batch", content=json.dumps({"vouchers": vouchers})
                )
                answer.raise_for_status()
                verdicts = {result["verdict"] for result in answer.json()["results"]}
                if verdicts != {"accepted"}:
                    raise RuntimeError(f"unexpected verdicts: {verdicts}")


@contextmanager
def server(database_url: str, chain: Chain | None = None) -> Generator[Server]:
    """A server process on a port of its own; on a chain it can pay its fees."""
    token, authority = secrets.token_urlsafe(24), Keypair()
    if chain is not None:
        chain.call("requestAirdrop", str(authority.pubkey()), FEE_PAYER_LAMPORTS)
    with socket.create_server(("127.0.0.1", 0), backlog=2_048) as listening:
        listening.set_inheritable(True)
        host, port = listening.getsockname()
        environment = (
            os.environ
            | _ENDS_WITH_US
            | {
                "DATABASE_URL": database_url,
                "SOLANA_RPC_URL": _NO_CHAIN if chain is None else chain.url,
                "SETTLEMENT_POLL_SECONDS": str(_PACE_SECONDS),
                "SETTLEMENT_RESEND_SECONDS": str(2 * _PACE_SECONDS),
                "ADMIN_TOKEN": token,
                "SETTLEMENT_AUTHORITY": "env:BENCHMARK_KEY",
                "BENCHMARK_KEY": str(list(bytes(authority))),
                "SESSION_KEY_SECRETS": base64.b64encode(secrets.token_bytes(32)).decode(),
                "LOG_LEVEL": "warning",
            }
        )
        process = subprocess.Popen(
            [sys.executable, str(_SERVER), str(listening.fileno())],
            env=environment,
            pass_fds=(listening.fileno(),),
        )
        try:
            found = Server(process.pid, host, port, token, authority)
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
