"""The embedded Postgres survives what a machine does to it, and takes nothing along."""

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest
import structlog.testing
from embedded_postgres_service import OtherService, descendants, query, runs, until

from service.local.postgres import (
    DataDirectoryInUse,
    EmbeddedPostgres,
    EmbeddedPostgresError,
    NotSupported,
    PostgresAddress,
    ServerFailed,
    UnusableDataDirectory,
    locks,
    server,
)
from service.local.postgres.directory import ServerDirectory
from tests.memory import temporary

UNSYNCED = {"fsync": "off"}
BUSY = "DO $$ BEGIN WHILE clock_timestamp() < now() + interval '60 s' LOOP END LOOP; END $$"


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Below a directory that only we may enter."""
    with temporary() as directory:
        assert stat.S_IMODE(Path(directory).stat().st_mode) == 0o700
        yield Path(directory) / "data"


@pytest.fixture
def postgres(data_dir: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(data_dir, settings=UNSYNCED)
    yield server
    server.stop()


def write_and_crash(postgres: EmbeddedPostgres) -> None:
    """Leaves a committed row in a cluster that was not shut down."""
    address = postgres.start()
    query(address, "CREATE TABLE kept AS SELECT 42 AS answer")
    os.kill(postgres.pid or 0, signal.SIGKILL)
    until(lambda: not postgres.is_running())
    postgres.stop()


def start_busy_backend(address: PostgresAddress) -> threading.Thread:
    """A backend that looks neither at its client nor at the postmaster until its loop ends."""

    def run() -> None:
        with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
            query(address, BUSY)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    busy = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'DO %' AND state = 'active'"
    until(lambda: query(address, busy) == 1)
    return thread


@contextmanager
def bystander(stdin: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with any of this."""
    process = subprocess.Popen(["sleep", "600"], stdin=stdin)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


# What a start gives


def test_the_cluster_is_durable_utf8_and_reached_only_from_this_machine(data_dir: Path) -> None:
    postgres = EmbeddedPostgres(data_dir)
    with postgres as address:
        for setting, value in {
            "fsync": "on",
            "synchronous_commit": "on",
            "full_page_writes": "on",
            "server_encoding": "UTF8",
            "data_checksums": "on",
            "listen_addresses": "127.0.0.1",
            "password_encryption": "scram-sha-256",
            "shared_buffers": "128MB",
            "max_connections": "100",
        }.items():
            assert query(address, f"SHOW {setting}") == value
        collation = "SELECT datcollate FROM pg_database WHERE datname = current_database()"
        assert query(address, collation) == "C"
        methods = "SELECT array_agg(DISTINCT auth_method) FROM pg_hba_file_rules"
        assert query(address, methods) == ["scram-sha-256"]
        assert os.getsid(postgres.pid or 0) != os.getsid(0), "Ctrl-C would reach the server"
        stranger = PostgresAddress(
            address.socket_directory, address.port, address.user, address.database, "a guess"
        )
        for host in (address.host, str(address.socket_directory)):
            assert query(address, "SELECT 1", host=host) == 1
            with pytest.raises(asyncpg.InvalidPasswordError):
                query(stranger, "SELECT 1", host=host)
    assert address.password not in repr(address)


def test_a_restart_keeps_rows_port_and_password(postgres: EmbeddedPostgres) -> None:
    first = postgres.start()
    query(first, "CREATE TABLE kept AS SELECT 42 AS answer")
    postgres.stop()
    postgres.stop()
    assert not postgres.is_running()
    assert postgres.pid is None
    assert postgres.start() == first
    assert postgres.start() == first, "a second start of a running server changes nothing"
    assert query(first, "SELECT answer FROM kept") == 42


def test_files_with_secrets_are_private(postgres: EmbeddedPostgres, data_dir: Path) -> None:
    postgres.start()
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (data_dir / "postgres").iterdir()}
    assert modes == dict.fromkeys(("lock", "password", "port", "server.log"), 0o600) | {
        "data": 0o700,
        "socket": 0o700,
    }


def test_the_server_gets_nothing_of_our_environment(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADMIN_TOKEN", "a token")
    monkeypatch.setenv("PGPORT", "1")
    postgres.start()
    environment = Path(f"/proc/{postgres.pid}/environ").read_text()
    assert "HOME=/\0" in environment
    assert "a token" not in environment
    assert "PGPORT" not in environment


def test_refused_statements_leave_no_trace_in_the_log(
    postgres: EmbeddedPostgres, data_dir: Path
) -> None:
    address = postgres.start()
    with pytest.raises(asyncpg.InvalidTextRepresentationError):
        query(address, "SELECT 'a voucher'::int")
    assert "a voucher" not in (data_dir / "postgres" / "server.log").read_text()


# Deaths


def test_kill_9_of_the_service_takes_the_server_and_its_busy_backends_along(
    data_dir: Path, postgres: EmbeddedPostgres
) -> None:
    with OtherService(data_dir, "fsync=off") as service:
        pid, address = service.wait_until_ready()
        query(address, "CREATE TABLE kept AS SELECT 42 AS answer")
        client = start_busy_backend(address)
        family = [pid, *descendants(pid)]
        service.kill()
        until(lambda: not any(map(runs, family)), seconds=5)
        client.join()
        assert query(postgres.start(), "SELECT answer FROM kept") == 42


def test_kill_9_of_postgres_is_noticed_and_a_new_start_ends_its_orphans(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "GRACE_SECONDS", 0.5)
    address = postgres.start()
    query(address, "CREATE TABLE kept AS SELECT 42 AS answer")
    client = start_busy_backend(address)
    pid = postgres.pid or 0
    family = descendants(pid)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not postgres.is_running())
    assert any(map(runs, family)), "the busy backend outlives the postmaster"
    assert query(postgres.start(), "SELECT answer FROM kept") == 42
    assert not any(map(runs, family))
    client.join()


def test_a_process_that_only_looks_at_the_directory_is_no_orphan(
    postgres: EmbeddedPostgres, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "GRACE_SECONDS", 0.1)
    address = postgres.start()
    directory = os.open(data_dir / "postgres", os.O_RDONLY)
    with bystander(stdin=directory) as onlooker:
        os.close(directory)
        client = start_busy_backend(address)
        os.kill(postgres.pid or 0, signal.SIGKILL)
        until(lambda: not postgres.is_running())
        postgres.start()
        assert onlooker.poll() is None
        client.join()


@pytest.mark.parametrize("content", ["", "1", "{alive}\n", "{alive}\n/elsewhere\n1\n5432\n"])
def test_a_stale_or_truncated_pid_file_does_not_stop_a_start(
    postgres: EmbeddedPostgres, data_dir: Path, content: str
) -> None:
    """Both files in which Postgres looks for a predecessor name a living process, or nothing."""
    write_and_crash(postgres)
    base = data_dir / "postgres"
    # Postgres ignores its own parent's number, which here is ours: take somebody else's.
    with bystander() as stranger:
        text = content.format(alive=stranger.pid)
        (base / "data" / "postmaster.pid").write_text(text)
        (base / "socket" / f".s.PGSQL.{(base / 'port').read_text()}.lock").write_text(text)
        assert query(postgres.start(), "SELECT answer FROM kept") == 42
        assert stranger.poll() is None


def test_an_interrupted_initdb_is_begun_again(data_dir: Path, postgres: EmbeddedPostgres) -> None:
    with OtherService(data_dir) as service:
        base = data_dir / "postgres"
        until((base / "data.new" / "base" / "1").exists)
        service.kill()
        assert not (base / "data").exists(), "what is unfinished does not look finished"
        assert query(postgres.start(), "SELECT 1") == 1
        assert not (base / "data.new").exists()


def test_recovery_may_take_longer_than_anybody_expects_and_is_reported(
    postgres: EmbeddedPostgres, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recovery waits for a file to go away; it goes when three reports are in, after 12 s."""
    write_and_crash(postgres)
    data = data_dir / "postgres" / "data"
    (data / "recovery.signal").touch()
    hold = data / "hold"
    hold.touch()
    monkeypatch.setattr(server, "REPORT_SECONDS", 4.0)
    slow = EmbeddedPostgres(
        data_dir,
        settings=UNSYNCED | {"restore_command": "while test -e hold; do sleep 0.1; done; false"},
    )
    with structlog.testing.capture_logs() as logs:

        def reports() -> list[str]:
            return [str(e["server_log"]) for e in logs if e["event"] == "postgres_starting"]

        def release() -> None:
            until(lambda: len(reports()) >= 3)
            hold.unlink()

        releasing = threading.Thread(target=release, daemon=True)
        releasing.start()
        with slow as address:
            assert query(address, "SELECT answer FROM kept") == 42
        releasing.join()
    assert "database system was interrupted" in reports()[0]


def test_a_server_that_ignores_polite_signals_is_stopped(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    patience = ((signal.SIGINT, 0.2), (signal.SIGQUIT, 0.2), (signal.SIGKILL, 5.0))
    monkeypatch.setattr(server, "_SHUTDOWN", patience)
    postgres.start()
    pid = postgres.pid or 0
    os.kill(pid, signal.SIGSTOP)
    postgres.stop()
    assert not runs(pid)


# Two services, long paths, taken ports


def test_a_second_service_is_refused_and_told_who_was_first(
    data_dir: Path, postgres: EmbeddedPostgres
) -> None:
    with OtherService(data_dir, "fsync=off") as service:
        _, address = service.wait_until_ready()
        with pytest.raises(DataDirectoryInUse, match=f"process {service.process.pid}") as refusal:
            postgres.start()
        assert refusal.value.holder == service.process.pid
        assert query(address, "SELECT 1") == 1, "the first one is not disturbed"
        service.end()
        assert postgres.start().password == address.password


def test_a_path_too_long_for_a_socket_is_shortened_for_every_process(data_dir: Path) -> None:
    deep = data_dir.joinpath(*["a-directory-with-a-long-name"] * 6)
    with EmbeddedPostgres(deep, settings=UNSYNCED) as address:
        directory = str(address.socket_directory)
        assert len(directory) < 50
        assert query(address, "SELECT 1", host=directory) == 1
        connect = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
        path = f"{directory}/.s.PGSQL.{address.port}"
        subprocess.run([sys.executable, "-W", "ignore", "-c", connect, path], check=True)
        assert stat.S_IMODE(Path(directory).stat().st_mode) == 0o700


def test_the_last_port_is_given_up_when_somebody_has_taken_it(
    postgres: EmbeddedPostgres, data_dir: Path
) -> None:
    first = postgres.start()
    postgres.stop()
    with socket.create_server(("127.0.0.1", first.port)):
        second = postgres.start()
        assert second.port != first.port
        assert query(second, "SELECT 1") == 1
    postgres.stop()
    (data_dir / "postgres" / "port").write_text("not a por")
    assert query(postgres.start(), "SELECT 1") == 1


def test_a_port_taken_in_the_last_moment_is_replaced(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose = ServerDirectory.choose_port
    with socket.create_server(("127.0.0.1", 0)) as thief:
        ports = [thief.getsockname()[1]]
        monkeypatch.setattr(
            ServerDirectory, "choose_port", lambda self: ports.pop() if ports else choose(self)
        )
        assert query(postgres.start(), "SELECT 1") == 1
    assert not ports


# Refusals


def test_another_thread_may_not_start_the_server(postgres: EmbeddedPostgres) -> None:
    """The server would end with that thread."""
    errors: list[EmbeddedPostgresError] = []

    def start() -> None:
        try:
            postgres.start()
        except EmbeddedPostgresError as error:
            errors.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "main thread" in str(errors[0])


def test_other_systems_are_told_to_set_database_url(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(NotSupported, match="DATABASE_URL"):
        postgres.start()


def test_a_failed_start_shows_the_log_and_gives_the_directory_up(
    data_dir: Path, postgres: EmbeddedPostgres
) -> None:
    with pytest.raises(ServerFailed, match="invalid value for parameter"):
        EmbeddedPostgres(data_dir, settings=UNSYNCED | {"shared_buffers": "much"}).start()
    assert query(postgres.start(), "SELECT 1") == 1


def test_a_lost_password_is_reported_and_not_replaced(
    postgres: EmbeddedPostgres, data_dir: Path
) -> None:
    postgres.start()
    postgres.stop()
    (data_dir / "postgres" / "password").unlink()
    with pytest.raises(UnusableDataDirectory, match=r"password is missing"):
        postgres.start()


def test_a_file_in_the_place_of_the_directory_is_reported(
    postgres: EmbeddedPostgres, data_dir: Path
) -> None:
    data_dir.write_text("a file")
    with pytest.raises(UnusableDataDirectory, match="choose another data directory"):
        postgres.start()
