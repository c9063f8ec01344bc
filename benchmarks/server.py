"""The server process under test: the service's own, with a few more endpoints to compare with.

Argument: the listening socket's descriptor. Everything else comes from the environment, and the
server runs as `service.http_process` runs it: same options, same middleware, same process.
"""

import json
import sys

import direct_server
from fastapi import FastAPI, Request, Response

from service import http_process
from service.api.app import app_from_environment

PARSE_ONLY_PATH = "/benchmark/parse-only"
PARSE_ONLY_SIGN_PATH = "/benchmark/parse-only-sign"
_ADDRESS = "1" * 44


async def parse_only(request: Request) -> Response:
    """Parse the body and answer as much as an accepted voucher is answered with. Nothing else.

    No authentication, no signature, no database: the least that a server of this kind can do.
    """
    envelope = json.loads(await request.body())
    voucher = envelope["voucher"]
    context = {
        "channelId": voucher["channelId"],
        "state": "open",
        "sessionPubkey": envelope["signer"],
        "cumulativeAmount": voucher["cumulativeAmount"],
        "voucherCount": voucher["sequence"],
        "lastSequence": voucher["sequence"],
        "payer": voucher["payer"],
        "recipient": voucher["recipient"],
        "network": "localnet",
        "deposit": None,
        "remaining": None,
        "funding": "unverified",
        "position": voucher["sequence"],
        "openedAt": "2026-01-01T00:00:00.000Z",
        "lastVoucherAt": "2026-01-01T00:00:00.000Z",
        "closeRequestedAt": None,
        "settlement": None,
        "grantId": None,
    }
    receipt = {
        "channelId": voucher["channelId"],
        "position": voucher["sequence"],
        "amountPaid": voucher["units"],
        "cumulativeAmount": voucher["cumulativeAmount"],
        "sequence": voucher["sequence"],
        "acceptedAt": "2026-01-01T00:00:00.000Z",
        "eventHash": "0" * 64,
    }
    verdict = {
        "valid": True,
        "verdict": "accepted",
        "amountPaid": voucher["units"],
        "receipt": receipt,
        "session": context,
        "voucher": voucher,
    }
    return Response(json.dumps(verdict), media_type="application/json")


async def parse_only_sign(request: Request) -> Response:
    """Parse the body and answer as much as a signed voucher is answered with. Nothing else."""
    asked = json.loads(await request.body())
    amount = asked["amount"]
    signed = {
        "success": True,
        "ok": True,
        "voucher": {
            "channelId": asked["channel_id"],
            "payer": _ADDRESS,
            "recipient": _ADDRESS,
            "cumulativeAmount": amount,
            "meter": "request",
            "units": "1",
            "serverNonce": asked["serverNonce"],
            "chainId": "solana:" + "0" * 32,
            "channelProgram": _ADDRESS,
            "sequence": len(amount),
        },
        "signature": "0" * 88,
        "signer": _ADDRESS,
        "signatureType": "ed25519",
        "channel_id": asked["channel_id"],
        "sequence": len(amount),
        "amount": amount,
        "cumulative_amount": amount,
        "remaining_atomic": amount,
    }
    return Response(json.dumps(signed, separators=(",", ":")), media_type="application/json")


def application() -> FastAPI:
    """The service's application and the endpoints, which are matched before all others."""
    app = app_from_environment()
    for path, endpoint in (
        (PARSE_ONLY_PATH, parse_only),
        (PARSE_ONLY_SIGN_PATH, parse_only_sign),
        (direct_server.VERIFY_PATH, direct_server.verify),
        (direct_server.OFF_PATH, direct_server.verification_off),
    ):
        app.add_api_route(path, endpoint, methods=["POST"])
        app.router.routes.insert(0, app.router.routes.pop())
    return app


if __name__ == "__main__":
    http_process.main(int(sys.argv[1]), application)
