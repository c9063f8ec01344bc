"""Scheme `exact` of x402: which transactions of strangers a facilitator signs.

Every case is a real transaction in wire bytes, read by the real parser.
"""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from charge_rig import (
    AMOUNT,
    CLAIM,
    FEE_PAYER,
    MINT,
    PAYER,
    POLICY,
    RECIPIENT,
    ata,
    create,
    key,
    memo,
    pay,
    wire,
)
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair

from service.adapters.solana.parsing import parse_transaction
from service.api.x402.reasons import REASONS, reason_of
from service.domain.errors import (
    ChainUnavailable,
    InvalidTransactionEncoding,
    SellerNotRegistered,
    SponsorshipRefused,
)
from service.domain.refusals import EXACT_REFUSALS, REFUSALS
from service.domain.sponsorship import (
    LIGHTHOUSE_PROGRAM,
    TOKEN_PROGRAMS,
    SponsoredTransfer,
    TransferClaim,
    check_inner,
    check_sponsored,
    exact_policy,
    needs_inner,
)

EXACT = exact_policy(POLICY)
LIMIT, PRICE = set_compute_unit_limit(20_000), set_compute_unit_price(1)
NOTE = memo(b"00112233445566778899aabbccddeeff")
CAPS = {"global_settle_cap_exceeded", "seller_settle_cap_exceeded"}


def lighthouse(*accounts: str) -> Instruction:
    metas = [AccountMeta(key(a), is_signer=False, is_writable=False) for a in accounts]
    return Instruction(key(LIGHTHOUSE_PROGRAM), b"\x09", metas)


def judged(*steps: Instruction, claim: TransferClaim = CLAIM) -> SponsoredTransfer:
    return check_sponsored(parse_transaction(wire(steps)), claim, EXACT)


def refused(*steps: Instruction, claim: TransferClaim = CLAIM) -> SponsorshipRefused:
    with pytest.raises(SponsorshipRefused) as refusal:
        judged(*steps, claim=claim)
    assert refusal.value.reason in {**REFUSALS, **EXACT_REFUSALS}
    return refusal.value


def test_the_published_clients_transaction_is_sponsored() -> None:
    found = judged(LIMIT, PRICE, pay(), NOTE)
    assert (found.payer, found.recipient, found.amount) == (PAYER, RECIPIENT, AMOUNT)
    assert (found.memo, found.fee) == ("00112233445566778899aabbccddeeff", 10_001)


def test_the_least_is_three_instructions_and_the_most_seven() -> None:
    assert judged(LIMIT, PRICE, pay())
    assert judged(LIMIT, PRICE, pay(), *[lighthouse(PAYER)] * 3, NOTE)
    assert refused(LIMIT, pay()).reason == "policy:too_few_instructions"
    eight = refused(LIMIT, PRICE, pay(), *[lighthouse(PAYER)] * 4, NOTE)
    assert eight.reason == "policy:too_many_instructions"


def test_limit_and_price_must_be_set() -> None:
    assert refused(PRICE, pay(), NOTE).reason == "policy:compute_unit_limit_missing"
    assert refused(LIMIT, pay(), NOTE).reason == "policy:compute_unit_price_missing"


def test_no_account_is_created() -> None:
    """Not even at the payer's cost: the scheme wants the recipient's account to exist."""
    refusal = refused(LIMIT, PRICE, create(), pay())
    assert (refusal.reason, refusal.instruction) == ("policy:program_not_allowed", 2)


def test_assertions_of_wallets_are_allowed_but_may_not_name_the_fee_payer() -> None:
    assert judged(LIMIT, PRICE, pay(), lighthouse(PAYER), NOTE)
    named = refused(LIMIT, PRICE, pay(), lighthouse(FEE_PAYER), NOTE)
    assert named.reason == "policy:fee_payer_not_isolated"
    with pytest.raises(SponsorshipRefused) as elsewhere:
        check_sponsored(parse_transaction(wire([pay(), lighthouse(PAYER)])), CLAIM, POLICY)
    assert elsewhere.value.reason == "policy:program_not_allowed"


def test_the_memo_that_is_asked_for_is_there_once_and_equal() -> None:
    asked = replace(CLAIM, memo="order 1")
    good = memo(b"order 1")
    assert judged(LIMIT, PRICE, pay(), good, claim=asked).memo == "order 1"
    for memos, code in (
        ((), "policy:memo_count"),
        ((good, good), "policy:memo_count"),
        ((NOTE,), "policy:memo_mismatch"),
        ((memo(b"order 10"),), "policy:memo_mismatch"),
    ):
        assert refused(LIMIT, PRICE, pay(), *memos, claim=asked).reason == code


def test_what_called_programs_call_may_move_no_tokens() -> None:
    for program in TOKEN_PROGRAMS:
        with pytest.raises(SponsorshipRefused) as refusal:
            check_inner(["11111111111111111111111111111111", program], EXACT)
        assert refusal.value.reason == "policy:inner_transfer"
    check_inner(["11111111111111111111111111111111"], EXACT)
    check_inner([], EXACT)
    check_inner(TOKEN_PROGRAMS, POLICY)  # an account's creation calls it


def test_the_top_level_shows_everything_unless_a_program_of_others_is_called() -> None:
    def tx(*steps: Instruction) -> bool:
        return needs_inner(parse_transaction(wire(steps)), EXACT)

    assert not tx(LIMIT, PRICE, pay(), NOTE)
    assert tx(LIMIT, PRICE, pay(), lighthouse(PAYER))


# --- the published reasons ------------------------------------------------------------------


def test_every_refusal_has_a_published_reason() -> None:
    assert set(REASONS) == {*REFUSALS, *EXACT_REFUSALS} - CAPS
    assert all(re.fullmatch(r"[a-z_]+", reason) for reason in REASONS.values())


def test_caps_and_a_silent_chain_are_nobodys_fault() -> None:
    for error in (SponsorshipRefused("global_settle_cap_exceeded"), ChainUnavailable("x")):
        assert reason_of(error, "unexpected_settle_error") == "unexpected_settle_error"
    assert reason_of(SellerNotRegistered("x"), "") == "invalid_payment_requirements"
    undecodable = reason_of(InvalidTransactionEncoding("x"), "")
    assert undecodable == "invalid_exact_svm_payload_transaction_could_not_be_decoded"


def test_an_unknown_instruction_is_named_by_its_place() -> None:
    stranger = Instruction(Keypair().pubkey(), b"", [])
    known = [LIMIT, PRICE, pay(), NOTE, *[lighthouse(PAYER)] * 3]
    places = [
        "transaction_instructions_compute_limit_instruction",
        "transaction_instructions_compute_price_instruction",
        "no_transfer_instruction",
        *(f"unknown_{nth}_instruction" for nth in ("fourth", "fifth", "sixth", "seventh")),
    ]
    for place, name in enumerate(places):
        steps = [*known[:place], stranger, *known[place + 1 :]]
        assert reason_of(refused(*steps), "") == f"invalid_exact_svm_payload_{name}"


def test_the_documented_reasons_are_those_of_the_code() -> None:
    text = (Path(__file__).parents[2] / "docs" / "x402.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z:_]+)` \| `([a-z_]+)` \|", text, re.MULTILINE))
    assert rows == REASONS


def test_the_same_bounds_hold_as_for_other_payments() -> None:
    assert EXACT.compute_unit_limit_max == POLICY.compute_unit_limit_max == 400_000
    assert EXACT.compute_unit_price_max == 5_000_000
    dear = [set_compute_unit_limit(20_000), set_compute_unit_price(5_000_001), pay()]
    assert refused(*dear).reason == "policy:compute_unit_price"
    many = [set_compute_unit_limit(400_001), PRICE, pay()]
    assert refused(*many).reason == "policy:compute_unit_limit"
    both = [set_compute_unit_limit(400_000), set_compute_unit_price(5_000_000), pay()]
    assert refused(*both).reason == "policy:fee_too_high"


def test_a_source_that_is_not_the_payers_own_is_refused() -> None:
    for owner in (FEE_PAYER, RECIPIENT):
        steps = (LIMIT, PRICE, pay(source=ata(owner, MINT)), NOTE)
        assert refused(*steps).reason == "policy:source_not_payers"
