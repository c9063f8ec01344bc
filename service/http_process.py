"""One server process: serves the application on a socket that its parent opened."""

import gc
import socket
import sys
from collections.abc import Callable
from typing import Any, Final

import uvicorn

from service.local.lifeline import end_with_parent

GRACEFUL_SECONDS: Final = 5
GARBAGE_THRESHOLDS: Final = (50_000, 20, 20)
APPLICATION: Final = "service.api.app:app_from_environment"


class _Server(uvicorn.Server):
    """Keeps what was loaded at the start out of every later garbage collection."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then set the collector for a process that makes much and keeps little.

        With the default thresholds the collector walks everything that was ever imported again and
        again, which costs some percent of each request and pauses of 100 ms.
        """
        await super().startup(sockets)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GARBAGE_THRESHOLDS)
        gc.enable()


def main(file_descriptor: int, application: str | Callable[[], Any] = APPLICATION) -> None:
    """Serve what `application` makes until SIGTERM or SIGINT; benchmarks give their own."""
    end_with_parent()
    # Imports leave no garbage; looking for it is a tenth of the start.
    gc.disable()
    listening = socket.socket(fileno=file_descriptor)
    config = uvicorn.Config(
        application,
        factory=True,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
        timeout_keep_alive=75,
        h11_max_incomplete_event_size=32 * 1024,
        limit_concurrency=2_048,
        ws="none",
    )
    server = _Server(config)
    server.run(sockets=[listening])
    sys.exit(0 if server.started else 3)


if __name__ == "__main__":
    main(int(sys.argv[1]))
