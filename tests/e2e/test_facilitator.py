"""`/x402/verify`, `/x402/settle`, `/x402/supported`: what is paid, that a payment buys once, which
requests are refused, and who is served.

The published packages play against the same routes in test_published_x402.py.
"""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import asyncpg
import pytest
from exact_rig import PAYLOAD, Shop, shop_fixture
from running import PRICE, USDC, Service, running, until
from solders.keypair import Keypair

__all__ = ["shop_fixture"]


def both(answer: dict[str, Any]) -> tuple[bool, str]:
    return answer["success"], answer.get("errorReason", "")


# --- what is paid ---------------------------------------------------------------------------


def test_what_is_supported_names_both_versions_and_the_fee_payer(service: Service) -> None:
    fee_payer = service.facts["feePayer"]
    answer = service.http.get("/x402/supported")
    assert answer.status_code == 200
    found = answer.json()
    assert [(kind["x402Version"], kind["scheme"], kind["extra"]) for kind in found["kinds"]] == [
        (1, "exact", {"feePayer": fee_payer}),
        (2, "exact", {"feePayer": fee_payer}),
    ]
    assert found["kinds"][0]["network"] == "solana-localnet"
    assert found["kinds"][1]["network"].startswith("solana:")
    assert (found["extensions"], found["signers"]) == ([], {"solana:*": [fee_payer]})


@pytest.mark.parametrize("version", [1, 2])
def test_a_payment_is_verified_settled_and_finalized(shop: Shop, version: int) -> None:
    transaction = shop.bought()
    assert shop.verify(transaction, version) == {"isValid": True, "payer": shop.buyer.address}
    settled = shop.settle(transaction, version)
    assert settled == {
        "success": True,
        "transaction": settled["transaction"],
        "network": shop.network_id(version),
        "payer": shop.buyer.address,
        "amount": str(PRICE),
    }
    chain = shop.service.chain
    assert (chain.balance(shop.wallet), chain.balance(shop.buyer.wallet)) == (PRICE, USDC - PRICE)
    status = chain.call("getSignatureStatuses", [settled["transaction"]])["value"][0]
    assert (status["confirmationStatus"], status["err"]) == ("finalized", None)


def test_a_server_may_settle_without_verifying_first(shop: Shop) -> None:
    assert shop.settle(shop.bought())["success"] is True


def test_what_a_server_renews_in_each_offer_may_differ(shop: Shop) -> None:
    body = shop.body(shop.bought())
    asked = {**body["paymentRequirements"]["extra"], "recentBlockhash": "new"}
    accepted = {**body["paymentRequirements"]["extra"], "recentBlockhash": "old", "mine": 1}
    body["paymentPayload"]["accepted"] = {**body["paymentRequirements"], "extra": accepted}
    body["paymentRequirements"] = {**body["paymentRequirements"], "extra": asked}
    assert shop.post("verify", body)["isValid"] is True


MADE_BY_REQUESTS = """
SELECT (SELECT count(*) FROM events WHERE position(convert_to($1, 'UTF8') IN payload) > 0) AS named,
       (SELECT count(*) FROM streams) AS streams,
       (SELECT count(*) FROM claims) AS claims,
       (SELECT count(*) FROM payments) AS payments
"""
"""Not what the service does by itself, which goes on settling what other tests left."""


async def test_verifying_signs_nothing_and_writes_nothing(shop: Shop) -> None:
    async def rows() -> list[Any]:
        return await shop.service.rows(MADE_BY_REQUESTS, shop.buyer.address)

    before = await rows()
    transaction = shop.bought()
    for _ in range(3):
        assert shop.verify(transaction)["isValid"] is True
    assert await rows() == before
    assert shop.service.chain.balance(shop.buyer.wallet) == USDC


def test_a_payment_is_a_settlement_in_the_sellers_eyes(shop: Shop) -> None:
    assert shop.seller is not None
    settled = shop.settle(shop.bought())
    events = [event for event in shop.seller.events() if event["stream"] == "payment"]
    assert events[0]["type"] == "payment_submitted"
    assert events[-1]["type"] == "settlement_finalized"
    submitted = events[0]["payload"]
    assert (submitted["dialect"], submitted["resource"]) == ("x402", "https://shop.example/weather")
    shown = shop.seller.get(f"/v1/settlements/{submitted['paymentId']}").json()
    assert (shown["status"], shown["signature"]) == ("settled", settled["transaction"])


# --- a payment buys once --------------------------------------------------------------------


def test_a_settled_payment_buys_nothing_more(shop: Shop) -> None:
    transaction = shop.bought()
    assert shop.settle(transaction)["success"] is True
    for version in (2, 1, 2):
        assert both(shop.settle(transaction, version)) == (False, "duplicate_settlement")
        said = shop.verify(transaction, version)
        assert (said["isValid"], said["invalidReason"]) == (False, "duplicate_settlement")
    assert shop.service.chain.balance(shop.wallet) == PRICE


def test_of_many_who_settle_at_once_one_is_told_of_the_success(shop: Shop) -> None:
    transaction = shop.bought()
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda _: shop.settle(transaction), range(12)))
    assert sorted(map(both, answers)) == [(False, "duplicate_settlement")] * 11 + [(True, "")]
    assert shop.service.chain.balance(shop.wallet) == PRICE


def test_another_signature_of_ours_or_of_nobody_is_the_same_payment(shop: Shop) -> None:
    """Whoever has seen the complete transaction may show that one."""
    transaction = shop.bought()
    settled = shop.settle(transaction)
    how = {"encoding": "base64", "maxSupportedTransactionVersion": 0}
    complete = shop.service.chain.call("getTransaction", settled["transaction"], how)
    assert both(shop.settle(complete["transaction"][0])) == (False, "duplicate_settlement")


def test_who_asks_again_under_its_own_key_is_told_again(shop: Shop) -> None:
    """A server whose connection broke must not lose a payment that its buyer has made."""
    transaction = shop.bought()
    told = shop.settle(transaction, key="order-1")
    assert told["success"] is True
    assert shop.settle(transaction, key="order-1") == told
    for other in ("order-2", None):
        refused = both(shop.settle(transaction, key=other))
        assert refused == (False, "duplicate_settlement")
    assert both(shop.settle(transaction, 1, key="order-1")) == (False, "duplicate_settlement")


def test_a_payment_of_the_other_protocol_buys_nothing_here_and_the_other_way_round(
    shop: Shop,
) -> None:
    claim = {
        "recipient": shop.recipient,
        "amount": str(PRICE),
        "asset": shop.mint,
        "network": shop.network,
    }

    def by_mpp(transaction: str) -> dict[str, Any]:
        body = {"transaction": transaction, **claim}
        return shop.service.http.post("/mpp/settle", json=body).json()

    here, there = shop.bought(), shop.bought()
    assert shop.settle(here)["success"] is True
    assert by_mpp(here)["error"] == "already_processed"
    assert by_mpp(there)["success"] is True
    assert both(shop.settle(there)) == (False, "duplicate_settlement")
    assert shop.verify(there)["invalidReason"] == "duplicate_settlement"
    assert shop.service.chain.balance(shop.wallet) == 2 * PRICE


def test_a_settled_payment_answers_no_other_requirements(shop: Shop) -> None:
    transaction = shop.bought()
    assert shop.settle(transaction, key="k")["success"] is True
    other = str(Keypair().pubkey())
    for changes, reason in (
        ({"payTo": other}, f"{PAYLOAD}_recipient_mismatch"),
        ({"amount": str(PRICE + 1)}, f"{PAYLOAD}_amount_mismatch"),
        ({"asset": other}, f"{PAYLOAD}_mint_mismatch"),
        ({"extra": {"feePayer": shop.fee_payer, "memo": "x"}}, f"{PAYLOAD}_memo_mismatch"),
    ):
        assert both(shop.settle(transaction, key="k", **changes)) == (False, reason)


def test_a_payment_that_is_not_final_in_time_is_pending_and_waited_for_again(shop: Shop) -> None:
    transaction, chain = shop.bought(), shop.service.chain
    chain.call("localchain_pause")
    try:
        started = time.monotonic()
        pending = shop.settle(transaction, maxTimeoutSeconds=1)
        assert time.monotonic() - started < 5
        assert both(pending) == (False, "settlement_pending")
        assert pending["transaction"]
        assert pending["payer"] == shop.buyer.address
        # The buyer may show it again: it still buys what it has not bought yet.
        assert shop.verify(transaction)["isValid"] is True
    finally:
        chain.call("localchain_resume")
    settled = shop.settle(transaction)
    assert (settled["success"], settled["transaction"]) == (True, pending["transaction"])
    assert chain.balance(shop.wallet) == PRICE
    assert both(shop.settle(transaction)) == (False, "duplicate_settlement")


# --- requests -------------------------------------------------------------------------------

REQUESTS: list[tuple[dict[str, Any], str]] = [
    ({"scheme": "upto"}, "unsupported_scheme"),
    ({"network": "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"}, "invalid_network"),
    ({"network": "eip155:8453"}, "invalid_network"),
    ({"network": ...}, "invalid_network"),
    ({"amount": "1.5"}, "invalid_payment_requirements"),
    ({"amount": ...}, "invalid_payment_requirements"),
    ({"payTo": "nobody"}, "invalid_payment_requirements"),
    ({"extra": {}}, f"{PAYLOAD}_missing_fee_payer"),
    (
        {"extra": {"feePayer": str(Keypair().pubkey())}},
        "invalid_exact_svm_fee_payer_not_managed_by_facilitator",
    ),
]


@pytest.mark.parametrize(("changes", "reason"), REQUESTS)
def test_other_requirements_are_refused_with_a_published_reason(
    shop: Shop, changes: dict[str, Any], reason: str
) -> None:
    assert shop.judged(shop.bought(), **changes)[0] == reason


def test_a_payload_that_is_no_transaction_is_refused(shop: Shop) -> None:
    for text in ("", "AAAA", "no base64", "A" * 2_000):
        assert shop.judged(text)[0] == f"{PAYLOAD}_transaction_could_not_be_decoded"


def test_answers_name_the_network_that_was_asked_about(shop: Shop) -> None:
    assert shop.settle("AAAA")["network"] == shop.network_id(2)
    assert shop.settle("AAAA", 1)["network"] == shop.network_id(1)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"a":1,"a":2}', b"[" * 100])
def test_what_is_no_json_is_400_in_the_published_form(service: Service, body: bytes) -> None:
    verify = service.http.post("/x402/verify", content=body)
    settle = service.http.post("/x402/settle", content=body)
    assert (verify.status_code, settle.status_code) == (400, 400)
    assert (verify.json()["isValid"], verify.json()["invalidReason"]) == (False, "invalid_payload")
    assert both(settle.json()) == (False, "invalid_payload")
    assert (settle.json()["transaction"], settle.json()["network"]) == ("", "")


@pytest.mark.parametrize("body", ["null", "[]", "{}", '"text"', '{"paymentPayload":[]}', "1e999"])
def test_json_that_is_no_request_has_a_reason(service: Service, body: str) -> None:
    for route, said in (("verify", "invalidReason"), ("settle", "errorReason")):
        answer = service.http.post(f"/x402/{route}", content=body)
        assert answer.status_code in (200, 400)
        assert answer.json()[said].startswith("invalid_")


def test_a_large_body_is_refused_in_the_published_form(service: Service) -> None:
    for route, said in (("verify", "invalidReason"), ("settle", "errorReason")):
        answer = service.http.post(f"/x402/{route}", content=b" " * 70_000)
        assert (answer.status_code, answer.json()[said]) == (413, "invalid_payload")


def test_other_methods_are_refused_as_everywhere(service: Service) -> None:
    assert service.http.get("/x402/settle").status_code == 405
    assert service.http.post("/x402/supported").status_code == 405
    assert service.http.get("/x402/other").status_code == 404


# --- who is served --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strict_service() -> Iterator[Service]:
    with running(SETTLE_CAP_PER_SELLER_PER_DAY="1", MPP_UNREGISTERED_SELLERS="refuse") as started:
        yield started


def test_caps_and_unregistered_sellers_are_refused_where_that_is_configured(
    strict_service: Service,
) -> None:
    shop, stranger = Shop.of(strict_service), Shop.of(strict_service, registered=False)
    assert stranger.judged(stranger.bought())[0] == "invalid_payment_requirements"
    assert shop.settle(shop.bought())["success"] is True
    more = shop.bought()
    assert shop.verify(more)["invalidReason"] == "unexpected_verify_error"
    refused = shop.settle(more)
    assert both(refused) == (False, "unexpected_settle_error")
    assert refused["errorMessage"].startswith("seller_settle_cap_exceeded")


@contextmanager
def without_database(service: Service) -> Iterator[None]:
    """The service's database takes no connections for a while, and ends those that it has."""
    address, _, name = service.facts["databaseUrl"].rpartition("/")

    async def allow(allowed: bool) -> None:
        connection = await asyncpg.connect(f"{address}/template1")
        await connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS {allowed}')
        if not allowed:
            ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1"
            await connection.fetch(ended, name)
        await connection.close()

    asyncio.run(allow(False))
    try:
        yield
    finally:
        asyncio.run(allow(True))


def test_without_the_log_nothing_is_settled_and_the_answer_is_503(strict_service: Service) -> None:
    shop = Shop.of(strict_service)
    transaction = shop.bought()
    assert shop.verify(transaction)["isValid"] is True
    with without_database(strict_service):
        for route, said in (("verify", "invalidReason"), ("settle", "errorReason")):
            answer = strict_service.http.post(f"/x402/{route}", json=shop.body(transaction))
            assert answer.status_code == 503, answer.text
            assert answer.json()[said] == f"unexpected_{route}_error"
            assert answer.headers["Retry-After"]
    assert shop.service.chain.balance(shop.wallet) == 0

    def settled() -> bool:
        answer = strict_service.http.post("/x402/settle", json=shop.body(transaction))
        return answer.status_code == 200 and answer.json()["success"]

    assert until(settled)
