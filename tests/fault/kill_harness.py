"""`serve` as a child process, ways to kill it, and clients that go on meanwhile.

Nothing here is simulated: the processes are the product's own, the signal is SIGKILL, and Postgres
keeps its default durability unless a test asks for less.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx
from kill_clients import Plan, address_of

CLIENTS = Path(__file__).with_name("kill_clients.py")
READY_SECONDS = 60
POLL_SECONDS = 0.02
KillName = Literal["service", "server", "postgres"]


class Serve:
    """`session-ledger serve` on one data directory and one port, over many lives."""

    def __init__(self, data_dir: Path, *options: str, **environment: str) -> None:
        self.data_dir = data_dir
        self.port = _free_port()
        self.facts: dict[str, str] = {}
        self._options = options
        self._environment = os.environ | {"LOG_LEVEL": "error"} | environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of `serve` itself."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start, and wait until it says that it is ready."""
        command = [sys.executable, "-m", "service.cli", "serve", "--json"]
        command += ["--port", str(self.port), "--data-dir", str(self.data_dir), *self._options]
        with (self.data_dir / "serve.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, env=self._environment
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert json.loads(line or "{}").get("status") == "ready", line
        self.facts = json.loads((self.data_dir / "local.json").read_text())

    def stop(self) -> None:
        """Ask it to end, as an operator does."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(READY_SECONDS)
            self._close()

    def kill(self) -> None:
        """SIGKILL to `serve`; the kernel ends its children."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._close()

    def servers(self) -> list[int]:
        """The process ids of the server processes."""
        return [pid for pid in _children(self.pid) if "service.http_process" in _command(pid)]

    def postgres(self) -> list[int]:
        """The process ids of all processes of Postgres, the postmaster first."""
        for pid in _children(self.pid):
            if _command(pid).split("\0")[0].endswith("/postgres"):
                return [pid, *_children(pid)]
        return []

    def is_ready(self) -> bool:
        """Whether it answers and its database does."""
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.facts['baseUrl']}/readyz", timeout=5).is_success
        return False

    def register_seller(self, name: str, **terms: Any) -> dict[str, Any]:
        """A seller with its API key."""
        answer = httpx.post(
            f"{self.facts['baseUrl']}/v1/sellers",
            headers={"Authorization": f"Bearer {self.facts['adminToken']}"},
            json={"name": name, "recipient": address_of(name), "pricePerUnit": "1", **terms},
            timeout=30,
        )
        assert answer.status_code == 201, answer.text
        return answer.json()

    def _close(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None


@dataclass(slots=True)
class Clients:
    """The client process at work."""

    directory: Path
    process: asyncio.subprocess.Process
    counts: dict[str, Any] = field(default_factory=dict[str, Any])

    def progress(self) -> int:
        """Bytes of answers written down so far."""
        return sum(file.stat().st_size for file in self.directory.glob("*.acks"))

    async def stop(self) -> None:
        """Let every client finish its request, and take the counts."""
        self.process.send_signal(signal.SIGTERM)
        output, _ = await asyncio.wait_for(self.process.communicate(), READY_SECONDS)
        self.counts = json.loads(output)


@asynccontextmanager
async def clients_at_work(
    serve: Serve, seller: dict[str, Any], directory: Path, seed: int, **plan: Any
) -> AsyncGenerator[Clients]:
    """Clients that send vouchers until the block ends; their counts are there afterwards."""
    directory.mkdir()
    whole = Plan(
        host="127.0.0.1",
        port=serve.port,
        api_key=seller["apiKey"],
        recipient=seller["recipient"],
        directory=str(directory),
        seed=seed,
        **plan,
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(CLIENTS), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(asdict(whole)).encode() + b"\n")
    clients = Clients(directory, process)
    try:
        yield clients
        await clients.stop()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@dataclass(slots=True)
class Killer:
    """Kills at random moments and waits until answers are given again."""

    serve: Serve
    clients: Clients
    random: random.Random
    quiet_seconds: tuple[float, float] = (0.05, 0.8)
    """Bounds of the random time between being back and the next kill."""
    kills: Counter[str] = field(default_factory=Counter[str])
    recovery_seconds: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    async def kill(self, name: KillName) -> None:
        """One kill, and the recovery from it."""
        await asyncio.sleep(self.random.uniform(*self.quiet_seconds))
        started = time.monotonic()
        match name:
            case "service":
                self.serve.kill()
                await asyncio.to_thread(self._start_again)
            case "server":
                _kill_all([self.random.choice(self.serve.servers())])
            case "postgres":
                _kill_all(self.serve.postgres())
        # What was under way may still be written down; new answers need a new life.
        await self.until(self.serve.is_ready)
        before = self.clients.progress()
        await self.until(lambda: self.clients.progress() > before)
        self.kills[name] += 1
        self.recovery_seconds.setdefault(name, []).append(time.monotonic() - started)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Poll, with a deadline."""
        deadline = time.monotonic() + READY_SECONDS
        while not await asyncio.to_thread(holds):
            assert time.monotonic() < deadline, f"not back after {READY_SECONDS} s: {self.kills}"
            await asyncio.sleep(POLL_SECONDS)

    def summary(self) -> str:
        """Kills by kind with the median and the longest recovery, in seconds."""
        return ", ".join(
            f"{len(times)} {name} (recovery {sorted(times)[len(times) // 2]:.1f} s, "
            f"at most {max(times):.1f} s)"
            for name, times in self.recovery_seconds.items()
        )

    def _start_again(self) -> None:
        self.serve.start()


def _kill_all(pids: list[int]) -> None:
    """SIGKILL so that none can react to another's end: all stand still before the first dies."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def _children(pid: int) -> list[int]:
    """The living children of a process; the kernel lists them for each of its threads."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(c) for task in tasks for c in (task / "children").read_text().split()]
    return []


def _command(pid: int) -> str:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
