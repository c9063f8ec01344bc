"""Verdicts and receipts, one by one and in batches, over HTTP. Spec: HTTP contract, "Verdict"."""

import time
from typing import Any

from running import CONTEXT, PRICE, Buyer, Seller, Service, path_of, problem_of


def test_an_accepted_voucher_is_answered_with_its_receipt_and_the_session(
    seller: Seller, buyer: Buyer
) -> None:
    signed = buyer.pay(seller, "c", 2 * PRICE, 5)
    verdict = seller.verify(signed)
    session = verdict.pop("session")
    receipt = verdict.pop("receipt")
    assert verdict == {
        "valid": True,
        "verdict": "accepted",
        "amountPaid": str(2 * PRICE),
        "voucher": signed["voucher"],
    }
    assert set(session) == CONTEXT
    assert session == seller.session("c")
    assert session["state"] == "open"
    assert session["sessionPubkey"] == buyer.signer
    assert (session["cumulativeAmount"], session["voucherCount"]) == (str(2 * PRICE), 1)
    assert (session["lastSequence"], session["payer"]) == (5, buyer.address)
    assert session["recipient"] == seller.facts["recipient"]
    assert (session["network"], session["funding"]) == ("localnet", "unverified")
    for unset in ("deposit", "remaining", "closeRequestedAt", "settlement", "grantId"):
        assert session[unset] is None
    assert session["position"] == 2  # opened, accepted
    assert receipt["channelId"] == "c"
    assert (receipt["position"], receipt["sequence"]) == (2, 5)
    assert receipt["amountPaid"] == receipt["cumulativeAmount"] == str(2 * PRICE)
    assert session["lastVoucherAt"] == session["openedAt"] == receipt["acceptedAt"]
    [row] = [e for e in seller.events() if e["type"] == "voucher_accepted"]
    assert (row["hash"], row["position"]) == (receipt["eventHash"], receipt["position"])


def test_a_replay_is_refused_with_the_receipt_of_the_first_time(
    seller: Seller, buyer: Buyer
) -> None:
    first, second = buyer.pay(seller, "c", PRICE, 1), buyer.pay(seller, "c", 2 * PRICE, 2)
    receipts = [seller.verify(signed)["receipt"] for signed in (first, second)]
    for signed, receipt in zip((first, second), receipts, strict=True):
        again = seller.verify(signed)
        assert not again["valid"]
        assert (again["verdict"], again["error"]) == ("replayed", "amount_not_monotonic")
        assert again["code"] == "amount_not_monotonic"
        assert again["receipt"] == receipt
        assert "amountPaid" not in again
    assert seller.session("c")["voucherCount"] == 2


def test_a_replay_is_known_after_the_session_was_closed(seller: Seller, buyer: Buyer) -> None:
    signed = buyer.pay(seller, "c", PRICE, 1)
    receipt = seller.verify(signed)["receipt"]
    assert seller.close("c").status_code in (200, 202)
    again = seller.verify(signed)
    assert (again["verdict"], again["receipt"]) == ("replayed", receipt)
    later = seller.verify(buyer.pay(seller, "c", 2 * PRICE, 2))
    assert (later["verdict"], later["code"]) == ("rejected", "session_closed")


def test_another_voucher_for_the_same_total_is_no_replay(seller: Seller, buyer: Buyer) -> None:
    assert seller.verify(buyer.pay(seller, "c", PRICE, 1))["valid"]
    other = seller.verify(buyer.pay(seller, "c", PRICE, 2))
    assert (other["verdict"], other["code"]) == ("rejected", "amount_not_monotonic")
    assert "receipt" not in other


def test_each_check_has_its_code_and_leaves_no_event(
    service: Service, seller: Seller, buyer: Buyer
) -> None:
    stranger = service.buyer()
    assert seller.verify(buyer.pay(seller, "c", 5 * PRICE, 5))["valid"]
    good = buyer.pay(seller, "c", 6 * PRICE, 6)
    wrong_key = stranger.pay(seller, "c", 6 * PRICE, 6, payer=buyer.address)
    now = int(time.time())
    cases: list[tuple[Any, str]] = [
        ({}, "missing_voucher_fields"),
        ({**good, "signature": ""}, "missing_voucher_fields"),
        ({**good, "signatureType": "rsa"}, "unsupported_signature_type"),
        ({**good, "signer": "0"}, "signature_verification_failed"),
        ({**good, "signer": stranger.signer}, "invalid_signature"),
        ({**good, "voucher": {**good["voucher"], "units": "2"}}, "invalid_signature"),
        (buyer.pay(seller, "c", 6 * PRICE, 6, recipient=stranger.address), "recipient_mismatch"),
        (buyer.pay(seller, "c", 6 * PRICE, 6, chainId="solana:x"), "network_mismatch"),
        (buyer.pay(seller, "c", 6 * PRICE, 6, channelProgram="x"), "program_mismatch"),
        (buyer.pay(seller, "", 6 * PRICE, 6), "malformed_voucher"),
        (buyer.pay(seller, "x" * 129, 6 * PRICE, 6), "malformed_voucher"),
        (buyer.pay(seller, "c", 6 * PRICE, 6, sequence="6"), "malformed_voucher"),
        (buyer.pay(seller, "c", 6 * PRICE, 6, expiresAt=now - 1), "voucher_expired"),
        (wrong_key, "signer_changed_mid_session"),
        (buyer.pay(seller, "c", 6 * PRICE, 6, payer=stranger.address), "payer_changed"),
        (buyer.pay(seller, "c", 5 * PRICE - 1, 6), "amount_not_monotonic"),
        (buyer.pay(seller, "c", 6 * PRICE, 5), "sequence_not_monotonic"),
        (buyer.pay(seller, "c", 6 * PRICE - 1, 6), "underpaid"),
        (buyer.pay(seller, "c", 6 * PRICE, 6, units="2"), "underpaid"),
    ]  # fmt: skip
    before = seller.session("c")
    events = len(seller.events())
    for body, code in cases:
        verdict = seller.verify(body)
        assert (verdict["verdict"], verdict["code"]) == ("rejected", code), body
        assert verdict["error"].startswith(code)
        assert verdict["detail"]
        assert not verdict["valid"]
        assert "receipt" not in verdict
    assert seller.session("c") == before
    assert len(seller.events()) == events
    assert seller.verify(good)["valid"]


def test_an_underpaid_voucher_is_told_both_numbers(seller: Seller, buyer: Buyer) -> None:
    first = seller.verify(buyer.pay(seller, "c", PRICE - 1, 1))
    assert first["error"] == f"underpaid: expected at least {PRICE}, got {PRICE - 1}"
    assert seller.verify(buyer.pay(seller, "c", PRICE, 1))["valid"]
    second = seller.verify(buyer.pay(seller, "c", PRICE + 1, 2))
    assert second["error"] == f"underpaid: expected {PRICE}, got 1"


def test_a_voucher_may_name_its_end_and_signed_extras(seller: Seller, buyer: Buyer) -> None:
    later = int(time.time()) + 3_600
    signed = buyer.pay(seller, "c", PRICE, 1, expiresAt=later, note={"any": ["thing", None]})
    assert seller.verify(signed)["voucher"] == signed["voucher"]


def test_a_batch_answers_in_order_and_applies_each_channel_in_order(
    service: Service, seller: Seller, buyer: Buyer
) -> None:
    other = service.buyer()
    bodies = [
        buyer.pay(seller, "a", PRICE, 1),
        other.pay(seller, "b", PRICE, 1),
        buyer.pay(seller, "a", 3 * PRICE, 3),
        buyer.pay(seller, "a", 2 * PRICE, 2),
        {"voucher": 1},
        other.pay(seller, "b", 2 * PRICE, 2),
        buyer.pay(seller, "a", PRICE, 1),
        buyer.pay(seller, "a", 4 * PRICE, 4),
    ]
    results = seller.batch(bodies)
    verdicts = [result["verdict"] for result in results]
    assert verdicts == [
        "accepted", "accepted", "accepted", "rejected", "rejected", "accepted", "replayed",
        "accepted",
    ]  # fmt: skip
    assert results[3]["code"] == "amount_not_monotonic"
    assert results[4]["code"] == "missing_voucher_fields"
    assert results[6]["receipt"] == results[0]["receipt"]
    assert [results[n]["amountPaid"] for n in (0, 2, 7)] == ["10000", "20000", "10000"]
    assert seller.session("a")["cumulativeAmount"] == str(4 * PRICE)
    assert seller.session("b")["lastSequence"] == 2
    assert [result["verdict"] for result in seller.batch(bodies[:2])] == ["replayed"] * 2


def test_a_batch_holds_a_thousand_vouchers_and_no_more(service: Service, seller: Seller) -> None:
    buyers = [service.buyer() for _ in range(10)]
    bodies = [
        buyer.pay(seller, f"channel {n}", (i + 1) * PRICE, i + 1)
        for i in range(100)
        for n, buyer in enumerate(buyers)
    ]
    results = seller.batch(bodies)
    assert [result["verdict"] for result in results] == ["accepted"] * 1_000
    assert [result["voucher"] for result in results] == [body["voucher"] for body in bodies]
    assert seller.session("channel 3")["voucherCount"] == 100
    for wrong in ([], [*bodies, bodies[0]]):
        answer = seller.post("/v1/vouchers/verify-batch", json={"vouchers": wrong})
        assert "1 to 1000" in problem_of(answer, 400, "invalid_request")["detail"]


def test_a_batch_with_one_bad_charge_accepts_nothing(seller: Seller, buyer: Buyer) -> None:
    bodies = [
        buyer.pay(seller, "a", PRICE, 1),
        {**buyer.pay(seller, "b", PRICE, 1), "charge": {"units": "-1"}},
    ]
    answer = seller.post("/v1/vouchers/verify-batch", json={"vouchers": bodies})
    assert "vouchers[1]" in problem_of(answer, 400, "invalid_request")["detail"]
    problem_of(seller.get(path_of("a")), 404, "session_not_found")
