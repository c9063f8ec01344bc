"""Requests that no HTTP library would send, over a bare socket."""

import re
import socket
from typing import Final

from running import Service

ANSWER_SECONDS: Final = 20
_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3}) ")


def exchange(service: Service, request: bytes, *, cut: bool = False) -> int | None:
    """Send `request` and give the status of the answer; None when the server just hangs up.

    With `cut` the connection is half closed afterwards, as when a client gives up. A request that
    wants an answer should carry `connection: close`.
    """
    with socket.create_connection(service.address, timeout=ANSWER_SECONDS) as connection:
        try:
            connection.sendall(request)
            if cut:
                connection.shutdown(socket.SHUT_WR)
            answer = _received(connection)
        except ConnectionError:
            return None
    found = _STATUS.match(answer)
    assert found or not answer, answer[:200]
    return int(found[1]) if found else None


def request(method: str, path: str, token: str, body: bytes = b"", *headers: bytes) -> bytes:
    """A whole request; `headers` are lines of their own. Characters of `path` are bytes."""
    lines = [
        f"{method} {path} HTTP/1.1".encode("latin-1"),
        b"host: test",
        b"authorization: Bearer " + token.encode(),
        b"connection: close",
        *headers,
    ]
    if body or method == "POST":
        lines.append(b"content-length: " + str(len(body)).encode())
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def _received(connection: socket.socket) -> bytes:
    """What comes until the server closes, or until the head of an answer is complete."""
    answer = b""
    while b"\r\n\r\n" not in answer and (part := connection.recv(65_536)):
        answer += part
    return answer
