"""Operators' routes: alive, ready, metrics."""

import asyncio
import json
from typing import Any, Final

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.api.dependencies import ServicesOf
from service.api.documentation import HEALTH
from service.domain.errors import LedgerError

router = APIRouter(tags=["operators"])

RPC_WAIT_SECONDS: Final = 2.0


@router.get("/healthz", responses={200: HEALTH})
async def alive() -> Response:
    """The process answers."""
    return _json({"status": "ok"})


@router.get("/readyz", responses={200: HEALTH, 503: HEALTH})
async def ready(services: ServicesOf) -> Response:
    """Whether vouchers can be taken: the database and its schema. The RPC is reported beside it."""
    body: dict[str, Any] = {"status": "ready", "database": "ok", "rpc": "ok"}
    try:
        await services.queries.nonce_key()
    except LedgerError as error:
        body |= {"status": "unavailable", "database": error.detail}
    try:
        async with asyncio.timeout(RPC_WAIT_SECONDS):
            await services.chain.heights()
    except (LedgerError, TimeoutError) as error:
        body["rpc"] = str(error) or "no answer"
    return _json(body, 200 if body["database"] == "ok" else 503)


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(services: ServicesOf) -> Response:
    """Prometheus metrics of this process."""
    return Response(generate_latest(services.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _json(body: object, status: int = 200) -> Response:
    headers = {"Retry-After": "1"} if status == 503 else {}  # noqa: PLR2004
    return Response(json.dumps(body), status, headers, "application/json")
