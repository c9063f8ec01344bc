"""An Idempotency-Key: the first answer is every answer, byte for byte. Spec: "Verdict"."""

import asyncio
from typing import Any

import httpx
import pytest
from running import PRICE, USDC, Buyer, Seller, Service, path_of, problem_of

KEY = {"idempotency-key": "key-of-the-test"}


def verify(seller: Seller, body: Any, key: dict[str, str] = KEY) -> httpx.Response:
    return seller.post("/v1/vouchers/verify", json=body, headers=key)


def test_a_retry_gives_the_first_verdict_byte_for_byte(seller: Seller, buyer: Buyer) -> None:
    signed = buyer.pay(seller, "c", PRICE, 1)
    first = verify(seller, signed)
    assert first.json()["verdict"] == "accepted"
    assert "idempotency-replayed" not in first.headers
    assert seller.verify(buyer.pay(seller, "c", 2 * PRICE, 2))["valid"]
    again = verify(seller, signed)
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers["content-type"] == first.headers["content-type"]
    assert again.headers["idempotency-replayed"] == "true"
    assert verify(seller, signed, {}).json()["verdict"] == "replayed"
    assert seller.session("c")["voucherCount"] == 2


def test_a_refusal_is_kept_like_an_acceptance(seller: Seller, buyer: Buyer) -> None:
    early = buyer.pay(seller, "c", 2 * PRICE, 2)
    assert seller.verify(buyer.pay(seller, "c", 2 * PRICE, 1))["valid"]
    first = verify(seller, early)
    assert first.json()["verdict"] == "rejected"
    assert verify(seller, early).content == first.content


def test_a_batch_is_answered_once(seller: Seller, buyer: Buyer) -> None:
    body = {"vouchers": [buyer.pay(seller, "c", n * PRICE, n) for n in range(1, 30)]}
    answers = [seller.post("/v1/vouchers/verify-batch", json=body, headers=KEY) for _ in range(2)]
    assert {result["verdict"] for result in answers[0].json()["results"]} == {"accepted"}
    assert answers[0].content == answers[1].content


def test_another_request_under_the_same_key_is_refused(seller: Seller, buyer: Buyer) -> None:
    first = buyer.pay(seller, "c", PRICE, 1)
    assert verify(seller, first).json()["valid"]
    second = buyer.pay(seller, "c", 2 * PRICE, 2)
    problem_of(verify(seller, second), 409, "idempotency_key_reused")
    problem_of(verify(seller, {**first, "charge": {"units": "1"}}), 409, "idempotency_key_reused")
    elsewhere = seller.post("/v1/sessions", json=first, headers=KEY)
    problem_of(elsewhere, 409, "idempotency_key_reused")
    query = seller.post("/v1/vouchers/verify?x=1", json=first, headers=KEY)
    problem_of(query, 409, "idempotency_key_reused")
    assert seller.session("c")["voucherCount"] == 1
    assert verify(seller, second, {}).json()["valid"]


def test_a_key_is_the_sellers_own(service: Service, seller: Seller, buyer: Buyer) -> None:
    other = service.seller()
    assert verify(seller, buyer.pay(seller, "c", PRICE, 1)).json()["valid"]
    assert verify(other, buyer.pay(other, "c", PRICE, 1)).json()["valid"]


def test_a_request_that_failed_may_be_corrected_under_its_key(seller: Seller, buyer: Buyer) -> None:
    wrong = {**buyer.pay(seller, "c", PRICE, 1), "charge": {"units": "none"}}
    problem_of(verify(seller, wrong), 400, "invalid_request")
    assert verify(seller, buyer.pay(seller, "c", PRICE, 1)).json()["valid"]


def test_a_registration_is_answered_once_even_with_a_channel_id_of_ours(
    seller: Seller, buyer: Buyer
) -> None:
    body = {"payer": buyer.address, "sessionPubkey": buyer.signer, "deposit": str(USDC)}
    answers = [seller.post("/v1/sessions", json=body, headers=KEY) for _ in range(3)]
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert len(seller.get("/v1/sessions").json()["sessions"]) == 1


def test_a_close_is_answered_once(seller: Seller, buyer: Buyer) -> None:
    assert seller.open(buyer, "c").status_code == 201
    path = path_of("c") + "/close"
    answers = [seller.post(path, headers=KEY) for _ in range(2)]
    assert answers[0].status_code == answers[1].status_code == 200
    assert answers[0].content == answers[1].content
    problem_of(
        seller.post(path, json={"sourceTokenAccount": buyer.source}, headers=KEY),
        409,
        "idempotency_key_reused",
    )


@pytest.mark.parametrize("route", ["verify", "batch", "open", "close"])
async def test_duplicates_at_the_same_moment_get_one_answer(
    service: Service, seller: Seller, buyer: Buyer, route: str
) -> None:
    signed = buyer.pay(seller, "c", PRICE, 1)
    opening = {"payer": buyer.address, "sessionPubkey": buyer.signer, "deposit": str(USDC)}
    if route == "close":
        assert seller.open(buyer, "c").status_code == 201
    path, body = {
        "verify": ("/v1/vouchers/verify", signed),
        "batch": ("/v1/vouchers/verify-batch", {"vouchers": [signed]}),
        "open": ("/v1/sessions", opening),
        "close": (path_of("c") + "/close", {}),
    }[route]
    headers = {"authorization": f"Bearer {seller.token}", **KEY}
    async with httpx.AsyncClient(base_url=service.url, headers=headers, timeout=60) as http:
        answers = await asyncio.gather(*(http.post(path, json=body) for _ in range(24)))
    assert {answer.status_code for answer in answers} <= {200, 201}
    assert len({answer.content for answer in answers}) == 1
    assert "replayed" not in answers[0].text
    assert len(seller.get("/v1/sessions").json()["sessions"]) == 1
