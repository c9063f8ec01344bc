"""Session grants: owners register and end them, and whoever knows an id sees what is left."""

import json
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from service.api.dependencies import ServicesOf, body_as
from service.api.documentation import json_body
from service.api.grant_schemas import GRANT, GRANTS, PROOF, NewGrantBody, RevokeGrantBody
from service.api.mpp.sign_in import signed_in
from service.api.problems import responses
from service.api.rendering import amount, moment
from service.bootstrap import Services
from service.domain.errors import SignInInvalid, SignInRequired
from service.domain.grant_errors import (
    GrantEntrypointNotAllowed,
    GrantExpired,
    GrantInvalid,
    GrantNotFound,
    GrantSignatureInvalid,
)
from service.domain.grants import Grant
from service.domain.limits import PAGE_DEFAULT, PAGE_MAX
from service.domain.units import UnixMillis, parse_pubkey
from session_ledger.grant import ENTRYPOINT

router = APIRouter(tags=["grants"])

GrantId = Annotated[str, Path(description="The grant's id, 43 characters of base64url.")]


@router.post(
    "/v1/grants",
    status_code=201,
    responses={
        200: GRANT,
        201: GRANT,
        **responses(
            GrantInvalid,
            GrantEntrypointNotAllowed,
            GrantSignatureInvalid,
            GrantExpired,
            GrantNotFound,
        ),
    },
    openapi_extra=json_body(NewGrantBody),
)
async def register(request: Request, services: ServicesOf) -> Response:
    """Register a session grant that its owner signed; the signature is the proof, no key is needed.

    The same grant again changes nothing and is 200.
    """
    body = await body_as(NewGrantBody, request)
    now = services.clock.now()
    outcome = await services.grants.register(
        body.grant, body.signature, body.previous_grant_id, now
    )
    assert outcome.state is not None
    answer = await _with_enforcement(services, outcome.state, now)
    return _json(answer, 201 if outcome.events else 200)


@router.get(
    "/v1/grants",
    responses={200: GRANTS, **responses(SignInRequired, SignInInvalid)},
    openapi_extra={"parameters": [PROOF]},
)
async def list_grants(
    request: Request,
    services: ServicesOf,
    owner: Annotated[str, Query(max_length=64)],
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = PAGE_DEFAULT,
    cursor: Annotated[str | None, Query(max_length=128)] = None,
) -> Response:
    """The owner's grants, the newest first; with the header SIGN-IN-WITH-X, signed by the owner."""
    wallet = parse_pubkey(owner, "owner")
    await signed_in(request, services, wallet)
    now = services.clock.now()
    page = await services.grants.listed(wallet, limit=limit, after=cursor)
    listed = [_grant_json(grant, now) for grant in page.grants]
    return _json({"grants": listed, "nextCursor": page.next_cursor})


@router.get("/v1/grants/{grant_id}", responses={200: GRANT, **responses(GrantNotFound)})
async def show(services: ServicesOf, grant_id: GrantId) -> Response:
    """What the grant allows, and what of it is used up. Who knows the id may see it."""
    now = services.clock.now()
    grant = await services.grants.show(grant_id)
    return _json(await _with_enforcement(services, grant, now))


@router.post(
    "/v1/grants/{grant_id}/revoke",
    responses={200: GRANT, **responses(GrantNotFound, GrantSignatureInvalid)},
    openapi_extra=json_body(RevokeGrantBody),
)
async def revoke(request: Request, services: ServicesOf, grant_id: GrantId) -> Response:
    """End a grant for good, by its owner's signature. What was accepted before stays payable."""
    body = await body_as(RevokeGrantBody, request)
    now = services.clock.now()
    grant = await services.grants.revoke(grant_id, body.signature, body.at, now)
    return _json(await _with_enforcement(services, grant, now))


async def _with_enforcement(services: Services, grant: Grant, now: UnixMillis) -> dict[str, Any]:
    kind = await services.grants.enforced_by_chain(grant, now)
    enforced_by = ["server"] if kind is None else ["server", kind]
    return {**_grant_json(grant, now), "enforcedBy": enforced_by}


def _grant_json(grant: Grant, now: UnixMillis) -> dict[str, Any]:
    terms = grant.terms
    window = left = None
    if terms.window_max is not None:
        window = {"seconds": terms.window_seconds, "maxAmount": str(terms.window_max)}
        left = max(0, terms.window_max - grant.window_used(now))
    state = grant.state(now)
    return {
        "grantId": terms.grant_id,
        "state": state,
        "isActive": state == "active",
        "cluster": terms.network,
        "owner": terms.owner,
        "sessionPublicKey": terms.session_pubkey,
        "mint": terms.mint,
        "allowedEntrypoints": [ENTRYPOINT],
        "allowedRecipients": list(terms.recipients),
        "maxPaymentAmount": str(terms.max_payment),
        "maxCalls": terms.max_calls,
        "maxTotalAmount": str(terms.max_total),
        "window": window,
        "validFrom": terms.valid_from,
        "validUntil": terms.valid_until,
        "label": terms.label,
        "fallback": "owner_signature" if terms.owner_may_sign else None,
        "callsUsed": grant.calls_used,
        "amountUsed": str(grant.amount_used),
        "remainingCalls": grant.remaining_calls,
        "remainingAmount": str(grant.remaining_amount),
        "windowRemaining": amount(left),
        "registeredAt": moment(grant.registered_at),
        "exhaustedAt": moment(grant.exhausted_at),
        "revokedAt": moment(grant.revoked_at),
        "previousGrantId": grant.previous_grant_id,
    }


def _json(body: object, status: int = 200) -> Response:
    return Response(json.dumps(body), status, media_type="application/json")
