"""Prices against an independent model in fractions, for books and usages that nobody picked."""

import json
import math
from fractions import Fraction
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from service.domain.errors import InvalidRequest
from service.domain.limits import U64_MAX
from service.domain.pricing import (
    AmountCharge,
    MeteredCharge,
    UnitsCharge,
    parse_charge,
    parse_price_book,
    price_book_json,
    required,
)
from service.domain.units import AtomicUsdc

JsonDict = dict[str, Any]

# Small numbers meet on boundaries, large ones find what overflows.
amounts = st.integers(0, 20) | st.integers(0, U64_MAX)
counts = st.integers(1, 20) | st.integers(1, U64_MAX)
usages = st.integers(0, 60) | st.integers(0, U64_MAX)
names = st.from_regex(r"[a-z0-9_][a-z0-9_.:/-]{0,11}", fullmatch=True)
labels = st.text("abcXYZ 0189é文😀", min_size=1, max_size=12).filter(lambda s: s == s.strip())


def rate_json(amount: int, per: int) -> JsonDict:
    return {"amount": str(amount), "per": str(per)}


rates = st.builds(rate_json, amounts, counts)


@st.composite
def tier_lists(draw: st.DrawFn) -> list[JsonDict]:
    ends = sorted(draw(st.sets(counts, max_size=5)))
    return [
        *({"upTo": str(end), "rate": draw(rates)} for end in ends),
        {"upTo": None, "rate": draw(rates)},
    ]


@st.composite
def meters(draw: st.DrawFn) -> JsonDict:
    minimum = draw(amounts)
    maximum = draw(st.none() | st.integers(minimum, U64_MAX))
    if draw(st.booleans()):
        price: JsonDict = {"rate": draw(rates)}
    else:
        mode = draw(st.sampled_from(["graduated", "volume"]))
        price = {"tiers": draw(tier_lists()), "tierMode": mode}
    return {
        "unit": draw(labels),
        "flatFee": str(draw(amounts)),
        "minimum": str(minimum),
        "maximum": None if maximum is None else str(maximum),
        "rounding": draw(st.sampled_from(["up", "down", "half_even"])),
        **price,
    }


books = st.fixed_dictionaries(
    {
        "pricePerUnit": amounts.map(str),
        "meter": st.just("Ω") | st.just("request"),
        "meters": st.dictionaries(names, meters(), max_size=4),
        "suggestedDeposit": st.none() | amounts.map(str),
        "strictMeter": st.booleans(),
    }
)


def exact(meter: JsonDict, usage: int) -> Fraction:
    """The sum before rounding, written without a look at the service."""
    flat = Fraction(meter["flatFee"])
    if "rate" in meter:
        return flat + usage * per_unit(meter["rate"])
    ends = [usage if tier["upTo"] is None else int(tier["upTo"]) for tier in meter["tiers"]]
    prices = [per_unit(tier["rate"]) for tier in meter["tiers"]]
    if meter["tierMode"] == "volume":
        inside = [price for end, price in zip(ends, prices, strict=True) if usage <= end]
        return flat + usage * inside[0]
    starts = [0, *ends[:-1]]
    parts = [
        max(min(usage, end) - start, 0) * price
        for start, end, price in zip(starts, ends, prices, strict=True)
    ]
    return flat + sum(parts, Fraction(0))


def per_unit(rate: JsonDict) -> Fraction:
    return Fraction(int(rate["amount"]), int(rate["per"]))


def modelled(meter: JsonDict, usage: int) -> int:
    rounded = {"up": math.ceil, "down": math.floor, "half_even": round}[meter["rounding"]]
    amount = max(rounded(exact(meter, usage)), int(meter["minimum"]))
    return amount if meter["maximum"] is None else min(amount, int(meter["maximum"]))


def priced(meter: JsonDict, usage: int) -> int:
    """By a voucher's own units, which may come to more than 2^64-1."""
    book = parse_price_book({"pricePerUnit": "1", "meters": {"m": meter}}, version=1)
    return required(book, None, voucher_meter="m", voucher_units=usage).amount


@given(meters(), usages)
def test_a_charge_costs_what_the_model_says_or_is_refused_above_u64(
    meter: JsonDict, usage: int
) -> None:
    book = parse_price_book({"pricePerUnit": "1", "meters": {"m": meter}}, version=1)
    expected = modelled(meter, usage)
    try:
        price = required(book, MeteredCharge("m", usage), voucher_meter=None, voucher_units=1)
    except InvalidRequest:
        assert expected > U64_MAX
    else:
        assert price.amount == expected <= U64_MAX


@given(meters(), counts)
def test_a_voucher_costs_exactly_what_the_model_says_even_above_u64(
    meter: JsonDict, usage: int
) -> None:
    assert priced(meter, usage) == modelled(meter, usage)


@given(meters().filter(lambda meter: meter.get("tierMode") != "volume"), counts, counts)
def test_more_usage_never_costs_less_except_by_volume(
    meter: JsonDict, first: int, second: int
) -> None:
    less, more = sorted((first, second))
    assert priced(meter, less) <= priced(meter, more)


@given(meters(), counts)
def test_rounding_moves_the_exact_sum_by_less_than_one_in_the_stated_direction(
    meter: JsonDict, usage: int
) -> None:
    unbounded = {**meter, "minimum": "0", "maximum": None}
    error = priced(unbounded, usage) - exact(meter, usage)
    match meter["rounding"]:
        case "up":
            assert 0 <= error < 1
        case "down":
            assert -1 < error <= 0
        case _:
            assert abs(error) <= Fraction(1, 2)


@given(meters(), counts)
def test_minimum_and_maximum_always_hold(meter: JsonDict, usage: int) -> None:
    amount = priced(meter, usage)
    assert int(meter["minimum"]) <= amount
    assert meter["maximum"] is None or amount <= int(meter["maximum"])


@given(books, st.integers(1, 10**6))
def test_a_book_survives_storage(document: JsonDict, version: int) -> None:
    book = parse_price_book(document, version=version)
    assert price_book_json(book) == document
    stored = json.dumps(price_book_json(book), sort_keys=True)
    assert parse_price_book(json.loads(stored), version=version) == book


@given(amounts, counts)
def test_units_cost_price_times_units_or_are_refused_above_u64(price: int, units: int) -> None:
    book = parse_price_book({"pricePerUnit": str(price)}, version=1)
    try:
        amount = required(book, UnitsCharge(units), voucher_meter=None, voucher_units=1).amount
    except InvalidRequest:
        assert price * units > U64_MAX
    else:
        assert amount == price * units <= U64_MAX


@given(usages, st.booleans())
def test_a_count_means_the_same_as_text_and_as_integer(count: int, as_text: bool) -> None:
    sent = str(count) if as_text else count
    assert parse_charge({"meter": "m", "usage": sent}) == MeteredCharge("m", count)
    assert parse_charge({"amount": str(count)}) == AmountCharge(AtomicUsdc(count))


keys = st.sampled_from(
    [
        "pricePerUnit",
        "meter",
        "meters",
        "m",
        "unit",
        "rate",
        "amount",
        "per",
        "tiers",
        "upTo",
        "tierMode",
        "rounding",
        "minimum",
        "maximum",
        "units",
        "usage",
        "strictMeter",
    ]
)
texts = st.sampled_from(["1", "up", "graduated", "\ud800", "-1", "9" * 30]) | st.text(max_size=5)
leaves = st.none() | st.booleans() | st.integers() | st.floats() | texts
anything = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(keys | st.text(max_size=3), inner, max_size=5)
    ),
    max_leaves=15,
)


@given(anything, anything)
def test_no_json_value_raises_anything_but_invalid_request(value: object, meter: object) -> None:
    wrapped = {"pricePerUnit": "1", "meters": {"m": meter}}
    for document in (value, wrapped):
        try:
            parse_price_book(document, version=1)
        except InvalidRequest as refusal:
            refusal.detail.encode()
    try:
        parse_charge(value)
    except InvalidRequest as refusal:
        refusal.detail.encode()
