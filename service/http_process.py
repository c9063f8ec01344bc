"""One server process: serves the application on a socket that its parent opened."""

import socket
import sys
from collections.abc import Callable
from typing import Any, Final

import uvicorn

from service.local.lifeline import end_with_parent

GRACEFUL_SECONDS: Final = 5
APPLICATION: Final = "service.api.app:app_from_environment"


def main(file_descriptor: int, application: str | Callable[[], Any] = APPLICATION) -> None:
    """Serve what `application` makes until SIGTERM or SIGINT; benchmarks give their own."""
    end_with_parent()
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
    server = uvicorn.Server(config)
    server.run(sockets=[listening])
    sys.exit(0 if server.started else 3)


if __name__ == "__main__":
    main(int(sys.argv[1]))
