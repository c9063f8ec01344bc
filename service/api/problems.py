"""From an exception to an answer: the only table of status codes. Spec: RFC 9457.

Every class of `domain/errors.py` has a status here, itself or by its nearest ancestor; a test walks
the tree.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, cast

import structlog
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from service.api.mpp.answers import RETRY_AFTER_SECONDS, is_wire, wire_code, wire_error
from service.api.x402.answers import answers_itself, outside
from service.domain import direct_errors, errors, grant_errors, lease_errors
from service.domain.errors import LedgerError
from service.domain.grant_errors import GrantRefused

log = structlog.get_logger()

STATUS: Final[Mapping[type[LedgerError], int]] = {
    errors.InvalidRequest: 400,
    errors.VoucherRejected: 400,
    errors.Unauthorized: 401,
    errors.SellerNotFound: 404,
    errors.SessionNotFound: 404,
    errors.SettlementNotFound: 404,
    errors.SessionExists: 409,
    lease_errors.LeaseHeld: 409,
    errors.SessionNotOpen: 409,
    errors.RecipientInUse: 409,
    errors.IdempotencyKeyReused: 409,
    errors.SettlementNotRetryable: 409,
    errors.SettlementNotAbandonable: 409,
    errors.FundingSourceUnknown: 422,
    errors.FundingSourceRefused: 409,
    errors.ChannelNotFound: 404,
    errors.ChannelClosed: 409,
    errors.ChannelExpired: 409,
    errors.AmountNotRising: 409,
    errors.DepositExceeded: 409,
    errors.FundingRevoked: 409,
    errors.InvalidWallet: 400,
    errors.InvalidAmount: 400,
    errors.NetworkMismatch: 400,
    errors.SellerNotRegistered: 404,
    errors.WalletNotOnboarded: 403,
    errors.RecipientNotAllowed: 403,
    errors.PayerUnproven: 403,
    errors.SignInRequired: 401,
    errors.SignInInvalid: 401,
    errors.InvalidTransaction: 400,
    errors.SponsorshipRefused: 400,
    errors.OnboardingNotFound: 400,
    errors.TransactionAltered: 400,
    errors.SignatureInvalid: 400,
    errors.TransactionExpired: 400,
    errors.SimulationFailed: 400,
    direct_errors.PaymentNotFound: 404,
    direct_errors.ResourceMismatch: 409,
    direct_errors.PaymentWasReversed: 409,
    grant_errors.GrantNotFound: 404,
    grant_errors.GrantInvalid: 422,
    grant_errors.GrantEntrypointNotAllowed: 403,
    grant_errors.GrantSignatureInvalid: 401,
    grant_errors.GrantRecipientNotAllowed: 403,
    grant_errors.GrantRefused: 402,
    errors.Rejected: 400,
    errors.Conflict: 503,
    errors.Unavailable: 503,
    errors.Corrupt: 500,
    LedgerError: 500,
}
_ROUTES_HINT: Final = "See /docs for the routes."
_TITLES: Final = {
    400: "Bad request",
    401: "Unauthorized",
    402: "Payment required",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    413: "Content too large",
    422: "Unprocessable",
    500: "Internal error",
    503: "Unavailable",
}


class Problem(BaseModel):
    """RFC 9457 problem details; those from `grantId` on come with the codes of grants only."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field(examples=["urn:session-ledger:problem:session_not_found"])
    title: str
    status: int
    detail: str
    code: str
    retryable: bool
    hint: str
    requestId: str  # noqa: N815  the wire's spelling
    grantId: str | None = None  # noqa: N815
    limit: str | None = None
    used: str | None = None
    requested: str | None = None
    fallback: Literal["owner_signature"] | None = None
    alias: str | None = None


def status_of(error: type[LedgerError]) -> int:
    """The status of a class: its own or its nearest ancestor's."""
    return next(STATUS[cls] for cls in error.__mro__ if cls in STATUS)


def problem(
    request_id: str,
    status: int,
    code: str,
    detail: str,
    *,
    hint: str,
    retryable: bool = False,
    grant: GrantRefused | None = None,
) -> Response:
    """The answer of one problem."""
    body: dict[str, Any] = {
        "type": f"urn:session-ledger:problem:{code}",
        "title": _TITLES.get(status, "Problem"),
        "status": status,
        "detail": detail,
        "code": code,
        "retryable": retryable,
        "hint": hint,
        "requestId": request_id,
    }
    headers: dict[str, str] = {}
    if status == STATUS[errors.Unavailable]:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    if status == STATUS[errors.Unauthorized]:
        headers["WWW-Authenticate"] = "Bearer"
    if grant is not None:
        body |= grant_members(grant)
        if (seconds := grant.details.retry_after) is not None:
            headers["Retry-After"] = str(seconds)
    return Response(json.dumps(body), status, headers, "application/problem+json")


def grant_members(refused: GrantRefused) -> dict[str, Any]:
    """What a refusal by a grant says beside its code. Spec: docs/grants.md."""
    details = refused.details
    return {
        "grantId": details.grant_id,
        "limit": details.limit,
        "used": details.used,
        "requested": details.requested,
        "retryable": details.retry_after is not None,
        "fallback": refused.fallback,
        "alias": refused.alias,
    }


def responses(*classes: type[LedgerError]) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entries of the problems a route can answer, each with an example."""
    always: tuple[type[LedgerError], ...] = (errors.InvalidRequest, errors.DatabaseUnavailable)
    grouped: dict[int, list[type[LedgerError]]] = {}
    for cls in dict.fromkeys((*always, *classes)):
        grouped.setdefault(status_of(cls), []).append(cls)
    return {
        status: _documented({cls.code: example_of(cls) for cls in members})
        for status, members in sorted(grouped.items())
    }


def example_of(cls: type[LedgerError]) -> dict[str, Any]:
    """One problem as OpenAPI shows it."""
    summary = (cls.__doc__ or "").strip().split("\n")[0]
    return _example(status_of(cls), cls.code, summary, cls.hint, retryable=cls.retryable)


def _documented(examples: Mapping[str, Any]) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        "description": "; ".join(examples),
        "content": {"application/problem+json": {"schema": schema, "examples": dict(examples)}},
    }


def _example(
    status: int, code: str, summary: str, hint: str, *, retryable: bool = False
) -> dict[str, Any]:
    return {
        "summary": summary,
        "value": {
            "type": f"urn:session-ledger:problem:{code}",
            "title": _TITLES[status],
            "status": status,
            "detail": summary,
            "code": code,
            "retryable": retryable,
            "hint": hint,
            "requestId": "req_4b1f0c7a",
        },
    }


BODY_TOO_LARGE: Final = _documented(
    {"body_too_large": _example(413, "body_too_large", "The body is too large.", _ROUTES_HINT)}
)


def request_id_of(request: Request) -> str:
    """The id that the middleware gave this request."""
    return request.scope.get("request_id", "")


def install(app: FastAPI, routers: Sequence[APIRouter]) -> None:
    """Answer every exception with a problem, or as the buyers' wire has it."""

    async def ledger_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, LedgerError)
        status = status_of(type(error))
        if status >= 500:  # noqa: PLR2004  server errors are worth a line
            log.warning("request_failed", code=error.code, detail=error.detail, status=status)
        return _refusal(
            request,
            status,
            wire_code(error) if is_wire(request.scope["path"]) else error.code,
            error.detail,
            hint=error.hint,
            retryable=error.retryable,
            grant=error if isinstance(error, GrantRefused) else None,
        )

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        codes = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}
        answer = _refusal(
            request,
            error.status_code,
            codes.get(error.status_code, "http_error"),
            str(error.detail),
            hint=_ROUTES_HINT,
        )
        if error.status_code == 405:  # noqa: PLR2004
            answer.headers["Allow"] = ", ".join(_methods_of(routers, request))
        return answer

    async def incomplete(request: Request, _error: Exception) -> Response:
        return _refusal(
            request,
            400,
            "body_incomplete",
            "the client went away before its body was complete",
            hint=errors.InvalidRequest.hint,
        )

    async def validation_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        return _refusal(
            request,
            400,
            errors.InvalidRequest.code,
            f"{place}: {first['msg']}",
            hint=errors.InvalidRequest.hint,
        )

    async def unexpected(request: Request, error: Exception) -> Response:
        log.error("request_crashed", exc_info=error, route=request.scope.get("path", ""))
        return _refusal(
            request,
            500,
            "internal_error",
            "the service failed to answer",
            hint="Report the requestId.",
        )

    app.add_exception_handler(LedgerError, ledger_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(ClientDisconnect, incomplete)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(Exception, unexpected)


def _refusal(
    request: Request,
    status: int,
    code: str,
    detail: str,
    *,
    hint: str,
    retryable: bool = False,
    grant: GrantRefused | None = None,
) -> Response:
    """The answer in the form that the path's clients read."""
    if is_wire(request.scope["path"]):
        return wire_error(status, code, detail)
    if answers_itself(request.scope["path"], status):
        return outside(request.scope["path"], status, detail)
    return problem(
        request_id_of(request), status, code, detail, hint=hint, retryable=retryable, grant=grant
    )


def _methods_of(routers: Sequence[APIRouter], request: Request) -> list[str]:
    """The methods of the request's path; each route knows its own ones only."""
    found: set[str] = set()
    for route in (route for router in routers for route in router.routes):
        if isinstance(route, APIRoute) and route.matches(request.scope)[0] is not Match.NONE:
            found |= cast("set[str]", route.methods)
    return sorted(found)
