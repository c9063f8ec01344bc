"""One server process: serves the application on a socket that its parent opened."""

import socket
import sys

import uvicorn

from service.local.lifeline import end_with_parent

GRACEFUL_SECONDS = 5


def main(file_descriptor: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    end_with_parent()
    listening = socket.socket(fileno=file_descriptor)
    config = uvicorn.Config(
        "service.api.app:app_from_environment",
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
