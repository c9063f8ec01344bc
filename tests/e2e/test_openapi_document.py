"""The document says of every operation what it does, who may call it, and how it can fail."""

import json
import re
from typing import Any

import httpx
import pytest
from running import Service

from service.api.mpp.answers import failure_code
from service.api.problems import Problem, status_of
from service.domain.errors import LedgerError
from service.domain.failures import FAILURES
from service.domain.refusals import REFUSALS
from service.ports import SignerUnavailable
from tests.e2e import documented

# What each route can answer besides the problems of every route. Spec: HTTP contract, "Sellers".
PROBLEMS = {
    "POST /v1/sellers": {"unauthorized", "recipient_in_use"},
    "GET /v1/sellers": {"unauthorized"},
    "GET /v1/sellers/{sellerId}": {"unauthorized", "seller_not_found"},
    "POST /v1/sellers/{sellerId}/prices": {"unauthorized", "seller_not_found"},
    "POST /v1/sellers/{sellerId}/keys": {"unauthorized", "seller_not_found"},
    "DELETE /v1/sellers/{sellerId}/keys/{keyId}": {"unauthorized", "seller_not_found"},
    "GET /v1/challenge": {"unauthorized"},
    "POST /v1/vouchers/verify": {"unauthorized", "idempotency_key_reused"},
    "POST /v1/vouchers/verify-batch": {"unauthorized", "idempotency_key_reused"},
    "POST /v1/sessions": {
        "unauthorized", "idempotency_key_reused", "session_exists", "payer_unproven",
        "grant_not_found", "grant_signer_mismatch", "grant_revoked", "grant_not_yet_valid",
        "grant_expired", "grant_recipient_not_allowed",
    },
    "GET /v1/sessions": {"unauthorized"},
    "GET /v1/sessions/{channel_id}": {"unauthorized", "session_not_found"},
    "GET /v1/sessions/{channel_id}/vouchers": {"unauthorized", "session_not_found"},
    "GET /v1/sessions/{channel_id}/rejections": {"unauthorized"},
    "DELETE /v1/sessions/{channel_id}": {"unauthorized"},
    "POST /v1/sessions/{channel_id}/close": {
        "unauthorized", "session_not_found", "funding_source_unknown", "idempotency_key_reused",
    },
    "POST /v1/sessions/{channel_id}/lease": {"unauthorized", "lease_held"},
    "DELETE /v1/sessions/{channel_id}/lease": {"unauthorized"},
    "GET /v1/rejections": {"unauthorized"},
    "GET /v1/settlements/{settlementId}": {"unauthorized", "settlement_not_found"},
    "GET /v1/events": {"unauthorized"},
    "GET /v1/events/stream": {"unauthorized"},
    "GET /v1/exposure": {"unauthorized"},
    "GET /v1/payments/requirements": {"unauthorized"},
    "POST /v1/payments/verify": {"unauthorized", "network_mismatch", "idempotency_key_reused"},
    "POST /v1/payments/{signature}/delivery-failed": {
        "unauthorized", "payment_not_found", "resource_mismatch", "payment_reversed",
        "idempotency_key_reused",
    },
    "GET /v1/payments/{signature}": {"unauthorized", "payment_not_found"},
    "GET /v1/payments": {"unauthorized"},
    "POST /v1/grants": {
        "grant_invalid", "grant_entrypoint_not_allowed", "grant_signature_invalid",
        "grant_expired", "grant_not_found",
    },
    "GET /v1/grants": {"sign_in_required", "sign_in_invalid"},
    "GET /v1/grants/{grant_id}": {"grant_not_found"},
    "POST /v1/grants/{grant_id}/revoke": {"grant_not_found", "grant_signature_invalid"},
}  # fmt: skip
_PROOF = {"sign_in_required", "sign_in_invalid", "invalid_wallet"}
_STEP = {"invalid_request", "database_unavailable", "wrong_position", "body_too_large"}
# Every code that a buyers' route can answer. Spec: the reference's codes; docs/buyers.md.
WIRE = {
    "POST /mpp/session/open": {
        *_STEP, *_PROOF, "invalid_amount", "network_mismatch", "wallet_not_onboarded",
        "recipient_not_allowed", "seller_not_registered", "insufficient_deposit",
        "funding_source_refused", "too_many_open_sessions", "delegate_revoked", "wrong_mint",
        "source_account_missing", "source_account_frozen", "source_owner_mismatch", "swig_off",
        "swig_account_missing", "swig_v1", "swig_role_not_found", "swig_role_expired",
        "swig_permission_missing", "chain_unavailable", "reading_too_old",
        "session_keys_not_configured",
    },
    "POST /mpp/session/voucher": {
        *_STEP, "invalid_amount", "channel_not_found", "channel_already_closed", "channel_expired",
        "funding_revoked", "insufficient_deposit", "amount_not_monotonic",
        "session_key_unavailable",
    },
    "POST /mpp/session/close": {
        *_STEP, "channel_not_found", "settlement_pending", "settlement_failed", "abandoned",
        *map(failure_code, FAILURES),
    },
    "POST /mpp/prepare": {
        "invalid_request", "network_mismatch", "body_too_large", "chain_unavailable",
    },
    "POST /mpp/settle": {
        *_STEP, *REFUSALS, "invalid_wallet", "invalid_amount", "network_mismatch",
        "seller_not_registered", "invalid_transaction", "invalid_transaction_encoding",
        "chain_unavailable", "database_not_trusted", "signer_unavailable", "claim_taken",
        "settlement_pending", "transaction_failed",
    },
    "GET /mpp/stats": {"database_unavailable"},
    "POST /api/sessions/onboard": {
        *_STEP, *_PROOF, "invalid_amount", "network_mismatch", "not_eligible",
        "temporarily_unavailable", "grant_not_found", "grant_revoked", "grant_expired",
        "grant_max_calls_exceeded", "grant_budget_exceeded",
    },
    "POST /api/sessions/onboard/confirm": {
        *_STEP, *_PROOF, "invalid_transaction_encoding", "onboarding_not_found",
        "transaction_altered", "signature_invalid", "tx_expired", "simulation_failed",
        "temporarily_unavailable",
    },
    "GET /api/sessions/onboard/status": {
        *_STEP - {"body_too_large"}, *_PROOF, "network_mismatch",
    },
}  # fmt: skip
# Codes of the wire alone: no class of errors and no failure of a settlement has them.
WIRE_ONLY = {
    "abandoned", "body_too_large", "insufficient_balance", "not_eligible", "settlement_failed",
    "settlement_pending", "swig_off", "swig_role_not_found", "temporarily_unavailable",
    "too_many_open_sessions", "transaction_failed",
}  # fmt: skip
PROVEN = {name: True for name in WIRE if "/onboard" in name} | {
    "POST /mpp/session/open": False,
    "GET /v1/grants": True,
}
"""Where SIGN-IN-WITH-X is read, and whether it always has to be there."""
GRANTS = {name for name in PROBLEMS if "/v1/grants" in name}
"""Anybody may call them: they carry their own proofs."""
OPERATORS = {"GET /healthz", "GET /readyz", "GET /metrics"}
FACILITATOR = {"POST /x402/verify", "POST /x402/settle", "GET /x402/supported"}
ALWAYS = {"invalid_request", "database_unavailable"}
RETRYABLE = {"database_unavailable", "wrong_position"}


@pytest.fixture(scope="module")
def document(service: Service) -> dict[str, Any]:
    return service.http.get("/openapi.json").json()


@pytest.fixture(scope="module")
def operations(document: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{method.upper()} {path}": operation
        for path, found in document["paths"].items()
        for method, operation in found.items()
    }


def examples_of(operation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The example problems of an operation by code, with the status each stands under."""
    found: dict[str, dict[str, Any]] = {}
    for status, answer in operation["responses"].items():
        content = answer.get("content", {}).get("application/problem+json")
        if content is not None:
            assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
            for code, example in content["examples"].items():
                found[code] = {"under": int(status), **example["value"]}
                assert example["summary"]
    return found


def refusals_of(operation: dict[str, Any]) -> list[tuple[int, str, dict[str, Any]]]:
    """The example refusals of a buyers' route: status, code, body."""
    return [
        (int(status), code, example["value"])
        for status, answer in operation["responses"].items()
        for code, example in answer["content"]["application/json"].get("examples", {}).items()
    ]


def codes_of_classes(root: type[LedgerError]) -> dict[str, type[LedgerError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found |= codes_of_classes(child)
    return found


def test_every_route_of_the_contract_is_documented_and_no_other(
    operations: dict[str, Any],
) -> None:
    assert set(operations) == set(PROBLEMS) | set(WIRE) | OPERATORS | FACILITATOR


def test_every_operation_says_what_it_does_and_who_may_call_it(
    document: dict[str, Any], operations: dict[str, Any]
) -> None:
    assert len({operation["operationId"] for operation in operations.values()}) == len(operations)
    schemes = document["components"]["securitySchemes"]
    for name, operation in operations.items():
        assert operation["summary"], name
        assert len(operation["description"]) > 15, name
        assert operation["tags"], name
        if name in OPERATORS | FACILITATOR | GRANTS or name in WIRE:
            assert "security" not in operation
        else:
            wanted = ["adminToken"] if " /v1/sellers" in name else ["sellerKey"]
            wanted += ["adminToken"] if name.endswith("/v1/exposure") else []
            assert operation["security"] == [{scheme: []} for scheme in wanted]
            assert {schemes[scheme]["scheme"] for scheme in wanted} == {"bearer"}


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_problem_of_a_route_is_listed_with_an_example(
    operations: dict[str, Any], name: str
) -> None:
    operation = operations[name]
    wanted = PROBLEMS[name] | ALWAYS
    wanted |= {"body_too_large"} if "requestBody" in operation else set()
    wanted |= set() if name.startswith("GET") else {"wrong_position"}
    examples = examples_of(operation)
    assert set(examples) == wanted
    for code, example in examples.items():
        assert example.pop("under") == example["status"]
        Problem.model_validate(example)
        assert example["type"].endswith(code)
        assert example["retryable"] == (code in RETRYABLE)
        assert example["hint"]


def test_the_listed_problems_are_those_of_the_service(operations: dict[str, Any]) -> None:
    codes = {code for operation in operations.values() for code in examples_of(operation)}
    known = set(codes_of_classes(LedgerError))
    assert codes - known == {"body_too_large"}


@pytest.mark.parametrize("name", WIRE)
def test_every_refusal_of_a_buyers_route_is_listed_as_the_client_reads_it(
    operations: dict[str, Any], name: str
) -> None:
    method, path = name.split()
    classes = codes_of_classes(LedgerError)
    refusals = refusals_of(operations[name])
    assert {code for _, code, _ in refusals} == WIRE[name]
    assert len(refusals) == len(WIRE[name])
    for status, code, body in refusals:
        assert (body["success"], body["ok"], body["error"]) == (False, False, code)
        assert documented.faults(path, method, status, body) == []
        if path == "/mpp/settle" and code != "body_too_large":
            assert status == 200
        elif code in classes and code not in FAILURES:
            assert status == status_of(classes[code]), code


def test_the_listed_refusals_are_those_of_the_service(operations: dict[str, Any]) -> None:
    codes = {code for name in WIRE for _, code, _ in refusals_of(operations[name])}
    known = {*codes_of_classes(LedgerError), *FAILURES, *REFUSALS, SignerUnavailable.code}
    assert codes - known == WIRE_ONLY - {"insufficient_balance"}
    assert codes >= WIRE_ONLY


def test_the_proof_of_the_wallet_is_documented_where_it_is_read(
    operations: dict[str, Any],
) -> None:
    named = {
        name: parameter["required"]
        for name, operation in operations.items()
        for parameter in operation.get("parameters", [])
        if parameter["name"] == "SIGN-IN-WITH-X"
    }
    assert named == PROVEN


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, {"success": False, "ok": False, "error": "invalid_request", "detail": "x"}),
        (400, {"success": False, "ok": False, "error": "channel_not_found", "detail": "x"}),
        (400, {"success": False, "ok": False, "error": "invalid_request", "detail": ["x"]}),
        (400, {"success": False, "ok": False, "error": "invalid_request", "detail": "x", "y": 1}),
        (418, {"success": False, "ok": False, "error": "invalid_request", "detail": "x"}),
    ],
)
def test_an_answer_that_is_not_documented_fails_the_test_that_met_it(
    status: int, body: dict[str, Any]
) -> None:
    good = {"success": False, "ok": False, "error": "invalid_request", "detail": "x"}
    for answer, fails in ((httpx.Response(400, json=good), False),
                          (httpx.Response(status, json=body), True)):  # fmt: skip
        with httpx.Client(
            transport=httpx.MockTransport(lambda _, answer=answer: answer),
            event_hooks={"response": [documented.check]},
        ) as http:
            if fails:
                with pytest.raises(AssertionError):
                    http.post("http://ledger.example/mpp/session/close")
            else:
                http.post("http://ledger.example/mpp/session/close")


def test_every_answer_and_every_body_has_a_schema_that_exists(
    document: dict[str, Any], operations: dict[str, Any]
) -> None:
    schemas = document["components"]["schemas"]
    for reference in re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(document)):
        assert reference in schemas
    for name, operation in operations.items():
        good = [status for status in operation["responses"] if status.startswith("2")]
        assert good, name
        for status in good:
            for content in operation["responses"][status].get("content", {}).values():
                assert content["schema"], name
        assert "422" not in operation["responses"] or "close" in name or name == "POST /v1/grants"
        if name.startswith("POST"):
            assert operation["requestBody"]["content"]["application/json"]["schema"], name


def test_the_idempotency_key_is_documented_where_it_works(operations: dict[str, Any]) -> None:
    named = {
        name
        for name, operation in operations.items()
        for parameter in operation.get("parameters", [])
        if parameter["name"] == "Idempotency-Key"
    }
    kept = {name for name in PROBLEMS if "idempotency_key_reused" in PROBLEMS[name]}
    assert named == kept | {"POST /x402/settle"}


def test_a_facilitators_routes_answer_in_their_own_form_whatever_happens(
    operations: dict[str, Any],
) -> None:
    for name in FACILITATOR:
        answers = operations[name]["responses"]
        assert set(answers) == ({"200"} if name.startswith("GET") else {"200", "400", "413", "503"})
        schemas = [answer["content"]["application/json"]["schema"] for answer in answers.values()]
        assert all(schema == schemas[0] for schema in schemas)


def test_the_pages_for_people_are_served(service: Service) -> None:
    assert "swagger" in service.http.get("/docs").text.lower()
