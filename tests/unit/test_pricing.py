"""Prices worked out by hand: which price applies, rates, rounding, bounds, tiers, huge values."""

from typing import Any

import pytest

from service.domain.errors import InvalidRequest, VoucherRejected
from service.domain.limits import METER_CHARS_MAX, U64_MAX
from service.domain.pricing import (
    AmountCharge,
    Charge,
    MeteredCharge,
    Price,
    PriceBook,
    UnitsCharge,
    parse_price_book,
    required,
)
from service.domain.units import AtomicUsdc

JsonDict = dict[str, Any]

TOKEN_RATE: JsonDict = {"amount": "1500", "per": "1000000"}
PER_TOKEN: JsonDict = {"unit": "token", "rate": TOKEN_RATE, "rounding": "up"}

# 1-10 units: 100 each; 11-20: 50 each; above: 10 each.
STEPS: list[JsonDict] = [
    {"upTo": "10", "rate": {"amount": "100", "per": "1"}},
    {"upTo": "20", "rate": {"amount": "50", "per": "1"}},
    {"rate": {"amount": "10", "per": "1"}},
]


def a_book(**fields: object) -> PriceBook:
    return parse_price_book({"pricePerUnit": "10000", **fields}, version=3)


def a_meter(**fields: object) -> PriceBook:
    """A book with the meter `m`; a field set to None here is left out."""
    meter = {"unit": "u", "rate": {"amount": "1", "per": "1"}, "rounding": "up", **fields}
    return a_book(meters={"m": {name: held for name, held in meter.items() if held is not None}})


def tiered(mode: str, tiers: object = STEPS, **fields: object) -> PriceBook:
    return a_meter(rate=None, tierMode=mode, tiers=tiers, **fields)


def charged(book: PriceBook, charge: Charge) -> int:
    return required(book, charge, voucher_meter="request", voucher_units=1).amount


def metered(book: PriceBook, usage: int) -> int:
    return charged(book, MeteredCharge("m", usage))


# --- which price applies --------------------------------------------------------------------


@pytest.mark.parametrize("label", ["request", "tokens-of-another-product", "トークン", "", None])
def test_without_charge_an_undeclared_label_costs_price_per_unit_times_units(
    label: str | None,
) -> None:
    book = a_book(meters={"tokens": PER_TOKEN})
    price = required(book, None, voucher_meter=label, voucher_units=3)
    assert price == Price(amount=30_000, meter=None, usage=3, version=3)


def test_without_charge_a_declared_meter_prices_the_units_of_the_voucher() -> None:
    book = a_book(meters={"tokens": PER_TOKEN})
    price = required(book, None, voucher_meter="tokens", voucher_units=2_000_000)
    assert price == Price(amount=3_000, meter="tokens", usage=2_000_000, version=3)


def test_a_declared_meter_under_the_default_label_prices_it() -> None:
    book = a_book(meter="tokens", meters={"tokens": PER_TOKEN})
    assert required(book, None, voucher_meter="tokens", voucher_units=1_000_000).amount == 1_500
    assert required(book, None, voucher_meter="request", voucher_units=2).amount == 20_000


def test_a_charge_counts_and_the_voucher_units_do_not() -> None:
    book = a_book(meters={"tokens": PER_TOKEN, "bytes": PER_TOKEN})

    def price(charge: Charge) -> Price:
        return required(book, charge, voucher_meter="tokens", voucher_units=99)

    assert price(UnitsCharge(2)) == Price(20_000, None, 2, 3)
    assert price(AmountCharge(AtomicUsdc(77))) == Price(77, None, None, 3)
    assert price(MeteredCharge("bytes", 10**6)) == Price(1_500, "bytes", 10**6, 3)
    assert price(MeteredCharge("request", 4)) == Price(40_000, None, 4, 3)


def test_a_charge_by_an_unknown_meter_is_refused_with_the_known_ones() -> None:
    book = a_book(meters={"tokens": PER_TOKEN, "bytes": PER_TOKEN})
    with pytest.raises(InvalidRequest) as refusal:
        charged(book, MeteredCharge("token", 1))
    assert refusal.value.detail == "charge.meter must be one of request, bytes, tokens; got token"


@pytest.mark.parametrize(
    ("label", "got"),
    [
        ("cheap", "cheap"),
        ("Tokens", "Tokens"),
        (None, "none"),
        ("a\x00\n\ud800\u202eb", r"a\x00\n\ud800\u202eb"),
        ("x" * 9_999, "x" * METER_CHARS_MAX),
    ],
)
@pytest.mark.parametrize("charge", [None, UnitsCharge(1), AmountCharge(AtomicUsdc(1))])
def test_a_strict_book_refuses_labels_it_does_not_know(
    charge: Charge | None, label: str | None, got: str
) -> None:
    book = a_book(meter="calls", strictMeter=True, meters={"tokens": PER_TOKEN, "a": PER_TOKEN})
    with pytest.raises(VoucherRejected) as refusal:
        required(book, charge, voucher_meter=label, voucher_units=1)
    assert refusal.value.reason == "meter_mismatch"
    assert refusal.value.error == f"meter_mismatch: expected calls|a|tokens, got {got}"
    refusal.value.error.encode()  # a lone surrogate would make the answer a 500


def test_a_strict_book_accepts_its_default_label_and_its_meters() -> None:
    book = a_book(meter="calls", strictMeter=True, meters={"tokens": PER_TOKEN})
    assert required(book, None, voucher_meter="calls", voucher_units=2).amount == 20_000
    assert required(book, None, voucher_meter="tokens", voucher_units=10**6).amount == 1_500


# --- rates, fees, bounds --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usage", "amount"), [(0, 0), (1, 1), (666, 1), (667, 2), (10**6, 1_500), (10**6 + 1, 1_501)]
)
def test_a_rate_is_an_exact_ratio(usage: int, amount: int) -> None:
    assert metered(a_meter(rate=TOKEN_RATE), usage) == amount


@pytest.mark.parametrize(
    ("rounding", "amounts"),
    # usage at 1/4 of an atomic unit each: 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2.25, 2.5
    [
        ("up", [1, 1, 1, 1, 2, 2, 2, 2, 3, 3]),
        ("down", [0, 0, 0, 1, 1, 1, 1, 2, 2, 2]),
        ("half_even", [0, 0, 1, 1, 1, 2, 2, 2, 2, 2]),
    ],
)
def test_rounding_goes_the_stated_way(rounding: str, amounts: list[int]) -> None:
    book = a_meter(rate={"amount": "1", "per": "4"}, rounding=rounding)
    assert [metered(book, usage) for usage in range(1, 11)] == amounts


@pytest.mark.parametrize(("rounding", "amount"), [("up", 1), ("down", 0), ("half_even", 1)])
def test_tiers_are_rounded_once_and_not_each(rounding: str, amount: int) -> None:
    third = {"amount": "1", "per": "3"}
    tiers = [{"upTo": "1", "rate": third}, {"rate": third}]
    # 2/3 in all. Rounding each third up would give 2, rounding each to the nearest would give 0.
    assert metered(tiered("graduated", tiers, rounding=rounding), 2) == amount


def test_the_flat_fee_is_added_once_and_also_without_usage() -> None:
    book = a_meter(flatFee="500", rate=TOKEN_RATE)
    assert [metered(book, usage) for usage in (0, 1, 10**6)] == [500, 501, 2_000]


def test_minimum_and_maximum_bound_the_sum_with_the_flat_fee() -> None:
    book = a_meter(flatFee="5", minimum="8", maximum="20")
    assert [metered(book, usage) for usage in (0, 2, 3, 4, 14, 15, 16, U64_MAX)] == [
        8, 8, 8, 9, 19, 20, 20, 20,
    ]  # fmt: skip


def test_minimum_counts_after_rounding_down() -> None:
    book = a_meter(rate={"amount": "1", "per": "1000"}, minimum="1", rounding="down")
    assert [metered(book, usage) for usage in (0, 999, 1_000, 1_999, 2_000)] == [1, 1, 1, 1, 2]


# --- tiers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usage", "graduated", "volume"),
    [
        (0, 0, 0),
        (1, 100, 100),
        (10, 1_000, 1_000),
        (11, 1_050, 550),
        (20, 1_500, 1_000),
        (21, 1_510, 210),
        (100, 2_300, 1_000),
    ],
)
def test_tier_boundaries_are_inclusive(usage: int, graduated: int, volume: int) -> None:
    assert metered(tiered("graduated"), usage) == graduated
    assert metered(tiered("volume"), usage) == volume


def test_tiers_are_graduated_unless_stated_otherwise() -> None:
    assert metered(a_meter(rate=None, tiers=STEPS), 11) == 1_050


def test_a_free_tier_costs_nothing_up_to_its_end() -> None:
    tiers = [
        {"upTo": "1000", "rate": {"amount": "0", "per": "1"}},
        {"rate": {"amount": "3", "per": "1024"}},
    ]
    book = tiered("graduated", tiers)
    assert [metered(book, usage) for usage in (1_000, 1_001, 2_024, 2_025)] == [0, 1, 3, 4]


# --- huge values ----------------------------------------------------------------------------


def test_the_largest_amount_is_exact_and_one_more_is_refused() -> None:
    book = a_meter(flatFee=str(U64_MAX - 1))
    assert metered(book, 1) == U64_MAX
    with pytest.raises(InvalidRequest, match="at most 2\\^64-1"):
        metered(book, 2)


def test_huge_factors_with_a_small_quotient_are_exact() -> None:
    book = a_meter(rate={"amount": str(U64_MAX), "per": str(U64_MAX)})
    assert metered(book, U64_MAX) == U64_MAX


def test_a_units_charge_above_u64_is_refused() -> None:
    book = parse_price_book({"pricePerUnit": str(2**63)}, version=1)
    assert charged(book, UnitsCharge(1)) == 2**63
    with pytest.raises(InvalidRequest, match="at most 2\\^64-1"):
        charged(book, UnitsCharge(2))


def test_a_maximum_makes_any_usage_affordable() -> None:
    book = a_meter(rate={"amount": str(U64_MAX), "per": "1"}, maximum="7")
    assert metered(book, U64_MAX) == 7


def test_a_voucher_with_absurd_units_gets_an_exact_price_that_nothing_covers() -> None:
    book = a_book(meters={"m": {**PER_TOKEN, "rate": {"amount": "10000", "per": "1"}}})
    for label in ("request", "m"):
        price = required(book, None, voucher_meter=label, voucher_units=U64_MAX)
        assert price.amount == 184_467_440_737_095_516_150_000
