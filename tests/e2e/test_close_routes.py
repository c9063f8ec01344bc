"""Closing a session and its one settlement, on the real chain programs. Spec: "Sellers"."""

import asyncio
from typing import Any

import httpx
import pytest
from running import PRICE, USDC, Buyer, Seller, Service, path_of, problem_of, settled
from spl.token.instructions import get_associated_token_address

SETTLEMENT = {
    "settlementId", "channelId", "status", "amount", "signature", "slot", "confirmationStatus",
    "attempts", "failure", "explorerUrl", "source", "destination", "authority", "retryAt",
}  # fmt: skip


@pytest.fixture
def payable(service: Service, seller: Seller) -> Seller:
    """A seller whose token account exists."""
    service.chain.receive(seller.wallet)
    return seller


def test_a_close_pays_exactly_the_watermark_and_says_so(
    service: Service, payable: Seller, buyer: Buyer
) -> None:
    buyer.fund(2 * USDC)
    assert payable.open(buyer, "c", sourceTokenAccount=buyer.source).json()["funding"] == "verified"
    for n in (1, 2, 3):
        assert payable.verify(buyer.pay(payable, "c", n * PRICE, n))["valid"]
    answer = payable.close("c", wait=30)
    closed = answer.json()
    assert answer.status_code == 200
    assert (closed["channelId"], closed["state"]) == ("c", "settled")
    brief = closed["settlement"]
    assert set(brief) == {"settlementId", "status", "amount", "signature", "failure"}
    assert (brief["status"], brief["amount"], brief["failure"]) == ("settled", "30000", None)
    shown = payable.get(f"/v1/settlements/{brief['settlementId']}").json()
    assert set(shown) == SETTLEMENT
    assert (shown["channelId"], shown["status"]) == ("c", "settled")
    assert (shown["confirmationStatus"], shown["failure"]) == ("finalized", None)
    assert (shown["source"], shown["explorerUrl"]) == (buyer.source, None)
    assert shown["authority"] == service.facts["settlementAuthority"]
    mint = service.chain.mint
    to = str(get_associated_token_address(payable.wallet.pubkey(), mint))
    assert shown["destination"] == to
    [attempt] = shown["attempts"]
    assert (attempt["number"], attempt["state"]) == (1, "finalized")
    assert attempt["signature"] == shown["signature"] == brief["signature"]
    assert shown["slot"] > 0
    assert attempt["lastValidBlockHeight"] > 0
    assert service.chain.balance(buyer.wallet) == 2 * USDC - 3 * PRICE
    assert service.chain.balance(payable.wallet) == 3 * PRICE
    how = {"encoding": "jsonParsed", "maxSupportedTransactionVersion": 0}
    transaction = service.chain.call("getTransaction", shown["signature"], how)
    instructions = transaction["transaction"]["message"]["instructions"]
    transfers = [i["parsed"] for i in instructions if i.get("program") == "spl-token"]
    assert [t["type"] for t in transfers] == ["transferChecked"]
    assert transfers[0]["info"]["tokenAmount"]["amount"] == "30000"
    memos = [i["parsed"] for i in instructions if i.get("program") == "spl-memo"]
    assert any(brief["settlementId"] in memo for memo in memos)
    session = payable.session("c")
    assert (session["state"], session["settlement"]["status"]) == ("settled", "settled")
    assert session["closeRequestedAt"]
    assert payable.close("c").json() == closed


def test_closing_again_gives_the_same_settlement_and_pays_once(
    service: Service, payable: Seller, buyer: Buyer
) -> None:
    buyer.fund()
    assert payable.verify(buyer.pay(payable, "c", PRICE, 1))["valid"]
    first = payable.close("c")
    assert first.status_code == 202
    assert first.json()["state"] == "closing"
    ids = {payable.close("c").json()["settlement"]["settlementId"] for _ in range(5)}
    assert ids == {first.json()["settlement"]["settlementId"]}
    done = settled(payable, ids.pop(), "settled")
    assert len(done["attempts"]) == 1
    assert service.chain.balance(payable.wallet) == PRICE
    types = [event["type"] for event in payable.events()]
    assert types.count("close_requested") == types.count("settlement_intended") == 1


async def test_closing_many_times_at_once_intends_one_settlement(
    service: Service, payable: Seller, buyer: Buyer
) -> None:
    buyer.fund()
    assert payable.verify(buyer.pay(payable, "c", PRICE, 1))["valid"]
    headers = {"authorization": f"Bearer {payable.token}"}
    async with httpx.AsyncClient(base_url=service.url, headers=headers, timeout=60) as http:
        path = path_of("c") + "/close"
        answers = await asyncio.gather(*(http.post(path, params={"wait": 30}) for _ in range(16)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    assert service.chain.balance(payable.wallet) == PRICE


def test_a_session_without_a_voucher_settles_nothing_and_says_so(
    seller: Seller, buyer: Buyer
) -> None:
    assert seller.open(buyer, "c").status_code == 201
    answer = seller.close("c")
    assert answer.status_code == 200
    closed = answer.json()
    assert (closed["state"], closed["settlement"]["status"]) == ("settled", "settled")
    assert (closed["settlement"]["amount"], closed["settlement"]["signature"]) == ("0", None)
    assert closed["settlement"]["failure"]["code"] == "nothing_to_settle"
    shown = seller.get(f"/v1/settlements/{closed['settlement']['settlementId']}").json()
    assert (shown["attempts"], shown["source"], shown["slot"]) == ([], None, None)
    assert seller.verify(buyer.pay(seller, "c", PRICE, 1))["code"] == "session_closed"


def test_an_unknown_session_cannot_be_closed(seller: Seller) -> None:
    problem_of(seller.close("nobody's"), 404, "session_not_found")
    problem_of(seller.get("/v1/settlements/stl_nothing"), 404, "settlement_not_found")


def test_a_close_may_name_the_source_which_is_then_read(
    service: Service, payable: Seller, buyer: Buyer
) -> None:
    buyer.fund()
    assert (
        payable.verify(buyer.pay(payable, "c", PRICE, 1))["session"]["sourceTokenAccount"] is None
    )
    wrong = payable.close("c", {"sourceTokenAccount": "not an address"})
    assert "sourceTokenAccount" in problem_of(wrong, 400, "invalid_request")["detail"]
    assert payable.session("c")["state"] == "open"
    closed = payable.close("c", {"sourceTokenAccount": buyer.source}, wait=30)
    assert closed.json()["state"] == "settled"
    session = payable.session("c")
    assert (session["sourceTokenAccount"], session["funding"]) == (buyer.source, "verified")
    assert session["fundingSlot"] > 0


def test_nobody_pays_for_a_payer_that_is_no_address(seller: Seller, buyer: Buyer) -> None:
    assert seller.verify(buyer.pay(seller, "c", PRICE, 1, payer="somebody"))["valid"]
    problem_of(seller.close("c"), 422, "funding_source_unknown")
    somebodys = {"sourceTokenAccount": buyer.source}
    problem_of(seller.close("c", somebodys), 422, "funding_source_unknown")
    assert seller.session("c")["state"] == "open"


def test_a_seller_cannot_name_another_wallets_account(service: Service, seller: Seller) -> None:
    """A key of the seller's own signs for a payer of its own, and the victim's account is named."""
    victim, accomplice = service.buyer("victim"), service.buyer("accomplice")
    victim.fund(USDC)
    service.chain.receive(seller.wallet)
    assert seller.verify(accomplice.pay(seller, "c", PRICE, 1))["valid"]
    closed = seller.close("c", {"sourceTokenAccount": victim.source}).json()
    shown = settled(seller, closed["settlement"]["settlementId"], "parked")
    assert shown["failure"]["code"] == "source_owner_mismatch"
    assert shown["attempts"] == []
    assert service.chain.balance(victim.wallet) == USDC


def parked(seller: Seller, channel: str) -> dict[str, Any]:
    closed = seller.close(channel).json()
    shown = settled(seller, closed["settlement"]["settlementId"], "parked")
    assert shown["failure"]["detail"]
    assert shown["failure"]["at"]
    assert shown["signature"] is None
    assert shown["attempts"] == []
    assert seller.session(channel)["state"] == "closing"
    again = seller.close(channel)
    assert again.status_code == 202
    assert again.json()["settlement"]["failure"] == shown["failure"]
    return shown


def test_a_missing_recipient_account_parks_the_settlement_until_it_exists(
    service: Service, seller: Seller, buyer: Buyer
) -> None:
    buyer.fund()
    assert seller.verify(buyer.pay(seller, "c", PRICE, 1))["valid"]
    shown = parked(seller, "c")
    assert shown["failure"]["code"] == "recipient_account_missing"
    assert "CREATE_RECIPIENT_ATA" in shown["failure"]["hint"]
    assert shown["retryAt"] is not None
    assert service.chain.balance(buyer.wallet) == 25 * USDC


def test_a_revoked_delegation_parks_the_settlement_for_an_operator(
    service: Service, payable: Seller, buyer: Buyer
) -> None:
    buyer.fund()
    assert payable.open(buyer, "c", sourceTokenAccount=buyer.source).json()["funding"] == "verified"
    assert payable.verify(buyer.pay(payable, "c", PRICE, 1))["valid"]
    buyer.revoke()
    shown = parked(payable, "c")
    assert shown["failure"]["code"] == "delegate_revoked"
    assert "approve" in shown["failure"]["hint"]
    assert shown["retryAt"] is None
    assert service.chain.balance(payable.wallet) == 0


@pytest.mark.parametrize(
    ("amount", "approved", "code"),
    [(25 * USDC, PRICE - 1, "allowance_too_small"), (PRICE - 1, USDC, "insufficient_funds")],
)
def test_too_little_money_parks_the_settlement(
    payable: Seller, buyer: Buyer, amount: int, approved: int, code: str
) -> None:
    buyer.fund(amount, approved=approved)
    assert payable.verify(buyer.pay(payable, "c", PRICE, 1))["valid"]
    assert parked(payable, "c")["failure"]["code"] == code


def test_a_payer_without_an_account_parks_the_settlement(payable: Seller, buyer: Buyer) -> None:
    assert payable.verify(buyer.pay(payable, "c", PRICE, 1))["valid"]
    assert parked(payable, "c")["failure"]["code"] == "source_account_missing"


def test_a_removed_session_is_settled_all_the_same(
    service: Service, payable: Seller, buyer: Buyer
) -> None:
    buyer.fund()
    assert payable.verify(buyer.pay(payable, "c", PRICE, 1))["valid"]
    settlement = payable.close("c").json()["settlement"]["settlementId"]
    assert payable.delete(path_of("c")).status_code == 204
    settled(payable, settlement, "settled")
    assert service.chain.balance(payable.wallet) == PRICE
