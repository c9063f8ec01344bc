"""A stand-in for the service, to be killed: owns a Postgres until its standard input ends.

Arguments: the data directory, then settings as name=value. Prints one line of JSON when ready. Also
what the tests of the embedded Postgres share.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Self

import asyncpg
import structlog

from service.local.postgres import EmbeddedPostgres, PostgresAddress

REPOSITORY = Path(__file__).parents[2]


def main() -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    data_dir, *settings = sys.argv[1:]
    server = EmbeddedPostgres(
        Path(data_dir), settings=dict(setting.split("=", 1) for setting in settings)
    )
    with server as address:
        print(json.dumps({"pid": server.pid} | asdict(address), default=str), flush=True)
        sys.stdin.read()


class OtherService:
    """The stand-in in a process of its own."""

    def __init__(
        self, data_dir: Path, *settings: str, uid: int | None = None, python: str = sys.executable
    ) -> None:
        self.process = subprocess.Popen(
            [python, __file__, str(data_dir), *settings],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])},
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [],
        )

    def wait_until_ready(self) -> tuple[int, PostgresAddress]:
        """The server's process id and address."""
        line = json.loads(self.process.stdout.readline())
        pid = line.pop("pid")
        return pid, PostgresAddress(**line | {"socket_directory": Path(line["socket_directory"])})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self) -> None:
        self.process.communicate(timeout=60)


def query(address: PostgresAddress, statement: str, *, host: str | None = None) -> object:
    """The first value of the first row; over TCP unless `host` is a socket directory."""

    async def ask() -> object:
        connection = await asyncpg.connect(
            host=host or address.host,
            port=address.port,
            user=address.user,
            password=address.password,
            database=address.database,
            timeout=10,
        )
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(ask())


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Polls; fails when the condition does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


def runs(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def descendants(pid: int) -> list[int]:
    """The children of a process, as postgres's backends are of the postmaster."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        children += map(int, (task / "children").read_text().split())
    return children


if __name__ == "__main__":
    main()
