"""Direct payments over HTTP, on the local chain: requirements, and the whole way of a payment."""

import base64
import json
from typing import Any
from urllib.parse import quote

import pytest
from direct_rig import memo
from running import PRICE, USDC, Service, fresh, problem_of, until
from solders.keypair import Keypair
from till import PROCESSED, URL, Till, refused, signature_of, till_fixture, valid

__all__ = ["till_fixture"]


# --- requirements ---------------------------------------------------------------------------


def test_requirements_say_all_that_a_402_says(till: Till) -> None:
    path = "/v1/payments/requirements"
    answer = till.seller.get(path, resource=URL, outputSchema='{"type": "object"}')
    body = answer.json()
    assert (body["x402Version"], body["error"]) == (1, None)
    (asked,) = body["accepts"]
    assert asked.pop("extra")["memo"].startswith("slp1.")
    assert asked == {
        "scheme": "solanaTransferChecked",
        "network": "solana-localnet",
        "maxAmountRequired": str(PRICE),
        "resource": URL,
        "payTo": str(till.shop),
        "asset": str(till.mint),
        "description": till.seller.facts["name"],
        "mimeType": "application/json",
        "maxTimeoutSeconds": 300,
        "outputSchema": {"type": "object"},
    }
    assert till.asked(units="7")["maxAmountRequired"] == str(7 * PRICE)
    assert till.asked(amount="5")["maxAmountRequired"] == "5"
    assert till.asked(maxTimeoutSeconds=30)["maxTimeoutSeconds"] == 30
    assert till.asked(maxTimeoutSeconds=301)["maxTimeoutSeconds"] == 300


# --- the whole way --------------------------------------------------------------------------


def test_a_payment_buys_its_resource_once_and_is_found_again(till: Till) -> None:
    asked = till.asked()
    header = till.paid(asked)
    signature = signature_of(header)
    answer = valid(till.verify(header, asked))
    assert (answer["payer"], answer["amount"]) == (str(till.payer), str(PRICE))
    assert (answer["transaction"], answer["error"], answer["status"]) == (signature, None, 200)
    told = json.loads(base64.b64decode(answer["paymentResponseHeader"]))
    assert told == {
        "success": True,
        "error": None,
        "txHash": signature,
        "networkId": "solana-localnet",
        "transaction": signature,
        "network": "solana-localnet",
        "payer": str(till.payer),
    }
    again = refused(till.verify(header, asked), "payment_already_processed", PROCESSED)
    assert (again["status"], again["libraryError"], again["retryable"]) == (402, PROCESSED, False)
    found = till.seller.get(f"/v1/payments/{signature}").json()
    assert (found["status"], found["binding"]) == ("accepted", "challenge")
    assert (found["resource"], found["memo"]) == (URL, asked["extra"]["memo"])
    assert till.seller.get("/v1/payments").json()["payments"] == [found]
    (event,) = till.seller.events()[-1:]
    assert (event["type"], event["stream"], event["channelId"]) == (
        "payment_accepted",
        "direct",
        None,
    )
    assert event["payload"]["header"] == header


def test_an_accepted_payment_is_watched_until_it_is_final(till: Till) -> None:
    header = till.paid()
    valid(till.verify(header))
    path = f"/v1/payments/{signature_of(header)}"
    found = until(lambda: (f := till.seller.get(path).json())["status"] == "finalized" and f)
    assert found["endedAt"]
    assert [e["type"] for e in till.seller.events()[-2:]] == [
        "payment_accepted",
        "payment_finalized",
    ]


def test_payments_are_listed_newest_first_page_by_page_to_their_seller_only(till: Till) -> None:
    bought = [till.paid() for _ in range(3)]
    for header in bought:
        valid(till.verify(header))
    listed: list[str] = []
    cursor = None
    while True:
        query = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = till.seller.get("/v1/payments", **query).json()
        listed += [found["transaction"] for found in page["payments"]]
        if (cursor := page["nextCursor"]) is None:
            break
    assert listed == [signature_of(header) for header in reversed(bought)]
    stranger = till.service.seller()
    assert stranger.get("/v1/payments").json()["payments"] == []
    problem_of(stranger.get(f"/v1/payments/{listed[0]}"), 404, "payment_not_found")
    problem_of(till.seller.get("/v1/payments/nonsense"), 404, "payment_not_found")
    problem_of(till.seller.get("/v1/payments", cursor="1-2"), 400, "invalid_request")


@pytest.mark.parametrize("network", ["localnet", "solana-localnet"])
def test_the_unmodified_client_without_a_memo_is_served_on_a_test_network(
    till: Till, network: str
) -> None:
    header = till.header(till.land(till.transfer()), network=network)
    valid(till.verify(header, {**till.asked(), "network": network, "extra": None}))


def test_on_mainnet_a_payment_must_say_what_it_is_for(mainnet_service: Service) -> None:
    till = Till.of(mainnet_service)
    asked = till.asked()
    bare = till.header(till.land(till.transfer()), network="mainnet-beta")
    refused(till.verify(bare, asked), "binding_missing")
    bound = till.land(till.transfer(), memo(asked["extra"]["memo"]))
    valid(till.verify(till.header(bound, network="solana"), till.asked()))


# --- what else is refused -------------------------------------------------------------------


def test_a_failed_transaction_buys_nothing(till: Till) -> None:
    failed = till.land(till.transfer(USDC + 1), skip_preflight=True)
    expected = 'Transaction failed: {"InstructionError":[0,{"Custom":1}]}'
    refused(till.verify(till.header(failed)), "transaction_failed", expected)


def test_a_transaction_without_tokens_buys_nothing(till: Till) -> None:
    expected = "No token transfer instruction found in transaction"
    refused(till.verify(till.header(till.land(memo("nothing")))), "no_transfer", expected)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"payTo": str(Keypair().pubkey())}, "invalid_request"),
        ({"payTo": "short"}, "invalid_request"),
        ({"scheme": "exact"}, "invalid_request"),
        ({"maxAmountRequired": "0"}, "invalid_request"),
        ({"maxAmountRequired": 7}, "invalid_request"),
        ({"resource": "\x00"}, "invalid_request"),
        ({"extra": {"memo": "\ud800"}}, "invalid_request"),
        ({"network": "solana-devnet"}, "network_mismatch"),
        ({"network": "base"}, "network_mismatch"),
    ],
)
def test_requirements_that_are_not_the_sellers_are_a_problem(
    till: Till, changes: dict[str, Any], code: str
) -> None:
    answer = till.post("eyJ9", {**till.asked(), **changes})
    problem_of(answer, 400, code)


def test_a_retry_under_one_key_gets_the_first_answer_unless_it_may_pass(till: Till) -> None:
    asked = till.asked()
    never = till.header(str(Keypair().sign_message(b"never sent")))
    key = {"headers": {"idempotency-key": fresh("direct")}}
    for _ in range(2):
        answer = till.post(never, asked, **key)
        assert answer.json()["code"] == "transaction_not_found"
        assert "idempotency-replayed" not in answer.headers
    header = till.paid(asked)
    key = {"headers": {"idempotency-key": fresh("direct")}}
    first = till.post(header, asked, **key)
    assert valid(first.json())
    again = till.post(header, asked, **key)
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"
    problem_of(till.post(header + " ", asked, **key), 409, "idempotency_key_reused")
    other = {"headers": {"idempotency-key": fresh("direct")}}
    refusals = [till.post(header, asked, **other) for _ in range(2)]
    assert refusals[0].content == refusals[1].content
    refused(refusals[1].json(), "payment_already_processed")


def test_a_payment_that_we_sent_ourselves_buys_nothing_here(till: Till) -> None:
    """A charge that the buyer made by /mpp/settle pays the same wallet; it is told once, there."""
    rows = till.service.http.post("/mpp/prepare", json={"network": "localnet"}).json()
    message = [till.transfer(), memo("mppx:direct")]
    from charge_rig import wire  # noqa: PLC0415  the other dialect, here only

    raw = wire(
        message,
        blockhash=rows["recentBlockhash"],
        fee_payer=rows["feePayer"],
        signers=[till.buyer],
    )
    body = {
        "transaction": base64.b64encode(raw).decode(),
        "recipient": str(till.shop),
        "amount": str(PRICE),
        "asset": str(till.mint),
        "network": "localnet",
    }
    settled = till.service.http.post("/mpp/settle", json=body).json()
    assert settled["success"] is True, settled
    header = till.header(settled["signature"])
    refused(till.verify(header), "payment_already_processed", PROCESSED)


def test_the_routes_want_a_sellers_key(till: Till) -> None:
    http, signature = till.service.http, quote(str(Keypair().sign_message(b"")))
    for answer in (
        http.get("/v1/payments/requirements", params={"resource": URL}),
        http.post("/v1/payments/verify", json={}),
        http.get("/v1/payments"),
        http.get(f"/v1/payments/{signature}"),
        http.post(f"/v1/payments/{signature}/delivery-failed", json={}),
    ):
        problem_of(answer, 401, "unauthorized")
