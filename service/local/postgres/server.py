"""The supervisor: starts one postgres, waits until it serves, and takes it along at the end.

Spec: the design's "An embedded Postgres for one-machine runs".
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import structlog

from service.local.postgres.binaries import find_binaries
from service.local.postgres.child import ServerUser, start_child
from service.local.postgres.directory import HOST, ServerDirectory, port_is_free
from service.local.postgres.errors import (
    EmbeddedPostgresError,
    NotSupported,
    ServerFailed,
    UnusableDataDirectory,
)
from service.local.postgres.locks import claim_directory, hold_lock_file

log = structlog.get_logger()

SOCKET_PATH_BYTES = 107
"""The longest path of a Unix socket on Linux (`sun_path` less its final NUL)."""
REPORT_SECONDS = 5.0
"""How often a start that takes its time, which recovery may, says that it is not stuck."""
_SHUTDOWN = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))
"""Postgres's fast shutdown, its immediate one, and the end; each with its deadline in seconds."""
_POLL_SECONDS = 0.02
_PORT_ATTEMPTS = 3
_STATUS_LINE = 7
_USER = _DATABASE = "postgres"

_SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "128MB",
    "max_connections": "100",
    "max_parallel_workers_per_gather": "0",  # containers have too little /dev/shm for it
    "jit": "off",
    "timezone": "UTC",
    "cluster_name": "session-ledger",  # what `ps` shows
    # A refused statement is the service's to report. The server's log would show its parameters.
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
}


@dataclass(frozen=True, slots=True)
class PostgresAddress:
    """Where the server listens: TCP on 127.0.0.1, and a Unix socket; a password for both."""

    socket_directory: Path
    port: int
    user: str
    database: str
    password: str = field(repr=False)
    host: str = HOST

    def url(self) -> str:
        """The TCP address, password included, as SQLAlchemy reads it."""
        return (
            f"postgresql+asyncpg://{self.user}:{self.password}"
            f"@{self.host}:{self.port}/{self.database}"
        )


class EmbeddedPostgres:
    """Owns one postgres server for the life of this process."""

    def __init__(self, data_dir: Path, *, settings: Mapping[str, str] | None = None) -> None:
        """Everything lives in `data_dir/postgres`; `settings` are added to the server's own."""
        self._data_dir = data_dir.absolute()
        self._settings = {**_SETTINGS, **(settings or {})}
        self._held = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._address: PostgresAddress | None = None

    @property
    def pid(self) -> int | None:
        """The server's process id, None when it does not run."""
        return self._process.pid if self._process and self.is_running() else None

    def is_running(self) -> bool:
        """Whether the server process is alive."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> PostgresAddress:
        """Starts the server unless it runs; blocks until it accepts connections.

        Makes the cluster on the first start. Recovery after a crash takes as long as it takes, and
        is reported. Can be called again after the server died. The server ends with the calling
        thread, by the kernel's doing, so only the main thread may call.

        Raises:
            NotSupported: this is not Linux.
            BinariesNotFound: there is no usable Postgres 15 or newer.
            DataDirectoryInUse: another service owns the data directory.
            UnusableDataDirectory: wrong owner, not writable, or incomplete.
            ServerFailed: initdb or postgres ended early.
            EmbeddedPostgresError: not on the main thread, or no user to run the server as.
        """
        if self._address is not None and self.is_running():
            return self._address
        if sys.platform != "linux":
            raise NotSupported("the embedded Postgres needs Linux: set DATABASE_URL")
        if threading.current_thread() is not threading.main_thread():
            raise EmbeddedPostgresError("start the embedded Postgres from the main thread")
        self.stop()
        try:
            self._address = self._start()
        except OSError as error:
            self.stop()
            raise UnusableDataDirectory(
                f"{self._data_dir} cannot hold a database ({error}): "
                "choose another data directory, or set DATABASE_URL"
            ) from error
        except BaseException:
            self.stop()
            raise
        return self._address

    def stop(self) -> None:
        """Stops the server, politely at first, and gives up the data directory. Idempotent."""
        if self._process is not None:
            _end(self._process)
        self._process = self._address = None
        self._held.close()

    def __enter__(self) -> PostgresAddress:
        """Starts."""
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stops."""
        self.stop()

    def _start(self) -> PostgresAddress:
        started = time.monotonic()
        directory = ServerDirectory.open(self._data_dir)
        self._held.callback(os.close, hold_lock_file(directory.lock_file, self._data_dir))
        user = ServerUser.choose(directory.data)
        binaries = find_binaries(user)
        with ExitStack() as handed_over:
            # The server keeps its own copies of both; ours of `base` would prolong the lock on it.
            base = claim_directory(directory.base, self._data_dir)
            handed_over.callback(os.close, base)
            output = directory.open_log()
            handed_over.callback(os.close, output)
            password = directory.read_password(user)
            launch = _Launch(directory, user, binaries, base, output)
            if not directory.data.exists():
                launch.initdb(sync=self._settings["fsync"] == "on")
            directory.forget_earlier_server(user)
            port = self._serve(launch)
        directory.remember_port(port)
        log.info(
            "postgres_ready",
            pid=self.pid,
            port=port,
            binaries=str(binaries),
            elapsed_seconds=round(time.monotonic() - started, 3),
        )
        return PostgresAddress(
            self._client_path(directory.socket, port), port, _USER, _DATABASE, password
        )

    def _serve(self, launch: "_Launch") -> int:
        """Starts postgres and waits for it. Returns its port."""
        attempts = _PORT_ATTEMPTS
        while True:
            port = launch.directory.choose_port()
            offset = os.fstat(launch.output).st_size
            self._process = launch.postgres(port, self._settings)
            if launch.wait_until_ready(self._process, offset):
                return port
            attempts -= 1
            if port_is_free(port) or not attempts:  # else somebody took it since we looked
                raise launch.failure("postgres", offset)

    def _client_path(self, directory: Path, port: int) -> Path:
        """`directory`, or a shorter name for it when a socket's path there would be too long.

        The short name is a descriptor that we keep open: it lives as long as the server, needs no
        cleaning up, and nobody else can follow it.
        """
        if len(os.fsencode(directory / f".s.PGSQL.{port}")) <= SOCKET_PATH_BYTES:
            return directory
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        self._held.callback(os.close, descriptor)
        return Path(f"/proc/{os.getpid()}/fd/{descriptor}")


@dataclass(frozen=True, slots=True)
class _Launch:
    """What it takes to run the programs of one start; `base` and `output` are descriptors."""

    directory: ServerDirectory
    user: ServerUser
    binaries: Path
    base: int
    output: int

    def initdb(self, *, sync: bool) -> None:
        """Makes the cluster beside its place and renames it, so that `data` is always complete."""
        log.info("postgres_initdb", directory=str(self.directory.base))
        self.directory.make_empty(self.directory.staging, self.user)
        offset = os.fstat(self.output).st_size
        process = self._run(
            "initdb",
            f"--pgdata={self._inside(self.directory.staging)}",
            f"--username={_USER}",
            f"--pwfile={self._inside(self.directory.password)}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--data-checksums",
            "--no-instructions",
            *([] if sync else ["--no-sync"]),
        )
        try:
            status = process.wait()
        finally:
            _end(process)
        if status != 0:
            raise self.failure("initdb", offset)
        self.directory.publish_data()

    def postgres(self, port: int, settings: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Starts the server; it listens on 127.0.0.1 and in the socket directory, nowhere else."""
        fixed = {
            "listen_addresses": HOST,
            "port": str(port),
            "unix_socket_directories": self._inside(self.directory.socket),
            "unix_socket_permissions": "0700",
        }
        arguments = [f"--{name}={value}" for name, value in {**settings, **fixed}.items()]
        return self._run("postgres", "-D", self._inside(self.directory.data), *arguments)

    def wait_until_ready(self, process: subprocess.Popen[bytes], offset: int) -> bool:
        """Blocks until the server accepts connections (True) or has ended (False)."""
        started = reported = time.monotonic()
        while process.poll() is None:
            if self._status(process.pid) == "ready":
                return True
            now = time.monotonic()
            if now - reported >= REPORT_SECONDS:
                reported = now
                log.info(
                    "postgres_starting",
                    elapsed_seconds=round(now - started, 1),
                    server_log=self.directory.log_since(offset, lines=1),
                )
            time.sleep(_POLL_SECONDS)
        return False

    def failure(self, program: str, offset: int) -> ServerFailed:
        """What the program wrote before it ended, after `offset` bytes of the log."""
        wrote = self.directory.log_since(offset, lines=20)
        return ServerFailed(f"{program} ended early; see {self.directory.log}:\n{wrote}")

    def _status(self, pid: int) -> str | None:
        """The server's own word on its state, from its pid file, as pg_ctl reads it."""
        try:
            lines = (self.directory.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return None
        if len(lines) <= _STATUS_LINE or lines[0] != str(pid):
            return None
        return lines[_STATUS_LINE].strip()

    def _inside(self, path: Path) -> str:
        """A path that needs no right to walk to the data directory, and is never too long."""
        return f"/proc/self/fd/{self.base}/{path.relative_to(self.directory.base)}"

    def _run(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [str(self.binaries / program), *arguments]
        return start_child(command, user=self.user, output=self.output, inherit=[self.base])


def _end(process: subprocess.Popen[bytes]) -> None:
    for kind, seconds in _SHUTDOWN:
        if process.poll() is not None:
            return
        process.send_signal(kind)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            log.warning("postgres_ignores", signal=kind.name, waited_seconds=seconds)
