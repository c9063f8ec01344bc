"""The local chain as a server: HTTP and WebSocket, in a thread with its own event loop."""

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from types import FrameType
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from service.local.chain.bank import Bank
from service.local.chain.faults import HOLD_SECONDS
from service.local.chain.pubsub import Connection
from service.local.chain.rpc import Rpc, Unanswered
from service.local.chain.settings import LocalChainError, LocalChainSettings

REQUEST_BYTES_MAX: Final = 4 * 2**20
"""Longest request body. A validator takes 50 KiB; setting an account to a program takes more."""

_PORT_ATTEMPTS: Final = 50
_STOP_SECONDS: Final = 10
_BACKLOG: Final = 2_048
_POLL_SECONDS: Final = 0.05

_log = logging.getLogger(__name__)


def build_app(bank: Bank) -> Starlette:
    """The ASGI application that serves `bank`."""
    rpc = Rpc(bank)

    async def post(request: Request) -> Response:
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > REQUEST_BYTES_MAX:
                    return PlainTextResponse("request body is too large", status_code=413)
        except ClientDisconnect:
            return Response(status_code=400)
        try:
            response = rpc.handle(bytes(body))
        except Unanswered as fault:
            return await _unanswered(request, fault)
        return Response() if response is None else JSONResponse(response)

    async def health(_: Request) -> Response:
        return PlainTextResponse("ok")

    async def subscribe(websocket: WebSocket) -> None:
        await Connection(bank, websocket).serve()

    return Starlette(
        routes=[
            Route("/", post, methods=["POST"]),
            Route("/health", health),
            WebSocketRoute("/", subscribe),
        ],
        middleware=[
            Middleware(
                CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"]
            )
        ],
    )


async def _unanswered(request: Request, fault: Unanswered) -> Response:
    if fault.status is not None:
        return PlainTextResponse("injected fault", status_code=fault.status)
    for _ in range(int(HOLD_SECONDS / _POLL_SECONDS)):  # ASGI has no event for a lost client
        if await request.is_disconnected():
            break
        await asyncio.sleep(_POLL_SECONDS)
    return PlainTextResponse("injected timeout", status_code=504)


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _listen_on_pair(host: str, port: int) -> tuple[socket.socket, socket.socket]:
    """Listens on `port` and on the next one; 0 looks for two neighbours that are free.

    Raises:
        LocalChainError: a port is taken, or the host is not one of this machine.
    """
    failure: Exception | None = None
    for _ in range(1 if port else _PORT_ATTEMPTS):
        try:
            first = _listen(host, port)
        except OSError as error:
            raise LocalChainError(f"cannot listen on {host}:{port}: {error}") from error
        try:
            return first, _listen(host, first.getsockname()[1] + 1)
        except (OSError, OverflowError) as error:  # OverflowError: there is no port 65,536
            first.close()
            failure = error
    raise LocalChainError(
        f"cannot listen on {host} on a port and its next neighbour: {failure}"
    ) from failure


class LocalChain:
    """A local chain with its server. `start` and `stop` are called from one thread, once each.

    Its event loop has a thread to itself, so that a busy loop of the caller does not stall it.
    """

    def __init__(self, settings: LocalChainSettings) -> None:
        self.settings = settings
        self._address: tuple[str, int] | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where JSON-RPC is served over HTTP, once started."""
        return "http://" + self._authority(0)

    @property
    def websocket_url(self) -> str:
        """Where subscriptions are served: the next port, by a validator's convention."""
        return "ws://" + self._authority(1)

    def _authority(self, offset: int) -> str:
        if self._address is None:
            raise LocalChainError("the local chain has not been started")
        host, port = self._address
        return f"[{host}]:{port + offset}" if ":" in host else f"{host}:{port + offset}"

    def start(self) -> str:
        """Opens the chain and serves it; gives `url` when it answers.

        Raises:
            LocalChainError: bad settings, a taken port, or a data directory in use.
        """
        listeners = _listen_on_pair(self.settings.host, self.settings.port)
        self._address = (self.settings.host, listeners[0].getsockname()[1])
        ready: Future[uvicorn.Server] = Future()
        self._thread = threading.Thread(
            target=self._serve, args=(listeners, ready), name="local-chain", daemon=True
        )
        self._thread.start()
        self._server = ready.result()
        return self.url

    def stop(self) -> None:
        """Stops serving and closes the chain. Stopping twice does no harm."""
        server, thread = self._server, self._thread
        if server is None or thread is None:
            return
        server.should_exit = True
        thread.join(_STOP_SECONDS)
        if thread.is_alive():
            raise LocalChainError(f"the local chain did not stop within {_STOP_SECONDS} s")
        self._server = self._thread = None

    def _serve(self, listeners: tuple[socket.socket, ...], ready: "Future[uvicorn.Server]") -> None:
        try:
            bank = Bank(self.settings)
        except Exception as error:  # noqa: BLE001 - handed to the thread that waits in start()
            for listener in listeners:
                listener.close()
            ready.set_exception(error)
            return
        with closing(bank):
            config = uvicorn.Config(
                build_app(bank),
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="websockets-sansio",
                timeout_graceful_shutdown=1,
            )
            server = uvicorn.Server(config)
            ready.set_result(server)
            server.run(sockets=list(listeners))
        _log.info("local chain stopped at slot %d", bank.clock.slot())


def run_forever(
    settings: LocalChainSettings, *, on_ready: Callable[[LocalChain], None] | None = None
) -> None:
    """Serves a local chain until SIGINT or SIGTERM. Call it from the main thread.

    Raises:
        LocalChainError: it cannot start.
    """
    chain = LocalChain(settings)
    stopping = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopping.set()

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        chain.start()
        if on_ready is not None:
            on_ready(chain)
        stopping.wait()
        chain.stop()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
