"""A paid FastAPI server with the published `x402` middleware. usage: server.py CONFIG_JSON

Prints its address as one JSON line. Its routes cost the same price: `/paid`, `/upfront` (settled
before the handler), `/memo` (the seller names the memo), `/hinted` (the challenge holds a
blockhash), `/hurried` (a second until it is settled), `/broken` (the handler fails) and `/legacy`
(version 1, on the facilitator client).
"""

import json
import os
import socket
import sys
import threading
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from x402 import x402ResourceServer
from x402.http import (
    FacilitatorConfig,
    HTTPFacilitatorClient,
    decode_payment_signature_header,
    encode_payment_response_header,
)
from x402.http.middleware.fastapi import PaymentMiddlewareASGI
from x402.mechanisms.svm.exact import register_exact_svm_server
from x402.schemas.v1 import PaymentRequirementsV1

config: dict[str, Any] = json.loads(sys.argv[1])
app = FastAPI()
facilitator = HTTPFacilitatorClient(FacilitatorConfig(url=config["facilitator"]))


def option(**more: Any) -> dict[str, Any]:
    accepts = {
        "scheme": "exact",
        "network": config["network"],
        "payTo": config["payTo"],
        "price": config["price"],
    }
    return {"accepts": {**accepts, **more}}


plain = register_exact_svm_server(x402ResourceServer(facilitator))
hinting = register_exact_svm_server(x402ResourceServer(facilitator), rpc_url=config["rpcUrl"])
routes = {
    "GET /paid": option(),
    "GET /upfront": option(extra={"paymentFlow": "upfront"}),
    "GET /memo": option(extra={"memo": config["memo"]}),
    "GET /hurried": option(maxTimeoutSeconds=1),
    "GET /broken": option(),
}
app.add_middleware(PaymentMiddlewareASGI, routes=routes, server=plain)
app.add_middleware(PaymentMiddlewareASGI, routes={"GET /hinted": option()}, server=hinting)


@app.get("/broken")
async def broken() -> JSONResponse:
    return JSONResponse({"error": "out of order"}, 500)


@app.get("/legacy")
async def legacy(request: Request) -> JSONResponse:
    """What a server of version 1 does; the package has the client's half of it alone."""
    kinds = facilitator.get_supported().kinds
    kind = next(kind for kind in kinds if (kind.x402_version, kind.network) == (1, "solana-devnet"))
    requirements = PaymentRequirementsV1(
        scheme="exact",
        network=kind.network,
        max_amount_required=config["amount"],
        resource=str(request.url),
        description="",
        mime_type="application/json",
        pay_to=config["payTo"],
        max_timeout_seconds=60,
        asset=config["asset"],
        extra=kind.extra,
    )
    header = request.headers.get("x-payment")
    error = "X-PAYMENT header is required"
    if header:
        payment = decode_payment_signature_header(header)
        verified = await facilitator.verify(payment, requirements)
        if verified.is_valid:
            settled = await facilitator.settle(payment, requirements)
            answer = {"X-PAYMENT-RESPONSE": encode_payment_response_header(settled)}
            if settled.success:
                return JSONResponse({"served": "/legacy"}, headers=answer)
            return JSONResponse({"error": settled.error_reason}, 402, answer)
        error = verified.invalid_reason or ""
    accepts = [requirements.model_dump(by_alias=True, exclude_none=True)]
    return JSONResponse({"x402Version": 1, "error": error, "accepts": accepts}, 402)


@app.get("/{path}")
async def served(path: str) -> dict[str, str]:
    return {"served": f"/{path}"}


def end_with_the_input() -> None:
    """A server does not outlive the test that started it."""
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=end_with_the_input, daemon=True).start()
    listener = socket.create_server(("127.0.0.1", 0))
    print(json.dumps({"url": f"http://127.0.0.1:{listener.getsockname()[1]}"}), flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
