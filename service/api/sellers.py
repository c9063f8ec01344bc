"""Operators' routes for sellers and their keys, and the challenge."""

import json
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from service.api.dependencies import (
    IDEMPOTENCY_HEADER,
    CallingSeller,
    Operator,
    ServicesOf,
    body_as,
)
from service.api.documentation import CHALLENGE, NEW_SELLER, SELLER, SELLERS, json_body
from service.api.problems import responses
from service.api.rendering import seller_json
from service.api.schemas import NewKeyBody, NewSellerBody, PriceBookBody
from service.application import sellers
from service.application.sellers import IssuedKey, NewSeller
from service.domain.errors import (
    InvalidRequest,
    RecipientInUse,
    SellerNotFound,
    Unauthorized,
)
from service.domain.seller import Seller
from service.domain.units import parse_pubkey
from session_ledger.challenge import Challenge

router = APIRouter(tags=["sellers"])
SellerId = Annotated[str, Path(pattern=r"^slr_[0-9a-f]{20}$")]


@router.post(
    "/v1/sellers",
    status_code=201,
    dependencies=[Operator],
    responses={201: NEW_SELLER, **responses(Unauthorized, RecipientInUse)},
    openapi_extra=json_body(NewSellerBody),
)
async def register_seller(request: Request, services: ServicesOf) -> Response:
    """Register a seller; the answer shows its API key, this once."""
    if IDEMPOTENCY_HEADER in request.headers:
        raise InvalidRequest(
            "Idempotency-Key is not kept for an answer that holds a secret; a repeated "
            "registration is refused as recipient_in_use"
        )
    body = await body_as(NewSellerBody, request)
    if body.network not in (None, services.network.name):
        raise InvalidRequest(f"network must be {services.network.name}, the cluster of this ledger")
    seller, key = await sellers.register_seller(
        services.ledger,
        NewSeller(
            name=body.name,
            recipient=parse_pubkey(body.recipient, "recipient"),
            network=services.network.name,
            prices=body.price_book(),
            unknown_channels=body.unknown_channels,
            require_nonce=body.require_nonce,
            shared_recipient=body.shared_recipient,
            limits=body.limits.parsed(),
        ),
        services.clock.now(),
    )
    return _with_key(seller, key, 201)


@router.get(
    "/v1/sellers", dependencies=[Operator], responses={200: SELLERS, **responses(Unauthorized)}
)
async def list_sellers(services: ServicesOf) -> Response:
    """All sellers, by name."""
    found = [
        seller_json((await services.directory.seller(seller_id)).seller)
        for seller_id in await services.queries.seller_ids()
    ]
    return _json({"sellers": found})


@router.get(
    "/v1/sellers/{sellerId}",
    dependencies=[Operator],
    responses={200: SELLER, **responses(Unauthorized, SellerNotFound)},
)
async def show_seller(services: ServicesOf, sellerId: SellerId) -> Response:  # noqa: N803
    """One seller, with its current prices."""
    return _json(seller_json((await services.directory.seller(sellerId)).seller))


@router.post(
    "/v1/sellers/{sellerId}/prices",
    dependencies=[Operator],
    responses={200: SELLER, **responses(Unauthorized, SellerNotFound)},
    openapi_extra=json_body(PriceBookBody),
)
async def publish_prices(request: Request, services: ServicesOf, sellerId: SellerId) -> Response:  # noqa: N803
    """Publish the next version of the price book. Accepted vouchers keep their version."""
    body = await body_as(PriceBookBody, request)
    seller = await sellers.publish_prices(
        services.ledger, sellerId, body.price_book(), services.clock.now()
    )
    return _json(seller_json(seller))


@router.post(
    "/v1/sellers/{sellerId}/keys",
    status_code=201,
    dependencies=[Operator],
    responses={201: NEW_SELLER, **responses(Unauthorized, SellerNotFound)},
    openapi_extra=json_body(NewKeyBody),
)
async def issue_key(request: Request, services: ServicesOf, sellerId: SellerId) -> Response:  # noqa: N803
    """Issue a further API key, shown once; older keys stay valid until revoked."""
    body = await body_as(NewKeyBody, request, optional=True)
    now = services.clock.now()
    seller, key = await sellers.issue_key(services.ledger, sellerId, body.label, now)
    return _with_key(seller, key, 201)


@router.delete(
    "/v1/sellers/{sellerId}/keys/{keyId}",
    status_code=204,
    dependencies=[Operator],
    responses=responses(Unauthorized, SellerNotFound),
)
async def revoke_key(
    services: ServicesOf,
    sellerId: SellerId,  # noqa: N803
    keyId: Annotated[str, Path(pattern="^[0-9a-f]{12}$")],  # noqa: N803
) -> Response:
    """Revoke an API key; every process refuses it within two seconds."""
    await sellers.revoke(services.ledger, sellerId, keyId, services.clock.now())
    return Response(status_code=204)


@router.get("/v1/challenge", responses={200: CHALLENGE, **responses(Unauthorized)})
async def challenge(
    services: ServicesOf,
    terms: CallingSeller,
    nonce: Annotated[
        bool, Query(description="Add a serverNonce that is good for one voucher.")
    ] = False,
) -> Response:
    """The 402 challenge to hand to a client that sent no voucher."""
    book = terms.book
    made = Challenge.of(
        recipient=terms.seller.recipient,
        network=terms.seller.network,
        price_per_unit=book.price_per_unit,
        meter=book.meter,
        suggested_deposit=book.suggested_deposit,
        server_nonce=services.nonces.issue(terms.seller_id, services.clock.now())
        if nonce
        else None,
    )
    return _json(made.to_json())


def _with_key(seller: Seller, key: IssuedKey, status: int) -> Response:
    return _json({**seller_json(seller), "apiKey": key.api_key, "keyId": key.key_id}, status)


def _json(body: object, status: int = 200) -> Response:
    return Response(json.dumps(body), status, media_type="application/json")
