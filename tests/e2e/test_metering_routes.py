"""What a request costs: charges, meters, versions of the price book. Spec: "Sellers"."""

from typing import Any

import pytest
from running import PRICE, Buyer, Seller, Service, path_of, problem_of, until

from service.domain.pricing import parse_charge, parse_price_book, required

METERS: dict[str, Any] = {
    "tokens": {
        "unit": "token",
        "flatFee": "500",
        "rate": {"amount": "1500", "per": "1000"},
        "minimum": "600",
        "maximum": "100000",
        "rounding": "up",
    },
    "bytes": {
        "unit": "byte",
        "rounding": "half_even",
        "tierMode": "graduated",
        "tiers": [
            {"upTo": "1000", "rate": {"amount": "0", "per": "1"}},
            {"rate": {"amount": "3", "per": "1024"}},
        ],
    },
}


@pytest.fixture
def metered(service: Service) -> Seller:
    return service.seller(meters=METERS)


@pytest.mark.parametrize(
    ("charge", "price"),
    [
        ({"units": "3"}, 3 * PRICE),
        ({"units": 2}, 2 * PRICE),
        ({"amount": "25001"}, 25_001),
        ({"amount": "0"}, 0),
        ({"meter": "tokens", "usage": "0"}, 600),
        ({"meter": "tokens", "usage": "67"}, 601),
        ({"meter": "tokens", "usage": "1200"}, 2_300),
        ({"meter": "tokens", "usage": "999999999"}, 100_000),
        ({"meter": "bytes", "usage": "1000"}, 0),
        ({"meter": "bytes", "usage": "2024"}, 3),
        ({"meter": "request", "usage": "4"}, 4 * PRICE),
        (None, PRICE),
    ],
    ids=str,
)
def test_a_charge_decides_what_the_voucher_must_cover(
    metered: Seller, buyer: Buyer, charge: dict[str, str] | None, price: int
) -> None:
    start = metered.verify({**buyer.pay(metered, "c", 1, 1), "charge": {"amount": "1"}})
    assert start["valid"]
    if price > 1:
        short = metered.verify({**buyer.pay(metered, "c", price, 2), "charge": charge})
        assert short["error"] == f"underpaid: expected {price}, got {price - 1}"
    paid = max(price, 1)
    enough = metered.verify({**buyer.pay(metered, "c", 1 + paid, 2), "charge": charge})
    assert (enough["valid"], enough["amountPaid"]) == (True, str(paid))
    row = metered.get(path_of("c") + "/vouchers").json()["vouchers"][-1]
    assert (row["required"], row["priceVersion"]) == (str(price), 1)
    asked = None if charge is None else {name: str(value) for name, value in charge.items()}
    assert row["charge"] == asked


def test_a_voucher_that_names_a_meter_is_priced_by_it(metered: Seller, buyer: Buyer) -> None:
    signed = buyer.pay(metered, "c", 2_300, 1, meter="tokens", units="1200")
    assert metered.verify(signed)["amountPaid"] == "2300"
    [row] = metered.get(path_of("c") + "/vouchers").json()["vouchers"]
    assert (row["meter"], row["usage"], row["charge"]) == ("tokens", "1200", None)
    short = metered.verify(buyer.pay(metered, "c", 4_599, 2, meter="tokens", units="1200"))
    assert short["error"] == "underpaid: expected 2300, got 2299"


def test_an_unknown_meter_has_the_default_price_unless_the_seller_is_strict(
    service: Service, metered: Seller, buyer: Buyer
) -> None:
    signed = buyer.pay(metered, "c", PRICE, 1, meter="unheard of")
    assert metered.verify(signed)["valid"]
    strict = service.seller(meters=METERS, strictMeter=True)
    refused = strict.verify(buyer.pay(strict, "c", PRICE, 1, meter="unheard of"))
    expected = "meter_mismatch: expected request|bytes|tokens, got unheard of"
    assert (refused["code"], refused["error"]) == ("meter_mismatch", expected)
    for meter in ("request", "tokens", "bytes"):
        assert strict.verify(buyer.pay(strict, meter, PRICE, 1, meter=meter))["valid"]


@pytest.mark.parametrize(
    "charge",
    [
        {},
        [],
        "1",
        {"units": "0"},
        {"units": "-1"},
        {"units": 1.5},
        {"units": True},
        {"amount": 5},
        {"amount": "05"},
        {"amount": "18446744073709551616"},
        {"units": "1", "amount": "1"},
        {"meter": "tokens"},
        {"meter": "unheard of", "usage": "1"},
        {"meter": "tokens", "usage": "-1"},
        {"units": "18446744073709551615"},
        {"total": "1"},
    ],
    ids=str,
)
def test_a_charge_of_another_form_is_the_sellers_mistake(
    metered: Seller, buyer: Buyer, charge: object
) -> None:
    body = {**buyer.pay(metered, "c", PRICE, 1), "charge": charge}
    answer = metered.post("/v1/vouchers/verify", json=body)
    assert "charge" in problem_of(answer, 400, "invalid_request")["detail"]
    problem_of(metered.get(path_of("c")), 404, "session_not_found")


def test_prices_change_from_now_on_and_history_can_be_priced_again(
    service: Service, metered: Seller, buyer: Buyer
) -> None:
    prices = f"/v1/sellers/{metered.id}/prices"
    charge = {"meter": "tokens", "usage": "1200"}
    assert metered.verify({**buyer.pay(metered, "c", 2_300, 1), "charge": charge})["valid"]
    dearer = {"pricePerUnit": "77", "meters": {"tokens": {**METERS["tokens"], "flatFee": "1500"}}}
    published = service.admin.post(prices, json=dearer)
    assert (published.status_code, published.json()["priceVersion"]) == (200, 2)
    again = service.admin.post(prices, json=dearer)
    assert again.json() == published.json()
    until(lambda: metered.get("/v1/challenge").json()["pricePerUnit"] == "77", seconds=3)
    short = metered.verify({**buyer.pay(metered, "c", 5_599, 2), "charge": charge})
    assert short["error"] == "underpaid: expected 3300, got 3299"
    assert metered.verify({**buyer.pay(metered, "c", 5_600, 2), "charge": charge})["valid"]
    assert metered.verify(buyer.pay(metered, "c", 5_677, 3))["valid"]

    books = {
        event["payload"]["version"]: parse_price_book(
            event["payload"]["book"], version=event["payload"]["version"]
        )
        for event in metered.events()
        if event["type"] == "price_book_published"
    }
    rows = metered.get(path_of("c") + "/vouchers").json()["vouchers"]
    assert [row["priceVersion"] for row in rows] == [1, 2, 2]
    for row in rows:
        asked = None if row["charge"] is None else parse_charge(row["charge"])
        units = int(row["voucher"]["units"])
        meter = row["voucher"]["meter"]
        price = required(
            books[row["priceVersion"]], asked, voucher_meter=meter, voucher_units=units
        )
        assert str(price.amount) == row["required"]
        assert price.meter == row["meter"]


def test_prices_that_are_none_leave_the_old_ones(service: Service, metered: Seller) -> None:
    prices = f"/v1/sellers/{metered.id}/prices"
    for wrong in (
        {},
        {"pricePerUnit": "x"},
        {"pricePerUnit": "1", "meters": {"m": 1}},
        {"name": 1},
    ):
        problem_of(service.admin.post(prices, json=wrong), 400, "invalid_request")
    assert service.admin.get(f"/v1/sellers/{metered.id}").json()["priceVersion"] == 1
