"""Children that cannot outlive us: the kernel ends a child when its parent is killed."""

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
PARENT_VARIABLE: Final = "SESSION_LEDGER_PARENT"
"""Holds the process id of the `serve` that started this process."""


def end_with_parent() -> None:
    """Have the kernel kill this process when the parent named in the environment ends.

    Call from the main thread, first. Does nothing where no parent is named.
    """
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):
        sys.exit("the service ended before its child started")
