"""The document says of every operation what it does, who may call it, and how it can fail."""

import json
import re
from typing import Any

import pytest
from running import Service

from service.api.problems import Problem
from service.domain import errors

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
    "POST /v1/sessions": {"unauthorized", "idempotency_key_reused", "session_exists"},
    "GET /v1/sessions": {"unauthorized"},
    "GET /v1/sessions/{channel_id}": {"unauthorized", "session_not_found"},
    "GET /v1/sessions/{channel_id}/vouchers": {"unauthorized", "session_not_found"},
    "GET /v1/sessions/{channel_id}/rejections": {"unauthorized"},
    "DELETE /v1/sessions/{channel_id}": {"unauthorized"},
    "POST /v1/sessions/{channel_id}/close": {
        "unauthorized", "session_not_found", "funding_source_unknown", "idempotency_key_reused",
    },
    "GET /v1/rejections": {"unauthorized"},
    "GET /v1/settlements/{settlementId}": {"unauthorized", "settlement_not_found"},
    "GET /v1/events": {"unauthorized"},
    "GET /v1/events/stream": {"unauthorized"},
}  # fmt: skip
OPERATORS = {"GET /healthz", "GET /readyz", "GET /metrics"}
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


def test_every_route_of_the_contract_is_documented_and_no_other(
    operations: dict[str, Any],
) -> None:
    assert set(operations) == set(PROBLEMS) | OPERATORS


def test_every_operation_says_what_it_does_and_who_may_call_it(
    document: dict[str, Any], operations: dict[str, Any]
) -> None:
    assert len({operation["operationId"] for operation in operations.values()}) == len(operations)
    schemes = document["components"]["securitySchemes"]
    for name, operation in operations.items():
        assert operation["summary"], name
        assert len(operation["description"]) > 15, name
        assert operation["tags"], name
        if name in OPERATORS:
            assert "security" not in operation
        else:
            wanted = "adminToken" if " /v1/sellers" in name else "sellerKey"
            assert operation["security"] == [{wanted: []}]
            assert schemes[wanted]["scheme"] == "bearer"


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
    known = {cls.code for cls in vars(errors).values() if isinstance(cls, type)} - {"type"}
    assert codes - known == {"body_too_large"}


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
        assert "422" not in operation["responses"] or "close" in name
        if name.startswith("POST"):
            assert operation["requestBody"]["content"]["application/json"]["schema"], name


def test_the_idempotency_key_is_documented_where_it_works(operations: dict[str, Any]) -> None:
    named = {
        name
        for name, operation in operations.items()
        for parameter in operation.get("parameters", [])
        if parameter["name"] == "Idempotency-Key"
    }
    assert named == {name for name in PROBLEMS if "idempotency_key_reused" in PROBLEMS[name]}


def test_the_pages_for_people_are_served(service: Service) -> None:
    assert "swagger" in service.http.get("/docs").text.lower()
