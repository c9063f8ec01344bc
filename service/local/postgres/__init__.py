"""An embedded Postgres: one server, owned by this process, for one-machine runs.

Read `server` first, then `directory` (what lies on disk), `locks` (who may touch it), `child` with
`launcher` (how a process is started that cannot outlive us) and `binaries`.
"""

from service.local.postgres.errors import (
    BinariesNotFound,
    DataDirectoryInUse,
    EmbeddedPostgresError,
    NotSupported,
    ServerFailed,
    UnusableDataDirectory,
)
from service.local.postgres.server import EmbeddedPostgres, PostgresAddress

__all__ = [
    "BinariesNotFound",
    "DataDirectoryInUse",
    "EmbeddedPostgres",
    "EmbeddedPostgresError",
    "NotSupported",
    "PostgresAddress",
    "ServerFailed",
    "UnusableDataDirectory",
]
