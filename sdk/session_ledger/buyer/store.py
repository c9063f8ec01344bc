"""Where a client keeps what it signed: one file, written whole and durably before anything is sent.

The file holds vouchers and transactions that are under way, so it is as secret as a purse (mode
0600). One process at a time has it.
"""

import fcntl
import os
from pathlib import Path
from typing import Final, Protocol

from session_ledger.buyer.errors import StoreError

_MODE: Final = 0o600


class Store(Protocol):
    """Keeps one text."""

    def load(self) -> str | None:
        """The text that was saved last; `None` at the first start."""
        ...

    def save(self, text: str) -> None:
        """Keep the text. It survives a crash of this process and of the machine on return."""
        ...

    def close(self) -> None:
        """Let others have it."""
        ...


class MemoryStore:
    """Forgets everything with the process: a payment under way is then lost to the buyer."""

    def __init__(self) -> None:
        self._text: str | None = None

    def load(self) -> str | None:
        """See `Store`."""
        return self._text

    def save(self, text: str) -> None:
        """See `Store`."""
        self._text = text

    def close(self) -> None:
        """See `Store`."""


class FileStore:
    """A file that is replaced at each save, and a lock file beside it.

    Raises:
        StoreError: another process has it.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lock = self._path.with_name(self._path.name + ".lock")
        self._lock = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise StoreError(f"{self._path} is in use by another process") from None

    def load(self) -> str | None:
        """See `Store`.

        Raises:
            StoreError: the file cannot be read.
        """
        try:
            return self._path.read_text()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"{self._path} cannot be read: {error}") from error

    def save(self, text: str) -> None:
        """See `Store`.

        Raises:
            StoreError: it could not be made durable; nothing may be sent.
        """
        fresh = self._path.with_name(self._path.name + ".new")
        try:
            file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _MODE)
            with os.fdopen(file, "w") as output:
                output.write(text)
                output.flush()
                os.fsync(output.fileno())
            fresh.replace(self._path)
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise StoreError(f"{self._path} cannot be written: {error}") from error

    def close(self) -> None:
        """See `Store`."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
