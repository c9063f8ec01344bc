"""What lies under `<data directory>/postgres`, and how it is made so that a crash leaves it whole.

The directory and `lock`, `port` and `server.log` are ours. `data`, `socket` and `password` belong
to the server's user. When we are root that is somebody else, who may not even be allowed to walk to
the directory; the server therefore reaches everything through an inherited descriptor of it.
"""

import os
import secrets
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from service.local.postgres.child import ServerUser
from service.local.postgres.errors import UnusableDataDirectory

HOST = "127.0.0.1"
_LOG_BYTES = 5_000_000
"""Size from which the next start begins a new server log; one old log is kept."""


@dataclass(frozen=True, slots=True)
class ServerDirectory:
    """The files of one embedded server; `base` is `<data directory>/postgres`."""

    base: Path

    @classmethod
    def open(cls, data_dir: Path) -> "ServerDirectory":
        """The directory, made if needed.

        Raises:
            UnusableDataDirectory: it belongs to another user.
            OSError: it cannot be made.
        """
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        base = data_dir / "postgres"
        base.mkdir(mode=0o700, exist_ok=True)
        owner = base.lstat().st_uid
        if owner != os.geteuid():
            # Also for root: it must not write where another user can plant symbolic links.
            raise UnusableDataDirectory(
                f"{base} belongs to uid {owner}: run as that user or choose another data directory"
            )
        if os.geteuid() == 0:
            base.chmod(0o711)  # the server's user walks through; what it may not see is 0600
        return cls(base)

    @property
    def lock_file(self) -> Path:
        """Locked by the owning service for life; holds its process id."""
        return self.base / "lock"

    @property
    def data(self) -> Path:
        """Postgres's own data directory. It exists only complete."""
        return self.base / "data"

    @property
    def staging(self) -> Path:
        """Where initdb works; renamed to `data` at the end."""
        return self.base / "data.new"

    @property
    def socket(self) -> Path:
        """Holds the Unix socket; mode 0700."""
        return self.base / "socket"

    @property
    def password(self) -> Path:
        """The superuser's password, mode 0600."""
        return self.base / "password"

    @property
    def port(self) -> Path:
        """The TCP port of the last run, to be used again if it is free."""
        return self.base / "port"

    @property
    def log(self) -> Path:
        """What initdb and postgres write."""
        return self.base / "server.log"

    def make_empty(self, path: Path, user: ServerUser) -> None:
        """Makes `path` an empty directory of the user's, whatever was there."""
        if path.exists():
            shutil.rmtree(path)
        path.mkdir(mode=0o700)
        user.give(path)

    def publish_data(self) -> None:
        """Makes the finished cluster in `staging` the one in `data`; initdb has synced it."""
        self.staging.rename(self.data)
        _sync(self.base)

    def forget_earlier_server(self, user: ServerUser) -> None:
        """Removes its pid file and sockets. The caller must hold both locks (see `locks`)."""
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        self.make_empty(self.socket, user)

    def read_password(self, user: ServerUser) -> str:
        """The superuser's password, generated before the cluster is.

        Raises:
            UnusableDataDirectory: the cluster exists and its password does not.
        """
        if not self.password.exists():
            if self.data.exists():
                raise UnusableDataDirectory(
                    f"{self.password} is missing: restore it, or choose another data directory"
                )
            _replace(self.password, secrets.token_hex(32), user)
        return self.password.read_text()

    def choose_port(self) -> int:
        """The last run's port if it is free, else one from the kernel."""
        try:
            last = int(self.port.read_text())
        except (FileNotFoundError, ValueError):
            last = 0
        return last if 0 < last < 2**16 and port_is_free(last) else _any_port()

    def remember_port(self, port: int) -> None:
        """Keeps the port for the next run."""
        _replace(self.port, str(port), None)

    def open_log(self) -> int:
        """A descriptor that appends to the server's log."""
        if self.log.exists() and self.log.stat().st_size > _LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        return os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def log_since(self, offset: int, *, lines: int) -> str:
        """The last lines of the log, of those written after `offset` bytes."""
        with self.log.open("rb") as log:
            log.seek(max(offset, self.log.stat().st_size - 64 * 1024))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])


def port_is_free(port: int) -> bool:
    """Whether the server could listen on the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Postgres does
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _any_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _replace(path: Path, text: str, owner: ServerUser | None) -> None:
    """Writes a private file so that a crash leaves the old content or the new, never a part."""
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    if owner is not None:
        owner.give(temporary)
    temporary.replace(path)
    _sync(path.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
