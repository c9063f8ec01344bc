"""The JSON form of price books and charges: what is read, what is written, what is refused."""

import json
from typing import Any

import pytest

from service.domain.errors import InvalidRequest
from service.domain.limits import METER_CHARS_MAX, METERS_MAX, TIERS_MAX, U64_MAX
from service.domain.pricing import (
    AmountCharge,
    Charge,
    MeteredCharge,
    PriceBook,
    UnitsCharge,
    parse_charge,
    parse_price_book,
    price_book_json,
)
from service.domain.units import AtomicUsdc

JsonDict = dict[str, Any]

RATE: JsonDict = {"amount": "1", "per": "1"}
TOKEN_RATE: JsonDict = {"amount": "1500", "per": "1000000"}
PER_TOKEN: JsonDict = {"unit": "token", "rate": TOKEN_RATE, "rounding": "up"}
STEPS: list[JsonDict] = [{"upTo": "10", "rate": RATE}, {"upTo": "20", "rate": RATE}, {"rate": RATE}]


def a_book(**fields: object) -> PriceBook:
    return parse_price_book({"pricePerUnit": "10000", **fields}, version=3)


def a_meter(**fields: object) -> PriceBook:
    """A book with the meter `m`; a field set to None here is left out."""
    meter = {"unit": "u", "rate": RATE, "rounding": "up", **fields}
    return a_book(meters={"m": {name: held for name, held in meter.items() if held is not None}})


def test_the_smallest_book_has_the_documented_defaults() -> None:
    assert a_book() == PriceBook(3, AtomicUsdc(10_000), "request", (), None, strict_meter=False)
    meter = a_meter().meters[0]
    assert (meter.flat_fee, meter.minimum, meter.maximum) == (0, 0, None)


def test_a_book_with_everything_renders_in_full_and_round_trips_with_sorted_keys() -> None:
    document: JsonDict = {
        "pricePerUnit": "10000",
        "meter": "request",
        "meters": {
            "tokens": {
                "unit": "token",
                "flatFee": "500",
                "rate": TOKEN_RATE,
                "minimum": "1",
                "maximum": "900000",
                "rounding": "up",
            },
            "bytes": {
                "unit": "byte",
                "flatFee": "0",
                "tierMode": "volume",
                "tiers": [{**STEPS[0]}, {**STEPS[1]}, {"upTo": None, **STEPS[2]}],
                "minimum": "0",
                "maximum": None,
                "rounding": "half_even",
            },
        },
        "suggestedDeposit": "1000000",
        "strictMeter": True,
    }
    book = parse_price_book(document, version=7)
    assert [meter.name for meter in book.meters] == ["bytes", "tokens"]
    assert price_book_json(book) == document
    stored = json.dumps(price_book_json(book), sort_keys=True)
    assert parse_price_book(json.loads(stored), version=7) == book


def test_counts_may_be_json_integers() -> None:
    book = a_meter(rate={"amount": "1500", "per": 1_000_000})
    assert book == a_meter(rate=TOKEN_RATE)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("unit", "", "meters.m.unit must be 1 to 64 printable characters"),
        ("unit", " u", "meters.m.unit must"),
        ("unit", "a|b", "meters.m.unit must"),
        ("unit", "\u202e", "meters.m.unit must"),
        ("rounding", "nearest", "meters.m.rounding must be one of up, down, half_even"),
        ("rounding", ["up"], "meters.m.rounding must be one of"),
        ("rounding", None, "meters.m.rounding must be given"),
        ("unit", None, "meters.m.unit must be given"),
        ("flatFee", 5, "meters.m.flatFee must be a string of digits"),
        ("flatFee", "-1", "meters.m.flatFee must"),
        ("flatFee", str(2**64), "meters.m.flatFee must"),
        ("minimum", "1.0", "meters.m.minimum must"),
        ("maximum", "01", "meters.m.maximum must"),
        ("surcharge", "1", "meters.m.surcharge must be left out; known are unit, rounding, rate"),
        ("rate", None, "meters.m must have either rate or tiers"),
        ("tiers", STEPS, "meters.m must have either rate or tiers"),
        ("tierMode", "volume", "meters.m.tierMode must come with tiers"),
        ("rate", "1", "meters.m.rate must be an object"),
        ("rate", {"amount": "1"}, "meters.m.rate.per must be given"),
        ("rate", {**RATE, "per": "0"}, "meters.m.rate.per must be a whole number from 1"),
        ("rate", {**RATE, "per": -1}, "meters.m.rate.per must"),
        ("rate", {**RATE, "per": True}, "meters.m.rate.per must"),
        ("rate", {**RATE, "per": 1.0}, "meters.m.rate.per must"),
        ("rate", {**RATE, "per": 2**64}, "meters.m.rate.per must"),
        ("rate", {**RATE, "amount": 1}, "meters.m.rate.amount must be a string of digits"),
        ("rate", {**RATE, "to\n": 1}, r"meters.m.rate.to\n must be left out"),
    ],
)
def test_a_wrong_meter_is_refused_with_the_path_of_the_field(
    field: str, value: object, message: str
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        a_meter(**{field: value})
    assert refusal.value.detail.startswith(message)


@pytest.mark.parametrize(
    ("tiers", "message"),
    [
        ([], "meters.m.tiers must be an array of 1 to 32 tiers"),
        ({}, "meters.m.tiers must be an array"),
        ([{"rate": RATE}] * (TIERS_MAX + 1), "meters.m.tiers must be an array"),
        ([None], "meters.m.tiers[0] must be an object"),
        ([{"upTo": "5", "rate": RATE}], "meters.m.tiers[0].upTo must be left out in the last"),
        ([{"rate": RATE}, {"rate": RATE}], "meters.m.tiers[0].upTo must be left out in the last"),
        ([{"upTo": "0", "rate": RATE}, {"rate": RATE}], "meters.m.tiers[0].upTo must be a whole"),
        ([{"rate": {**RATE, "amount": "x"}}], "meters.m.tiers[0].rate.amount must"),
        ([{"upTo": None}], "meters.m.tiers[0].rate must be given"),
        (
            [{"upTo": "5", "rate": RATE}, {"upTo": 5, "rate": RATE}, {"rate": RATE}],
            "meters.m.tiers[1].upTo must be above that of the tier before",
        ),
    ],
)
def test_wrong_tiers_are_refused_with_the_path_of_the_field(tiers: object, message: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        a_meter(rate=None, tiers=tiers)
    assert refusal.value.detail.startswith(message)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"pricePerUnit": 10_000}, "pricePerUnit must be a string of digits"),
        ({"pricePerUnit": str(2**64)}, "pricePerUnit must be"),
        ({"version": 2}, "version must be left out; known are pricePerUnit, meter"),
        ({"meter": "x" * (METER_CHARS_MAX + 1)}, "meter must be 1 to 64"),
        ({"meter": None}, "meter must be 1 to 64"),
        ({"strictMeter": 1}, "strictMeter must be true or false"),
        ({"suggestedDeposit": -1}, "suggestedDeposit must be"),
        ({"meters": []}, "meters must be an object"),
        ({"meters": {"m": []}}, "meters.m must be an object"),
        ({"meters": {"": PER_TOKEN}}, "meters must have names of 1 to 64 ASCII letters"),
        ({"meters": {"é": PER_TOKEN}}, "meters must have names"),
        ({"meters": {"a\n": PER_TOKEN}}, "meters must have names"),
        ({"meters": {"a" * (METER_CHARS_MAX + 1): PER_TOKEN}}, "meters must have names"),
        ({"meters": {"A": PER_TOKEN, "a": PER_TOKEN}}, "meters.a must differ from A in more than"),
        ({"meters": {"Request": PER_TOKEN}}, "meters.Request must differ from request in more"),
        (
            {"meters": {f"m{n}": PER_TOKEN for n in range(METERS_MAX + 1)}},
            "meters must hold at most 32",
        ),
    ],
)
def test_a_wrong_book_is_refused_with_the_name_of_the_field(
    document: JsonDict, message: str
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        a_book(**document)
    assert refusal.value.detail.startswith(message)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "the price book must be an object"),
        ([], "the price book must be an object"),
        ({}, "pricePerUnit must be given"),
    ],
)
def test_a_book_is_an_object_with_a_price_per_unit(value: object, message: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse_price_book(value, version=1)
    assert refusal.value.detail.startswith(message)


def test_a_maximum_below_the_minimum_is_refused() -> None:
    assert a_meter(minimum="5", maximum="5").meters[0].maximum == 5
    with pytest.raises(InvalidRequest, match=r"meters\.m\.maximum must be at least"):
        a_meter(minimum="5", maximum="4")


def test_an_unknown_tier_mode_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"meters\.m\.tierMode must be one of graduated, vol"):
        a_meter(rate=None, tiers=STEPS, tierMode="slab")


@pytest.mark.parametrize(
    ("value", "charge"),
    [
        ({"units": "3"}, UnitsCharge(3)),
        ({"units": 3}, UnitsCharge(3)),
        ({"units": str(U64_MAX)}, UnitsCharge(U64_MAX)),
        ({"amount": "0"}, AmountCharge(AtomicUsdc(0))),
        ({"amount": "25"}, AmountCharge(AtomicUsdc(25))),
        ({"meter": "tokens", "usage": 0}, MeteredCharge("tokens", 0)),
        ({"usage": "812", "meter": "tokens"}, MeteredCharge("tokens", 812)),
    ],
)
def test_a_charge_has_one_of_three_forms(value: object, charge: Charge) -> None:
    assert parse_charge(value) == charge


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        ["units"],
        "units",
        5,
        {},
        {"meter": "m"},
        {"usage": 1},
        {"units": 1, "amount": "1"},
        {"meter": "m", "usage": 1, "units": 1},
        {"units": 1, "note": "x"},
    ],
)
def test_a_charge_of_any_other_form_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse_charge(value)
    assert refusal.value.detail == "charge must be {units}, {amount} or {meter, usage}"


TEXTS = ("0", "-1", "+1", "01", "", " 1", "1\n", "1.0", "1e3", "0x1", "१", "1_0", str(2**64))
OTHERS: tuple[object, ...] = (0, -1, 2**64, True, False, None, 1.0, float("nan"), [1], {})


@pytest.mark.parametrize("units", [*TEXTS, *OTHERS])
def test_units_are_a_whole_number_from_one_to_u64(units: object) -> None:
    with pytest.raises(InvalidRequest, match=r"^charge\.units must be a "):
        parse_charge({"units": units})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"amount": 25}, "charge.amount must be a string of digits"),
        ({"amount": str(2**64)}, "charge.amount must be"),
        ({"meter": "m", "usage": -1}, "charge.usage must be a whole number from 0"),
        ({"meter": "m", "usage": False}, "charge.usage must be a whole number from 0"),
        ({"meter": "", "usage": 1}, "charge.meter must be 1 to 64"),
        ({"meter": 1, "usage": 1}, "charge.meter must be 1 to 64"),
        ({"meter": "\ud800", "usage": 1}, "charge.meter must be 1 to 64"),
    ],
)
def test_a_wrong_charge_is_refused_with_the_name_of_the_field(value: object, message: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse_charge(value)
    assert refusal.value.detail.startswith(message)
