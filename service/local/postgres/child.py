"""Starting a process that runs unprivileged and cannot outlive us."""

import os
import pwd
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from service.local.postgres.errors import EmbeddedPostgresError

_LAUNCHER = Path(__file__).with_name("launcher.py")
_UNPRIVILEGED = ("postgres", "nobody")
"""Who runs the server for root, first match. Postgres refuses uid 0, initdb a uid without name."""

# The service's own environment stays behind: it holds secrets, PG* variables of the user's, and a
# HOME that the unprivileged uid may not read.
_ENVIRONMENT = {"HOME": "/", "LC_ALL": "C", "PATH": os.defpath}


@dataclass(frozen=True, slots=True)
class ServerUser:
    """Whom the server runs as: ourselves, or an existing unprivileged user when we are root."""

    uid: int
    gid: int

    @classmethod
    def choose(cls, data: Path) -> "ServerUser":
        """The user for the cluster in `data`, which need not exist yet.

        An existing cluster keeps its owner, since Postgres insists on it.

        Raises:
            EmbeddedPostgresError: we are root and the machine has none of the expected users.
        """
        if os.geteuid() != 0:
            return cls(os.geteuid(), os.getegid())
        if data.exists() and data.stat().st_uid != 0:
            return cls(data.stat().st_uid, data.stat().st_gid)
        for name in _UNPRIVILEGED:
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return cls(entry.pw_uid, entry.pw_gid)
        raise EmbeddedPostgresError(
            f"Postgres does not run as root and there is no user {' or '.join(_UNPRIVILEGED)}: "
            "run as an ordinary user or set DATABASE_URL"
        )

    def give(self, path: Path) -> None:
        """Makes the user the owner of `path`, which must be ours and no symbolic link."""
        os.chown(path, self.uid, self.gid, follow_symlinks=False)


def start_child(
    command: Sequence[str], *, user: ServerUser, output: int, inherit: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Runs `command` as `user`; it receives SIGQUIT when the calling thread ends.

    `output` is the descriptor for both output streams, `inherit` are descriptors to leave open.
    The child has a session of its own, so that Ctrl-C in a terminal reaches us alone.
    """
    arguments = [str(os.getpid()), str(user.uid), str(user.gid), *command]
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(_LAUNCHER), *arguments],
        cwd="/",
        env=_ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        pass_fds=inherit,
        start_new_session=True,
    )
