"""Buyers' onboarding: `/api/sessions/onboard`, its confirmation, and its status.

Every answer has the fields that the reference's code reads, and beside them those of its
documentation. Each route needs the header SIGN-IN-WITH-X.
"""

import base64
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from service.api.dependencies import ServicesOf
from service.api.mpp.answers import WireBody, wire_body, wire_json, wire_success
from service.api.mpp.documentation import CONFIRM, ONBOARD, STATUS
from service.api.mpp.sign_in import sign_in_header, signed_in
from service.api.rendering import amount, moment
from service.application.onboard import OnboardingRequest, Standing
from service.application.wallet_proof import proof_json
from service.bootstrap import Services
from service.domain.errors import (
    InvalidAmount,
    InvalidRequest,
    InvalidTransactionEncoding,
    NetworkMismatch,
)
from service.domain.onboarding import MILLIS
from service.domain.onchain import UnsignedTransaction
from service.domain.wallet_events import OnboardingIssued, WalletOnboarded

router = APIRouter(tags=["buyers"])

RECIPIENTS_MAX: Final = 32
TTL_SECONDS_MAX: Final = 100 * 365 * 24 * 3_600
TRANSACTIONS_MAX: Final = 8
_TRANSACTION_CHARS_MAX: Final = 1_644  # base64 of 1,232 bytes, the largest transaction
_UNSIGNED: Final = bytes(64)

_NEXT_STEPS: Final = {
    "ready": "Open a session: POST /mpp/session/open.",
    "transactions_required": "Sign all transactions with the wallet's key and send them, in this "
    "order, to POST /api/sessions/onboard/confirm.",
}


@router.post("/api/sessions/onboard", responses=ONBOARD.responses, openapi_extra=ONBOARD.extra)
async def onboard(request: Request, services: ServicesOf) -> Response:
    """Ask for the transactions by which the wallet lets us pay for it; `ready` when it does."""
    sign_in_header(request)
    body = await wire_body(request)
    wallet = body.wallet("buyer_wallet", "wallet")
    _check_network(services, body.optional_text("network"))
    spend_limit = body.optional_amount("spend_limit_atomic", "spend_limit")
    grant_id = body.optional_text("grant_id")
    if spend_limit == 0:
        raise InvalidAmount("spend_limit_atomic must be above 0")
    if grant_id is not None and spend_limit is not None:
        raise InvalidRequest("name spend_limit_atomic or grant_id: a grant says its own limit")
    asked = OnboardingRequest(
        wallet=wallet,
        spend_limit=spend_limit,
        ttl_seconds=body.optional_integer("ttl_seconds", least=1, most=TTL_SECONDS_MAX),
        recipients=_recipients(body),
        proof=proof_json(await signed_in(request, services, wallet)),
    )
    if grant_id is not None:
        now = services.clock.now()
        limit = await services.grants.limit_for_chain(grant_id, wallet, now)
        asked = replace(asked, spend_limit=limit, exactly=True)
    standing = await services.onboarding.onboard(asked)
    return _answer(standing, _onboard_body(services, wallet, standing))


@router.post(
    "/api/sessions/onboard/confirm", responses=CONFIRM.responses, openapi_extra=CONFIRM.extra
)
async def confirm(request: Request, services: ServicesOf) -> Response:
    """Hand in the signed transactions; waits until the chain shows what they brought about."""
    sign_in_header(request)
    body = await wire_body(request)
    wallet = body.wallet("buyer_wallet", "wallet")
    texts = body.texts(
        "signed_transactions",
        "transactions",
        count_max=TRANSACTIONS_MAX,
        chars_max=_TRANSACTION_CHARS_MAX,
    )
    wires = [_wire_bytes(at, text) for at, text in enumerate(texts)]
    proof = proof_json(await signed_in(request, services, wallet))
    standing = await services.onboarding.confirm(wallet, wires, proof)
    return _answer(standing, _confirm_body(wallet, standing))


@router.get("/api/sessions/onboard/status", responses=STATUS.responses, openapi_extra=STATUS.extra)
async def status(request: Request, services: ServicesOf) -> Response:
    """How it stands with the wallet's onboarding, after a look at the chain."""
    sign_in_header(request)
    query = WireBody(dict(request.query_params))
    wallet = query.wallet("buyer_wallet", "wallet")
    _check_network(services, query.optional_text("network"))
    proof = proof_json(await signed_in(request, services, wallet))
    standing = await services.onboarding.status(wallet, proof)
    return wire_success(_status_body(services, wallet, standing))


def _answer(standing: Standing, body: Mapping[str, Any]) -> Response:
    """An onboarding that does not go on is an error in its body; the client reads `status`."""
    if standing.status in ("not_eligible", "temporarily_unavailable"):
        failure = {"success": False, "ok": False, "error": standing.status}
        return wire_json({**failure, "detail": standing.detail or "", **body})
    return wire_success(body)


def _onboard_body(services: Services, wallet: str, standing: Standing) -> dict[str, Any]:
    body: dict[str, Any] = {
        "status": standing.status,
        "buyer_wallet": wallet,
        "network": services.network.name,
        "funding_source": services.settings.offered_funding,
        "swig_address": _address(standing),
    }
    if standing.reading is not None:
        body["spend_limit_remaining"] = amount(standing.reading.available)
    issued, onboarded = standing.wallet.issued, standing.wallet.onboarded
    if standing.status == "ready" and onboarded is not None:
        body |= _permission(onboarded)
        left = onboarded.expires_at and onboarded.expires_at - services.clock.now() // MILLIS
        body["role_details"] = _role(services, onboarded.spend_limit, left)
    if standing.status == "transactions_required" and issued is not None:
        body["transactions"] = _to_sign(issued)
        body["recipients"] = list(issued.recipients)
        body["role_details"] = _role(services, issued.spend_limit, issued.ttl_seconds)
        if issued.ttl_seconds is not None:
            body["expires_at"] = moment(issued.at + issued.ttl_seconds * MILLIS)
    if (step := _NEXT_STEPS.get(standing.status)) is not None:
        body["next_step"] = step
    return body


def _confirm_body(wallet: str, standing: Standing) -> dict[str, Any]:
    body: dict[str, Any] = {
        "status": standing.status,
        "buyer_wallet": wallet,
        "swig_address": _address(standing),
        "message": standing.detail or _NEXT_STEPS.get(standing.status, ""),
    }
    if standing.wallet.submitted is not None:
        body["onboard_tx_signatures"] = list(standing.wallet.submitted.signatures)
    if standing.status == "ready" and standing.wallet.onboarded is not None:
        body |= _permission(standing.wallet.onboarded)
    return body


def _status_body(services: Services, wallet: str, standing: Standing) -> dict[str, Any]:
    """Here the client's types say null where nothing is known."""
    onboarded = standing.wallet.onboarded
    return {
        "buyer_wallet": wallet,
        "wallet": wallet,
        "network": services.network.name,
        "status": standing.status,
        "swig_address": _address(standing) or None,
        "role_id": onboarded and (onboarded.role_id or 0),
        "funding_source": onboarded and onboarded.kind,
        "source_token_account": onboarded and onboarded.source,
        "spend_limit_atomic": onboarded and amount(onboarded.spend_limit),
        "spend_limit_remaining": standing.reading and amount(standing.reading.available),
        "role_expires_at": onboarded and _expiry(onboarded),
        "recipients": list(standing.wallet.recipients(None)),
    }


def _permission(onboarded: WalletOnboarded) -> dict[str, Any]:
    """A delegation has no role; the client wants a number all the same, and reads nothing into
    it."""
    found: dict[str, Any] = {
        "role_id": onboarded.role_id or 0,
        "source_token_account": onboarded.source,
        "recipients": list(onboarded.recipients),
    }
    if onboarded.expires_at is not None:
        found["expires_at"] = _expiry(onboarded)
    return found


def _role(services: Services, spend_limit: int, ttl_seconds: int | None) -> dict[str, Any]:
    return {
        "spend_limit_atomic": amount(spend_limit),
        "ttl_seconds": ttl_seconds,
        "dexter_session_pubkey": services.onboarding.session_pubkey,
        "programs": [services.settlement_terms.token_program],
    }


def _to_sign(issued: OnboardingIssued) -> list[dict[str, str]]:
    """Each transaction as wire bytes, with an empty place for every signature."""
    return [
        {
            "type": asked.type,
            "tx": base64.b64encode(
                UnsignedTransaction(asked.message, asked.signers).signed(
                    dict.fromkeys(asked.signers, _UNSIGNED)
                )
            ).decode(),
        }
        for asked in issued.transactions
    ]


def _address(standing: Standing) -> str:
    """What the wire calls the Swig address: the wallet's token account where there is no Swig."""
    issued, onboarded, source = standing.wallet.issued, standing.wallet.onboarded, standing.source
    if source is not None:
        return source.swig_address or source.token_account
    if onboarded is not None:
        return onboarded.swig_address or onboarded.source
    return (issued and issued.swig_address) or ""


def _expiry(onboarded: WalletOnboarded) -> str | None:
    """We end it: the chain's delegation has no end of its own."""
    return moment(None if onboarded.expires_at is None else onboarded.expires_at * MILLIS)


def _recipients(body: WireBody) -> tuple[str, ...] | None:
    if body.get("recipients") is None:
        return None
    named = body.texts("recipients", count_max=RECIPIENTS_MAX)
    return tuple(WireBody({"recipients": each}).wallet("recipients") for each in named)


def _wire_bytes(at: int, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise InvalidTransactionEncoding(f"signed_transactions[{at}] is not base64") from None


def _check_network(services: Services, name: str | None) -> None:
    if name not in (None, services.network.name, services.network.chain_id):
        raise NetworkMismatch(f"this service is for {services.network.name}")
