"""Sending calls to the ledger: pooled connections, a few attempts, one error when it is away."""

import asyncio
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

import httpx

from session_ledger.json_text import JsonValue
from session_ledger.seller.calls import AWAY, Asking, Call, read_answer, worth_repeating
from session_ledger.seller.errors import LedgerRefused, LedgerUnavailable

T = TypeVar("T")
Sending: TypeAlias = Generator[tuple[float, Call], httpx.Response | httpx.TransportError, T]
"""Steps that say how long to wait and what to send, and are sent what came of it."""

CONNECTIONS_MAX: Final = 100
CONNECT_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for one answer, how often to ask, and how long to wait before the second
    time; each further wait is twice as long. All in seconds."""

    timeout: float = 5.0
    attempts: int = 3
    pause: float = 0.2

    def before(self, attempt: int) -> float:
        """The wait before this attempt, of which the first is 1."""
        return 0 if attempt == 1 else self.pause * 2.0 ** (attempt - 2)

    @property
    def httpx(self) -> httpx.Timeout:
        """The same for one request of httpx."""
        return httpx.Timeout(self.timeout, connect=min(CONNECT_SECONDS, self.timeout))


def _authorization(api_key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {api_key}"}


def _away(seen: object) -> LedgerUnavailable:
    return LedgerUnavailable(f"the ledger cannot be reached ({seen}): {AWAY}")


def _sending(asking: Asking[T], patience: Patience) -> Sending[T]:
    """All that carrying out steps is, but for waiting and sending."""
    try:
        call = next(asking)
        while True:
            try:
                answer = yield from _attempts(call, patience)
            except (LedgerRefused, LedgerUnavailable) as error:
                call = asking.throw(error)
            else:
                call = asking.send(answer)
    except StopIteration as end:
        return end.value
    finally:
        asking.close()


def _attempts(call: Call, patience: Patience) -> Sending[dict[str, JsonValue]]:
    """The ledger's answer to one call, which is sent again while that may help.

    Raises:
        LedgerUnavailable, LedgerRefused: see `read_answer`.
    """
    seen: object = None
    for attempt in range(1, patience.attempts + 1):
        came = yield patience.before(attempt), call
        if isinstance(came, httpx.TransportError):
            seen = str(came) or type(came).__name__
        elif worth_repeating(came.status_code):
            seen = came.status_code
        else:
            return read_answer(came.status_code, came.content)
    raise _away(seen)


class AsyncLedger:
    """Sends calls from one event loop.

    A client for each connection: one pool looks at every connection for every request, which with
    thirty of them costs more than the request.
    """

    def __init__(
        self,
        api_url: str,
        api_key: str,
        patience: Patience,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._patience = patience
        self._turn = asyncio.Semaphore(CONNECTIONS_MAX)
        self._all: list[httpx.AsyncClient] = []
        self._idle: list[httpx.AsyncClient] = []
        ssl = httpx.create_ssl_context()
        self._new: Callable[[], httpx.AsyncClient] = lambda: httpx.AsyncClient(
            base_url=api_url,
            headers=_authorization(api_key),
            timeout=patience.httpx,
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=1),
            transport=transport,
            verify=ssl,
        )

    async def close(self) -> None:
        """Close the connections."""
        for client in self._all:
            await client.aclose()

    async def carry_out(self, asking: Asking[T]) -> T:
        """What the steps come to, their calls sent in turn; raises what they raise."""
        sending = _sending(asking, self._patience)
        try:
            pause, call = next(sending)
            while True:
                await asyncio.sleep(pause)
                try:
                    came = await self._send(call)
                except httpx.TransportError as error:
                    came = error
                pause, call = sending.send(came)
        except StopIteration as end:
            return end.value
        finally:
            sending.close()  # a caller that was cancelled leaves them in the middle

    async def _send(self, call: Call) -> httpx.Response:
        async with self._turn:
            if not self._idle:
                self._idle.append(self._new())
                self._all += self._idle
            client = self._idle.pop()
            try:
                return await client.request(
                    call.method,
                    call.path,
                    params=call.params,
                    content=call.content,
                    headers=call.headers,
                )
            finally:
                self._idle.append(client)


class SyncLedger:
    """Sends calls from any thread."""

    def __init__(
        self,
        api_url: str,
        api_key: str,
        patience: Patience,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._patience = patience
        self._http = httpx.Client(
            base_url=api_url,
            headers=_authorization(api_key),
            timeout=patience.httpx,
            limits=httpx.Limits(
                max_connections=CONNECTIONS_MAX, max_keepalive_connections=CONNECTIONS_MAX
            ),
            transport=transport,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def carry_out(self, asking: Asking[T]) -> T:
        """What the steps come to, their calls sent in turn; raises what they raise."""
        sending = _sending(asking, self._patience)
        try:
            pause, call = next(sending)
            while True:
                time.sleep(pause)
                try:
                    came = self._send(call)
                except httpx.TransportError as error:
                    came = error
                pause, call = sending.send(came)
        except StopIteration as end:
            return end.value
        finally:
            sending.close()

    def _send(self, call: Call) -> httpx.Response:
        return self._http.request(
            call.method,
            call.path,
            params=call.params,
            content=call.content,
            headers=call.headers,
        )
