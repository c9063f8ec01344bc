"""The sellers' test client against scripted servers: what it sends, and what it says."""

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from session_ledger.encoding import base58_encode
from session_ledger.testing import (
    Payment,
    PaymentVerificationError,
    Route,
    Wallet,
    X402AssertionError,
    X402Error,
    X402ParseError,
    pay,
)
from session_ledger.transfers import Transfer, signed
from session_ledger.x402.amounts import AmountError
from session_ledger.x402.direct import (
    PaymentRequirements,
    PaymentResponse,
    parse_payment_header,
    payment_required_body,
    payment_response_header,
)

URL = "http://shop.example/api/premium"
PAYER, PAY_TO = (base58_encode(bytes([number]) * 32) for number in (5, 7))
SIGNATURE = base58_encode(bytes(range(1, 65)))
OFFER = PaymentRequirements(
    network="localnet",
    max_amount_required=100_000,
    resource=URL,
    pay_to=PAY_TO,
    asset="4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU",
)
Handler = Callable[[httpx.Request], httpx.Response]


class PaperWallet(Wallet):
    """Pays on paper; `check` fails with `complaint`, if there is one."""

    def __init__(self, complaint: str | None = None) -> None:
        self.paid: list[PaymentRequirements] = []
        self.complaint = complaint

    def decimals(self, mint: str = "") -> int:
        return 6 if mint == OFFER.asset else 0

    def pay(self, requirements: PaymentRequirements) -> Payment:
        self.paid.append(requirements)
        return Payment(
            SIGNATURE, requirements.max_amount_required, requirements.asset, PAYER, PAY_TO
        )

    def check(self, payment: Payment) -> None:
        if self.complaint is not None:
            raise PaymentVerificationError(payment.signature, self.complaint)


def client_of(handler: Handler) -> httpx.Client:
    return httpx.Client(transport=httpx.MockTransport(handler))


def paid_shop(request: httpx.Request, *, transaction: str = SIGNATURE) -> httpx.Response:
    """402 without a payment, 200 with any."""
    if "x-payment" not in request.headers:
        return httpx.Response(402, json=payment_required_body([OFFER]))
    told = PaymentResponse(True, transaction, "localnet", PAYER)
    headers = {"x-payment-response": payment_response_header(told), "x-shop": "open"}
    return httpx.Response(200, json={"data": [1]}, headers=headers)


def answering(status: int, **content: Any) -> Handler:
    return lambda _: httpx.Response(status, **content)


def test_a_request_that_is_asked_to_pay_pays_and_repeats_itself() -> None:
    seen: list[httpx.Request] = []

    def shop(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return paid_shop(request)

    wallet = PaperWallet()
    response = (
        pay(URL, wallet=wallet, client=client_of(shop))
        .post({"question": "why"})
        .header("x-two", "2")
        .headers({"x-one": "1"})
        .with_payment(amount="0.10")
        .expect_status(200)
        .expect_payment_settled()
        .expect_payment_amount("100000")
        .expect_body({"data": [1]})
        .expect_body(lambda body: body["data"])
        .expect_header("X-Shop", "open")
        .expect_header("X-Shop", re.compile("^op"))
        .execute()
    )
    assert wallet.paid == [OFFER]
    assert [(request.method, request.content) for request in seen] == [
        ("POST", b'{"question":"why"}')
    ] * 2
    assert [request.headers["x-one"] + request.headers["x-two"] for request in seen] == ["12"] * 2
    assert "x-payment" not in seen[0].headers
    claimed = parse_payment_header(seen[1].headers["x-payment"])
    assert (claimed.signature, claimed.payer, claimed.amount) == (SIGNATURE, PAYER, 100_000)
    assert (claimed.mint, claimed.network, claimed.scheme) == (
        OFFER.asset,
        OFFER.network,
        OFFER.scheme,
    )
    assert response.payment_header == seen[1].headers["x-payment"]
    assert response.settlement == PaymentResponse(True, SIGNATURE, "localnet", PAYER)


@pytest.mark.parametrize(
    ("method", "verb"),
    [
        ("GET", lambda request: request.body({"a": 1}).get()),
        ("POST", lambda request: request.post()),
        ("PUT", lambda request: request.put({"a": 1})),
        ("DELETE", lambda request: request.delete()),
    ],
)
def test_each_method_is_sent_and_a_get_has_no_body(method: str, verb: Callable[..., Any]) -> None:
    def echo(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=[request.method, request.content.decode()])

    body = '{"a":1}' if method == "PUT" else ""
    verb(pay(URL, client=client_of(echo))).expect_body([method, body]).execute()


def test_nothing_is_paid_without_leave_or_above_the_limit() -> None:
    wallet = PaperWallet()
    request = pay(URL, wallet=wallet, client=client_of(paid_shop))
    request.expect_status(402).expect_body(lambda body: body["error"] is None).execute()
    with pytest.raises(X402Error) as refused:
        pay(URL, wallet=wallet, client=client_of(paid_shop)).with_payment("0.099999").execute()
    assert str(refused.value) == (
        "Client max amount 99999 is less than server required amount 100000"
    )
    assert wallet.paid == []


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (
            {"json": {"error": "pay me"}},
            X402ParseError,
            "Invalid 402 response format. Expected standard x402 structure.",
        ),
        (
            {"json": {"x402Version": 1, "accepts": []}},
            X402ParseError,
            "Server did not return any payment options",
        ),
        (
            {"json": payment_required_body([OFFER], "Payment already processed")},
            X402ParseError,
            "Server returned error: Payment already processed",
        ),
        (
            {"text": "pay me"},
            X402ParseError,
            "Invalid 402 response format. Expected standard x402 structure.",
        ),
        (
            {"content": b"{", "headers": {"content-type": "application/json"}},
            X402Error,
            "Request failed: Expecting property name enclosed in double quotes at character 1",
        ),
    ],
)
def test_a_402_that_cannot_be_paid_is_an_error_with_the_published_text(
    answer: dict[str, Any], kind: type[X402Error], message: str
) -> None:
    with pytest.raises(kind) as refused:
        pay(URL, wallet=PaperWallet(), client=client_of(answering(402, **answer))).with_payment(
            "1"
        ).execute()
    assert str(refused.value) == message


def test_an_offer_of_another_scheme_is_not_paid() -> None:
    exact = {**OFFER.to_json(), "scheme": "exact"}
    offers = {"x402Version": 1, "accepts": [exact], "error": None}
    wallet = PaperWallet()
    with pytest.raises(X402Error, match="no payment of scheme solanaTransferChecked"):
        pay(URL, wallet=wallet, client=client_of(answering(402, json=offers))).with_payment(
            "1"
        ).execute()
    assert wallet.paid == []


def test_a_server_that_cannot_be_reached_is_an_error_of_the_kit() -> None:
    def unreachable(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(X402Error, match="Request failed: refused"):
        pay(URL, client=client_of(unreachable)).execute()


def unmet(wallet: Wallet, shop: Handler, *expectations: Callable[[Any], Any]) -> str:
    request = pay(URL, wallet=wallet, client=client_of(shop)).with_payment("0.1")
    for expect in expectations:
        expect(request)
    with pytest.raises(AssertionError) as failed:
        request.execute()
    assert isinstance(failed.value, X402AssertionError)
    return str(failed.value)


@pytest.mark.parametrize(
    ("expect", "message"),
    [
        (lambda r: r.expect_status(201), "Expected status 201 but got 200\nBody: {'data': [1]}"),
        (
            lambda r: r.expect_payment_amount("99999"),
            "Expected payment amount 99999 but got 100000",
        ),
        (lambda r: r.expect_body({}), "Expected body {} but got {'data': [1]}"),
        (
            lambda r: r.expect_body(lambda body: "other" in body),
            "Body validation failed\nBody: {'data': [1]}",
        ),
        (
            lambda r: r.expect_header("x-shop", "closed"),
            "Expected header x-shop to be closed but got open",
        ),
        (
            lambda r: r.expect_header("x-shop", re.compile("^closed$")),
            "Expected header x-shop to match ^closed$ but got open",
        ),
        (
            lambda r: r.expect_header("x-none", re.compile(".")),
            "Expected header x-none to match . but got None",
        ),
    ],
)
def test_an_expectation_that_does_not_hold_says_so(
    expect: Callable[[Any], Any], message: str
) -> None:
    assert unmet(PaperWallet(), paid_shop, expect) == message


def test_the_first_expectation_that_does_not_hold_is_the_one_that_is_told() -> None:
    message = unmet(
        PaperWallet(),
        paid_shop,
        lambda r: r.expect_status(200),
        lambda r: r.expect_header("x-shop", "closed"),
        lambda r: r.expect_status(500),
    )
    assert message == "Expected header x-shop to be closed but got open"


def test_a_payment_is_settled_only_if_this_call_paid_and_chain_and_server_agree() -> None:
    def settled(request: Any) -> Any:
        return request.expect_payment_settled()

    assert unmet(PaperWallet(), answering(200, json=1), settled) == "Payment was not settled"
    assert unmet(PaperWallet("Transaction not found"), paid_shop, settled) == (
        "Transaction not found"
    )

    def liar(request: httpx.Request) -> httpx.Response:
        return paid_shop(request, transaction=SIGNATURE[::-1])

    assert unmet(PaperWallet(), liar, settled) == (
        "The server's payment response is of another payment"
    )


def test_an_amount_is_expected_only_of_a_call_that_paid() -> None:
    message = unmet(
        PaperWallet(), answering(200, json=1), lambda r: r.expect_payment_amount("100000")
    )
    assert message == "Payment was not settled"


def test_a_payment_that_was_made_before_is_presented_and_not_made_again() -> None:
    wallet = PaperWallet()
    request = pay(URL, wallet=wallet, client=client_of(paid_shop)).with_payment("1")
    response = request.with_payment_header("earlier").expect_status(200).execute()
    assert (response.payment_header, response.payment, wallet.paid) == ("earlier", None, [])


def test_two_equal_payments_in_one_block_are_two_transactions() -> None:
    transfer = Transfer(
        mint=Pubkey.from_string(OFFER.asset),
        token_program=Pubkey.from_string("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA"),
        decimals=6,
        recipient=Pubkey.from_string(PAY_TO),
        amount=100_000,
    )
    key = Keypair.from_seed(bytes(range(32)))
    assert len({signed(key, transfer, PAYER) for _ in range(3)}) == 3


def test_an_application_is_tested_without_a_socket() -> None:
    app = FastAPI()

    @app.get("/premium")
    def premium(request: Request) -> JSONResponse:
        if "x-payment" not in request.headers:
            return JSONResponse(payment_required_body([OFFER]), status_code=402)
        return JSONResponse("paid")

    with TestClient(app) as client:
        for _ in range(2):
            request = pay("/premium", wallet=PaperWallet(), client=client).with_payment("0.10")
            request.expect_status(200).expect_body("paid").execute()


@pytest.mark.parametrize("price", ["1e-7", "0.0000001", "1,00", "0", "0.000000", "free"])
def test_t15_a_price_that_is_not_exact_in_six_places_is_no_price(price: str) -> None:
    with pytest.raises(AmountError):
        Route(price=price, response=None)


def test_t15_a_price_is_exact() -> None:
    assert Route(price="1.005", response=None).amount == 1_005_000
