"""Calls of the ledger's REST API as values, and how an answer is read. Nothing is sent here."""

from collections.abc import Generator
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, TypeVar

from session_ledger.json_text import JsonTextError, JsonValue, parse
from session_ledger.seller.errors import LedgerRefused, LedgerUnavailable

AWAY: Final = "answer 503 with Retry-After and serve nothing unpaid; the buyer keeps its voucher"
_AGAIN: Final = frozenset(
    {
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)


@dataclass(frozen=True, slots=True)
class Call:
    """One request. Each can be repeated: it writes nothing, or is idempotent, or has its key."""

    method: str
    path: str
    params: dict[str, str] = field(default_factory=dict[str, str])
    content: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict[str, str])


T = TypeVar("T")
Asking = Generator[Call, dict[str, JsonValue], T]
"""Steps that give calls, are sent their answers or what went wrong, and return a result: written
once, carried out with `await` or without."""


def json_call(
    method: str, path: str, content: bytes | None = None, *, key: str | None = None, **params: str
) -> Call:
    """A call with a JSON body, under an Idempotency-Key if one is given."""
    headers = {} if content is None else {"content-type": "application/json"}
    if key is not None:
        headers["idempotency-key"] = key
    return Call(method, path, params, content, headers)


def worth_repeating(status: int) -> bool:
    """Whether the same call may fare better a moment later."""
    return status in _AGAIN


def read_answer(status: int, content: bytes) -> dict[str, JsonValue]:
    """The object that the ledger answered with; empty for 204.

    Raises:
        LedgerUnavailable: a status of 500 or more, or no JSON object.
        LedgerRefused: any other status of 400 or more.
    """
    if status == HTTPStatus.NO_CONTENT:
        return {}
    try:
        body = parse(content)
    except JsonTextError:
        body = None
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or worth_repeating(status):
        raise LedgerUnavailable(f"the ledger answered {status}: {AWAY}")
    if not isinstance(body, dict):
        raise LedgerUnavailable(f"what answered {status} is no session ledger: check api_url")
    if status >= HTTPStatus.BAD_REQUEST:
        raise LedgerRefused(status, str(body.get("code")), str(body.get("detail")))
    return body
