"""What OpenAPI says of the answers: their schemas and examples. Nothing here runs on a request."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from service.api import answers, grant_schemas
from service.api.mpp import documentation as wire
from service.api.mpp.answers import is_wire
from service.api.problems import BODY_TOO_LARGE, Problem, example_of
from service.api.schemas import (
    CloseBody,
    LeaseBody,
    NewKeyBody,
    NewSellerBody,
    NewSessionBody,
    PriceBookBody,
)
from service.api.x402 import exact_documentation
from service.api.x402 import schemas as direct
from service.domain.errors import WrongPosition

REQUEST_BODIES = (CloseBody, LeaseBody, NewKeyBody, NewSellerBody, NewSessionBody, PriceBookBody)

WALLET = "9vMJfxuKxXBoEa7rM12mYLMwTacLMLDJqHozw96WQL8i"
SIGNATURE = (
    "5VERv8NMvzbJMEkV8xnrLkEaWRtSz9CosKDYjCJjBRnbJLgp8uirBgmQpjKhoR4tjF3ZpRzrFmBV6UjKdiSZkQUW"
)

_VOUCHER_EXAMPLE = {
    "voucher": {
        "channelId": "ch_1",
        "payer": WALLET,
        "recipient": WALLET,
        "cumulativeAmount": "10000",
        "sequence": 1,
        "meter": "request",
        "units": "1",
        "serverNonce": "5f0c5a0e-5a57-4a39-9b6c-1f1f4a1f0001",
        "chainId": "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1",
        "channelProgram": "swigypWHEksbC64pWKwah1WTeh9JXwx8H1rJHLdbQMB",
    },
    "signature": "base64 of 64 bytes",
    "signer": WALLET,
    "signatureType": "ed25519",
}


def _json_answer(model: type[BaseModel], description: str) -> dict[str, Any]:
    return {"model": model, "description": description}


CHALLENGE = _json_answer(answers.ChallengeAnswer, "The challenge to answer 402 with.")
SELLER = _json_answer(answers.SellerAnswer, "The seller, its current prices, its keys' names.")
SELLERS = _json_answer(answers.SellerList, "All sellers.")
NEW_SELLER = _json_answer(answers.NewKeyAnswer, "The seller, with a key that is shown this once.")
VERDICT = _json_answer(answers.VerdictAnswer, "The verdict; an accepted voucher is durable.")
BATCH_VERDICTS = _json_answer(answers.Verdicts, "A verdict for each voucher, in order.")
SESSION = _json_answer(answers.SessionContext, "The session context.")
SESSIONS = _json_answer(answers.SessionPage, "A page of session contexts.")
VOUCHERS = _json_answer(answers.VoucherPage, "A page of accepted vouchers.")
REJECTIONS = _json_answer(answers.Rejections, "Refused vouchers, counted and recent.")
CLOSED = _json_answer(answers.Closed, "The session and its one settlement.")
LEASE = _json_answer(answers.LeaseAnswer, "The lease, and when it ends unless it is renewed.")
SETTLEMENT = _json_answer(answers.SettlementAnswer, "The settlement.")
EVENTS = _json_answer(answers.EventPage, "A page of the feed.")
EVENT_STREAM: dict[str, Any] = {
    "description": "The feed as server-sent events.",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}
EXPOSURE = _json_answer(answers.ExposurePage, "A page of what is not settled.")
HEALTH = _json_answer(answers.Health, "The state.")


def json_body(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """A request body that the route reads itself."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    content = {"application/json": {"schema": schema}}
    return {"requestBody": {"required": required, "content": content}}


_SIGNED: dict[str, Any] = {
    "type": "object",
    "description": "The voucher as the buyer sent it; `charge` says what this request costs.",
    "properties": {
        "voucher": {"type": "object"},
        "signature": {"type": "string"},
        "signer": {"type": "string"},
        "signatureType": {"type": "string"},
        "charge": {
            "type": "object",
            "description": "One of {units}, {amount}, {meter, usage}.",
            "examples": [{"units": "3"}, {"amount": "25000"}, {"meter": "tokens", "usage": "1200"}],
        },
    },
    "examples": [_VOUCHER_EXAMPLE],
}
IDEMPOTENT: dict[str, Any] = {
    "parameters": [
        {
            "in": "header",
            "name": "Idempotency-Key",
            "required": False,
            "schema": {"type": "string", "maxLength": 255},
            "description": "A retry under the same key gives the first answer, byte for byte.",
        }
    ],
}
"""The header of routes that answer a retry with the first answer."""

VOUCHER_REQUEST: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": _SIGNED}}},
    **IDEMPOTENT,
}
BATCH_REQUEST: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["vouchers"],
                    "properties": {
                        "vouchers": {
                            "type": "array",
                            "items": _SIGNED,
                            "minItems": 1,
                            "maxItems": 1_000,
                        }
                    },
                }
            }
        },
    },
    **IDEMPOTENT,
}


def install(app: FastAPI) -> None:
    """Add to the generated document what routes that read their own body cannot say."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            for model in (
                Problem,
                *REQUEST_BODIES,
                *wire.SCHEMAS,
                *direct.SCHEMAS,
                *exact_documentation.SCHEMAS,
                *grant_schemas.SCHEMAS,
            ):
                schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
                schemas |= schema.pop("$defs", {})
                schemas[model.__name__] = schema
            _without_default_422(document)
            _complete(document)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi


def _without_default_422(document: dict[str, Any]) -> None:
    """FastAPI lists its own validation answer, which this service replaces with a problem."""
    for path in document["paths"].values():
        for operation in path.values():
            answer = operation["responses"].get("422", {})
            if "application/json" in answer.get("content", {}):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)


def _complete(document: dict[str, Any]) -> None:
    """Who may call each operation, that bodies have a largest size, and writers may collide.

    The buyers' routes and the facilitator say so themselves: they answer in other forms.
    """
    document["components"]["securitySchemes"] = {
        name: {"type": "http", "scheme": "bearer", "description": description}
        for name, description in (
            ("sellerKey", "A seller's API key."),
            ("adminToken", "The operators' token, ADMIN_TOKEN."),
        )
    }
    for path, operations in document["paths"].items():
        if is_wire(path) or path.startswith("/x402/"):
            continue
        schemes = ["adminToken"] if path.startswith("/v1/sellers") else ["sellerKey"]
        schemes += ["adminToken"] if path == "/v1/exposure" else []
        for method, operation in operations.items():
            answers_of = operation["responses"]
            if "401" in answers_of and not path.startswith("/v1/grants"):
                operation["security"] = [{scheme: []} for scheme in schemes]
            if "requestBody" in operation:
                answers_of["413"] = BODY_TOO_LARGE
            if method != "get":
                busy = answers_of["503"]["content"]["application/problem+json"]["examples"]
                busy[WrongPosition.code] = example_of(WrongPosition)
