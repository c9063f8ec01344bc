"""`/x402/verify`, `/x402/settle`, `/x402/supported`: what is paid, what is refused and with which
reason, and that a payment buys once.

The published packages play against the same routes in test_published_x402.py.
"""

import asyncio
import base64
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from charge_rig import ata, create, key, memo
from exact_rig import Shop, exact
from running import PRICE, USDC, Service, running, until
from solders.address_lookup_table_account import AddressLookupTableAccount
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import MessageV0, to_bytes_versioned
from spl.token.constants import TOKEN_PROGRAM_ID
from spl.token.instructions import approve_checked
from spl.token.models import ApproveCheckedParams

from service.domain.sponsorship import LIGHTHOUSE_PROGRAM

PAYLOAD = "invalid_exact_svm_payload"
STEPS = f"{PAYLOAD}_transaction_instructions"
WALLET = "invalid_exact_svm_smart_wallet"


@pytest.fixture
def shop(service: Service) -> Shop:
    return Shop.of(service)


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


async def test_verifying_signs_nothing_and_writes_nothing(shop: Shop) -> None:
    async def rows() -> list[Any]:
        counted = "SELECT (SELECT count(*) FROM {}) AS n"
        tables = ("events", "claims", "payments", "settlements", "attempts")
        return [(await shop.service.rows(counted.format(table)))[0]["n"] for table in tables]

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


# --- what the published Python facilitator accepts and should not -------------------------------


def test_overpayment_is_refused(shop: Shop) -> None:
    raw = shop.bought(exact(shop.transfer(amount=PRICE + 1), b"more"))
    assert shop.judged(raw)[0] == f"{PAYLOAD}_amount_mismatch"


def test_the_fee_payer_as_signer_of_a_memo_is_refused(shop: Shop) -> None:
    steps = [*exact(shop.transfer(), b"")[:3], memo(b"signed by you", shop.fee_payer)]
    assert shop.judged(shop.bought(steps))[0] == f"{WALLET}_fee_payer_not_isolated"


def test_a_source_of_the_fee_payers_that_the_buyer_may_draw_on_is_refused(
    service: Service,
) -> None:
    """The delegation is real, so nothing but the rule keeps the money."""
    shop = Shop.of(service, purse=0)
    chain, mint = service.chain, shop.mint
    chain.call(
        "surfnet_setTokenAccount",
        shop.fee_payer,
        mint,
        {"amount": PRICE, "delegate": shop.buyer.address, "delegatedAmount": PRICE},
    )
    raw = shop.bought(exact(shop.transfer(source=ata(shop.fee_payer, mint)), b"yours"))
    assert shop.judged(raw)[0] == f"{PAYLOAD}_transaction"


def test_a_source_of_anybody_elses_that_the_buyer_may_draw_on_is_refused(shop: Shop) -> None:
    owner, chain = Keypair(), shop.service.chain
    chain.call("requestAirdrop", str(owner.pubkey()), 1_000_000_000)
    chain.call("surfnet_setTokenAccount", str(owner.pubkey()), shop.mint, {"amount": PRICE})
    approval = ApproveCheckedParams(
        program_id=TOKEN_PROGRAM_ID,
        source=key(ata(str(owner.pubkey()), shop.mint)),
        mint=key(shop.mint),
        delegate=key(shop.buyer.address),
        owner=owner.pubkey(),
        amount=PRICE,
        decimals=6,
    )
    chain.send(owner, approve_checked(approval))
    raw = shop.bought(
        exact(shop.transfer(source=ata(str(owner.pubkey()), shop.mint)), b"of another")
    )
    assert shop.judged(raw)[0] == f"{PAYLOAD}_transaction"


def test_a_high_compute_unit_limit_is_refused(shop: Shop) -> None:
    for limit in (400_001, 1_400_000):
        steps = exact(shop.transfer(), b"limit")
        steps[0] = set_compute_unit_limit(limit)
        reason, _ = shop.judged(shop.bought(steps))
        assert reason == f"{STEPS}_compute_limit_instruction_too_high"


def test_a_high_price_is_refused_and_so_is_the_product_of_both(shop: Shop) -> None:
    for limit, price in ((20_000, 5_000_001), (400_000, 5_000_000)):
        steps = exact(shop.transfer(), b"price")
        steps[:2] = [set_compute_unit_limit(limit), set_compute_unit_price(price)]
        reason, _ = shop.judged(shop.bought(steps))
        assert reason == f"{STEPS}_compute_price_instruction_too_high"


def test_a_transaction_that_the_buyer_has_not_signed_is_refused(shop: Shop) -> None:
    """A simulation without signatures would let it pass."""
    assert shop.judged(shop.bought(signers=[]))[0] == f"{PAYLOAD}_signature_invalid"
    raw = bytearray(base64.b64decode(shop.bought()))
    raw[1 + 64] ^= 1
    spoiled = base64.b64encode(raw).decode()
    assert shop.judged(spoiled)[0] == f"{PAYLOAD}_signature_invalid"


def test_wrong_decimals_are_refused(shop: Shop) -> None:
    raw = shop.bought(exact(shop.transfer(decimals=5), b"decimals"))
    assert shop.judged(raw)[0] == f"{PAYLOAD}_mint_mismatch"


# --- the rules of the scheme ----------------------------------------------------------------


def shapes(shop: Shop) -> dict[str, tuple[list[Instruction], str]]:
    """Transactions that are no payment of the scheme, and their reasons."""
    limit, price, transfer, note = exact(shop.transfer(), b"note")
    lighthouse = Instruction(key(LIGHTHOUSE_PROGRAM), b"\x00", [])
    stranger = Instruction(key(str(Keypair().pubkey())), b"", [])
    buyer_pays = create(payer=shop.buyer.address, owner=shop.recipient, mint=shop.mint)
    of_fee_payer = shop.transfer(authority=shop.fee_payer, source=ata(shop.fee_payer, shop.mint))
    return {
        "no price and no memo": ([limit, transfer], f"{STEPS}_length"),
        "eight instructions": (
            [limit, price, transfer, note, *[lighthouse] * 4],
            f"{STEPS}_length",
        ),
        "no limit": ([price, transfer, note], f"{STEPS}_compute_limit_instruction"),
        "no price": ([limit, transfer, note], f"{STEPS}_compute_price_instruction"),
        "no transfer": ([limit, price, note], f"{PAYLOAD}_no_transfer_instruction"),
        "two transfers": (
            [limit, price, transfer, transfer, note],
            f"{WALLET}_multiple_matching_transfers",
        ),
        "an account is created": (
            [limit, price, transfer, buyer_pays],
            f"{PAYLOAD}_unknown_fourth_instruction",
        ),
        "an unknown fifth": (
            [limit, price, transfer, note, stranger],
            f"{PAYLOAD}_unknown_fifth_instruction",
        ),
        "an unknown first": ([stranger, price, transfer], f"{STEPS}_compute_limit_instruction"),
        "of the fee payer's": (
            [limit, price, of_fee_payer, note],
            f"{WALLET}_fee_payer_not_isolated",
        ),
        "to itself": (
            [limit, price, shop.transfer(destination=ata(shop.buyer.address, shop.mint)), note],
            f"{PAYLOAD}_recipient_mismatch",
        ),
        "to the wallet itself": (
            [limit, price, shop.transfer(destination=shop.recipient), note],
            f"{PAYLOAD}_recipient_mismatch",
        ),
        "too little": (
            [limit, price, shop.transfer(amount=PRICE - 1), note],
            f"{PAYLOAD}_amount_mismatch",
        ),
        "two memos": ([limit, price, transfer, note, note], f"{PAYLOAD}_memo_count"),
        "a limit twice": ([limit, limit, price, transfer], f"{WALLET}_malformed_compute_budget"),
    }


def test_what_is_no_payment_of_the_scheme_is_refused_with_its_reason(shop: Shop) -> None:
    for name, (steps, reason) in shapes(shop).items():
        assert (name, shop.judged(shop.bought(steps))[0]) == (name, reason)


def test_another_signer_is_refused(shop: Shop) -> None:
    third = Keypair()
    steps = [*exact(shop.transfer(), b"")[:3], memo(b"me too", str(third.pubkey()))]
    raw = shop.bought(steps, signers=[shop.buyer.wallet, third])
    assert shop.judged(raw)[0] == f"{PAYLOAD}_excessive_signers"


def test_another_fee_payer_is_refused(shop: Shop) -> None:
    raw = shop.bought(fee_payer=shop.buyer.address)
    assert shop.judged(raw)[0] == "invalid_exact_svm_fee_payer_mismatch"


def test_lookup_tables_are_refused(shop: Shop) -> None:
    latest = shop.service.chain.call("getLatestBlockhash")["value"]["blockhash"]
    table = AddressLookupTableAccount(Keypair().pubkey(), [key(ata(shop.recipient, shop.mint))])
    message = MessageV0.try_compile(
        key(shop.fee_payer), exact(shop.transfer(), b"table"), [table], Hash.from_string(latest)
    )
    content = to_bytes_versioned(message)
    signature = bytes(shop.buyer.wallet.sign_message(content))
    raw = base64.b64encode(bytes([2]) + bytes(64) + signature + content).decode()
    assert shop.judged(raw)[0] == f"{WALLET}_alt_resolution_not_available"


def test_the_memo_that_is_asked_for_must_be_there_once_and_byte_by_byte(shop: Shop) -> None:
    shop.extra = {"memo": "order é 1"}

    def with_memos(*texts: bytes) -> str:
        return shop.bought([*exact(shop.transfer(), b"")[:3], *map(memo, texts)])

    count, mismatch = f"{PAYLOAD}_memo_count", f"{PAYLOAD}_memo_mismatch"
    asked = "order é 1".encode()
    assert shop.judged(with_memos())[0] == count
    assert shop.judged(with_memos(asked, asked))[0] == count
    assert shop.judged(with_memos(asked + b" "))[0] == mismatch
    assert shop.judged(with_memos("order e\u0301 1".encode()))[0] == mismatch
    assert shop.judged(with_memos(b"\xff"))[0] == mismatch
    assert shop.settle(with_memos(asked))["success"] is True


def test_the_order_of_the_instructions_is_free(shop: Shop) -> None:
    limit, price, transfer, note = exact(shop.transfer(), uuid4().hex.encode())
    assert shop.settle(shop.bought([price, limit, note, transfer]))["success"] is True


def test_the_fee_payer_may_be_who_is_paid(shop: Shop) -> None:
    chain, mint = shop.service.chain, shop.mint
    chain.call("surfnet_setTokenAccount", shop.fee_payer, mint, {"amount": 0})
    transfer = shop.transfer(destination=ata(shop.fee_payer, mint))
    raw = shop.bought(exact(transfer, uuid4().hex.encode()))
    assert shop.verify(raw, payTo=shop.fee_payer)["isValid"] is True


def test_a_wallets_assertion_that_the_chain_does_not_have_fails_in_the_simulation(
    shop: Shop,
) -> None:
    """Its program is allowed, so the chain refuses: the local one has no such program."""
    note = memo(uuid4().hex.encode())
    asserted = Instruction(
        key(LIGHTHOUSE_PROGRAM), b"\x00", [AccountMeta(key(shop.buyer.address), True, False)]
    )
    raw = shop.bought([*exact(shop.transfer(), b"")[:3], asserted, note])
    assert shop.judged(raw)[0] == "invalid_exact_svm_transaction_simulation_failed"


# --- what the chain says --------------------------------------------------------------------


def test_a_buyer_without_the_money_is_refused(service: Service) -> None:
    poor = Shop.of(service, purse=PRICE - 1)
    assert poor.judged(poor.bought())[0] == "insufficient_funds"


def test_a_wallet_without_an_account_is_refused(shop: Shop) -> None:
    shop.wallet = Keypair()
    reason, message = shop.judged(shop.bought())
    assert reason == "invalid_exact_svm_transaction_simulation_failed"
    assert message.startswith("recipient_account_missing")


def test_an_unknown_blockhash_is_refused(shop: Shop) -> None:
    raw = shop.bought(blockhash=str(Keypair().pubkey()))
    assert shop.judged(raw)[0] == "invalid_transaction_state"


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
