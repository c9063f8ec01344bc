"""Direct payments judged: the published server's defects T1 to T11, each beside a naive twin."""

import base64
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import TOKEN_PROGRAM
from naive_x402 import (
    LANDED,
    TOKEN_2022,
    Move,
    Scene,
    key,
    naive,
    naive_atomic_units,
    naive_schema,
    signature,
)

from service.application.payment_challenges import PREFIX, PaymentChallenges, Quote
from service.domain.direct_judgement import (
    REFUSALS,
    DirectClaim,
    DirectFacts,
    Refusal,
    judge,
)
from service.domain.units import AtomicUsdc, UnixMillis
from session_ledger.x402.amounts import to_atomic_units
from session_ledger.x402.direct import (
    PaymentPayload,
    PaymentRequirements,
    parse_payment_header,
    parse_requirements,
    payment_header,
)

PAYER, SHOP, OTHER = key("payer"), key("shop"), key("other")
USDC, JUNK = key("usdc"), key("junk")
FROM, TILL, ELSEWHERE = key("payer's account"), key("shop's account"), key("other's account")
AMOUNT = 100_000
NOW = UnixMillis((LANDED + 20) * 1_000)
URL = "https://shop.example/premium"
OWNERS = {FROM: PAYER, TILL: SHOP, ELSEWHERE: OTHER}
REQUIRED = PaymentRequirements("solana-localnet", AMOUNT, URL, SHOP, USDC)
PAID = PaymentPayload(signature("scene"), PAYER, AMOUNT, USDC, NOW, "solana-localnet")
DOCUMENT = Path(__file__).parents[2] / "docs" / "x402.md"
CHALLENGES = PaymentChallenges(b"key")
QUOTE = Quote("slr_1", URL, AtomicUsdc(AMOUNT), SHOP, USDC)
PAYMENT = Move(FROM, TILL, AMOUNT, USDC, PAYER)


def scene(*moves: Move, **changes: Any) -> Scene:
    given: dict[str, Any] = {"moves": list(moves) or [PAYMENT], "owners": OWNERS}
    return Scene(**{**given, "signers": (PAYER,), **changes})


def claim(**changes: Any) -> DirectClaim:
    given = DirectClaim(
        pay_to=SHOP,
        asset=USDC,
        required=AtomicUsdc(AMOUNT),
        memo=None,
        reference=None,
        payer=PAYER,
        amount=AtomicUsdc(AMOUNT),
        mint=USDC,
        age_seconds_max=300,
        issued=lambda memo, at: CHALLENGES.issued(QUOTE, memo, at),
        unbound=True,
    )
    return replace(given, **changes)


def judged(told: Scene, **changes: Any) -> DirectFacts | Refusal:
    return judge(told.observed(), claim(**changes), NOW)


def accepted(told: Scene, **changes: Any) -> DirectFacts:
    facts = judged(told, **changes)
    assert isinstance(facts, DirectFacts), facts
    return facts


def refused(told: Scene, code: str, **changes: Any) -> Refusal:
    refusal = judged(told, **changes)
    assert isinstance(refusal, Refusal), refusal
    assert refusal.code == code
    assert code in REFUSALS
    assert refusal.status == 402
    return refusal


def naive_serves(told: Scene, **changes: Any) -> bool:
    """Whether the naive server would have served."""
    return naive(told, replace(REQUIRED, **changes)) is None


def test_an_ordinary_payment_passes_in_both() -> None:
    facts = accepted(scene())
    assert (facts.amount, facts.payer, facts.fee_payer) == (AMOUNT, PAYER, PAYER)
    assert (facts.slot, facts.block_time, facts.binding) == (500, LANDED, "payer")
    assert naive_serves(scene())


def test_t1_addresses_of_43_characters_are_addresses() -> None:
    short = next(k for n in range(500) if len(k := key(f"short {n}")) == 43)
    told = replace(REQUIRED, pay_to=short, asset=short).to_json()
    header = payment_header(replace(PAID, payer=short, mint=short))
    assert parse_requirements(told).pay_to == short
    assert parse_payment_header(header).payer == short
    assert not naive_schema(json.loads(base64.b64decode(header)), told)


def test_t2_a_plain_transfer_of_a_worthless_token_buys_nothing() -> None:
    told = scene(replace(PAYMENT, mint=JUNK, tag=3))
    assert refused(told, "wrong_token").error == f"Wrong token: expected {USDC}, got {JUNK}"
    assert naive_serves(told)
    real = scene(replace(PAYMENT, tag=3))
    assert accepted(real).amount == AMOUNT


def test_t4_dust_before_the_real_transfer_does_not_hide_it() -> None:
    told = scene(replace(PAYMENT, amount=1), replace(PAYMENT, amount=AMOUNT - 1))
    assert accepted(told).amount == AMOUNT
    assert not naive_serves(told)


@pytest.mark.parametrize("kept", [0, AMOUNT - 1])
def test_t4_a_transfer_that_is_refunded_in_the_same_transaction_buys_nothing(kept: int) -> None:
    refund = Move(TILL, FROM, AMOUNT - kept, USDC, SHOP)
    told = scene(PAYMENT, refund, signers=(PAYER, SHOP))
    refusal = refused(told, "insufficient_amount")
    assert refusal.error == f"Payment amount {kept} is less than required {AMOUNT}"
    assert refusal.library_error == f"Insufficient amount: expected {AMOUNT}, got {kept}"
    assert naive_serves(told)


def test_t4_what_goes_to_several_accounts_of_the_recipient_counts_together() -> None:
    second = key("shop's second account")
    half = replace(PAYMENT, amount=AMOUNT // 2)
    told = scene(half, replace(half, destination=second), owners={**OWNERS, second: SHOP})
    assert accepted(told).amount == AMOUNT
    assert not naive_serves(told)


@pytest.mark.parametrize("destination", [TILL, key("shop's second account")])
def test_t5_a_recipient_that_pays_itself_has_earned_nothing(destination: str) -> None:
    owners = {**OWNERS, destination: SHOP}
    told = scene(Move(TILL, destination, AMOUNT, USDC, SHOP), owners=owners, signers=(SHOP,))
    refusal = refused(told, "self_payment", payer=SHOP)
    assert refusal.error == f"Payment amount 0 is less than required {AMOUNT}"
    assert naive_serves(told)


def test_t5_a_header_that_names_the_recipient_as_payer_is_refused() -> None:
    pulled = scene(replace(PAYMENT, authority=SHOP), signers=(SHOP,))
    refused(pulled, "self_payment", payer=SHOP)
    assert naive_serves(pulled)
    assert accepted(pulled).payer == PAYER


@pytest.mark.parametrize(
    "move",
    [
        replace(PAYMENT, inner=True),
        replace(PAYMENT, program=TOKEN_2022),
        replace(PAYMENT, program=TOKEN_2022, inner=True),
    ],
    ids=["inner", "token-2022", "both"],
)
def test_t6_a_transfer_counts_at_every_level_and_in_both_token_programs(move: Move) -> None:
    assert accepted(scene(move)).amount == AMOUNT
    assert not naive_serves(scene(move))


def test_t6_a_smart_wallet_pays_by_its_own_address() -> None:
    """Its token account belongs to the wallet, for which a program signs."""
    told = scene(replace(PAYMENT, inner=True), signers=(OTHER,))
    assert accepted(told).payer == PAYER
    refused(told, "from_mismatch", payer=OTHER)


@pytest.mark.parametrize(("sent", "passes"), [(AMOUNT, False), (AMOUNT + 1_000, True)])
def test_t6_a_transfer_fee_is_not_the_recipients_gain(sent: int, passes: bool) -> None:
    told = scene(replace(PAYMENT, amount=sent, fee=1_000))
    if passes:
        assert accepted(told, amount=AtomicUsdc(sent)).amount == AMOUNT
    else:
        refusal = refused(told, "insufficient_amount")
        assert refusal.error.startswith(f"Payment amount {AMOUNT - 1_000} is less")
        assert naive_serves(told)


def test_t7_accounts_of_lookup_tables_are_accounts() -> None:
    told = scene(looked_up={TILL})
    assert accepted(told).amount == AMOUNT
    error = naive(told, REQUIRED)
    assert error is not None
    assert "undefined" in error


@pytest.mark.parametrize("now", [OTHER, ""], ids=["reassigned", "closed"])
def test_t8_the_recipient_is_who_owned_the_account_then(now: str) -> None:
    told = scene(owners_now={TILL: now})
    assert accepted(told).amount == AMOUNT
    assert not naive_serves(told)


def test_t8_an_account_that_the_recipient_was_given_later_paid_somebody_else() -> None:
    told = scene(replace(PAYMENT, destination=ELSEWHERE), owners_now={ELSEWHERE: SHOP})
    refusal = refused(told, "wrong_recipient")
    assert refusal.error == f"Wrong recipient: expected {SHOP}, got {OTHER}"
    assert naive_serves(told)


@pytest.mark.parametrize(("seconds", "passes"), [(300, True), (301, False), (604_800, False)])
def test_t9_an_old_payment_buys_nothing(seconds: int, passes: bool) -> None:
    told = scene(block_time=NOW // 1_000 - seconds)
    assert naive_serves(told)
    if passes:
        accepted(told)
    else:
        refused(told, "payment_too_old")
        accepted(told, age_seconds_max=seconds)


def test_t9_a_payment_without_a_time_may_be_shown_again() -> None:
    assert refused(scene(block_time=None), "payment_time_unknown").retryable


def test_t10_a_payment_for_something_else_buys_nothing() -> None:
    until = LANDED + 60
    memo = CHALLENGES.issue(QUOTE, until)
    bound = scene(memos=(memo,))
    assert accepted(bound).binding == "challenge"
    assert accepted(bound, unbound=False).memo == memo
    for other in (
        replace(QUOTE, seller_id="slr_2"),
        replace(QUOTE, resource=URL + "2"),
        replace(QUOTE, amount=AtomicUsdc(AMOUNT - 1)),
        replace(QUOTE, pay_to=OTHER),
        replace(QUOTE, asset=JUNK),
    ):
        told = scene(memos=(CHALLENGES.issue(other, until),))
        refused(told, "binding_mismatch")
        assert naive_serves(told)


@pytest.mark.parametrize(
    "memo",
    [
        "invoice 7",
        PREFIX,
        PREFIX + "AAAA",
        PREFIX + "\u00e9",
        CHALLENGES.issue(QUOTE, LANDED),
        PaymentChallenges(b"another").issue(QUOTE, LANDED + 60),
        CHALLENGES.issue(QUOTE, LANDED + 60)[:-4] + "AAAA",
    ],
    ids=["foreign", "empty", "short", "no base64", "closed", "another deployment", "forged"],
)
def test_t10_a_memo_that_is_no_open_challenge_is_refused_in_every_mode(memo: str) -> None:
    for unbound in (True, False):
        refused(scene(memos=(memo,)), "binding_mismatch", unbound=unbound)


def test_t10_where_binding_is_required_a_payment_without_a_memo_buys_nothing() -> None:
    refused(scene(), "binding_missing", unbound=False)
    assert naive_serves(scene())


def test_t10_a_sellers_own_memo_and_reference_are_enforced_by_equality() -> None:
    reference = key("reference")
    both = scene(memos=("order 1",), accounts=(reference,))
    facts = accepted(both, memo="order 1", reference=reference, unbound=False)
    assert (facts.binding, facts.memo) == ("memo", "order 1")
    refused(both, "binding_mismatch", memo="order 2")
    refused(both, "binding_mismatch", memo="order")
    refused(both, "binding_mismatch", reference=key("another"))
    refused(both, "binding_mismatch", memo="order 1", reference=key("another"))
    told = scene(accounts=(reference,))
    assert accepted(told, reference=reference, unbound=False).binding == "reference"
    assert naive_serves(scene())


def test_t10_somebody_elses_payment_is_not_the_callers() -> None:
    refused(scene(), "from_mismatch", payer=OTHER)
    assert naive_serves(scene())


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"payer": OTHER}, "from_mismatch"),
        ({"amount": AtomicUsdc(AMOUNT + 1)}, "amount_mismatch"),
        ({"amount": AtomicUsdc(0)}, "amount_mismatch"),
        ({"mint": JUNK}, "mint_mismatch"),
    ],
)
def test_t11_a_header_that_contradicts_the_transaction_is_refused(
    changes: dict[str, Any], code: str
) -> None:
    refused(scene(), code, **changes)
    assert naive_serves(scene())


def test_t15_amounts_are_exact() -> None:
    assert to_atomic_units("1.005") == 1_005_000
    assert to_atomic_units("0.000001") == 1
    assert naive_atomic_units("1.005") == "1004999.9999999999"


def test_a_delegate_that_signed_may_be_the_payer() -> None:
    told = scene(replace(PAYMENT, authority=OTHER), signers=(OTHER,))
    assert accepted(told, payer=OTHER).payer == OTHER
    unsigned = scene(replace(PAYMENT, authority=OTHER), signers=(key("somebody"),))
    refused(unsigned, "from_mismatch", payer=OTHER)


def test_a_failed_transaction_says_why() -> None:
    told = scene(error={"InstructionError": [0, {"Custom": 1}]})
    expected = 'Transaction failed: {"InstructionError":[0,{"Custom":1}]}'
    assert refused(told, "transaction_failed").error == expected


def test_a_transaction_without_tokens_says_so() -> None:
    expected = "No token transfer instruction found in transaction"
    assert refused(Scene([], OWNERS, signers=(PAYER,)), "no_transfer").error == expected


def test_the_amount_is_judged_before_the_recipient_and_the_recipient_before_the_asset() -> None:
    small = Move(FROM, ELSEWHERE, AMOUNT - 1, JUNK, PAYER)
    refused(scene(small), "insufficient_amount")
    refused(scene(replace(small, amount=AMOUNT)), "wrong_recipient")
    refused(scene(replace(small, amount=AMOUNT, destination=TILL)), "wrong_token")
    late = scene(replace(small, amount=AMOUNT, destination=TILL), block_time=0)
    refused(late, "wrong_token", payer=OTHER)
    refused(scene(block_time=0, memos=("x",)), "payment_too_old", payer=OTHER)
    refused(scene(memos=("x",)), "binding_mismatch", payer=OTHER)


def test_of_several_credits_the_recipients_own_is_judged() -> None:
    in_junk = Move(FROM, TILL, AMOUNT, JUNK, PAYER)
    to_other = Move(FROM, ELSEWHERE, 2 * AMOUNT, USDC, PAYER)
    own = key("payer's junk")
    told = scene(replace(in_junk, source=own), to_other, owners={**OWNERS, own: PAYER})
    refused(told, "wrong_token")


def test_a_challenge_of_another_length_is_none() -> None:
    """Where the body ends and the quote begins must not be the bearer's choice."""
    memo = CHALLENGES.issue(QUOTE, LANDED + 60)
    body = base64.urlsafe_b64decode(memo.removeprefix(PREFIX))[:-16] + b"x"
    longer = PREFIX + base64.urlsafe_b64encode(body + CHALLENGES._tag(QUOTE, body)).decode()
    assert CHALLENGES.issued(QUOTE, memo, LANDED)
    assert not CHALLENGES.issued(QUOTE, longer, LANDED)


def test_more_than_required_is_enough() -> None:
    more = scene(replace(PAYMENT, amount=AMOUNT + 1, program=TOKEN_PROGRAM))
    assert accepted(more, amount=AtomicUsdc(AMOUNT + 1)).amount == AMOUNT + 1


def test_the_documented_refusals_are_those_of_the_code() -> None:
    part = DOCUMENT.read_text().split("## Direct payments")[1].split("## Facilitator")[0]
    table = part.split("### Refusals")[1]
    documented = re.findall(r"^\| `(\w+)` \|.*\| (yes|no) \|$", table, re.MULTILINE)
    assert {code for code, _ in documented} == REFUSALS.keys()
    retryable = {code for code, again in documented if again == "yes"}
    assert retryable == {"transaction_not_found", "payment_time_unknown", "chain_unavailable"}
