"""Why the embedded Postgres did not start. Every message says what happened and what to do."""

from pathlib import Path


class EmbeddedPostgresError(RuntimeError):
    """The embedded Postgres cannot be run; the subclasses say why."""


class NotSupported(EmbeddedPostgresError):
    """This operating system cannot run it: `DATABASE_URL` is needed."""


class BinariesNotFound(EmbeddedPostgresError):
    """No usable `postgres` and `initdb` of version 15 or newer."""


class UnusableDataDirectory(EmbeddedPostgresError):
    """The data directory has the wrong owner, cannot be written, or is incomplete."""


class ServerFailed(EmbeddedPostgresError):
    """`initdb` or `postgres` ended early; the message carries the end of its log."""


class DataDirectoryInUse(EmbeddedPostgresError):
    """Another process owns the data directory."""

    def __init__(self, data_dir: Path, holder: int | None) -> None:
        """`holder` is the process id of the first owner, None when it has not written it yet."""
        who = "another process" if holder is None else f"process {holder}"
        super().__init__(
            f"{data_dir} is in use by {who}: stop it, choose another data directory, "
            "or share one database through DATABASE_URL"
        )
        self.holder = holder
