"""Charges single routes of a FastAPI application. Needs `session-ledger-client[fastapi]`."""

from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, Response

from session_ledger.seller.answers import Answer
from session_ledger.seller.asgi import voucher_of
from session_ledger.seller.gate import Gate, Price
from session_ledger.seller.server import SessionServer
from session_ledger.seller.verdict import Verdict


class NotPaid(Exception):
    """The request did not pay; `answer` goes to the client."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.body.get("code"))
        self.answer = answer


def paid(
    server: SessionServer, price: Price = None, *, replays: bool = False
) -> Callable[[Request, Response], Awaitable[Verdict | None]]:
    """A dependency that lets paid requests pass and gives their verdict, None for OPTIONS.

    `price` is in atomic units; a function is given the request. The verdict is also
    `request.state.payment`. `replays`: see `Gate`. The application needs `install`.
    """
    gate = Gate(server, price, replays)

    async def payment(request: Request, response: Response) -> Verdict | None:
        if request.method == "OPTIONS":
            return None
        verdict = await gate.judge(voucher_of(request.scope), request)
        if isinstance(verdict, Answer):
            raise NotPaid(verdict)
        request.state.payment = verdict
        response.headers.update(verdict.headers)
        return verdict

    return payment


def install(app: FastAPI) -> None:
    """Answer those who did not pay with the challenge."""

    async def answer(_: Request, error: Exception) -> Response:
        assert isinstance(error, NotPaid)
        found = error.answer
        headers = {"cache-control": "no-store", **found.headers}
        return Response(found.content, found.status, headers, "application/json")

    app.add_exception_handler(NotPaid, answer)
