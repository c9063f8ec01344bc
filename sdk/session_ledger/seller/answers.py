"""What a seller answers a client that has not paid, or cannot be told yet whether it has."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from session_ledger.grant import PROBLEM_TYPE
from session_ledger.json_text import JsonValue
from session_ledger.seller.verdict import Verdict

RETRY_SECONDS: Final = 2
"""After which a client may ask again while the ledger is away."""

_GRANT_MEMBERS: Final = ("grantId", "limit", "used", "requested", "fallback", "alias")


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, JSON body and further headers."""

    status: int
    body: Mapping[str, JsonValue]
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def content(self) -> bytes:
        """The body as it is sent."""
        return json.dumps(dict(self.body)).encode()


def unpaid(challenge: Mapping[str, JsonValue]) -> Answer:
    """402 for a request without a voucher: the challenge, and what a problem says (RFC 9457).

    `type` is the challenge's, by which clients know it.
    """
    detail = "send the request again with a signed voucher in the header x-mpp-voucher"
    problem = _problem(HTTPStatus.PAYMENT_REQUIRED, "payment_required", detail)
    return Answer(HTTPStatus.PAYMENT_REQUIRED, {**problem, **challenge})


def refused(challenge: Mapping[str, JsonValue], verdict: Verdict) -> Answer:
    """For a voucher that buys nothing: the ledger's reason, what a grant says to it, and the
    challenge.

    A grant's 403 and 404 are marked as problems, by which a buyer's program tells them from an
    answer that it paid for.
    """
    grant, status = verdict.grant, verdict.status
    problem = _problem(
        status,
        verdict.reason or "payment_required",
        verdict.detail or "",
        error=verdict.error,
        retryable=grant.get("retryable") is True,
    )
    problem |= {"verdict": "replayed" if verdict.replayed else "rejected"}
    problem |= {name: grant[name] for name in _GRANT_MEMBERS if name in grant}
    if verdict.replayed:
        problem["receipt"] = dict(verdict.receipt)
    headers: dict[str, str] = {}
    if status != HTTPStatus.PAYMENT_REQUIRED:
        headers["content-type"] = PROBLEM_TYPE
    if isinstance(seconds := grant.get("retryAfter"), int):
        headers["retry-after"] = str(seconds)
    return Answer(status, {**problem, **challenge}, headers)


def not_json(detail: str) -> Answer:
    """400 for a header that cannot be read."""
    return problem(HTTPStatus.BAD_REQUEST, "invalid_voucher_json", detail)


def unavailable() -> Answer:
    """503 while the ledger is away: nothing is served, and the voucher stays good."""
    return problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "payment_unavailable",
        "payments cannot be verified at the moment; send the same voucher again",
        retry_after=RETRY_SECONDS,
    )


def problem(
    status: HTTPStatus, code: str, detail: str, *, retry_after: int | None = None
) -> Answer:
    """A problem without a challenge; one that may pass says after how many seconds."""
    body = _problem(status, code, detail, retryable=retry_after is not None)
    headers = {} if retry_after is None else {"retry-after": str(retry_after)}
    return Answer(status, {"type": "about:blank", **body}, headers)


def _problem(
    status: HTTPStatus,
    code: str,
    detail: str,
    *,
    error: str | None = None,
    retryable: bool = False,
) -> dict[str, JsonValue]:
    return {
        "title": status.phrase,
        "status": int(status),
        "code": code,
        "error": error or code,
        "detail": detail,
        "retryable": retryable,
    }
