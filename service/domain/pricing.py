"""What a request costs: price books, meters, and the amount that a voucher has to cover.

A seller declares a price per unit and, for variable pricing, named meters. Meters are data, not
code, so a price book can be stored, versioned and applied again to old vouchers: a book never
changes, a new one takes the next version in the seller's stream. The JSON form, as part of
`POST /v1/sellers`:

    {"pricePerUnit": "10000", "meter": "request", "suggestedDeposit": null, "strictMeter": false,
     "meters": {
       "tokens": {"unit": "token", "flatFee": "500",
                  "rate": {"amount": "1500", "per": "1000000"},
                  "minimum": "1", "maximum": null, "rounding": "up"},
       "bytes":  {"unit": "byte", "rounding": "half_even", "tierMode": "graduated",
                  "tiers": [{"upTo": "1000000", "rate": {"amount": "0", "per": "1"}},
                            {"rate": {"amount": "3", "per": "1024"}}]}}}

`metering` says what a meter charges. Only `pricePerUnit`, and of a meter `unit`, `rounding` and
`rate` or `tiers`, must be given. Amounts are decimal strings of atomic units, counts are decimal
strings or JSON integers, and the last tier has no `upTo`.

Spec: HTTP contract, "Sellers".
"""

import re
from dataclasses import dataclass
from typing import Final, TypeVar, assert_never, cast

from service.domain.errors import InvalidRequest, VoucherRejected
from service.domain.limits import METER_CHARS_MAX, METERS_MAX, TIERS_MAX, U64_MAX
from service.domain.metering import (
    ROUNDINGS,
    TIER_MODES,
    Meter,
    Rate,
    Tier,
    TierMode,
    Tiers,
    meter_amount,
)
from service.domain.units import AtomicUsdc, parse_amount

_Choice = TypeVar("_Choice", bound=str)

DEFAULT_METER: Final = "request"
"""The label of a challenge whose seller names none. Spec: the reference server's default."""

# Names are keys of stored JSON, and canonical JSON sorts keys: ASCII has one order everywhere.
_METER_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/-]*\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class PriceBook:
    """A seller's prices, in force until the next version. Made by `parse_price_book`.

    `version` counts from 1. `price_per_unit` and `suggested_deposit` are atomic units. `meter` is
    the label that the challenge carries. `meters` are in the order of their names. A strict book
    refuses vouchers with a label that it does not know.
    """

    version: int
    price_per_unit: AtomicUsdc
    meter: str
    meters: tuple[Meter, ...]
    suggested_deposit: AtomicUsdc | None
    strict_meter: bool


@dataclass(frozen=True, slots=True)
class UnitsCharge:
    """The request used this many units at the price per unit."""

    units: int


@dataclass(frozen=True, slots=True)
class AmountCharge:
    """The request costs this many atomic units, by a metering function of the seller's own."""

    amount: AtomicUsdc


@dataclass(frozen=True, slots=True)
class MeteredCharge:
    """The request used this much, in the units of the named meter."""

    meter: str
    usage: int


Charge = UnitsCharge | AmountCharge | MeteredCharge


@dataclass(frozen=True, slots=True)
class Price:
    """What a request costs in atomic units, and how that came about under book `version`.

    `meter` is the declared meter that made the price. None: `usage` units at the price per unit,
    or, without `usage`, the amount that the seller gave.
    """

    amount: int
    meter: str | None
    usage: int | None
    version: int


def required(
    book: PriceBook, charge: Charge | None, *, voucher_meter: str | None, voucher_units: int
) -> Price:
    """The price of a request: by the seller's `charge`, else by the voucher's meter and units.

    Without a charge, a voucher that names a declared meter is priced by it, any other by the price
    per unit. Its `voucher_units` (1 to 2^64-1) are the buyer's claim, so the price may exceed
    2^64-1 atomic units: it stays exact, and every voucher is underpaid against it. A seller's
    charge of that size is a mistake and refused.

    Raises:
        VoucherRejected: `meter_mismatch`, the book is strict and does not know `voucher_meter`.
        InvalidRequest: the charge names an unknown meter, or comes to more than 2^64-1.
    """
    assert voucher_units >= 1
    if book.strict_meter and voucher_meter not in _labels(book):
        expected, got = "|".join(_labels(book)), _shown(voucher_meter)
        raise VoucherRejected("meter_mismatch", f"meter_mismatch: expected {expected}, got {got}")
    match charge:
        case None:
            return _priced(book, voucher_meter, voucher_units)
        case UnitsCharge(units):
            price = _priced(book, None, units)
        case AmountCharge(amount):
            price = Price(amount, None, None, book.version)
        case MeteredCharge(meter, usage):
            if meter not in _labels(book):
                known = ", ".join(_labels(book))
                raise InvalidRequest(f"charge.meter must be one of {known}; got {_shown(meter)}")
            price = _priced(book, meter, usage)
        case _:
            assert_never(charge)
    if price.amount > U64_MAX:
        raise InvalidRequest("charge must come to at most 2^64-1 atomic units")
    return price


def _labels(book: PriceBook) -> tuple[str, ...]:
    """The labels that the book can price: the default one, which needs no meter, comes first."""
    return tuple(dict.fromkeys((book.meter, *(meter.name for meter in book.meters))))


def _priced(book: PriceBook, label: str | None, usage: int) -> Price:
    for meter in book.meters:
        if meter.name == label:
            return Price(meter_amount(meter, usage), meter.name, usage, book.version)
    return Price(book.price_per_unit * usage, None, usage, book.version)


def parse_price_book(value: object, *, version: int) -> PriceBook:
    """The price book in a decoded JSON object; `version` (from 1) is the stream's to give.

    Raises:
        InvalidRequest: a field is unknown, missing or out of bounds; the message names its path.
    """
    assert version >= 1
    optional = ("meter", "meters", "suggestedDeposit", "strictMeter")
    fields = _object(value, "", required=("pricePerUnit",), optional=optional)
    label = _label(fields.get("meter", DEFAULT_METER), "meter")
    deposit = fields.get("suggestedDeposit")
    strict = fields.get("strictMeter", False)
    if not isinstance(strict, bool):
        raise InvalidRequest("strictMeter must be true or false")
    return PriceBook(
        version=version,
        price_per_unit=parse_amount(fields["pricePerUnit"], "pricePerUnit"),
        meter=label,
        meters=_parse_meters(fields.get("meters", {}), label),
        suggested_deposit=None if deposit is None else parse_amount(deposit, "suggestedDeposit"),
        strict_meter=strict,
    )


def _parse_meters(value: object, label: str) -> tuple[Meter, ...]:
    if not isinstance(value, dict):
        raise InvalidRequest("meters must be an object with a meter under each name")
    named = cast("dict[str, object]", value)
    if len(named) > METERS_MAX:
        raise InvalidRequest(f"meters must hold at most {METERS_MAX} meters")
    # Two labels that differ in case only are one product to a buyer and two prices to the book.
    seen = {label.casefold(): label}
    for name in named:
        if len(name) > METER_CHARS_MAX or not _METER_NAME.match(name):
            raise InvalidRequest(
                f"meters must have names of 1 to {METER_CHARS_MAX} ASCII letters, digits and "
                f"_ . : / - (not first, except _); got {_shown(name)}"
            )
        if (other := seen.setdefault(name.casefold(), name)) != name:
            raise InvalidRequest(f"meters.{name} must differ from {other} in more than case")
    return tuple(_parse_meter(name, named[name]) for name in sorted(named))


def _parse_meter(name: str, value: object) -> Meter:
    path = f"meters.{name}"
    optional = ("rate", "tiers", "tierMode", "flatFee", "minimum", "maximum")
    fields = _object(value, path, required=("unit", "rounding"), optional=optional)
    minimum = parse_amount(fields.get("minimum", "0"), f"{path}.minimum")
    maximum = fields.get("maximum")
    if maximum is not None:
        maximum = parse_amount(maximum, f"{path}.maximum")
        if maximum < minimum:
            raise InvalidRequest(f"{path}.maximum must be at least {path}.minimum")
    return Meter(
        name=name,
        unit=_label(fields["unit"], f"{path}.unit"),
        flat_fee=parse_amount(fields.get("flatFee", "0"), f"{path}.flatFee"),
        price=_parse_meter_price(fields, path),
        minimum=minimum,
        maximum=maximum,
        rounding=_one_of(ROUNDINGS, fields["rounding"], f"{path}.rounding"),
    )


def _parse_meter_price(fields: dict[str, object], path: str) -> Rate | Tiers:
    if ("rate" in fields) == ("tiers" in fields):
        raise InvalidRequest(f"{path} must have either rate or tiers")
    if "tiers" in fields:
        mode: TierMode = _one_of(
            TIER_MODES, fields.get("tierMode", "graduated"), f"{path}.tierMode"
        )
        return Tiers(mode, _parse_tiers(fields["tiers"], f"{path}.tiers"))
    if "tierMode" in fields:
        raise InvalidRequest(f"{path}.tierMode must come with tiers")
    return _parse_rate(fields["rate"], f"{path}.rate")


def _parse_tiers(value: object, path: str) -> tuple[Tier, ...]:
    items = cast("list[object]", value) if isinstance(value, list) else []
    if not 1 <= len(items) <= TIERS_MAX:
        raise InvalidRequest(f"{path} must be an array of 1 to {TIERS_MAX} tiers")
    tiers: list[Tier] = []
    below = 0
    for index, item in enumerate(items):
        at = f"{path}[{index}]"
        fields = _object(item, at, required=("rate",), optional=("upTo",))
        up_to = fields.get("upTo")
        if (up_to is None) != (index == len(items) - 1):
            raise InvalidRequest(f"{at}.upTo must be left out in the last tier, and only there")
        if up_to is not None:
            up_to = _count(up_to, f"{at}.upTo")
            if up_to <= below:
                raise InvalidRequest(f"{at}.upTo must be above that of the tier before")
            below = up_to
        tiers.append(Tier(up_to, _parse_rate(fields["rate"], f"{at}.rate")))
    return tuple(tiers)


def _parse_rate(value: object, path: str) -> Rate:
    fields = _object(value, path, required=("amount", "per"))
    return Rate(
        parse_amount(fields["amount"], f"{path}.amount"), _count(fields["per"], f"{path}.per")
    )


def price_book_json(book: PriceBook) -> dict[str, object]:
    """The book without its version: the object that `parse_price_book` turns into it again."""
    deposit = book.suggested_deposit
    return {
        "pricePerUnit": str(book.price_per_unit),
        "meter": book.meter,
        "meters": {meter.name: _meter_json(meter) for meter in book.meters},
        "suggestedDeposit": None if deposit is None else str(deposit),
        "strictMeter": book.strict_meter,
    }


def _meter_json(meter: Meter) -> dict[str, object]:
    match meter.price:
        case Rate() as rate:
            price: dict[str, object] = {"rate": _rate_json(rate)}
        case Tiers(mode, tiers):
            price = {"tierMode": mode, "tiers": [_tier_json(tier) for tier in tiers]}
        case _:
            assert_never(meter.price)
    return {
        "unit": meter.unit,
        "flatFee": str(meter.flat_fee),
        **price,
        "minimum": str(meter.minimum),
        "maximum": None if meter.maximum is None else str(meter.maximum),
        "rounding": meter.rounding,
    }


def _tier_json(tier: Tier) -> dict[str, object]:
    up_to = None if tier.up_to is None else str(tier.up_to)
    return {"upTo": up_to, "rate": _rate_json(tier.price)}


def _rate_json(rate: Rate) -> dict[str, object]:
    return {"amount": str(rate.amount), "per": str(rate.per)}


def parse_charge(value: object) -> Charge:
    """The `charge` of a verify request: `{units}`, `{amount}` or `{meter, usage}`.

    Units are 1 to 2^64-1, usage and amount (atomic units) 0 to 2^64-1.

    Raises:
        InvalidRequest: none of these forms, a mixture, or a number out of bounds.
    """
    fields = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    match sorted(fields):
        case ["units"]:
            return UnitsCharge(_count(fields["units"], "charge.units"))
        case ["amount"]:
            return AmountCharge(parse_amount(fields["amount"], "charge.amount"))
        case ["meter", "usage"]:
            usage = _count(fields["usage"], "charge.usage", least=0)
            return MeteredCharge(_label(fields["meter"], "charge.meter"), usage)
        case _:
            raise InvalidRequest("charge must be {units}, {amount} or {meter, usage}")


def _object(
    value: object, path: str, *, required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> dict[str, object]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{path or 'the price book'} must be an object")
    fields = cast("dict[str, object]", value)
    prefix = path and f"{path}."
    for name in fields:
        if name not in required and name not in optional:
            known = ", ".join((*required, *optional))
            raise InvalidRequest(f"{prefix}{_shown(name)} must be left out; known are {known}")
    for name in required:
        if name not in fields:
            raise InvalidRequest(f"{prefix}{name} must be given")
    return fields


def _count(value: object, path: str, *, least: int = 1) -> int:
    """A number of units. Booleans are not numbers here, although Python thinks so."""
    number = -1
    if isinstance(value, str):
        number = parse_amount(value, path)
    elif isinstance(value, int) and not isinstance(value, bool):
        number = value
    if least <= number <= U64_MAX:
        return number
    raise InvalidRequest(f"{path} must be a whole number from {least} to 2^64-1")


def _one_of(choices: tuple[_Choice, ...], value: object, path: str) -> _Choice:
    for choice in choices:
        if choice == value:
            return choice
    raise InvalidRequest(f"{path} must be one of {', '.join(choices)}")


def _label(value: object, path: str) -> str:
    # A "|" would make the list in `meter_mismatch` ambiguous.
    if (
        isinstance(value, str)
        and 1 <= len(value) <= METER_CHARS_MAX
        and value.isprintable()
        and value == value.strip()
        and "|" not in value
    ):
        return value
    raise InvalidRequest(
        f"{path} must be 1 to {METER_CHARS_MAX} printable characters without | or outer blanks"
    )


def _shown(text: str | None) -> str:
    """A stranger's text, short and printable: it goes into answers, logs and the database."""
    if text is None:
        return "none"
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text[:METER_CHARS_MAX]
    )
