"""The reference's recorded answers, byte for byte through the HTTP API."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from running import Seller, Service, fresh, path_of, problem_of

VECTORS = json.loads(
    (Path(__file__).parents[1] / "vectors" / "dexter_vouchers.json").read_text(encoding="utf-8")
)
CASES = [case for case in VECTORS["cases"] if "construct_error" not in case]
REFUSED = [case for case in VECTORS["cases"] if "construct_error" in case]
MATCH = [pytest.param(case, id=case["id"]) for case in CASES if case["policy"] == "match"]
DIVERGE = [pytest.param(case, id=case["id"]) for case in CASES if case["policy"] == "diverge"]

# Texts of the reference's base64 decoder differ between versions of its runtime.
_UNSTABLE = re.compile(r"signature_verification_failed: (Invalid character|The string to be .*)")


def seller_of(service: Service, case: dict[str, Any]) -> Seller:
    return service.seller(sharedRecipient=True, **case["server"])


def verdict_as_the_reference_gives_it(seller: Seller, raw: str) -> dict[str, Any]:
    body = seller.verify(raw.encode())
    if body["valid"]:
        assert body["verdict"] == "accepted"
        assert body["voucher"] == json.loads(raw)["voucher"]
        return {"valid": True, "amountPaid": body["amountPaid"]}
    assert body["verdict"] in {"rejected", "replayed"}
    assert body["code"] == body["error"].partition(":")[0]
    return {"valid": False, "error": body["error"]}


def context_as_the_reference_gives_it(seller: Seller, channel: str) -> dict[str, Any] | None:
    answer = seller.get(path_of(channel))
    if answer.status_code == 404:
        problem_of(answer, 404, "session_not_found")
        return None
    body = answer.json()
    names = ("channelId", "sessionPubkey", "cumulativeAmount", "voucherCount")
    return {name: body[name] for name in names}


def answer_of(service: Service, seller: Seller, step: dict[str, Any]) -> Any:
    match step["op"]:
        case "verify":
            return verdict_as_the_reference_gives_it(seller, step["raw"])
        case "context":
            return context_as_the_reference_gives_it(seller, step["channelId"])
        case "remove":
            assert seller.delete(path_of(step["channelId"])).status_code == 204
            return None
        case "challenge":
            body = seller.get("/v1/challenge").json()
            assert body.pop("chainId") == "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"
            return body
        case other:
            raise AssertionError(other)


@pytest.mark.parametrize("case", MATCH)
def test_answers_exactly_as_the_reference(mainnet_service: Service, case: dict[str, Any]) -> None:
    seller = seller_of(mainnet_service, case)
    for step in case["steps"]:
        answer, wanted = answer_of(mainnet_service, seller, step), step.get("expect")
        if wanted and _UNSTABLE.match(wanted.get("error", "")):
            assert answer["error"].startswith("signature_verification_failed: ")
        else:
            assert answer == wanted


@pytest.mark.parametrize("case", DIVERGE)
def test_departs_from_the_reference_as_recommended(
    mainnet_service: Service, case: dict[str, Any]
) -> None:
    seller = seller_of(mainnet_service, case)
    accepted: set[int] = set()
    rejected: set[int] = set()
    for number, step in enumerate(case["steps"]):
        answer = answer_of(mainnet_service, seller, step)
        if step["op"] == "verify":
            (accepted if answer["valid"] else rejected).add(number)
    assert set(case["must_accept"]) <= accepted
    assert set(case["must_reject"]) <= rejected


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case["id"])
def test_a_seller_that_the_reference_refuses_cannot_be_registered(
    mainnet_service: Service, case: dict[str, Any]
) -> None:
    body = {"name": fresh("seller"), **case["server"]}
    refused = problem_of(
        mainnet_service.admin.post("/v1/sellers", json=body), 400, "invalid_request"
    )
    assert "recipient" in refused["detail"]


def test_every_case_of_the_file_is_played() -> None:
    assert len(MATCH) + len(REFUSED) == VECTORS["counts"]["match"] == 55
    assert len(DIVERGE) == VECTORS["counts"]["diverge"] == 24
