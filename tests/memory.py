"""Where tests keep what need not outlive them: in memory, if the machine has room for it.

Making and dropping databases costs several times as much on a disk. Tests that kill what writes
keep to the disk, where a sync takes its time.
"""

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

_SHARED: Final = Path("/dev/shm")  # noqa: S108  the directories in it are ours alone
_ROOM: Final = 4 * 2**30
"""Bytes that must be free: each test process keeps several servers."""


def temporary() -> TemporaryDirectory[str]:
    """A directory that only we may enter, gone with its `with` block."""
    usable = _SHARED.is_dir() and os.access(_SHARED, os.W_OK)
    roomy = usable and shutil.disk_usage(_SHARED).free > _ROOM
    return TemporaryDirectory(prefix="session-ledger-", dir=_SHARED if roomy else None)
