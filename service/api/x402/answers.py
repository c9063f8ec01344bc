"""How a facilitator answers: `verify` and `settle` refuse in forms of their own.

Members without a value are left out. Spec: x402 v1 and v2, facilitator interface.
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson
from fastapi import Response

from service.api.mpp.answers import RETRY_AFTER_SECONDS
from service.api.x402.reasons import UNEXPECTED_SETTLE, UNEXPECTED_VERIFY
from session_ledger.x402.exact import INVALID_PAYLOAD

VERIFY_PATH: Final = "/x402/verify"
SETTLE_PATH: Final = "/x402/settle"
UNEXPECTED: Final[Mapping[str, str]] = {
    VERIFY_PATH: UNEXPECTED_VERIFY,
    SETTLE_PATH: UNEXPECTED_SETTLE,
}
"""The reason of each route for what is nobody's fault."""

_SERVER_ERRORS: Final = 500
_UNAVAILABLE: Final = 503
_OF_HTTP: Final = frozenset({404, 405})


def answer(body: Mapping[str, Any], status: int = 200) -> Response:
    """An answer of the facilitator."""
    found = Response(orjson.dumps(body), status, media_type="application/json")
    if status == _UNAVAILABLE:
        found.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return found


def refusal(
    path: str, reason: str, message: str, *, status: int = 200, network: str = ""
) -> Response:
    """A refusal in the form of its route."""
    if path == VERIFY_PATH:
        body = {"isValid": False, "invalidReason": reason, "invalidMessage": message}
    else:
        body = {
            "success": False,
            "errorReason": reason,
            "errorMessage": message,
            "transaction": "",
            "network": network,
        }
    return answer(body, status)


def answers_itself(path: str, status: int) -> bool:
    """Whether a route of the facilitator answers this status, not HTTP's own rules."""
    return path in UNEXPECTED and status not in _OF_HTTP


def outside(path: str, status: int, detail: str) -> Response:
    """The answer to a request that its route never saw the end of."""
    reason = UNEXPECTED[path] if status >= _SERVER_ERRORS else INVALID_PAYLOAD
    return refusal(path, reason, detail, status=status)
