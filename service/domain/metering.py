"""What a meter charges for a usage: a flat fee plus an exact rate, or tiers, rounded once.

The sum of `flat_fee` and the usage's price is an exact ratio of integers. It is rounded once, at
the end and in the direction that the meter states, then raised to `minimum` and lowered to
`maximum`, at usage 0 too. Graduated tiers price every unit at the rate of the tier that it falls
into; volume tiers price all units at the rate of the tier that the whole usage falls into.
"""

from dataclasses import dataclass
from typing import Final, Literal, assert_never

from service.domain.units import AtomicUsdc

Rounding = Literal["up", "down", "half_even"]
ROUNDINGS: Final[tuple[Rounding, ...]] = ("up", "down", "half_even")

TierMode = Literal["graduated", "volume"]
TIER_MODES: Final[tuple[TierMode, ...]] = ("graduated", "volume")


@dataclass(frozen=True, slots=True)
class Rate:
    """`amount` atomic units for every `per` (at least 1) units of usage: an exact ratio."""

    amount: AtomicUsdc
    per: int


@dataclass(frozen=True, slots=True)
class Tier:
    """The price of usage up to and including `up_to` units; None is all the rest."""

    up_to: int | None
    price: Rate


@dataclass(frozen=True, slots=True)
class Tiers:
    """Tiers with rising `up_to`, the last one open. `mode` is explained above."""

    mode: TierMode
    tiers: tuple[Tier, ...]


@dataclass(frozen=True, slots=True)
class Meter:
    """A declared meter. Amounts are atomic units for one request; `unit` is for people."""

    name: str
    unit: str
    flat_fee: AtomicUsdc
    price: Rate | Tiers
    minimum: AtomicUsdc
    maximum: AtomicUsdc | None
    rounding: Rounding


def meter_amount(meter: Meter, usage: int) -> int:
    """Atomic units for `usage` (0 or more, in the meter's units); not bounded by 2^64-1."""
    numerator, denominator = _exact(meter.price, usage)
    amount = _rounded(meter.flat_fee * denominator + numerator, denominator, meter.rounding)
    amount = max(amount, meter.minimum)
    return amount if meter.maximum is None else min(amount, meter.maximum)


def _exact(price: Rate | Tiers, usage: int) -> tuple[int, int]:
    """The price of `usage` before rounding, as numerator and denominator."""
    match price:
        case Rate():
            return price.amount * usage, price.per
        case Tiers(mode="volume"):
            whole = next(t.price for t in price.tiers if t.up_to is None or usage <= t.up_to)
            return whole.amount * usage, whole.per
        case Tiers():
            return _graduated(price.tiers, usage)
        case _:
            assert_never(price)


def _graduated(tiers: tuple[Tier, ...], usage: int) -> tuple[int, int]:
    numerator, denominator, below = 0, 1, 0
    for tier in tiers:
        upper = usage if tier.up_to is None else min(usage, tier.up_to)
        amount, per = tier.price.amount, tier.price.per
        numerator = numerator * per + (upper - below) * amount * denominator
        denominator *= per
        below = upper
    return numerator, denominator


def _rounded(numerator: int, denominator: int, rounding: Rounding) -> int:
    whole, rest = divmod(numerator, denominator)
    match rounding:
        case "down":
            return whole
        case "up":
            return whole + 1 if rest else whole
        case "half_even":
            # With an even `whole` an exact half stays, with an odd one it goes up.
            return whole + 1 if 2 * rest + whole % 2 > denominator else whole
        case _:
            assert_never(rounding)
