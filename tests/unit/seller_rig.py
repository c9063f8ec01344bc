"""A `SessionServer` over a ledger that is played, and what that ledger answers."""

import json
from typing import Any

import httpx

from session_ledger.seller import Patience, SessionServer, Verdict

RECIPIENT = "9vMJfxuKxXBoEa7rM12mYLMwTacLMLDJqHozw96WQL8i"
VOUCHER = '{"voucher": {"channelId": "c", "n": 1.0}, "signature": "s", "signer": "k"}'
RECEIPT = {
    "eventHash": "ab12",
    "channelId": "c",
    "position": 2,
    "sequence": 1,
    "amountPaid": "10000",
}
ACCEPTED = {"valid": True, "verdict": "accepted", "amountPaid": "10000", "receipt": RECEIPT}
REPLAYED = {
    "valid": False,
    "verdict": "replayed",
    "code": "amount_not_monotonic",
    "error": "amount_not_monotonic",
    "detail": "accepted before",
    "receipt": RECEIPT,
}
REFUSED = {
    "valid": False,
    "verdict": "rejected",
    "code": "underpaid",
    "error": "underpaid: expected 2, got 1",
    "detail": "adds less",
}
NOW = Patience(attempts=3, pause=0)


class Played:
    """Answers in turn, the last one for ever; an exception is raised. Keeps what was asked."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            return httpx.Response(answer.status_code, content=answer.content)
        return httpx.Response(200, json=answer)

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(request.content) for request in self.asked]

    @property
    def keys(self) -> list[str]:
        return [request.headers["idempotency-key"] for request in self.asked]


def problem(status: int, code: str) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "detail": "d"})


def server_of(played: Played, **settings: Any) -> SessionServer:
    settings = {"network": "devnet", "api_key": "sk_1", "patience": NOW, **settings}
    transport = httpx.MockTransport(played)
    return SessionServer(RECIPIENT, settings.pop("price", "10000"), transport=transport, **settings)


async def verdict_of(played: Played, voucher: Any = VOUCHER, **options: Any) -> Verdict:
    async with server_of(played) as server:
        return await server.verify_voucher(voucher, **options)
