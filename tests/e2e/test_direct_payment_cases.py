"""Direct payments over HTTP, on the local chain: what sellers see of T1 to T17."""

import base64
import time
from typing import Any

import pytest
from direct_rig import (
    ata,
    give,
    memo,
    plain_transfer,
    recover_nested,
    transfer,
    with_reference,
    write_mint,
    write_table,
)
from running import PRICE, USDC, Service, fresh, problem_of, seed, until
from solders.keypair import Keypair
from spl.token.constants import TOKEN_2022_PROGRAM_ID, TOKEN_PROGRAM_ID
from spl.token.instructions import close_account
from spl.token.models import CloseAccountParams
from till import PROCESSED, URL, Till, refused, signature_of, till_fixture, valid

__all__ = ["till_fixture"]

NOT_FOUND = "Transaction not found or not confirmed"


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
