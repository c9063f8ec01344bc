"""Runs as a script between us and the server: drops privileges, ties its life to ours, execs.

Arguments: the expected parent's process id, uid, gid, then the command. It imports the standard
library only, because it runs isolated (`python -I -S`). A function run between fork and exec
(`preexec_fn`) would be shorter and can deadlock in a process that has threads.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def main(arguments: Sequence[str]) -> None:
    """Become the command. Exits with a message on standard error when that is impossible."""
    parent, uid, gid = map(int, arguments[:3])
    command = arguments[3:]
    try:
        _become(parent, uid, gid)
        os.execv(command[0], list(command))  # noqa: S606 - there is no shell to want
    except OSError as error:
        sys.exit(f"cannot run {command[0]} as uid {uid}: {error.strerror}")


def _become(parent: int, uid: int, gid: int) -> None:
    if uid != os.geteuid():
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    # Only now: the kernel clears the death signal when credentials change. SIGQUIT is Postgres's
    # immediate shutdown, with which the postmaster takes its busy backends along; SIGKILL would
    # leave them running until their statements end.
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    if os.getppid() != parent:
        sys.exit("the service ended before the server started")
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and exec would pass that on


if __name__ == "__main__":
    main(sys.argv[1:])
