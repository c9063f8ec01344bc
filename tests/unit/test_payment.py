"""The one-shot payment: one settlement with one attempt, and nothing behind its end."""

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from charge_rig import AMOUNT, DESTINATION, FEE_PAYER, MINT, PAYER, RECIPIENT, SOURCE, wire
from settlement_cases import NOW, fetched, heights, status

from service.application.streams import PAYMENT, payment_stream, settling_stream
from service.domain import events as e
from service.domain.errors import Corrupt, SettlementNotAbandonable, SettlementNotRetryable
from service.domain.onchain import message_of
from service.domain.operations import abandon_settlement, resume_settlement
from service.domain.payment import Payment, evolve, fold, payment_id, submit_payment
from service.domain.settlement_plan import Observation, SettlementPolicy
from service.domain.settlement_steps import Done, Fetch, Record, Send, Wait, next_step
from service.domain.units import AtomicUsdc, BlockHeight, Lamports, Slot

RAW = wire()
ID = payment_id(message_of(RAW))
SUBMITTED = e.PaymentSubmitted(
    at=NOW,
    payment_id=ID,
    dialect="mpp",
    seller_id="slr_1",
    payer=PAYER,
    recipient=RECIPIENT,
    amount=AtomicUsdc(AMOUNT),
    source=SOURCE,
    destination=DESTINATION,
    mint=MINT,
    decimals=6,
    token_program="program",
    chain_id="solana:chain",
    resource=None,
    memo="mppx:1",
    transaction=RAW,
    signature="sig-1",
    message_hash=hashlib.sha256(message_of(RAW)).digest(),
    blockhash="blockhash",
    last_valid_block_height=BlockHeight(1_150),
    tip_height=BlockHeight(1_000),
    min_context_slot=Slot(1_500),
    first_available_slot=Slot(0),
    fee=Lamports(10_001),
    fee_payer=FEE_PAYER,
    creates_recipient_account=False,
    cluster_id="test/1",
)
SENT = e.AttemptSent(NOW, ID, 1, "fake", "accepted")
FINALIZED = e.SettlementFinalized(
    NOW, ID, 1, "sig-1", Slot(1_600), str(-AMOUNT), str(AMOUNT), bytes(32)
)
FAILED = e.AttemptFailed(NOW, ID, 1, Slot(1_600), "insufficient_funds", "{}", retryable=True)
EXPIRED = e.AttemptExpired(NOW, ID, 1, {})
LANDED = {
    "raw_hash": hashlib.sha256(RAW).digest(),
    "message_hash": SUBMITTED.message_hash,
}


def paid(*after: e.PaymentEvent) -> Payment:
    payment = fold(None, [SUBMITTED, *after])
    assert payment is not None
    return payment


def step(payment: Payment, **seen: Any) -> Any:
    return next_step(
        payment.settlement, Observation(provider="fake", **seen), NOW, SettlementPolicy()
    )


def test_a_payment_is_named_by_its_message_whoever_signed_it() -> None:
    assert payment_id(message_of(wire(signers=[]))) == ID
    assert payment_id(message_of(wire(blockhash=PAYER))) != ID
    assert ID.startswith("pay_")


def test_a_payment_begins_signed_with_its_one_attempt() -> None:
    payment = paid()
    settlement = payment.settlement
    assert (settlement.settlement_id, settlement.status) == (ID, "signed")
    assert (settlement.source, settlement.destination) == (SOURCE, DESTINATION)
    assert (settlement.amount, settlement.authority) == (AMOUNT, PAYER)
    assert [a.transaction for a in settlement.attempts] == [RAW]
    assert settlement.signed_by_payer
    assert payment.signature == "sig-1"


def test_submitting_again_is_no_event() -> None:
    assert submit_payment(None, SUBMITTED) == [SUBMITTED]
    for payment in (paid(), paid(SENT, FINALIZED), paid(SENT, EXPIRED)):
        assert submit_payment(payment, replace(SUBMITTED, signature="another")) == []


@pytest.mark.parametrize(
    ("end", "status_after"), [(FINALIZED, "settled"), (FAILED, "failed"), (EXPIRED, "failed")]
)
def test_every_end_is_final(end: e.PaymentEvent, status_after: str) -> None:
    """Where a session's settlement would be signed again, even by a log that allows it."""
    payment = paid(SENT, end)
    assert payment.settlement.status == status_after
    assert isinstance(step(payment), Done)
    for further in (SENT, FINALIZED, FAILED, EXPIRED):
        with pytest.raises(Corrupt):
            evolve(payment, further)


def test_a_log_that_breaks_the_rules_is_refused() -> None:
    with pytest.raises(Corrupt):
        evolve(None, SENT)
    with pytest.raises(Corrupt):
        evolve(paid(), SUBMITTED)
    with pytest.raises(Corrupt):
        evolve(paid(), replace(SENT, settlement_id="pay_other"))


def test_the_projection_holds_the_whole_payment() -> None:
    for payment in (paid(), paid(SENT), paid(SENT, FINALIZED), paid(SENT, EXPIRED)):
        assert PAYMENT.load(PAYMENT.project(payment)) == payment


def test_a_payment_is_in_the_feed_of_the_seller_it_names() -> None:
    stream = payment_stream(ID)
    assert stream.stream_id == f"payment/{ID}"
    assert stream.seller_of(paid()) == "slr_1"
    assert stream.seller_of(replace(paid(), seller_id=None)) == ""
    assert settling_stream(stream.stream_id) == stream
    assert settling_stream("session/slr_1/a/b").seller_id == "slr_1"


# --- what is done about it ------------------------------------------------------------------


def test_it_is_sent_as_the_log_holds_it() -> None:
    found = step(paid())
    assert isinstance(found, Send)
    assert found.attempt.transaction == RAW


def test_it_settles_by_its_finalized_transaction_alone() -> None:
    flying = paid(SENT)
    assert isinstance(step(flying, status=status("finalized")), Fetch)
    moved = {SOURCE: -AMOUNT, DESTINATION: AMOUNT}
    found = step(flying, status=status("finalized"), fetched=fetched(token_changes=moved, **LANDED))
    assert isinstance(found, Record)
    assert isinstance(found.event, e.SettlementFinalized)
    more = {**moved, FEE_PAYER: -1}
    odd = step(flying, status=status("finalized"), fetched=fetched(token_changes=more, **LANDED))
    assert isinstance(odd, Wait)
    assert odd.alarm == "balance_changes_do_not_match"


def test_another_signature_of_the_payers_makes_no_other_payment() -> None:
    """The payer can sign its message anew and send that; the cluster takes only one of the two."""
    moved = {SOURCE: -AMOUNT, DESTINATION: AMOUNT}
    anew = fetched(token_changes=moved, **{**LANDED, "raw_hash": bytes(32)})
    found = step(paid(SENT), status=status("finalized"), fetched=anew)
    assert isinstance(found, Record)
    assert isinstance(found.event, e.SettlementFinalized)
    assert found.event.transaction_hash == bytes(32)
    other = fetched(token_changes=moved, **{**LANDED, "message_hash": bytes(32)})
    served = step(paid(SENT), status=status("finalized"), fetched=other)
    assert isinstance(served, Wait)
    assert served.alarm == "another_transaction_was_served"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"InstructionError": [2, {"Custom": 1}]}, "insufficient_funds"),
        ({"InstructionError": [7, {"Custom": 17}]}, "source_account_frozen"),
        ({"InstructionError": [0, "ComputationalBudgetExceeded"]}, "compute_exceeded"),
        ({"InstructionError": [3, "InvalidInstructionData"]}, "unknown_failure"),
        ("InsufficientFundsForFee", "fee_payer_poor"),
        ("Anything", "unknown_failure"),
    ],
)
def test_a_failure_on_chain_ends_it_without_another_reading(error: object, code: str) -> None:
    found = step(paid(SENT), status=status("finalized"), fetched=fetched(error, **LANDED))
    assert isinstance(found, Record)
    assert isinstance(found.event, e.AttemptFailed)
    assert (found.event.failure, found.event.retryable) == (code, False)


def test_it_expires_by_the_proof_that_every_attempt_needs() -> None:
    unseen = status(None)
    alive = step(paid(SENT), status=unseen, heights=heights(1_150, 1_118))
    assert isinstance(alive, Send)
    dying = step(paid(SENT), status=unseen, heights=heights(1_200, 1_168))
    assert isinstance(dying, Wait)
    dead = step(paid(SENT), status=unseen, heights=heights(1_400, 1_368), fetched="nothing")
    assert isinstance(dead, Record)
    assert isinstance(dead.event, e.AttemptExpired)


def test_an_operator_can_neither_retry_nor_abandon_what_may_land_or_has_ended() -> None:
    for payment in (paid(), paid(SENT), paid(SENT, FINALIZED), paid(SENT, EXPIRED)):
        with pytest.raises(SettlementNotRetryable):
            resume_settlement(payment, now=NOW)
        with pytest.raises(SettlementNotAbandonable):
            abandon_settlement(payment, reason="because", now=NOW)
