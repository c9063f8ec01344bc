"""Direct payments over HTTP, on the local chain: what sellers see of T1 to T17."""

import base64
import json
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from direct_rig import (
    ata,
    give,
    header_of,
    land,
    memo,
    plain_transfer,
    recover_nested,
    transfer,
    with_reference,
    write_mint,
    write_table,
)
from running import PRICE, USDC, Seller, Service, fresh, problem_of, seed, until
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from spl.token.constants import TOKEN_2022_PROGRAM_ID, TOKEN_PROGRAM_ID
from spl.token.instructions import close_account
from spl.token.models import CloseAccountParams

URL = "https://shop.example/premium"
PROCESSED = "Payment already processed"
NOT_FOUND = "Transaction not found or not confirmed"


@dataclass
class Till:
    """A seller who can be paid, and a buyer with USDC and SOL."""

    service: Service
    seller: Seller
    buyer: Keypair
    mint: Pubkey

    @classmethod
    def of(cls, service: Service, seller: Seller | None = None) -> "Till":
        shop = seller or service.seller()
        buyer = Keypair.from_seed(seed(fresh("direct buyer")))
        till = cls(service, shop, buyer, service.chain.mint)
        give(service.chain.call, till.shop, till.mint, 0)
        give(service.chain.call, buyer.pubkey(), till.mint, USDC)
        return till

    @property
    def shop(self) -> Pubkey:
        return Pubkey.from_string(self.seller.facts["recipient"])

    @property
    def payer(self) -> Pubkey:
        return self.buyer.pubkey()

    def asked(self, resource: str = URL, **query: Any) -> dict[str, Any]:
        answer = self.seller.get("/v1/payments/requirements", resource=resource, **query)
        assert answer.status_code == 200, answer.text
        return answer.json()["accepts"][0]

    def transfer(self, amount: int = PRICE, **changes: Any) -> Instruction:
        given: dict[str, Any] = {
            "source": ata(self.payer, self.mint),
            "destination": ata(self.shop, self.mint),
            "authority": self.payer,
            "amount": amount,
            "mint": self.mint,
        }
        return transfer(**{**given, **changes})

    def land(self, *steps: Instruction, **options: Any) -> str:
        given = {"signers": [self.buyer], **options}
        return land(self.service.chain.call, *steps, **given)

    def paid(self, asked: dict[str, Any] | None = None) -> str:
        """Pay, with the memo that was asked for, if one was; gives the header."""
        text = (asked or {}).get("extra", {}).get("memo")
        steps = [self.transfer(), *([memo(text)] if text else [])]
        return self.header(self.land(*steps))

    def header(self, signature: str, **changes: Any) -> str:
        given = {"payer": self.payer, "amount": PRICE, "mint": self.mint, **changes}
        return header_of(signature, **given)

    def post(self, header: str, asked: dict[str, Any], **options: Any) -> httpx.Response:
        body = json.dumps({"paymentHeader": header, "paymentRequirements": asked})
        return self.seller.post("/v1/payments/verify", content=body, **options)

    def verify(self, header: str, asked: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = self.post(header, asked or self.asked())
        assert answer.status_code == 200, answer.text
        return answer.json()

    def failed(self, signature: str, resource: str = URL) -> httpx.Response:
        path = f"/v1/payments/{signature}/delivery-failed"
        return self.seller.post(path, json={"resource": resource})


def signature_of(header: str) -> str:
    return json.loads(base64.b64decode(header))["payload"]["signature"]


def valid(answer: dict[str, Any]) -> dict[str, Any]:
    assert answer["isValid"] is True, answer
    return answer


def refused(answer: dict[str, Any], code: str, error: str | None = None) -> dict[str, Any]:
    assert (answer["isValid"], answer["code"]) == (False, code), answer
    if error is not None:
        assert answer["error"] == error
    assert answer["paymentResponseHeader"] is answer["amount"] is answer["transaction"] is None
    return answer


@pytest.fixture
def till(service: Service) -> Till:
    return Till.of(service)


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


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"resource": "shop"},
        {"resource": "ftp://shop.example"},
        {"resource": URL, "units": "1", "amount": "1"},
        {"resource": URL, "units": "0"},
        {"resource": URL, "amount": "0"},
        {"resource": URL, "amount": "1.005"},
        {"resource": URL, "amount": "-1"},
        {"resource": URL, "amount": str(2**64)},
        {"resource": URL, "maxTimeoutSeconds": "0"},
        {"resource": URL, "outputSchema": "[]"},
        {"resource": URL, "outputSchema": "{"},
    ],
)
def test_t15_requirements_that_make_no_sense_are_refused_before_anybody_pays(
    till: Till, query: dict[str, str]
) -> None:
    answer = till.seller.get("/v1/payments/requirements", **query)
    problem_of(answer, 400, "invalid_request")


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


# --- T1 to T17 ------------------------------------------------------------------------------


def short_key(name: str) -> Keypair:
    """A wallet whose address has 43 characters."""
    keys = (Keypair.from_seed(seed(f"{name} {n}")) for n in range(1_000))
    return next(key for key in keys if len(str(key.pubkey())) == 43)


def test_t1_addresses_of_43_characters_pay_and_are_paid(service: Service) -> None:
    wallet = short_key(fresh("short shop"))
    till = Till.of(service, service.seller(recipient=str(wallet.pubkey())))
    till.buyer, till.mint = short_key(fresh("short buyer")), short_key(fresh("mint")).pubkey()
    write_mint(service.chain.call, till.mint)
    give(service.chain.call, till.shop, till.mint, 0)
    give(service.chain.call, till.payer, till.mint, USDC)
    asked = {**till.asked(), "asset": str(till.mint), "extra": {"memo": "t1"}}
    valid(till.verify(till.header(till.land(till.transfer(), memo("t1"))), asked))


def test_t2_a_plain_transfer_of_a_worthless_token_buys_nothing(till: Till) -> None:
    junk = Keypair().pubkey()
    write_mint(till.service.chain.call, junk)
    source = give(till.service.chain.call, till.payer, junk, USDC)
    till_of_junk = give(till.service.chain.call, till.shop, junk, 0)
    worthless = till.land(plain_transfer(source, till_of_junk, till.payer, PRICE))
    expected = f"Wrong token: expected {till.mint}, got {junk}"
    refused(till.verify(till.header(worthless)), "wrong_token", expected)
    own, shop = ata(till.payer, till.mint), ata(till.shop, till.mint)
    valid(till.verify(till.header(till.land(plain_transfer(own, shop, till.payer, PRICE)))))


def test_t4_the_net_gain_counts(till: Till) -> None:
    split = till.land(till.transfer(1), till.transfer(PRICE - 1))
    valid(till.verify(till.header(split)))
    refund = transfer(
        ata(till.shop, till.mint),
        ata(till.payer, till.mint),
        till.shop,
        PRICE,
        till.mint,
    )
    give(till.service.chain.call, till.shop, till.mint, 0)
    both = till.land(till.transfer(), refund, signers=[till.buyer, till.seller.wallet])
    expected = f"Payment amount 0 is less than required {PRICE}"
    answer = refused(till.verify(till.header(both)), "insufficient_amount", expected)
    assert answer["libraryError"] == f"Insufficient amount: expected {PRICE}, got 0"


def test_t5_a_seller_that_pays_itself_is_refused(till: Till) -> None:
    own = give(till.service.chain.call, till.shop, till.mint, PRICE)
    itself = transfer(own, own, till.shop, PRICE, till.mint)
    header = till.header(till.land(itself, signers=[till.seller.wallet]), payer=till.shop)
    refused(till.verify(header), "self_payment")


def test_t6_a_transfer_inside_another_programs_instruction_counts(till: Till) -> None:
    call, other = till.service.chain.call, Keypair().pubkey()
    write_mint(call, other)
    owner = give(call, till.shop, other, 0)
    give(call, owner, till.mint, PRICE)
    give(call, till.shop, till.mint, 0)
    nested = recover_nested(till.shop, other, till.mint)
    header = till.header(till.land(nested, signers=[till.seller.wallet]), payer=owner)
    assert valid(till.verify(header))["payer"] == str(owner)


def test_t6_a_token_with_a_transfer_fee_counts_by_what_arrives(till: Till) -> None:
    call, program = till.service.chain.call, TOKEN_2022_PROGRAM_ID
    till.mint = Keypair().pubkey()
    write_mint(call, till.mint, with_fee=True)
    source = give(call, till.payer, till.mint, USDC, program)
    shop = give(call, till.shop, till.mint, 0, program)
    asked = {**till.asked(), "asset": str(till.mint), "extra": None}
    accounts = {"source": source, "destination": shop, "program": program}
    short = till.land(till.transfer(PRICE, **accounts))
    expected = f"Payment amount {PRICE * 99 // 100} is less than required {PRICE}"
    refused(till.verify(till.header(short), asked), "insufficient_amount", expected)
    gross = PRICE + 102
    whole = till.land(till.transfer(gross, **accounts))
    answer = valid(till.verify(till.header(whole, amount=gross), asked))
    assert PRICE <= int(answer["amount"]) < gross


def test_t7_accounts_of_a_lookup_table_are_resolved(till: Till) -> None:
    call = till.service.chain.call
    own, shop = ata(till.payer, till.mint), ata(till.shop, till.mint)
    table = write_table(call, Keypair().pubkey(), own, shop, till.mint)
    valid(till.verify(till.header(till.land(till.transfer(), tables=[table]))))


def test_t8_closing_the_account_afterwards_changes_nothing(till: Till) -> None:
    paid = till.land(till.transfer())
    own = ata(till.shop, till.mint)
    empty = transfer(own, ata(till.payer, till.mint), till.shop, PRICE, till.mint)
    close = close_account(
        CloseAccountParams(
            program_id=TOKEN_PROGRAM_ID, account=own, dest=till.shop, owner=till.shop
        )
    )
    till.land(empty, close, signers=[till.seller.wallet])
    valid(till.verify(till.header(paid)))


def test_t9_a_payment_older_than_the_requirements_allow_buys_nothing(till: Till) -> None:
    header = till.paid()
    landed = time.time()
    until(lambda: time.time() > landed + 2)
    asked = {**till.asked(), "maxTimeoutSeconds": 1}
    refused(till.verify(header, asked), "payment_too_old")
    valid(till.verify(header, {**asked, "maxTimeoutSeconds": 86_400}))


def test_t10_a_payment_buys_what_its_memo_names_and_nothing_else(till: Till) -> None:
    asked = till.asked()
    header = till.paid(asked)
    elsewhere = till.asked(URL + "/other")
    refused(till.verify(header, elsewhere), "binding_mismatch")
    refused(till.verify(header, till.asked(amount=str(PRICE - 1))), "binding_mismatch")
    own = {**asked, "extra": {"memo": "order 7"}}
    refused(till.verify(header, own), "binding_mismatch")
    stranger = Till.of(till.service)
    answer = stranger.post(header, asked)
    problem_of(answer, 400, "invalid_request")
    theirs = stranger.asked()
    error = f"Wrong recipient: expected {stranger.shop}, got {till.shop}"
    refused(stranger.verify(header, theirs), "wrong_recipient", error)
    valid(till.verify(header, till.asked()))


def test_t10_a_sellers_own_memo_and_reference_are_enforced(till: Till) -> None:
    reference = Keypair().pubkey()
    extra = {"memo": "order 7", "reference": str(reference)}
    asked = {**till.asked(), "extra": extra}
    bound = till.land(with_reference(till.transfer(), reference), memo("order 7"))
    refused(till.verify(till.header(till.land(till.transfer())), asked), "binding_mismatch")
    other = {**asked, "extra": {**extra, "reference": str(till.payer)}}
    assert valid(till.verify(till.header(bound), asked))
    found = till.seller.get(f"/v1/payments/{bound}").json()
    assert (found["binding"], found["memo"]) == ("memo", "order 7")
    assert found["reference"] == str(reference)
    twice = till.land(with_reference(till.transfer(2 * PRICE), reference), memo("order 8"))
    refused(till.verify(till.header(twice, amount=2 * PRICE), other), "binding_mismatch")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"payer": str(Keypair().pubkey())}, "from_mismatch"),
        ({"amount": PRICE + 1}, "amount_mismatch"),
        ({"mint": str(Keypair().pubkey())}, "mint_mismatch"),
        ({"scheme": "exact"}, "scheme_mismatch"),
        ({"network": "solana-devnet"}, "network_mismatch"),
        ({"network": "base"}, "network_mismatch"),
        ({"x402_version": 2}, "version_mismatch"),
    ],
)
def test_t11_a_header_that_contradicts_the_payment_is_refused(
    till: Till, changes: dict[str, Any], code: str
) -> None:
    asked = till.asked()
    signature = till.land(till.transfer(), memo(asked["extra"]["memo"]))
    assert refused(till.verify(till.header(signature, **changes), asked), code)["status"] == 402
    valid(till.verify(till.header(signature), asked))


def test_t14_a_failed_delivery_is_made_good_once_for_the_same_resource(till: Till) -> None:
    asked = till.asked()
    header = till.paid(asked)
    signature = signature_of(header)
    problem_of(till.failed(signature), 404, "payment_not_found")
    first = valid(till.verify(header, asked))
    problem_of(till.failed(signature, URL + "/other"), 409, "resource_mismatch")
    for _ in range(2):
        assert till.failed(signature).json()["redeliveryOwed"] is True
    stranger = till.service.seller()
    path = f"/v1/payments/{signature}/delivery-failed"
    problem_of(stranger.post(path, json={"resource": URL}), 404, "payment_not_found")
    elsewhere = till.asked(URL + "/other")
    refused(till.verify(header, elsewhere), "payment_already_processed", PROCESSED)
    spelled_anew = till.header(signature)
    assert spelled_anew != header
    refused(till.verify(spelled_anew, asked), "payment_already_processed", PROCESSED)
    assert till.verify(header, till.asked()) == first
    refused(till.verify(header, asked), "payment_already_processed", PROCESSED)
    types = [event["type"] for event in till.seller.events()]
    assert types[-3:] == ["payment_accepted", "delivery_failed", "payment_redelivered"]
    found = till.seller.get(f"/v1/payments/{signature}").json()
    assert (found["deliveriesFailed"], found["redeliveries"]) == (1, 1)


@pytest.mark.parametrize(
    "header",
    ["", "%", "eyJ9", base64.b64encode(b"[]").decode(), "A" * 5_000],
)
def test_t16_a_malformed_header_is_a_400_and_an_unpaid_one_a_402(till: Till, header: str) -> None:
    malformed = till.verify(header)
    refused(malformed, "invalid_header", "Invalid X-PAYMENT header format")
    assert malformed["status"] == 400
    nowhere = till.verify(till.header(str(Keypair().sign_message(b"never sent"))))
    refused(nowhere, "transaction_not_found", NOT_FOUND)
    assert (nowhere["status"], nowhere["retryable"]) == (402, True)
    assert nowhere["libraryError"] == "Transaction not found"


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
