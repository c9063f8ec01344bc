"""httpx transports that pay: any client with one of them pays 402 answers by itself."""

from typing import Any

import httpx

from session_ledger.buyer.autopay import AutoPay
from session_ledger.buyer.effects import run, run_async


class SessionTransport(httpx.AsyncBaseTransport):
    """For `httpx.AsyncClient` under asyncio. The requests' bodies are held in memory."""

    def __init__(self, autopay: AutoPay, inner: httpx.AsyncBaseTransport | None = None) -> None:
        self._autopay = autopay
        self._inner = inner or httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send it, pay if it must be, and give the paid answer.

        Raises:
            AutoPayError: it was not paid, or not answered after it was paid.
        """
        await request.aread()
        return await run_async(self._autopay.flow(request), self._inner.handle_async_request)

    async def aclose(self) -> None:
        """Close the connections. The `AutoPay` stays open."""
        await self._inner.aclose()


class SyncSessionTransport(httpx.BaseTransport):
    """For `httpx.Client`, from any thread. The requests' bodies are held in memory."""

    def __init__(self, autopay: AutoPay, inner: httpx.BaseTransport | None = None) -> None:
        self._autopay = autopay
        self._inner = inner or httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send it, pay if it must be, and give the paid answer.

        Raises:
            AutoPayError: it was not paid, or not answered after it was paid.
        """
        request.read()
        return run(self._autopay.flow(request), self._inner.handle_request)

    def close(self) -> None:
        """Close the connections. The `AutoPay` stays open."""
        self._inner.close()


async def autopay_fetch(
    autopay: AutoPay, url: str, *, method: str = "GET", **options: Any
) -> httpx.Response:
    """One request that pays if it must; its answer, read. The options are those of a request.

    Raises:
        AutoPayError: it was not paid, or not answered after it was paid.
    """
    async with autopay_client(autopay) as client:
        return await client.request(method, url, **options)


def autopay_client(autopay: AutoPay, **options: Any) -> httpx.AsyncClient:
    """An `httpx.AsyncClient` that pays; the options are the client's."""
    return httpx.AsyncClient(transport=SessionTransport(autopay), **options)


def sync_autopay_client(autopay: AutoPay, **options: Any) -> httpx.Client:
    """An `httpx.Client` that pays; the options are the client's."""
    return httpx.Client(transport=SyncSessionTransport(autopay), **options)
