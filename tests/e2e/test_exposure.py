"""What is promised and not settled: who may see what of it, and that the numbers add up."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from running import PRICE, USDC, Caller, Service, problem_of, running, until

ROW = {
    "buyer", "seller", "openSessions", "closingSessions", "unsettled", "deposits", "oldestAt",
    "ageSeconds", "funding", "available", "headroom", "slot",
}  # fmt: skip
SUMS = {"openSessions", "closingSessions", "unsettled", "deposits", "oldestAt", "ageSeconds"}


@pytest.fixture(scope="module")
def ledger() -> Iterator[Service]:
    """A service of this module's own, whose totals nobody else adds to."""
    with running(WATCH_SECONDS="0.2") as started:
        yield started


def exposure(caller: Caller, **params: Any) -> dict[str, Any]:
    answer = caller.get("/v1/exposure", **params)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    assert set(body) == {"by", "exposures", "totals", "nextCursor"}
    assert all(set(row) == ROW for row in body["exposures"])
    return body


def row_of(caller: Caller, name: str, by: str = "buyer", **params: Any) -> dict[str, Any]:
    rows = exposure(caller, by=by, limit=500, **params)["exposures"]
    [row] = [row for row in rows if row[by] == name]
    return row


def test_a_buyers_row_says_what_it_owes_and_what_its_account_could_pay(ledger: Service) -> None:
    seller, buyer = ledger.seller(), ledger.buyer()
    buyer.fund(25 * USDC, approved=2 * USDC)
    deposit = str(USDC)
    assert seller.open(buyer, "a", deposit=deposit, sourceTokenAccount=buyer.source).is_success
    for channel, total in (("a", 3), ("b", 2)):
        assert seller.verify(buyer.pay(seller, channel, total * PRICE, 1))["valid"]
    until(lambda: seller.session("b")["funding"] == "verified")
    row = row_of(ledger.admin, buyer.address)
    assert (row["openSessions"], row["closingSessions"]) == (2, 0)
    assert (row["unsettled"], row["deposits"]) == (str(5 * PRICE), deposit)
    assert (row["funding"], row["seller"]) == ("verified", None)
    assert row["available"] == str(2 * USDC)  # the delegation, which is less than the balance
    assert row["headroom"] == str(2 * USDC - 5 * PRICE)
    assert row["slot"] > 0
    assert row["oldestAt"] == seller.session("a")["openedAt"]
    assert 0 <= row["ageSeconds"] < 60
    assert datetime.fromisoformat(row["oldestAt"])


def test_a_buyer_without_money_has_negative_headroom_and_settled_sessions_count_no_more(
    ledger: Service,
) -> None:
    seller, poor, late = ledger.seller(), ledger.buyer(), ledger.buyer()
    ledger.chain.receive(seller.wallet)
    for buyer, channel in ((poor, "poor"), (late, "late")):
        assert seller.verify(buyer.pay(seller, channel, PRICE, 1))["valid"]
        row = row_of(ledger.admin, buyer.address)
        assert (row["available"], row["headroom"]) == ("0", str(-PRICE))
    late.fund(2 * PRICE)
    assert row_of(ledger.admin, late.address)["headroom"] == str(PRICE)
    assert seller.close("late", wait=30).json()["state"] == "settled"
    assert seller.close("poor").json()["state"] == "closing"
    row = row_of(ledger.admin, poor.address)
    assert (row["openSessions"], row["closingSessions"]) == (0, 1)
    assert (row["unsettled"], row["funding"]) == (str(PRICE), None)
    names = [r["buyer"] for r in exposure(ledger.admin, limit=500)["exposures"]]
    assert late.address not in names


def test_a_seller_sees_its_own_sessions_and_nobody_elses(ledger: Service) -> None:
    mine, other, buyer = ledger.seller(), ledger.seller(), ledger.buyer()
    assert mine.verify(buyer.pay(mine, "a", PRICE, 1))["valid"]
    assert other.verify(buyer.pay(other, "a", 7 * PRICE, 1))["valid"]
    body = exposure(mine, by="buyer")
    assert [(r["buyer"], r["seller"], r["unsettled"]) for r in body["exposures"]] == [
        (buyer.address, mine.id, str(PRICE))
    ]
    assert set(body["totals"]) == SUMS
    assert body["totals"]["unsettled"] == str(PRICE)
    body = exposure(mine, by="seller")
    assert [(r["buyer"], r["seller"]) for r in body["exposures"]] == [(None, mine.id)]
    assert row_of(ledger.admin, buyer.address)["unsettled"] == str(8 * PRICE)
    assert row_of(ledger.admin, other.id, by="seller")["unsettled"] == str(7 * PRICE)


def test_the_totals_are_the_sum_of_all_pages(ledger: Service) -> None:
    seller = ledger.seller()
    for number in range(5):
        buyer = ledger.buyer()
        assert seller.verify(buyer.pay(seller, f"c{number}", PRICE, 1))["valid"]
    first = exposure(seller, limit=2)
    rows, cursor = list(first["exposures"]), first["nextCursor"]
    while cursor:
        page = exposure(seller, limit=2, cursor=cursor)
        assert page["totals"] is None
        rows += page["exposures"]
        cursor = page["nextCursor"]
    assert len({row["buyer"] for row in rows}) == len(rows) == 5
    totals = first["totals"]
    assert totals["openSessions"] == sum(row["openSessions"] for row in rows) == 5
    assert totals["unsettled"] == str(sum(int(row["unsettled"]) for row in rows))
    assert totals["oldestAt"] == min(row["oldestAt"] for row in rows)


def test_nobody_without_a_token_sees_anything(ledger: Service) -> None:
    problem_of(ledger.http.get("/v1/exposure"), 401, "unauthorized")
    problem_of(Caller(ledger, "nonsense").get("/v1/exposure"), 401, "unauthorized")


@pytest.mark.parametrize(
    "params",
    [
        {"by": "nobody"},
        {"limit": 0},
        {"limit": 501},
        {"limit": "many"},
        {"cursor": "%%%"},
        {"cursor": "AA=="},  # NUL
        {"cursor": "//8="},  # no UTF-8
        {"cursor": "x" * 1_025},
    ],
)
def test_wrong_parameters_are_named(ledger: Service, params: dict[str, Any]) -> None:
    problem_of(ledger.admin.get("/v1/exposure", **params), 400, "invalid_request")


def test_text_that_the_database_cannot_hold_in_json_breaks_nothing(ledger: Service) -> None:
    seller, buyer = ledger.seller(), ledger.buyer()
    refused = seller.open(buyer, "c", grantId="a\x00b")
    assert (refused.status_code, refused.json()["code"]) == (404, "grant_not_found")
    assert seller.verify(buyer.pay(seller, "c", PRICE, 1, note="a\x00b"))["valid"]
    assert exposure(seller)["totals"]["unsettled"] == str(PRICE)
    assert ledger.admin.get("/v1/exposure").status_code == 200
