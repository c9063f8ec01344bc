"""What OpenAPI says of the answers: their schemas and examples. Nothing here runs on a request."""

from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from service.api.problems import Problem
from service.api.schemas import (
    AMOUNT_PATTERN,
    CloseBody,
    NewKeyBody,
    NewSellerBody,
    NewSessionBody,
    PriceBookBody,
)

REQUEST_BODIES = (CloseBody, NewKeyBody, NewSellerBody, NewSessionBody, PriceBookBody)

State = Literal["open", "closing", "settled", "failed", "removed"]
Status = Literal["intended", "signed", "in_flight", "settled", "failed", "parked", "abandoned"]
WALLET = "9vMJfxuKxXBoEa7rM12mYLMwTacLMLDJqHozw96WQL8i"
SIGNATURE = (
    "5VERv8NMvzbJMEkV8xnrLkEaWRtSz9CosKDYjCJjBRnbJLgp8uirBgmQpjKhoR4tjF3ZpRzrFmBV6UjKdiSZkQUW"
)


class Answer(BaseModel):
    """An answer's body."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")


def _amount(example: str = "10000") -> Any:
    return Field(pattern=AMOUNT_PATTERN, examples=[example])


class Receipt(Answer):
    """What the log holds of an accepted voucher."""

    channel_id: str
    position: int
    amount_paid: str = _amount()
    cumulative_amount: str = _amount("30000")
    sequence: int
    accepted_at: str
    event_hash: str


class SettlementBrief(Answer):
    """A settlement inside another answer."""

    settlement_id: str
    status: Status
    amount: str = _amount("30000")
    signature: str | None = None


class Failure(Answer):
    """Why a settlement waits or ended without payment."""

    code: str
    detail: str
    hint: str | None
    at: str


class ClosedSettlement(SettlementBrief):
    """The settlement of a closed session."""

    failure: Failure | None = None


class Closed(Answer):
    """A closed session."""

    channel_id: str
    state: State
    settlement: ClosedSettlement


class LimitsAnswer(Answer):
    """Bounds beside the deposit."""

    max_increment: str | None
    max_cumulative: str | None
    max_vouchers: int | None


class SessionContext(Answer):
    """The session context."""

    channel_id: str
    state: State
    session_pubkey: str | None
    cumulative_amount: str = _amount("30000")
    voucher_count: int
    last_sequence: int | None
    payer: str
    recipient: str
    network: str
    deposit: str | None
    remaining: str | None
    funding: Literal["unverified", "verified", "insufficient", "revoked"]
    funding_slot: int | None
    source_token_account: str | None
    swig_address: str | None
    valid_until: str | None
    limits: LimitsAnswer
    position: int
    opened_at: str
    last_voucher_at: str | None
    close_requested_at: str | None
    settlement: SettlementBrief | None
    grant_id: str | None


class SessionPage(Answer):
    """A page of sessions."""

    sessions: list[SessionContext]
    next_cursor: str | None


class VerdictAnswer(Answer):
    """The verdict for one voucher; docs/errors.md lists the codes."""

    valid: bool
    verdict: Literal["accepted", "replayed", "rejected"]
    code: str | None = None
    error: str | None = None
    detail: str | None = None
    amount_paid: str | None = None
    receipt: Receipt | None = None
    session: SessionContext | None = None
    voucher: dict[str, Any] | None = None


class Verdicts(Answer):
    """Verdicts in the order of the request."""

    results: list[VerdictAnswer]


class VoucherRow(Answer):
    """An accepted voucher with all that is needed to verify it offline."""

    position: int
    time: str
    recorded_at: str
    raw_voucher: str
    signature: str
    signer: str
    signature_type: Literal["ed25519"]
    amount_paid: str = _amount()
    cumulative_amount: str = _amount("30000")
    required: str = _amount()
    sequence: int
    meter: str | None
    usage: str | None
    charge: dict[str, Any] | None
    price_version: int
    event_hash: str
    voucher: dict[str, Any]


class VoucherPage(Answer):
    """A page of the voucher history."""

    vouchers: list[VoucherRow]
    next_cursor: int | None


class RejectionCount(Answer):
    """How often vouchers were refused for one reason."""

    code: str
    count: int
    last_at: str


class RecentRejection(Answer):
    """A refused voucher."""

    code: str
    error: str
    time: str
    raw_voucher: str


class Rejections(Answer):
    """Refused vouchers."""

    counts: list[RejectionCount]
    recent: list[RecentRejection]


class AttemptAnswer(Answer):
    """One signed transaction."""

    number: int
    signature: str
    last_valid_block_height: int
    state: Literal["signed", "in_flight", "finalized", "failed", "expired"]


class SettlementAnswer(Answer):
    """A settlement in full."""

    settlement_id: str
    channel_id: str
    status: Status
    amount: str = _amount("30000")
    signature: str | None
    slot: int | None
    confirmation_status: Literal["processed", "confirmed", "finalized"] | None
    source: str | None
    destination: str | None
    authority: str | None
    attempts: list[AttemptAnswer]
    failure: Failure | None
    retry_at: str | None
    explorer_url: str | None


class EventAnswer(Answer):
    """One event; `payload` is exactly the bytes that were hashed."""

    cursor: str
    stream: Literal["session", "seller"]
    channel_id: str | None
    position: int
    type: str
    schema_version: int
    recorded_at: str
    prev_hash: str
    hash: str
    payload: dict[str, Any]


class EventPage(Answer):
    """A page of the feed; `next` is what to pass as `after`."""

    events: list[EventAnswer]
    next: str


class Health(Answer):
    """How the process fares."""

    status: str
    database: str | None = None
    rpc: str | None = None


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


CHALLENGE: dict[str, Any] = {"description": "The challenge to answer 402 with."}
SELLER: dict[str, Any] = {"description": "The seller, its current prices and its keys' names."}
NEW_SELLER: dict[str, Any] = {"description": "The seller, with an API key that is shown this once."}
VERDICT = _json_answer(VerdictAnswer, "The verdict; an accepted voucher is durable.")
BATCH_VERDICTS = _json_answer(Verdicts, "A verdict for each voucher, in order.")
SESSION = _json_answer(SessionContext, "The session context.")
SESSIONS = _json_answer(SessionPage, "A page of session contexts.")
VOUCHERS = _json_answer(VoucherPage, "A page of accepted vouchers.")
REJECTIONS = _json_answer(Rejections, "Refused vouchers, counted and recent.")
CLOSED = _json_answer(Closed, "The session and its one settlement.")
SETTLEMENT = _json_answer(SettlementAnswer, "The settlement.")
EVENTS = _json_answer(EventPage, "A page of the feed.")
EVENT_STREAM: dict[str, Any] = {
    "description": "The feed as server-sent events.",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}
HEALTH = _json_answer(Health, "The state.")


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
VOUCHER_REQUEST: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": _SIGNED}}},
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
    "parameters": VOUCHER_REQUEST["parameters"],
}


def install(app: FastAPI) -> None:
    """Add to the generated document what routes that read their own body cannot say."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            for model in (Problem, *REQUEST_BODIES):
                schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
                schemas |= schema.pop("$defs", {})
                schemas[model.__name__] = schema
            _without_default_422(document)
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
