"""Who may touch a data directory: one service, and no process of an earlier server.

Two flocks. The service holds the lock *file* for life. The lock on the *directory* is handed down
to postgres and, by fork, to all its backends; the kernel releases it when the last of them is gone.
Whoever holds both knows that nothing of an earlier server is left, so a `postmaster.pid` found
there is stale, whatever process its number belongs to by now.
"""

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import structlog

from service.local.postgres.errors import DataDirectoryInUse

log = structlog.get_logger()

GRACE_SECONDS = 2.0
"""How long processes of a dead server may take to notice that they are orphans."""
KILLED_SECONDS = 10.0
"""How long the kernel may then take to end them."""
_POLL_SECONDS = 0.02


def hold_lock_file(path: Path, data_dir: Path) -> int:
    """Takes the service's lock and writes our process id into it. Returns the descriptor.

    Raises:
        DataDirectoryInUse: another service, named in the error, holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    if not _try_lock(descriptor):
        holder = os.pread(descriptor, 20, 0)
        os.close(descriptor)
        raise DataDirectoryInUse(data_dir, int(holder) if holder.isdigit() else None)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def claim_directory(path: Path, data_dir: Path) -> int:
    """Takes the server's lock, ending what is left of an earlier server. Returns the descriptor.

    The caller must hold the lock file. The descriptor is for the server: close it after starting.

    Raises:
        DataDirectoryInUse: a process of the earlier server, named in the error, does not end.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    started = time.monotonic()
    while not _try_lock(descriptor):
        waited = time.monotonic() - started
        if waited > GRACE_SECONDS + KILLED_SECONDS:
            os.close(descriptor)
            raise DataDirectoryInUse(data_dir, next(_holders(path), None))
        if waited > GRACE_SECONDS:
            for pid in _holders(path):
                _kill(pid, path)
        time.sleep(_POLL_SECONDS)
    return descriptor


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holders(directory: Path) -> Iterator[int]:
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and _holds(int(process.name), directory):
            yield int(process.name)


def _holds(pid: int, directory: Path) -> bool:
    """Whether the process holds the lock on `directory`; merely having it open is not enough."""
    process, wanted = Path("/proc", str(pid)), directory.stat()
    try:
        return any(
            os.path.samestat(descriptor.stat(), wanted)
            and "FLOCK" in (process / "fdinfo" / descriptor.name).read_text()
            for descriptor in (process / "fd").iterdir()
        )
    except OSError:  # it has ended, or belongs to somebody else
        return False


def _kill(pid: int, directory: Path) -> None:
    """SIGKILL for an orphan. Safe for the data: recovery replays what the log has.

    Through a descriptor of the process, opened before the last look, because a process id can
    change hands between the look and the signal.
    """
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if _holds(pid, directory):
            log.warning("postgres_orphan_killed", pid=pid)
            signal.pidfd_send_signal(process, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        os.close(process)
